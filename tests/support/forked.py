"""`skep` commands in forked children: processes of their own that need not read and compile Python's modules again.

A command is asked for dozens of times in a live test, and a new interpreter costs a second each time on a busy machine.
What is inherited is what a fresh one would have imported; arguments, environment, output and exit code are the child's.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from subprocess import CompletedProcess
from typing import IO

from skep_nodes.cli import (  # noqa: F401  most of them for the children, which then need not import them
    app_degree,
    app_identity,
    degree_life,
    degree_modules,
    degree_verify,
    identity_people,
    identity_tenants,
    identity_transfer,
    main,
    output,
    run,
)

LIMIT_S = 60


def command(arguments: tuple[str, ...], env: Mapping[str, str]) -> CompletedProcess[str]:
    """Run one command and hear what it said; it is killed after LIMIT_S."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _become(arguments, env, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return CompletedProcess(list(arguments), code, _said(out), _said(err))


def _said(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _become(arguments: tuple[str, ...], env: Mapping[str, str], out: IO[bytes], err: IO[bytes]) -> None:
    code = 1
    try:
        signal.set_wakeup_fd(-1)  # the parent's loop must not hear of signals to this process
        signal.alarm(LIMIT_S)
        for stream, fd in ((os.open(os.devnull, os.O_RDONLY), 0), (out.fileno(), 1), (err.fileno(), 2)):
            os.dup2(stream, fd)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(fd, mode) for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        sys.argv = ["skep", *arguments]
        os.environ.clear()
        os.environ.update(env)
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
