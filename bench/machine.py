"""What this machine is, where the programs are, and how a process is pinned.

Pinning is one rule for every peer: the router or broker on the first allowed core, everything that sends or receives
on the second. With a single core both are the same, and the result file says so.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CACHE = REPO / ".cache"
BIN = CACHE / "bin"
PACKAGES = ("shm_layouts", "sdk", "policies", "router", "nodes")
INSTALL = {
    "gcc": "apt-get install gcc libc6-dev",
    "nats-server": "make tools",
    "dbus-broker-launch": "apt-get install dbus-broker",
    "redis-server": "apt-get install redis-server",
}


class NotRunError(Exception):
    """A row cannot be measured here; the text says why and what to run."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the two sides of every measurement run; -1: wherever the scheduler likes."""

    broker: int
    clients: int


def cores() -> Cores:
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1 % len(allowed)])


UNPINNED = Cores(-1, -1)


def move(pid: int, core: int) -> None:
    """Every thread of a running process to one core; -1 and a pid of 0 mean: leave it."""
    if pid <= 0 or core < 0:
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


@contextlib.contextmanager
def moved(pid: int, core: int, back: int) -> Iterator[None]:
    """A process on another core for a while."""
    move(pid, core)
    try:
        yield
    finally:
        move(pid, back)


def tool(name: str) -> str:
    """Path of a program; NotRunError where it is missing."""
    built = BIN / name
    found = (
        str(built)
        if os.access(built, os.X_OK)
        else shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    )
    if found is None:
        raise NotRunError(f"{name} is not installed; run: {INSTALL.get(name, f'install {name}')}")
    return found


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise NotRunError(f"{what} needs root; run the benchmark as root")


def child_environment() -> dict[str, str]:
    """The packages importable from a checkout, and no hive of the caller's."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SKEP_") and k != "NOTIFY_SOCKET"}
    env["PYTHONPATH"] = os.pathsep.join([str(REPO), *(str(REPO / name) for name in PACKAGES)])
    return env


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used, all its threads; 0 for no process."""
    if pid <= 0:
        return 0.0
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def private_kib(pid: int) -> int:
    """Memory only this process has, in KiB."""
    return _smaps(pid, ("Private_Clean:", "Private_Dirty:"))


def pss_kib(pid: int) -> int:
    return _smaps(pid, ("Pss:",))


def _smaps(pid: int, keys: tuple[str, ...]) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(keys))


def facts() -> dict[str, object]:
    """The `machine` part of a result file."""
    where = cores()
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pinning": f"router or broker on core {where.broker}, all clients on core {where.clients}",
        "load_1m": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    found = {name: _distribution(name) for name in ("skep", "uvloop", "nats-py", "pyzmq", "dbus-fast")}
    for program in ("nats-server", "dbus-broker"):
        found[program] = _program_version(program)
    return found


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _program_version(name: str) -> str:
    try:
        done = subprocess.run([tool(name), "--version"], capture_output=True, text=True, timeout=10)
    except (NotRunError, OSError, subprocess.TimeoutExpired):
        return "not installed"
    words = (done.stdout or done.stderr).split()
    return next((word for word in words if word.lstrip("v")[:1].isdigit()), "unknown")


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
