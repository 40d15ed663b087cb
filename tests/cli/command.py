"""`skep` as a process, without paying for its imports each time: a fork of the process that tests.

What it prints, its exit code, its environment and its signals are those of a process of its own. `up` and `demo`, which
start others, are run as a person would run them; so is whatever a test wants to time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from typing import IO

from skep_nodes.cli import main
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
    made = tempfile.TemporaryFile
    with made("w+") as given, made("w+") as out, made("w+") as err:
        given.write(stdin)
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            _become(arguments, environment(**env), (given, out, err))
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


def _become(arguments: tuple[str, ...], env: dict[str, str], files: tuple[IO[str], ...]) -> None:
    code = 99
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
