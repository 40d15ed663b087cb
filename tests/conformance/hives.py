"""Three hives behind one face: the production core in memory, a real router process, and the SDK's own in-memory hive.

`Hive` is what the suite may ask for: connections of the SDK, rules, bindings, a break, and waiting for a fact. The core
in memory is the production object on the SDK's fake wire and clock; the process is reached over its Unix socket; the
third is what node authors test with. `PROMISES` says which behaviours the third does not claim.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from skep import Receiver, Sender, connect
from skep.protocol.codes import CloseReason
from skep.testing import Hive as MemoryHive
from skep_router.core import Core
from skep_router.hooks import Hooks
from skep_router.link import Link
from skep_router.settings import Settings
from skep_shm import Binding, ConfigState, ConfigWriter, Grant, ThreadsWriter, VpnRule
from support.hives import HIVE_ID, RouterProcess, private_hive
from support.wait import eventually_async

TICK_S = 0.005


class Hive:
    """What every kind of hive can do. A context manager; what was started in it ends with it."""

    kind = ""
    rules = True  # VPNs and tenants

    def __init__(self, framing: str) -> None:
        self.framing = framing
        self.stack = AsyncExitStack()

    @property
    def json(self) -> bool:
        return self.framing == "json"

    async def node(self, name: str, framing: str = "") -> tuple[Sender, Receiver]:
        sender, receiver = await connect(name, hive=self.place(), framing=framing or self.framing)
        self.stack.push_async_callback(sender.close)
        return sender, receiver

    def place(self) -> Any:
        raise NotImplementedError

    async def configure(self, *, vpns: tuple[VpnRule, ...] = (), grants: tuple[Grant, ...] = ()) -> None:
        raise NotImplementedError

    async def bind(self, thread: bytes, handler: str) -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    async def until(self, fact: Callable[[], Any], what: str = "") -> Any:
        return await eventually_async(fact, what=what)

    async def quiet(self) -> None:
        """Nothing is on its way any more: used before saying that something did not come."""
        raise NotImplementedError

    async def __aenter__(self) -> Hive:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()


# ---- in memory -----------------------------------------------------------------------------------------------------


class CorePeer:
    """One wire's end at the core: what the SDK's in-memory wire calls, and the core's port."""

    def __init__(self, router: CoreRouter, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self.router = router
        self._write = write
        self._close = close
        self.endpoint: Any
        self.endpoint = router.core.greet(self, router.uid, 1, router.now())
        self.registered = False
        self.reading = True
        self.kept: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        if not self.reading:
            self.kept.append(data)
            return
        router = self.router
        if self.registered:
            router.core.receive(self.endpoint, data, router.now())
        else:
            self._introduce(data)
        router.core.tick(router.now())

    def _introduce(self, data: bytes) -> None:
        router = self.router
        link: Link | None = router.core.introduce(self.endpoint, data, router.now())
        if link is not None:
            self.endpoint, self.registered = link, True
            router.peers[link.uuid] = link

    def lost(self) -> None:
        router = self.router
        endpoint = self.endpoint
        router.core.lost(endpoint, CloseReason.PEER_CLOSED, router.now())
        uuid = endpoint.uuid if self.registered else b""
        if router.peers.get(uuid) is endpoint:
            del router.peers[uuid]
        router.core.tick(router.now())

    def write(self, data: bytes, /) -> None:
        self._write(data)

    def close(self, reason: int, detail: str, /) -> None:
        self._close()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        kept, self.kept = self.kept, []
        for data in kept:
            self.receive_data(data)


class CoreRouter:
    """The production core in the place of the SDK's small router."""

    uid = 1000

    def __init__(self, clock: Any) -> None:
        silent: Any = SimpleNamespace(
            joined=lambda link: 1, left=lambda slot: None, hop=lambda *facts: None, event=lambda *facts: None,
            closed=lambda *facts: None,
        )
        settings = Settings(hive=HIVE_ID, root=Path("/nowhere"), name="RT.main", uuid=uuid4().bytes, own_uid=self.uid)
        self._clock = clock
        self.core = Core(settings, Hooks(silent, silent, silent, lambda kind: None), epoch=1)
        self.core.configure(ConfigState(version=1, routes=(), vpns=(), grants=(), limits={}), self.now())
        self.peers: dict[bytes, Any] = {}

    def now(self) -> int:
        return int(self._clock.now() * 1e9)

    def connected(self, write: Callable[[bytes], None], close: Callable[[], None]) -> CorePeer:
        return CorePeer(self, write, close)


class InMemory(Hive):
    """The SDK's own in-memory hive."""

    kind = "memory"
    rules = False

    def __init__(self, framing: str) -> None:
        super().__init__(framing)
        self.memory = MemoryHive(HIVE_ID, framing=framing)

    def place(self) -> Any:
        return self.memory

    async def __aenter__(self) -> Hive:
        await self.stack.enter_async_context(self.memory)
        return self

    async def until(self, fact: Callable[[], Any], what: str = "") -> Any:
        """Time moves here only when somebody moves it."""
        for _ in range(100):
            value = fact()
            if value:
                return value
            await self.memory.clock.advance(TICK_S)
        raise AssertionError(f"{what or fact} never held")

    async def quiet(self) -> None:
        await self.memory.clock.advance(20 * TICK_S)

    async def bind(self, thread: bytes, handler: str) -> None:
        assert self.memory.router is not None
        self.memory.router.bindings.handlers[thread] = handler


class CoreHive(InMemory):
    """The production core on that hive's wire and clock."""

    kind = "core"
    rules = True

    def __init__(self, framing: str) -> None:
        super().__init__(framing)
        self.router = CoreRouter(self.memory.clock)
        self.memory.router = self.router  # type: ignore[assignment]
        self._version = 1
        self._tick()

    def _tick(self) -> None:
        self.router.core.tick(self.router.now())
        self.memory.clock.call_later(TICK_S, self._tick)

    async def configure(self, *, vpns: tuple[VpnRule, ...] = (), grants: tuple[Grant, ...] = ()) -> None:
        self._version += 1
        state = ConfigState(version=self._version, routes=(), vpns=vpns, grants=grants, limits={})
        self.router.core.configure(state, self.router.now())

    async def bind(self, thread: bytes, handler: str) -> None:
        self.router.core.bindings([Binding(thread, handler, bytes(16), 0, "", 1)], [], self.router.now())

    async def drain(self) -> None:
        self.router.core.drain(1000)


# ---- a process -----------------------------------------------------------------------------------------------------


class UnixHive(Hive):
    """A real router on a Unix socket, with this process in the place of the owners of its regions."""

    kind = "unix"

    async def __aenter__(self) -> Hive:
        folder = self.stack.enter_context(private_hive())
        self.root = folder.root
        self._config = ConfigWriter.create(folder.root, folder.hive_id)
        self.stack.callback(self._config.close)
        self._threads = ThreadsWriter.create(folder.root)
        self.stack.callback(self._threads.close)
        self._version = 0
        await self.configure()
        self.router: RouterProcess = folder.start_router()
        self.observer, _ = await self.node("SY.observer")
        return self

    def place(self) -> Any:
        return self.root

    async def configure(self, *, vpns: tuple[VpnRule, ...] = (), grants: tuple[Grant, ...] = ()) -> None:
        self._version += 1
        state = ConfigState(version=self._version, routes=(), vpns=vpns, grants=grants, limits={})
        self._config.publish(state)
        if self._version > 1:
            while (await self._stats())["config_version"] != self._version:
                """Each answer takes the router a turn, and it looks in each tick; pytest's timeout ends what hangs."""

    async def _stats(self) -> dict[str, Any]:
        asked = await self.observer.request("RT.main", {}, timeout=5, type="system", verb="ROUTER_STATS")
        return dict(asked.payload)

    async def bind(self, thread: bytes, handler: str) -> None:
        self._threads.bind(Binding(thread, handler, bytes(16), 0, "", 1))
        await self.quiet()

    async def drain(self) -> None:
        self.router.process.terminate()

    async def quiet(self) -> None:
        """Three answers of the router, each at least a tick after what was sent before it."""
        for _ in range(3):
            await self._stats()


KINDS: dict[str, type[Hive]] = {"core": CoreHive, "unix": UnixHive, "memory": InMemory}


async def opened(kind: str, framing: str) -> AsyncIterator[Hive]:
    async with KINDS[kind](framing) as hive:
        yield hive
