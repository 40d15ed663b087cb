"""`skep up`: a whole hive in the foreground.

Everything is started at once, or nearly, because every process waits for what it needs by itself, and is ready when
the router's own node table says that it is there. A crashed child is started again after a pause that grows. Ending
goes the other way, with a deadline for each step: applications, then system nodes, then the router, so that
nobody is cut off with messages still to send; what does not end is killed with all it started.

The loop reads the clock once a turn; nothing in it waits except its one short sleep.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import skep_shm
from skep.hive import Hive
from skep_nodes.cli.children import (
    FRONT_DESK,
    ROUTER_MODULE,
    SYSTEM_MODULES,
    Child,
    State,
    describe_exit,
    new_ticket,
    python,
)  # fmt: skip
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.hive_check import check_nodes
from skep_nodes.cli.hive_file import HiveFile, NodeEntry, load
from skep_nodes.cli.hive_folder import make_hive, wanted_root
from skep_nodes.cli.nursery import Nursery
from skep_nodes.cli.room import FULL, no_room, without_room
from skep_shm import RegionError

STARTING_POLL_S, STEADY_POLL_S = 0.01, 0.1
FIRST = frozenset({"SY.config.routes", "SY.opa.rules"})
HEAD_START_S = 0.2  # of these and the router: what all others wait for has the processors to itself for a moment
KILL_WAIT_S = 2.0  # for the kernel to take away what was killed

def up_command(root: Path | None, nursery: Nursery, *, demo: bool, trace: bool, quiet: bool) -> int:
    """Run the hive until a signal ends it."""
    folder = wanted_root(root)
    try:
        return _up(folder, nursery, demo=demo, trace=trace, quiet=quiet)
    except OSError as error:
        full = without_room(folder) if error.errno in FULL else ""
        raise no_room(full, str(error)) if full else error from None


def _up(folder: Path, nursery: Nursery, *, demo: bool, trace: bool, quiet: bool) -> int:
    made, hive = make_hive(folder)
    say = _talker(quiet)
    if made:
        say(f"made hive {hive.hive_id} in {hive.root}")
    loaded = load(hive.root)
    settings = loaded.settings
    check_nodes(hive, loaded)
    entries = [*settings.nodes, *(demo_entries(hive) if demo else [])]
    with _Lock(hive.root / "run" / "up.lock"):
        children = children_of(hive, settings, entries, trace=trace)
        supervisor = Supervisor(hive, settings, children, nursery, say)
        if demo:
            supervisor.hint = f"try: skep msg req AI.desk 'How long does delivery take?' --hive {hive.root}"
        return supervisor.run()


def demo_entries(hive: Hive) -> list[NodeEntry]:
    """The demo's nodes, for `skep up --demo`."""
    from skep_nodes.cli.demo_hive import entries

    return entries(hive)


def children_of(
    hive: Hive, settings: HiveFile, entries: Sequence[NodeEntry], *, trace: bool = False
) -> list[Child]:
    """Every process of the hive: the router first, applications last."""
    system = {name: module for name, module in SYSTEM_MODULES.items() if settings.tap or name != "SY.tap"}
    tickets = {name: new_ticket() for name in system}
    root = str(hive.root)
    # There always is a policy, so nothing may pass before it decides; and no exchange is cut by its arrival.
    router = python(ROUTER_MODULE, "--hive", root, "--name", settings.router_name, "--policy", "required",
                    "--seals", settings.seals)  # fmt: skip
    children = [Child(settings.router_name, router, tickets=tickets)]
    for name, module in system.items():
        argv = [*_module(name, module, trace), "--hive", root, *_options(hive, settings, name)]
        children.append(Child(name, argv, ticket=tickets[name]))
    return [*children, *(_application(hive, entry, trace) for entry in entries)]


def _module(name: str, module: str, trace: bool) -> list[str]:
    """Of system nodes, the one that talks with people is traced too."""
    return python("skep_nodes.cli.traced", module) if trace and name == FRONT_DESK else python(module)


