"""SY.identity: the node that knows who is who. `python -m skep_nodes.sy.identity --hive ROOT`.

This is the shell around `skep_nodes.identity`: it looks up who asks, reads the clock, beats, and answers. The regions
are filled before the node links, so whoever finds the node finds them. Every verb is answered exactly once, by
`<VERB>_RESPONSE`. What the disk refuses ends changes, never the node: readers and routers go on with what is published,
and the state says so (STATUS, IDENTITY_METRICS).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, Final

from skep import Hive, Message, Node
from skep.connector import CONNECT_S
from skep.errors import ConfigError, ProtocolError
from skep.node import STOP_GRACE_S
from skep_nodes.identity.audit import HeadFile
from skep_nodes.identity.callers import Callers
from skep_nodes.identity.expiry import Expire
from skep_nodes.identity.first_start import FirstStartInvalid, first_start
from skep_nodes.identity.limits import DUE_MAX
from skep_nodes.identity.publisher import KEY_FILE, Regions, read_key
from skep_nodes.identity.reading import Metrics
from skep_nodes.identity.refusal import Code, Refusal, invalid
from skep_nodes.identity.service import Service
from skep_nodes.identity.store import StoreBroken, StoreError
from skep_nodes.identity.verb import Verb
from skep_nodes.identity.verbs import Settings, verbs
from skep_nodes.sy.identity_config import CONTRACT, IdentityConfig, open_store, read_config
from skep_nodes.sy.system_node import beat, hive_of_arguments, ring_doorbell, say, wall_ms
from skep_shm import RegionError, RegionKind

NAME: Final = "SY.identity"
CONCURRENCY: Final = 512  # requests that wait for one group; the rest waits in the node's own queue
EXTENSIONS: Final = ("skep_nodes.degrees.verbs",)
"""Modules with further VERBS on the same store; one that is not installed is left out."""
_DOORBELLS: Final = (RegionKind.CHANNELS, RegionKind.ILKS, RegionKind.TENANTS)


class Prepared(Node):
    """A node that has something to open before it links, and to close after it left, on the loop that it runs on."""

    prepare: Callable[[], Awaitable[None]]
    release: Callable[[], Awaitable[None]]

    async def start(self, timeout: float = CONNECT_S) -> None:
        await self.prepare()
        await super().start(timeout)

    async def stop(self, grace: float = STOP_GRACE_S) -> None:
        await super().stop(grace)
        await self.release()


class Identity:
    """The node: callers, service and regions, joined."""

    def __init__(self, hive: Hive, config: IdentityConfig) -> None:
        self.hive, self.config = hive, config
        folder = hive.state_dir / "identity"
        store = open_store(hive, config)  # first: it may refuse, and a region that was made would stay behind
        key = read_key(folder / KEY_FILE, config.group)
        self.callers = Callers(hive.root)
        self.regions = Regions(hive.root, hive.hive_id, key, group=config.group, warn=self._warn)
        head_file = HeadFile(folder / "identity.head")
        self.service = Service(store, self.regions, wall_ms, head_file, warn=self._warn)
        self.node = Prepared(
            NAME, hive=hive.root, persistent=True, concurrency=CONCURRENCY, ordered=False, version="2.0",
            contract=CONTRACT,
        )  # fmt: skip
        self.node.prepare, self.node.release = self._prepare, self._release
        settings = Settings(hive.hive_id, config.merge_alias_ttl_secs, config.frontdesk)
        self.verbs: dict[str, Verb] = {**verbs(settings), "IDENTITY_METRICS": Verb((), self._metrics)}
        self.verbs |= extensions()
        self._expiring: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._began_s = time.monotonic()
        self._declare()

    def _declare(self) -> None:
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        self.node.on_system("STATUS")(self._status)
        for name, verb in self.verbs.items():
            self.node.on_system(name)(self._handler(name, verb))

    def run(self) -> None:
        """Serve until told to stop."""
        self.node.run()

    async def _prepare(self) -> None:
        await self.service.open()
        await first_start(self.service, self.hive, self._warn)

    async def _release(self) -> None:
        await self.service.close()
        self.callers.close()
        self.regions.close()

    async def _start(self) -> None:
        self.regions.published = self._ring
        self._beating = asyncio.create_task(beat(self.regions.heartbeat, self._each_beat))
        self._ring()

    def _ring(self) -> None:
        for kind in _DOORBELLS:
            ring_doorbell(self.node, kind)

    async def _stop(self) -> None:
        for task in (self._beating, self._expiring):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    # -- requests ----------------------------------------------------------------------------------------------

    def _handler(self, name: str, verb: Verb) -> Callable[[Message], Any]:
        async def handle(message: Message) -> dict[str, Any]:
            try:
                caller = self.callers.of(message.source)
                if not verb.allows(caller, self.hive.hive_id):
                    raise unauthorized(name, caller.name, message)
                action = verb.read(_payload(message), caller)
            except Refusal as refusal:
                return refusal.answer()
            return await self.service.submit(action)

        return handle

    def _metrics(self, payload: Mapping[str, Any], caller: Any) -> Metrics:
        return Metrics({
            "store": self.service.store.kind, "store_broken": self.service.broken or None,
            "damaged_row_count": len(self.service.damaged), "unpublished_count": self.regions.unpublished,
            "audit_seq": self.service.head.seq, "uptime_s": round(time.monotonic() - self._began_s, 1),
        })  # fmt: skip

    async def _status(self, message: Message) -> dict[str, Any]:
        state = "db_not_ready" if self.service.broken else "configured"
        return {"status": "ok", "state": state, "store": self.service.store.kind, "primary": True,
                "error": self.service.broken or None}  # fmt: skip

    # -- time --------------------------------------------------------------------------------------------------

    def _each_beat(self, now_ns: int) -> None:
        if self._expiring is None or self._expiring.done():
            self._expiring = asyncio.create_task(self._expire())

    async def _expire(self) -> None:
        """End what is due; the database finds it by an index, so a beat without anything costs some microseconds."""
        if self.service.broken:
            return
        try:
            due = await self.service.store.due(wall_ms(), DUE_MAX)
        except (StoreError, StoreBroken) as error:
            self._warn(f"WARNING {error}")
            return
        if due:
            await self.service.submit(Expire(tuple(due)))

    @staticmethod
    def _warn(text: str) -> None:
        say(NAME, text)


def unauthorized(verb: str, name: str, message: Message) -> Refusal:
    """The no to a caller that is not on the verb's list, with what upstream's answer has."""
    from skep.protocol.message import format_uuid

    facts = {"action": verb, "src_uuid": format_uuid(message.source), "src_l2_name": name or None}
    return Refusal(Code.UNAUTHORIZED_REGISTRAR, f"{name or 'an unknown node'} may not say {verb}", **facts)


def _payload(message: Message) -> Any:
    try:
        payload = message.payload
    except (ValueError, ProtocolError) as error:
        raise invalid("the payload is no JSON") from error
    return {} if payload is None else payload


def extensions() -> dict[str, Verb]:
    """Verbs of further packages."""
    found: dict[str, Verb] = {}
    for module in EXTENSIONS:
        try:
            found |= import_module(module).VERBS
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
    return found


def main() -> int:
    """Run the node; 1 when it cannot own identity."""
    hive = hive_of_arguments("SY.identity: tenants, interlocutors and their channels.")
    try:
        Identity(hive, read_config(hive)).run()
    except (
        StoreError,
        StoreBroken,
        RegionError,
        ConfigError,
        FirstStartInvalid,
        ValueError,
        OSError,
    ) as error:
        say(NAME, f"cannot start: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
