"""A router's core on a wire that throws away: the production object, without sockets, for what a frame costs in it."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import Any

from skep.protocol import link as link_verbs
from skep.protocol.header import ContentType, DstKind, MessageClass, Selector, pack_frame, pack_key
from skep_router.core import Core
from skep_router.hooks import Hooks
from skep_router.settings import Settings
from skep_shm import ConfigState

HIVE = "bench"
UID = 1000
SECOND = 1_000_000_000


class Quiet:
    """Directory, recorder and log that keep nothing."""

    def __init__(self) -> None:
        self.slots = itertools.count()

    def joined(self, link: Any) -> int:
        return next(self.slots)

    def left(self, slot: int) -> None: ...

    def hop(self, *facts: Any) -> None: ...

    def event(self, *facts: Any) -> None: ...

    def closed(self, *facts: Any) -> None: ...


class Port:
    """Counts what the core wrote."""

    def __init__(self) -> None:
        self.bytes_written = 0

    def write(self, data: bytes, /) -> None:
        self.bytes_written += len(data)

    def close(self, reason: int, detail: str, /) -> None:
        raise AssertionError(f"the core closed a link: {reason} {detail}")

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Rig:
    """One core, ready, and its clock, which moves only when asked."""

    def __init__(self) -> None:
        quiet = Quiet()
        settings = Settings(
            hive=HIVE, root=Path("/nowhere"), name="RT.main", uuid=bytes(range(16)), own_uid=UID
        )
        self.core = Core(settings, Hooks(quiet, quiet, quiet, lambda _kind: None), epoch=1)
        self.now = SECOND
        self.core.configure(ConfigState(version=1), self.now)
        self.numbers = itertools.count(1)

    def node(self, name: str) -> RigNode:
        return RigNode(self, name)


class RigNode:
    """A registered native node."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name, self.taken = rig, f"{name}@{HIVE}", 0
        self.uuid = next(rig.numbers).to_bytes(16, "big")
        self.port = Port()
        pending = rig.core.greet(self.port, UID, 1, rig.now)
        assert pending is not None
        link = rig.core.introduce(pending, self._hello(), rig.now)
        assert link is not None, f"{name} was not registered"
        self.link = link
        self.port.bytes_written = 0

    def _hello(self) -> bytes:
        who = self.uuid.hex()
        uuid = f"{who[:8]}-{who[8:12]}-{who[12:16]}-{who[16:20]}-{who[20:]}"
        body = json.dumps(
            {
                "routing": {"src": uuid, "dst": None, "ttl": 1, "trace_id": uuid},
                "meta": {"type": "system", "msg": "HELLO"},
                "payload": {"uuid": uuid, "name": self.name, "version": "1.0", "framing": ["native/1"]},
            }
        ).encode()
        return struct.pack(">I", len(body)) + body

    def frame(self, to: str, size: int = 256, thread: bytes = b"") -> bytes:
        selector = Selector(
            message_class=MessageClass.USER,
            ttl=16,
            dst_kind=DstKind.NAME,
            destination=f"{to}@{HIVE}".encode(),
            thread=thread,
            content_type=ContentType.BYTES,
        )
        return pack_frame(pack_key(self.uuid, selector), bytes(size), message_id=1)

    def send(self, data: bytes) -> None:
        self.rig.core.receive(self.link, data, self.rig.now)

    def take(self, frames: int) -> None:
        """Reports frames taken, so that the core owes nothing."""
        self.taken += frames
        self.send(link_verbs.pack_taken(self.taken))
