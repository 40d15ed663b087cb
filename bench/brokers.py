"""Every router and broker that is compared, started once per run and pinned alike.

A broker stays up for the whole run, idle while others are measured. Which one a case wants is a word: `skep`, `nats`,
`relay`, `raw2`, `raw1`, `zmq`, `dbus-broker`; `-free` behind it starts another one that is not pinned.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import build
from bench.children import Child, answers_tcp, answers_unix, free_port, start, wait_ready
from bench.hive import BenchHive, open_hive
from bench.machine import UNPINNED, Cores, NotRunError, cores, need_root, tool

JOURNAL = Path("/run/systemd/journal/socket")


@dataclass(slots=True)
class Broker:
    """A running broker: how to reach it, and whose CPU is counted."""

    name: str
    pid: int
    address: str
    port: int = 0
    hive: BenchHive | None = None


@dataclass(slots=True)
class Brokers:
    """Owns what it started. `close()` stops it, in reverse order."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="skp", dir="/tmp")))
    running: dict[str, Broker] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)
    hives: list[BenchHive] = field(default_factory=list)
    journal: socket.socket | None = None

    def get(self, name: str) -> Broker:
        """The broker of this name; a start that failed once is not tried again."""
        if name in self.failed:
            raise NotRunError(self.failed[name])
        if name not in self.running:
            try:
                self.running[name] = self._start(name)
            except NotRunError as error:
                self.failed[name] = str(error)
                raise
        return self.running[name]

    def _start(self, name: str) -> Broker:
        where = UNPINNED if name.endswith("-free") else cores()
        starters: dict[str, Callable[[str, Cores], Broker]] = {
            "skep": self._skep,
            "nats": self._nats,
            "relay": self._relay,
            "raw2": self._python,
            "raw1": self._none,
            "zmq": self._python,
            "dbus-broker": self._dbus,
        }
        return starters[name.removesuffix("-free")](name, where)

    def close(self) -> None:
        for child in reversed(self.children):
            child.stop()
        for hive in reversed(self.hives):
            hive.close()
        if self.journal is not None:
            self.journal.close()
            JOURNAL.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _skep(self, name: str, where: Cores) -> Broker:
        hive = open_hive(where.broker)
        self.hives.append(hive)
        return Broker(name, hive.pid, str(hive.socket), hive=hive)

    def _nats(self, name: str, where: Cores) -> Broker:
        port = free_port()
        child = start(
            [tool("nats-server"), "-a", "127.0.0.1", "-p", str(port)], where.broker, cwd=self.folder
        )
        self.children.append(child)
        wait_ready(child, "nats-server", answers_tcp(port))
        return Broker(name, child.pid, f"nats://127.0.0.1:{port}", port)

    def _relay(self, name: str, where: Cores) -> Broker:
        path = self.folder / f"{name}.sock"
        child = start([str(build.program("relay")), str(path)], where.broker)
        self.children.append(child)
        wait_ready(child, "the C relay", answers_unix(path))
        return Broker(name, child.pid, str(path))

    def _python(self, name: str, where: Cores) -> Broker:
        path = self.folder / f"{name}.sock"
        child = start([sys.executable, "-m", "bench.clients.role", name, "broker", str(path)], where.broker)
        self.children.append(child)
        wait_ready(child, name, answers_unix(path))
        return Broker(name, child.pid, str(path))

    def _none(self, name: str, where: Cores) -> Broker:
        """raw1 has no broker: the client connects to the responder."""
        return Broker(name, 0, str(self.folder / f"{name}.sock"))

    def _dbus(self, name: str, where: Cores) -> Broker:
        """dbus-broker-launch takes a listening socket as systemd hands it over, and insists on a journal. The shell is
        bash because others know only descriptors of one digit."""
        launch = tool("dbus-broker-launch")
        self._need_journal()
        path = self.folder / "dbus.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(64)
            fd = listener.fileno()
            script = (
                f"exec 3<&{fd}; export LISTEN_FDS=1 LISTEN_PID=$$ DBUS_SESSION_BUS_ADDRESS=unix:path={path}; "
                f"exec {launch} --scope user --config-file=/usr/share/dbus-1/session.conf"
            )
            child = start(["bash", "-c", script], where.broker, pass_fds=[fd])
        self.children.append(child)
        wait_ready(child, "dbus-broker", answers_unix(path))
        return Broker(name, _only_child(child.pid), str(path))

    def _need_journal(self) -> None:
        if JOURNAL.exists():
            return
        need_root("dbus-broker without a systemd journal")
        JOURNAL.parent.mkdir(parents=True, exist_ok=True)
        self.journal = sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sink.bind(str(JOURNAL))
        threading.Thread(target=_swallow, args=(sink,), daemon=True).start()


def _swallow(sink: socket.socket) -> None:
    try:
        while sink.recv(65536):
            continue
    except OSError:
        return


def _only_child(pid: int) -> int:
    """The launcher's dbus-broker: the process whose CPU counts."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        children = (task / "children").read_text().split()
        if children:
            return int(children[0])
    return pid if os.path.exists(f"/proc/{pid}") else 0
