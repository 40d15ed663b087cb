"""Processes of a run: started pinned, stopped by their own pid, never by name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.machine import NotRunError, child_environment

STOP_S = 5.0
READY_S = 15.0


@dataclass(slots=True)
class Child:
    """One process and the file its complaints go to."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def complaint(self) -> str:
        self.log.seek(0)
        return self.log.read()[-600:].decode(errors="replace").strip()

    def kill(self) -> None:
        if self.running():
            self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.close()


def pinned(core: int) -> Callable[[], None] | None:
    """For `preexec_fn`; a core of -1 leaves the process where the scheduler wants it."""
    if core < 0:
        return None
    return lambda: os.sched_setaffinity(0, {core})


def start(
    argv: Sequence[str],
    core: int = -1,
    *,
    env: dict[str, str] | None = None,
    pipe: bool = False,
    cwd: Path | None = None,
    nice: int = 0,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Starts a process on one core; with `pipe` its standard output and input are ours."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child

    def prepare() -> None:
        if core >= 0:
            os.sched_setaffinity(0, {core})
        if nice:
            os.nice(nice)

    process = subprocess.Popen(
        list(argv),
        stdout=subprocess.PIPE if pipe else log,
        stderr=log,
        stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
        env={**child_environment(), **(env or {})},
        preexec_fn=prepare,
        cwd=cwd,
        pass_fds=pass_fds,
    )
    return Child(process, log)


def answers_unix(path: Path) -> Callable[[], bool]:
    return lambda: _connects(socket.AF_UNIX, str(path))


def answers_tcp(port: int) -> Callable[[], bool]:
    return lambda: _connects(socket.AF_INET, ("127.0.0.1", port))


def _connects(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def wait_ready(
    child: Child, name: str, ready: Callable[[], bool], within: float = READY_S, pause: float = 0.01
) -> None:
    """Returns when `ready()`; a process that ends first or takes too long makes its rows not run."""
    deadline = time.monotonic() + within
    while not ready():
        if not child.running():
            raise NotRunError(f"{name} ended at its start: {child.complaint() or child.process.returncode}")
        if time.monotonic() > deadline:
            raise NotRunError(f"{name} was not ready within {within:.0f} s: {child.complaint()}")
        time.sleep(pause)
    if not child.running():
        raise NotRunError(f"{name} ended at its start: {child.complaint()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
