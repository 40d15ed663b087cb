"""A hive in one process: the production core, simulated nodes, a wire and a clock that only the world moves.

The core object is the one production runs, imported. Its ports are `Conn`s: byte queues in both directions, with a
socket buffer that fills up. Each thing that can happen is a method; `scheduler` chooses which, by seed. After each
event the world asks the core which frames it accepted, asks the model what should become of them, and writes both down.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from router.models import FakeLink, system
from simulation.history import UNKNOWN, Entry, History, Violation
from simulation.model import HIVE, OWN_UID, Model, key_of
from simulation.node import Item, Node
from skep.protocol import limits
from skep.protocol.codes import CloseReason
from skep.protocol.header import Selector
from skep.protocol.json_framing import JsonFramer, decode_body
from skep_router import accounts, forward
from skep_router.core import Core
from skep_router.hooks import Hooks
from skep_router.link import Link
from skep_router.settings import Settings
from skep_shm import Binding, ConfigState

ROUTER = UUID("00000000-0000-4000-8000-0000000000aa").bytes
MS = 1_000_000
SECOND = 1_000 * MS
PRESSURE = ("QUEUE_FULL", "DEADLINE_EXCEEDED", "PAYLOAD_TOO_LARGE", "LOST", "UNKNOWN")

SMALL = {
    "QUEUE_BYTES_LOW": 1_000, "QUEUE_BYTES_HIGH": 4_000, "QUEUE_BYTES_MAX": 24_000, "QUEUE_FRAMES_MAX": 48,
    "UID_BYTES_MAX": 60_000, "FLOWS_PER_LINK": 6,
}
"""The limits of docs/wire.md, scaled so that a few hundred frames reach each of them."""


@contextmanager
def small_limits(ns_per_miss: int) -> Iterator[None]:
    """Bounds that a short run meets. Restored afterwards: other tests share the process."""
    before = {name: getattr(limits, name) for name in SMALL}
    high, miss, burst = forward._HIGH, accounts.NS_PER_MISS, accounts.MISS_BURST_NS
    try:
        for name, value in SMALL.items():
            setattr(limits, name, value)
        forward._HIGH, accounts.NS_PER_MISS = SMALL["QUEUE_BYTES_HIGH"], ns_per_miss  # type: ignore[misc]
        accounts.MISS_BURST_NS = 20 * ns_per_miss  # type: ignore[misc]
        yield
    finally:
        for name, value in before.items():
            setattr(limits, name, value)
        forward._HIGH, accounts.NS_PER_MISS, accounts.MISS_BURST_NS = high, miss, burst  # type: ignore[misc]


class Conn:
    """One connection: the core's port, and both directions of its socket."""

    def __init__(self, world: World, node: Node, capacity: int) -> None:
        self.world = world
        self.node = node
        self.capacity = capacity  # of the socket towards the node
        self.to_router = bytearray()
        self.to_node = bytearray()
        self.items: list[Item] = []  # counted frames, by ordinal
        self.accepted = 0
        self.pending: Any = None
        self.link: Link | None = None
        self.identity = node.entry()
        self.full = False
        self.paused = False
        self.hung_up = False  # the node's end is gone
        self.closed = False  # the router's end is gone
        self.written = JsonFramer() if not node.native else None

    # ---- the core's port -----------------------------------------------------------------------------------------

    def write(self, data: bytes, /) -> None:
        if type(data) is not bytes:
            raise Violation("the core handed a transport a buffer that may change")
        if self.closed:
            raise Violation("written after close")
        if self.written is not None:
            self._absorb(data)
        if self.hung_up:
            return
        self.to_node += data
        if len(self.to_node) > self.capacity and not self.full:
            self.full = True
            if self.link is not None:
                self.world.core.blocked(self.link)

    def _absorb(self, data: bytes) -> None:
        """What a JSON peer's kernel has counts as taken: nobody will ever say what became of it."""
        assert self.written is not None
        for body in self.written.receive_data(data):
            message = decode_body(body)
            if message.source != ROUTER:
                self.world.history.absorbed(message.payload["k"], self.node.uuid)

    def close(self, reason: int, detail: str, /) -> None:
        self.world.accept()
        self.closed = True
        self.world.gone(self, replaced=reason == CloseReason.REPLACED)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class World:
    """One run. `core` is None while the router is dead."""

    def __init__(self, rng: random.Random, *, threads_max: int = 0) -> None:
        self.rng = rng
        self.history = History(PRESSURE, early=("QUEUE_FULL",))
        self.router_uuid = ROUTER
        self.now = 10 * SECOND
        self.epoch = 0
        self.threads_max = threads_max
        self.version = 0
        self.next_key = 1
        self.nodes: list[Node] = []
        self.conns: list[Conn] = []
        self.turns: dict[Any, int] = {}
        self.ending: list[Conn] = []  # closed within the present event: what they accepted in it still counts
        self.links: list[Link] = []  # every link of the present core, also those that ended
        self.router: Core | None = None
        self.model = Model()
        self.state: ConfigState | None = None

    @property
    def core(self) -> Core:
        assert self.router is not None
        return self.router

    # ---- the router ----------------------------------------------------------------------------------------------

    def start_router(self) -> None:
        self.epoch += 1
        silent: Any = SimpleNamespace(
            joined=lambda link: 1, left=lambda slot: None, hop=lambda *facts: None, event=lambda *facts: None,
            closed=lambda *facts: None,
        )
        hooks = Hooks(silent, silent, silent, lambda kind: None)
        settings = Settings(hive=HIVE, root=Path("/nowhere"), name="RT.main", uuid=ROUTER, own_uid=OWN_UID)
        self.router = Core(settings, hooks, self.epoch)
        if self.threads_max:
            self.router.threads.maximum = self.threads_max
        self.model.registry.entries.clear()
        self.model.registry.holds.clear()
        self.model.registry.names.clear()
        self.model.state = None
        self.links.clear()
        if self.state is not None:
            self.configure(self.state)
        bound = [self._binding(thread, *binding) for thread, binding in self.model.bindings.items()]
        self.core.bindings(bound, [], self.now)

    def kill_router(self) -> None:
        """Everything in its memory is gone; what the kernel has for a node can still be read."""
        self.router = None
        for conn in tuple(self.conns):
            self.history.away(conn.node.uuid)
            conn.closed = True
            self.conns.remove(conn)
            self.drop_node_end(conn)

    def configure(self, state: ConfigState) -> None:
        self.state = self.model.state = state
        self.core.configure(state, self.now)
        self.collect()

    def tick(self) -> None:
        """Links whose decisions were deferred are served within it, in the order in which they were deferred."""
        self.turns = {link: at for at, (_, link) in enumerate(self.core.deferred)}
        self.core.tick(self.now)
        self.collect()
        self.turns = {}
        over = [thread for thread, (_, until) in self.model.bindings.items() if 0 < until <= self.now]
        for thread in over:
            del self.model.bindings[thread]

    def bind(self, thread: bytes, handler: str, until_ns: int) -> None:
        self.model.bindings[thread] = (handler, until_ns)
        self.core.bindings([self._binding(thread, handler, until_ns)], [], self.now)

    def unbind(self, thread: bytes) -> None:
        self.model.bindings.pop(thread, None)
        self.core.bindings([], [thread], self.now)

    @staticmethod
    def _binding(thread: bytes, handler: str, until_ns: int) -> Binding:
        return Binding(thread, handler, bytes(16), until_ns, "", 1)

    # ---- connections ---------------------------------------------------------------------------------------------

    def connect(self, node: Node, capacity: int) -> None:
        """A new connection of a node that has none."""
        conn = Conn(self, node, capacity)
        pending = self.core.greet(conn, node.uid, 4242, self.now)
        if pending is None:
            return
        conn.pending = pending
        self.conns.append(conn)
        node.dial(conn)

    def feed(self, conn: Conn, size: int) -> None:
        """One read of the router's."""
        data = bytes(conn.to_router[:size])
        del conn.to_router[:size]
        if conn.link is not None:
            self.core.receive(conn.link, data, self.now)
        else:
            self._introduce(conn, data)
        self.collect()
        self.check_live()

    def _introduce(self, conn: Conn, data: bytes) -> None:
        admits = self.model.may_hold(conn.node.uid, conn.node.name)
        link = self.core.introduce(conn.pending, data, self.now)
        if link is None:
            if conn.closed and admits:
                raise Violation(f"{conn.node.name} was turned away")
            return
        conn.link = link
        self.links.append(link)
        if not self.model.admits(conn.identity, self.now):
            raise Violation(f"{conn.node.name} was admitted")
        if conn.full:
            self.core.blocked(link)

    def gone(self, conn: Conn, *, replaced: bool = False) -> None:
        """The router has forgotten a connection. Who takes its place keeps its place: the model's `join` does that."""
        if not replaced:
            self.model.registry.leave(conn.identity, self.now)
        self.history.away(conn.node.uuid)
        if conn in self.conns:
            self.conns.remove(conn)
            self.ending.append(conn)

    def drop_node_end(self, conn: Conn) -> None:
        """The node's end of a connection that the router has closed: it may still read what the kernel has."""
        if conn.hung_up:
            return
        conn.hung_up = True
        if self.rng.random() < 0.5:
            conn.node.hear(bytes(conn.to_node))
        if conn.node.conn is conn:
            conn.node.hang_up()

    def hang_up(self, conn: Conn) -> None:
        """The node goes, or its link breaks; the router has not noticed yet."""
        conn.hung_up = True
        conn.to_node.clear()
        conn.node.hang_up()

    def notice(self, conn: Conn) -> None:
        """The router reads what is left of a connection that was hung up, or not even that, and sees its end."""
        if conn.to_router and not conn.paused and self.rng.random() < 0.7:
            self.feed(conn, len(conn.to_router))
        if conn.closed:
            return
        endpoint = conn.link if conn.link is not None else conn.pending
        self.core.lost(endpoint, CloseReason.PEER_CLOSED, self.now)
        conn.closed = True
        self.gone(conn)
        self.collect()
        self.check_live()

    def read(self, conn: Conn, size: int) -> None:
        """One read of the node's; an emptied socket takes bytes again."""
        data = bytes(conn.to_node[:size])
        del conn.to_node[:size]
        conn.node.hear(data)
        if conn.full and not conn.to_node:
            conn.full = False
            if conn.link is not None:
                self.core.writable(conn.link, self.now)
                self.collect()

    # ---- the ledger ----------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Which frames were accepted since the last event, and what the model says about them."""
        self.accept()
        ending, self.ending = self.ending, []
        for conn in ending:
            self.drop_node_end(conn)

    def accept(self) -> None:
        """The frames alone: a connection is about to change what the model would say. Links whose turns came within
        one event are taken in the order of these turns, also those that said farewell in it."""
        for conn in sorted((*self.conns, *self.ending), key=lambda conn: self.turns.get(conn.link, -1)):
            link = conn.link
            if link is None or link.accepted == conn.accepted:
                continue
            for item in conn.items[conn.accepted:link.accepted]:
                if item.key:
                    self._accept(conn, item)
            conn.accepted = link.accepted

    def _accept(self, conn: Conn, item: Item) -> None:
        verdict = self.model.verdict(conn.identity, item.claimed, item.selector, self.now)
        entry = self.history.entries[item.key]
        if entry.thread and not self.threads_max:
            names = {one.name for one in self.model.registry.entries if one.uuid in verdict.allowed}
            named = item.selector.dst_kind != 1 and len(names) == 1
            entry.group = names.pop() if named else ""
        self.history.accepted(item.key, verdict, self.now)

    def post(self, node: Node, selector: Selector, pad: int, **head: Any) -> None:
        key = self.next_key
        self.next_key += 1
        thread = key_of(selector) if selector.thread else b""
        deadline_ms = head.get("deadline_ms", 0)
        self.history.sent(Entry(key, node.uuid, key, deadline_ms, thread))
        node.post(key, selector, pad, self.rng, **head)

    def delivered(
        self, node: Node, key: int, source: bytes, seq: int, left_ms: int, source_name: str | None
    ) -> None:
        self.history.delivered(key, source, node.uuid, self.now, seq=seq, left_ms=left_ms)
        verdict = self.history.entries[key].verdict
        if seq and verdict is not None and verdict.many:
            raise Violation(f"broadcast {key} came with a thread sequence of its sender's own")
        if source_name is not None:
            true = next(one.name for one in self.nodes if one.uuid == source)
            if source_name != true:
                raise Violation(f"message {key} came under the name {source_name!r}, its sender is {true}")

    def finished(self, key: int) -> None:
        """A sender hears that its message is settled: it must have its fate already, and know it if it is bad news."""
        if not key:
            return
        entry = self.history.entries[key]
        if not entry.has_fate:
            raise Violation(f"confirmed as finished, and nothing became of it: {entry}")

    # ---- checks --------------------------------------------------------------------------------------------------

    def check_live(self) -> None:
        here = {link.uuid for link in self.core.registry}
        model = {one.uuid for one in self.model.registry.entries}
        if here != model:
            raise Violation(f"the registry has {len(here)} nodes, {len(model)} are live")

    def check_books(self) -> None:
        """Every held byte is charged once to its hop and once to its sender's account."""
        charged: dict[int, int] = {}
        for link in self.links:
            entries = [*(link.queue or ()), *(link.inflight or ())]
            held = sum(len(entry[0]) for entry in entries)
            if held != link.held_bytes:
                raise Violation(f"{link.name} holds {held} bytes and says {link.held_bytes}")
            for piece, _, sender, ticket, *_ in entries:
                charged[sender.uid] = charged.get(sender.uid, 0) + len(piece)
                if ticket[0] <= 0 and sender is not self.core.me:
                    raise Violation(f"{link.name} holds what its sender believes settled")
            if any(ticket[0] < 0 for ticket in link.tickets or ()):
                raise Violation(f"{link.name}: a ticket was settled twice")
        for uid in {link.uid for link in self.links} | set(charged):
            account = self.core.accounts.get(uid)
            if account.held_bytes != charged.get(uid, 0):
                raise Violation(f"uid {uid} is charged {account.held_bytes} and holds {charged.get(uid, 0)}")

    def check_quiet(self) -> None:
        """Nothing is on its way: nothing is held, and every live native sender knows that all is finished."""
        self.check_books()
        for link in self.links:
            if link.held_bytes or link.queued_frames or link.tickets:
                raise Violation(f"{link.name} is owed something in a quiet hive: {link.held_bytes} bytes")
        for conn in self.conns:
            node = conn.node
            if node.native and node.up and node.confirmed != (len(node.written), len(node.written)):
                raise Violation(f"{node.name} wrote {len(node.written)} frames, confirmed are {node.confirmed}")
            if node.paused:
                raise Violation(f"{node.name} was never told RESUME for {node.paused}")
            if conn.paused:
                raise Violation(f"{node.name} is not read any more")

    def check_empty(self) -> None:
        """Everybody has left: no table knows them."""
        self.check_books()
        core = self.core
        if len(core.registry) or core.pending or core.touched or core.overdrawn:
            raise Violation("the router remembers somebody who left")
        for link in self.links:
            if link.flows or link.flows_in or link.paused or link.slot >= 0:
                raise Violation(f"flows of or into {link.name} are left over")
        for thread in core.threads._by_key.values():
            if thread.flows:
                raise Violation("a thread has flows of nodes that left")
        for account in core.accounts.statistics():
            if account.held_bytes or account.connections or account.unauthenticated:
                raise Violation(f"an account is not empty: {account}")
        self.history.close()


def unreported(world: World) -> list[int]:
    """Keys without a fate, for messages of failures."""
    return [key for key, entry in world.history.entries.items() if not entry.has_fate and UNKNOWN not in entry.reported]


__all__ = ["MS", "ROUTER", "SECOND", "Conn", "FakeLink", "World", "small_limits", "system"]
