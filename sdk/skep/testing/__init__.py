"""An in-memory hive for a node author's tests: real nodes, real protocol bytes, a fake wire and a fake clock.

    async def test_my_node():
        async with Hive() as hive:
            await hive.start(my_node)
            caller = await hive.node("IO.test")
            assert (await caller.request("AI.mine", {"q": 1})).payload == {"a": 1}

Nothing leaves the process and nothing waits: time moves when the test says `await hive.clock.advance(30)`. Faults are
`hive.drop`, `hive.delay`, `hive.cut` and `hive.kill_router`. The router inside is a small one of its own
(`skep.testing.router`): the SDK may not import the production router, and the conformance suite runs on both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skep.directory import Directory
from skep.hive import Hive as HiveFolder
from skep.identity import Identity, ephemeral
from skep.node import Node
from skep.place import Place
from skep.protocol.names import parse_name
from skep.receiver import Receiver, Sender
from skep.receiver import connect as _connect
from skep.testing.clock import FakeClock, settle
from skep.testing.router import MemoryRouter
from skep.testing.wire import Factory, Wire

__all__ = ["FakeClock", "Hive", "MemoryRouter", "Wire", "settle"]


class Hive:
    """One hive in memory. An asynchronous context manager; everything started through it is stopped with it."""

    def __init__(self, hive_id: str = "test", *, framing: str = "native") -> None:
        self.hive_id = hive_id
        self.framing = framing
        self.clock = FakeClock()
        self.router: MemoryRouter | None = MemoryRouter(hive_id)
        self.wires: dict[str, Wire] = {}  # the latest of each full name
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._uuids: dict[str, bytes] = {}
        self._nodes: list[Node] = []
        self._senders: list[Sender] = []
        self._delay = 0.0

    # ---- nodes ---------------------------------------------------------------------------------------------------

    async def node(self, name: str, **options: Any) -> Node:
        """A started node without handlers (add them before messages come, or write your own node and `start` it)."""
        node = Node(name, hive=self, **{"framing": self.framing, **options})
        return await self.start(node)

    async def start(self, node: Node) -> Node:
        """Starts a node written elsewhere in this hive, whatever hive it was made for."""
        node.move_to(self)
        await node.start()
        self._nodes.append(node)
        return node

    async def connect(self, name: str, *, framing: str | None = None) -> tuple[Sender, Receiver]:
        """A connection without handlers."""
        sender, receiver = await _connect(name, hive=self, framing=framing or self.framing)
        self._senders.append(sender)
        return sender, receiver

    def place(self, name: str) -> Place:
        """Used by Node and connect when their hive is this one. A name keeps its uuid, so that nodes may return."""
        full = parse_name(name, self.hive_id)
        identity = (
            Identity(self._uuids[full]) if full in self._uuids and not self._live(full) else ephemeral()
        )
        self._uuids[full] = identity.uuid
        return Place(
            name=full,
            hive=HiveFolder(self.root, self.hive_id),
            identity=identity,
            clock=self.clock,
            dialer=_MemoryDialer(self, full),
            directory=_Names(self),
            ticket=None,
        )

    def _live(self, full: str) -> bool:
        return self.router is not None and any(peer.name == full for peer in self.router.peers.values())

    @property
    def root(self) -> Path:
        """A folder for the state that nodes keep; removed at the end."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="skep-hive-")
        return Path(self._folder.name)

    # ---- faults --------------------------------------------------------------------------------------------------

    def wire(self, node: Node | Sender | str) -> Wire:
        """The present wire of a node."""
        return self.wires[parse_name(node if isinstance(node, str) else node.name, self.hive_id)]

    def drop(self, node: Node | Sender | str, judge: Callable[[bytes], bool] | None = None) -> None:
        """Loses what this node writes (all of it, or the writes for which `judge` says so) until `restore`."""
        self.wire(node).drop = judge or (lambda data: True)

    def delay(self, seconds: float) -> None:
        """Every write takes this long from now on, in both directions."""
        self._delay = seconds
        for wire in self.wires.values():
            wire.delay = seconds

    def restore(self) -> None:
        """Ends drop and delay."""
        self.delay(0.0)
        for wire in self.wires.values():
            wire.drop = None

    def cut(self, node: Node | Sender | str) -> None:
        """Breaks the wire of one node; what is on its way is gone."""
        self.wire(node).abort()

    def kill_router(self) -> None:
        """The router dies: every wire breaks, and connecting fails until `restart_router`."""
        self.router = None
        for wire in list(self.wires.values()):
            wire.abort()

    def restart_router(self) -> None:
        """A router that knows nothing of the one before it."""
        self.router = MemoryRouter(self.hive_id)

    # ---- life ----------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Lets everything that is ready happen, without moving the clock."""
        await settle()

    async def __aenter__(self) -> Hive:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.restore()
        for node in reversed(self._nodes):
            await node.stop(grace=0)
        for sender in self._senders:
            await sender.close()
        if self._folder is not None:
            self._folder.cleanup()


class _MemoryDialer:
    """Opens wires to the hive's router."""

    where = "the in-memory hive"

    def __init__(self, hive: Hive, name: str) -> None:
        self._hive = hive
        self._name = name

    def places(self, base: str) -> list[str]:
        return ["memory"] if self._hive.router is not None else []

    async def open(self, factory: Factory, place: str) -> None:
        hive = self._hive
        if hive.router is None:
            raise ConnectionRefusedError("the router was killed")
        wire = Wire(hive.clock)
        wire.delay = hive._delay
        hive.wires[self._name] = wire
        wire.join(factory(), hive.router)


class _Names(Directory):
    """Names from the router's own table, as nodes of a real hive have them from shared memory."""

    def __init__(self, hive: Hive) -> None:
        super().__init__()
        self._hive = hive

    def name_of(self, uuid: bytes) -> str:
        router = self._hive.router
        peer = router.peers.get(uuid) if router is not None else None
        return peer.name if peer is not None else super().name_of(uuid)