def _options(hive: Hive, settings: HiveFile, name: str) -> list[str]:
    """What a system node is told besides its hive."""
    if name != "SY.decisions":
        return []
    config = ["--config", str(_written(hive, name, settings.decisions))] if settings.decisions else []
    return ["--seals", settings.seals, *config]


def _application(hive: Hive, entry: NodeEntry, trace: bool) -> Child:
    arguments = ["--hive", str(hive.root), "--name", entry.name]
    argv = (
        python("skep_nodes.cli.traced", entry.module, *arguments)
        if trace
        else python(entry.module, *arguments)
    )
    config = hive.root / entry.config if entry.config else _settings_file(hive, entry)
    if config is not None:
        argv += ["--config", str(config)]
    return Child(
        entry.name, [*argv, *entry.args], env=dict(entry.env), restart=entry.restart == "always",
        path=str(hive.root / entry.path) if entry.path else "",
    )  # fmt: skip


def _settings_file(hive: Hive, entry: NodeEntry) -> Path | None:
    """Settings that stand in hive.yaml, as the file that the node reads."""
    return _written(hive, entry.name, entry.settings) if entry.settings else None


def _written(hive: Hive, name: str, values: Mapping[str, Any]) -> Path:
    path = hive.root / "run" / "nodes" / f"{name}.json"
    path.write_text(json.dumps(values))
    path.chmod(0o600)
    return path


