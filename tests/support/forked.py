"""`skep` as a process, without paying for its imports each time: a fork of the process that tests.

What it prints, its exit code, its arguments, its environment and its signals are those of a process of its own. `up`
and `demo`, which start others, are run as a person would run them; so is whatever a test wants to time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
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
from support.hives import environment
from support.wait import eventually

SKEP = [sys.executable, "-m", "skep_nodes.cli"]
WITHIN_S = 90.0


def skep_command(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    if arguments[:1] in (("up",), ("demo",)):
        return subprocess.run(
            [*SKEP, *arguments], input=stdin, env=environment(**env), capture_output=True, text=True, timeout=WITHIN_S,
            check=False,
        )  # fmt: skip
    return command(arguments, environment(**env), stdin)


def command(arguments: tuple[str, ...], env: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one command in a forked child and hear what it said."""
    made = tempfile.TemporaryFile
    with made("w+") as given, made("w+") as out, made("w+") as err:
        given.write(stdin)
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            _become(arguments, env, (given, out, err))
        code = _end_of(pid)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*SKEP, *arguments], code, out.read(), err.read())


def _end_of(pid: int) -> int:
    """Its exit code; a command that hangs is killed, and fails the test."""

    def ended() -> tuple[int] | None:
        found, status = os.waitpid(pid, os.WNOHANG)
        return (os.waitstatus_to_exitcode(status),) if found else None

    try:
        return eventually(ended, within=WITHIN_S, what="the command ends")[0]
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _become(arguments: tuple[str, ...], env: Mapping[str, str], files: tuple[IO[str], ...]) -> None:
    code = 99
    try:
        signal.set_wakeup_fd(-1)  # the parent's loop must not hear of signals to this process
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = ["skep", *arguments]
        os.environ.clear()
        os.environ.update(env)
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()  # and the code says that it was no answer
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
