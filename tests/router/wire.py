"""A router's core on a fake wire: no socket, no clock, no region. What the tests of the core share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from skep.protocol import link as link_verbs
from skep.protocol import native_framing
from skep.protocol.codes import CloseReason
from skep.protocol.handshake import NATIVE, Announced, ClientHandshake, Refused
from skep.protocol.header import DstKind, MessageClass, Selector, pack_frame, pack_key
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.message import Message
from skep.protocol.native_framing import NativeFramer
from skep_router.core import Core
from skep_router.hooks import Hooks
from skep_router.settings import Settings
from skep_shm import ConfigState

HIVE = "bee"
OWN_UID = 1000
ROUTER = UUID("00000000-0000-4000-8000-0000000000aa").bytes
_SPACE = UUID("5ce90000-0000-4000-8000-000000000000")
MS = 1_000_000
SECOND = 1_000 * MS


def uuid_of(name: str) -> bytes:
    return uuid5(_SPACE, name).bytes


@dataclass
class Notes:
    """Directory, recorder and log that only remember."""

    live: dict[int, str] = field(default_factory=dict)
    hops: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    closings: list[tuple[str, CloseReason]] = field(default_factory=list)
    doorbells: list[int] = field(default_factory=list)
    slots: int = 0

    def joined(self, link: Any) -> int:
        self.slots += 1
        self.live[self.slots] = link.name
        return self.slots

    def left(self, slot: int) -> None:
        del self.live[slot]

    def hop(self, *facts: Any) -> None:
        self.hops.append(facts)

    def event(self, *facts: Any) -> None:
        self.events.append(facts)

    def closed(self, link: Any, reason: CloseReason, detail: str) -> None:
        self.closings.append((link.name, reason))


class FakePort:
    """The core's end of a connection: what it wrote, and what it asked for."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed: int | None = None
        self.reading = True

    def write(self, data: bytes, /) -> None:
        assert type(data) is bytes, "only immutable bytes may be handed to a transport"
        assert self.closed is None, "written after close"
        self.written.append(data)

    def close(self, reason: int, detail: str, /) -> None:
        self.closed = reason

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def take(self) -> bytes:
        data = b"".join(self.written)
        self.written.clear()
        return data


class Router:
    """One core, its notes, and a clock that only tests move."""

    def __init__(self, *, ready: bool = True, **settings: Any) -> None:
        self.notes = Notes()
        hooks = Hooks(self.notes, self.notes, self.notes, self.notes.doorbells.append)
        chosen = {"hive": HIVE, "root": Path("/nowhere"), "name": "RT.main", "uuid": ROUTER, "own_uid": OWN_UID}
        self.now = SECOND
        self.core = Core(Settings(**{**chosen, **settings}), hooks, epoch=1)
        self.version = 0
        if ready:
            self.configure()

    def configure(self, **rules: Any) -> None:
        self.version += 1
        state = {"routes": (), "vpns": (), "grants": (), "limits": {}, **rules}
        self.core.configure(ConfigState(version=self.version, **state), self.now)

    def advance(self, ns: int) -> None:
        self.now += ns
        self.core.tick(self.now)

    def node(self, name: str, *, native: bool = True, uid: int = OWN_UID, uuid: bytes = b"", **hello: Any) -> Peer:
        peer = Peer(self, name, native=native, uid=uid, uuid=uuid, **hello)
        peer.connect()
        return peer


class Peer:
    """A node's end: speaks real bytes to the core and reads what comes back."""

    def __init__(
        self, router: Router, name: str, *, native: bool = True, uid: int = OWN_UID, uuid: bytes = b"", **hello: Any
    ) -> None:
        self.router = router
        self.name = f"{name}@{HIVE}" if "@" not in name else name
        self.uuid = uuid or uuid_of(name)
        self.native = native
        self.uid = uid
        self.port = FakePort()
        self.link: Any = None
        self.taken = 0
        self.next_id = 1
        self.auto_take = True
        self.verbs: list[Any] = []
        self.inbox: list[Message] = []
        self.raw: list[Any] = []
        self._hello = hello
        self._framer: Any = NativeFramer() if native else JsonFramer()

    def connect(self) -> Announced | Refused:
        core, now = self.router.core, self.router.now
        shake = ClientHandshake(
            self.uuid, self.name.partition("@")[0], "1", framings=(NATIVE,) if self.native else (),
            trace_id="11111111-1111-4111-8111-111111111111", **self._hello,
        )
        shake.start()
        pending = core.greet(self.port, self.uid, 4242, now)
        assert pending is not None, "too many strangers of this uid"
        self.link = core.introduce(pending, shake.data_to_send(), now)
        (answer,) = shake.receive_data(self.port.take())
        self.answer = answer
        return answer

    def feed(self, data: bytes) -> None:
        self.router.core.receive(self.link, data, self.router.now)

    def frame(self, dst: Any = None, payload: bytes = b"{}", *, source: bytes = b"", **facts: Any) -> bytes:
        """A native frame; `dst` is a name, 16 bytes, or None. Selector facts and head facts by their names."""
        head = {k: facts.pop(k) for k in tuple(facts) if k in _HEAD}
        kind, destination = native_framing.destination_of(dst)
        if facts.get("dst_kind") is None:
            facts.update(dst_kind=kind, destination=destination)
        head.setdefault("message_id", self.next_id)
        self.next_id += 1
        return pack_frame(pack_key(source or self.uuid, Selector(**facts)), payload, **head)

    def send(self, dst: Any = None, payload: bytes = b"{}", **facts: Any) -> None:
        self.feed(self.frame(dst, payload, **facts))

    def send_json(self, dst: Any = None, payload: Any = None, **facts: Any) -> None:
        facts.setdefault("trace_id", "22222222-2222-4222-8222-222222222222")
        message = Message(payload, dst, source=facts.pop("source", self.uuid), **facts)
        self.feed(encode_body(message, source_name=""))

    def read(self) -> list[Message]:
        """Messages that came since the last call; LINK verbs go to `verbs`. Taken is reported unless told not to."""
        fresh: list[Message] = []
        for item in self._framer.receive_data(self.port.take()):
            if not self.native:
                fresh.append(decode_body(item))
            elif item.key[17] == MessageClass.LINK:
                self.verbs.append(link_verbs.parse_link(item.payload))
            else:
                self.raw.append(item)
                fresh.append(native_framing.frame_to_message(item))
        self.inbox += fresh
        self.taken += len(fresh)
        if self.native and fresh and self.auto_take and not self.link.closed:
            self.feed(link_verbs.pack_taken(self.taken))
        return fresh

    def reasons(self) -> list[str]:
        """Why the messages of this node were refused, as it was told."""
        return [m.payload.get("reason", m.verb) for m in self.read() if m.type == "system"]

    def crash(self, reason: CloseReason = CloseReason.PEER_CLOSED) -> None:
        self.router.core.lost(self.link, reason, self.router.now)


_HEAD = {
    "message_id", "reply_to", "trace_id", "span_id", "thread_seq", "deadline_ms", "label_set", "budget", "part",
    "extensions",
}
BROADCAST = DstKind.BROADCAST