class Supervisor:
    """Keeps the children of one hive running until it is told to stop."""

    def __init__(
        self, hive: Hive, settings: HiveFile, children: list[Child], nursery: Nursery, say: Callable[[str], None]
    ) -> None:
        self.hive, self.settings, self.children, self._say = hive, settings, children, say
        self._nursery = nursery
        self._stopping = False
        self._readers: list[skep_shm.NodesReader] = []
        self._began_s = nursery.began_s
        self._was_ready = False
        self.hint = ""  # said once, when everything is ready

    def run(self) -> int:
        """Start, watch, stop; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            for child in self.children:
                if child.tickets or child.name in FIRST:
                    self._start(child)
                else:
                    child.wait(time.monotonic() + HEAD_START_S)
            self._watch()
        finally:
            self._stop()
        return Exit.OK

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _watch(self) -> None:
        while not self._stopping:
            now_s = time.monotonic()
            self._look(now_s)
            self._nursery.reap_strangers({child.pid for child in self.children})
            if not self._was_ready:
                self._check_ready(now_s)
            time.sleep(STEADY_POLL_S if self._was_ready else STARTING_POLL_S)

    def _look(self, now_s: float) -> None:
        """One turn: who died, who is due, who has joined."""
        joined: dict[int, str] | None = None
        for child in self.children:
            if child.process is not None and child.state in (State.STARTING, State.READY):
                code = child.process.poll()
                if code is not None:
                    self._on_exit(child, code, now_s)
            if child.state is State.WAITING and now_s >= child.again_s:
                self._start(child)
            elif child.state is State.STARTING:
                joined = self._joined() if joined is None else joined
                if self._is_ready(child, joined):
                    child.state = State.READY
                    self._tell(child, f"ready in {now_s - child.started_s:.2f} s")

    def _start(self, child: Child) -> None:
        """Start it, at first or again. What the system refuses later on may be granted next time, as for a crash."""
        again, now_s = child.process is not None, time.monotonic()
        try:
            child.start(self._nursery, self.hive.root, now_s)
        except OSError as error:
            if not self._was_ready:
                raise
            self._tell(child, f"cannot be started: {error}; again in {child.crashed(now_s):.1f} s")
            return
        if again:
            self._tell(child, "started again")

    def _is_ready(self, child: Child, joined: dict[int, str]) -> bool:
        if child.tickets:
            return bool(self._readers)
        return child.pid in joined and (child.name != "SY.opa.rules" or self._policy_decides(child))

    def _policy_decides(self, child: Child) -> bool:
        """Whether the policy's owner says that routers run it; a file of an earlier process does not count."""
        try:
            stated = json.loads((self.hive.root / "run" / "SY.opa.rules.json").read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(stated, dict) and stated.get("pid") == child.pid

    def _on_exit(self, child: Child, code: int, now_s: float) -> None:
        killed = code == -signal.SIGKILL  # nobody dies of that with a word
        words = "" if killed else child.last_words(self.hive.root)
        full = without_room(self.hive.root) if code else ""
        why = ": ".join(filter(None, (describe_exit(code), words, full)))
        child.signal(signal.SIGKILL)  # what it started must not go on without it
        if child.tickets:
            self._forget_readers()
        if full and not self._was_ready:
            raise no_room(full, f"{child.name} {describe_exit(code)}" + (f": {words}" if words else ""))
        if not child.restart:
            child.state = State.STOPPED
            self._tell(child, why)
            return
        wait_s = child.crashed(now_s)
        self._tell(child, f"{why}; again in {wait_s:.1f} s")

    def _joined(self) -> dict[int, str]:
        """pid → name of every node in the table of our own router; a dead router's table is not looked at."""
        try:
            if not self._readers:
                pids = {child.pid for child in self.children if child.tickets}
                found = skep_shm.nodes_readers(self.hive.root)
                self._readers = [reader for reader in found if reader.header().owner_pid in pids]
            return {record.pid: record.name for reader in self._readers for record in reader.all()}
        except RegionError:
            self._forget_readers()
            return {}

    def _forget_readers(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = []

    def _check_ready(self, now_s: float) -> None:
        late = [child for child in self.children if child.state not in (State.READY, State.STOPPED)]
        if not late:
            self._was_ready = True
            self._say(f"hive {self.hive.hive_id} ready in {now_s - self._began_s:.2f} s: {self.hive.root}")
            if self.hint:
                self._say(self.hint)
            _notify("READY=1")
        elif now_s - self._began_s > self.settings.ready_s:
            words = [f"{child.name} is {child.state}: {child.last_words(self.hive.root)}" for child in late]
            raise Failure("NOT_READY", f"not ready within {self.settings.ready_s:g} s", why="; ".join(words),
                          then=f"look into {self.hive.root / 'logs'}", exit_code=Exit.UNREACHABLE)  # fmt: skip

    def _tell(self, child: Child, what: str) -> None:
        self._say(f"{child.name:<18} pid {child.pid:<7} {what}")

    # -- ending ------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        _notify("STOPPING=1")
        self._forget_readers()
        system = set(SYSTEM_MODULES)
        steps = [
            [child for child in self.children if not child.tickets and child.name not in system],
            [child for child in self.children if child.name in system],
            [child for child in self.children if child.tickets],
        ]
        for step in steps:
            self._stop_step(step, self.settings.stop_s / len(steps))
        self._say(f"hive {self.hive.hive_id} stopped")

    def _stop_step(self, children: list[Child], patience_s: float) -> None:
        alive = [child for child in children if child.process is not None and child.process.poll() is None]
        for child in alive:
            os.kill(child.pid, signal.SIGTERM)  # to the child alone: it ends what it started
        if _all_end(alive, patience_s):
            alive = []
        for child in alive:
            if child.process is not None and child.process.poll() is None:
                self._tell(child, f"did not stop within {patience_s:.1f} s; killed")
        for child in children:
            child.signal(signal.SIGKILL)
            child.state = State.STOPPED
        _all_end(alive, KILL_WAIT_S)


def _all_end(children: Sequence[Child], within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while any(child.process is not None and child.process.poll() is None for child in children):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(STARTING_POLL_S)
    return True


class _Lock:
    """One `skep up` for one folder; the lock ends with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(self._fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise Failure("ALREADY_RUNNING", f"this hive is run by process {pid}", then="skep node ls",
                          exit_code=Exit.CONFLICT) from None  # fmt: skip
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def __exit__(self, *_: Any) -> None:
        os.close(self._fd)


def _talker(quiet: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    return say


def _notify(word: str) -> None:
    """sd_notify, when a service manager asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(word.encode(), "\0" + address[1:] if address.startswith("@") else address)
