"""One child process of `skep up`: how it is started, what it inherits, and how long to wait before it starts
again.

A child is born in the nursery. It gets a session of its own, so that all it starts can be ended together; the hive in
SKEP_HIVE, so that a node which reads no arguments finds it; its output in `logs/<name>.log`; a ticket on an inherited
descriptor when it is a system node; and the kernel's promise of a SIGTERM when we die, so that nothing outlives a
killed `skep up`. A node with a `path` or an `env` of its own gets an interpreter that starts with these.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

from skep_nodes.cli.nursery import TICKET_FD, Birth, Nursery, Process

LOG_BYTES_MAX = 8 << 20  # a log larger than this is put aside at the next start, and the one before it goes
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 10.0
STEADY_S = 20.0  # a child that lived this long has recovered: its next crash is a first one again
ROUTER_MODULE, FRONT_DESK = "skep_router", "SY.frontdesk.gov"
SYSTEM_MODULES = {
    "SY.config.routes": "skep_nodes.sy.config_routes",
    "SY.threads": "skep_nodes.sy.threads",
    "SY.identity": "skep_nodes.sy.identity",
    "SY.tap": "skep_nodes.sy.tap",
    "SY.opa.rules": "skep_nodes.sy.opa_rules",
    "SY.registrar": "skep_nodes.sy.registrar",
    FRONT_DESK: "skep_nodes.sy.frontdesk_gov",
    "SY.decisions": "skep_nodes.sy.decisions",
}
_prepared: list[Nursery] = []  # one at most


class State(StrEnum):
    """Where a child is in its life."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # to be started again
    STOPPED = "stopped"


@dataclass(slots=True)
class Child:
    """What to start, and what became of it. Times are monotonic seconds."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    ticket: str = ""
    tickets: dict[str, str] = field(default_factory=dict)  # for a router: (system node → its ticket)
    restart: bool = True
    path: str = ""  # a folder in which its module is looked for first
    process: Process | None = None
    state: State = State.STOPPED
    started_s: float = 0.0
    again_s: float = 0.0
    crash_count: int = 0
    log_at: int = 0  # where in the log the words of this life begin

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def start(self, nursery: Nursery, root: Path, now_s: float) -> None:
        """Start the process. Raises OSError."""
        inherited = self._descriptors()
        try:
            with log_file(root, self.name) as log:
                self.log_at = log.tell()
                self.process = nursery.bear(self._birth(root), [log.fileno(), *inherited])
        finally:
            for fd in inherited:
                os.close(fd)
        self.state, self.started_s = State.STARTING, now_s

    def _birth(self, root: Path) -> Birth:
        ticket = ["--ticket-fd", str(TICKET_FD)] if self.tickets else []
        fresh = bool(self.path or self.env) or self.argv[:3] != python("")[:3]
        return Birth(self.name, [*self.argv, *ticket], self._environment(root), str(root), fresh)

    def _descriptors(self) -> list[int]:
        """A read end with this child's ticket, or, for a router, with the hashes of all tickets."""
        if self.tickets:
            lines = [json.dumps({"name": name, "sha256": _hash(text)}) for name, text in self.tickets.items()]
            return [_pipe("\n".join(lines))]
        return [_pipe(self.ticket)] if self.ticket else []

    def _environment(self, root: Path) -> dict[str, str]:
        """What differs from ours; the child has another working folder, so paths become absolute."""
        env = dict(self.env)
        searched = env.get("PYTHONPATH", os.environ.get("PYTHONPATH", "")).split(os.pathsep)
        paths = list(filter(None, [self.path, *searched]))
        if paths:
            env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)
        fd = {"SKEP_TICKET_FD": str(TICKET_FD)} if self.ticket else {}
        return {**env, **fd, "SKEP_HIVE": str(root)}

    def wait(self, until_s: float) -> None:
        """Not to be started before then."""
        self.state, self.again_s = State.WAITING, until_s

    def crashed(self, now_s: float) -> float:
        """Note a crash; returns the seconds until the next start."""
        if now_s - self.started_s > STEADY_S:
            self.crash_count = 0
        wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**self.crash_count)
        self.crash_count = min(self.crash_count + 1, 16)
        self.state, self.again_s = State.WAITING, now_s + wait_s
        return wait_s

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and to all it started."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return

    def last_words(self, root: Path) -> str:
        """The last line the child wrote in this life; those before it have nothing to do with its end."""
        try:
            with log_path(root, self.name).open("rb") as log:
                log.seek(max(self.log_at, log.seek(0, os.SEEK_END) - 4096))
                data = log.read()
        except OSError:
            return ""
        lines = data.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def prepare() -> None:
    """Begin with the nursery of a whole hive, before the command knows more: it imports while we do."""
    if not _prepared:
        _prepared.append(Nursery([f"{ROUTER_MODULE}.__main__", *SYSTEM_MODULES.values()]))


def nursery() -> Nursery:
    """The nursery that was prepared, or one that begins now."""
    prepare()
    return _prepared.pop()


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter; -P keeps the working folder out of its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def new_ticket() -> str:
    """256 random bits."""
    return secrets.token_hex(32)


def log_path(root: Path, name: str) -> Path:
    """Where a child's output goes."""
    return root / "logs" / f"{name}.log"


def log_file(root: Path, name: str) -> IO[bytes]:
    """The child's log, open to append; a long one is put aside first."""
    path = log_path(root, name)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.rename(path.with_suffix(".log.1"))
    return path.open("ab")


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _hash(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def _pipe(text: str) -> int:
    """A pipe that holds `text`; far below the 64 KiB that a pipe takes without a reader."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.write(write_fd, text.encode())
    os.close(write_fd)
    return read_fd
