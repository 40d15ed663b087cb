"""A received message: one frame, read when asked.

Holds the frame's own bytes (never a view of a read buffer, so a kept message pins only itself) and the decoded flow it
came with. Every property decodes on access; only the payload is remembered. Making one costs two attribute writes,
which is what lets a node take hundreds of thousands a second.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

import orjson

from skep.flows import THREAD_DIGEST, Destination, InFlow, type_text
from skep.payload import text_of
from skep.protocol.header import AckLevel, ContentType, DstKind, MessageClass, Phase, Scope, Selector, Tag
from skep.protocol.limits import U64_MAX
from skep.protocol.message import BROADCAST, decode_payload, format_ilk, format_uuid, parse_uuid

if TYPE_CHECKING:
    from skep.client import Client

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_U64 = Struct("<Q").unpack_from
_FIELD = Struct("<HH").unpack_from
_NONE = bytes(4)
_UNREAD: Any = object()


class Message:
    """A message as a handler sees it. Not to be made by hand; `skep.testing` delivers real ones."""

    __slots__ = ("flow", "frame", "client", "arrived", "_payload", "_parts", "_answered")

    def __init__(self, flow: InFlow, frame: bytes, client: Client, arrived: float) -> None:
        self.flow = flow
        self.frame = frame
        self.client = client
        self.arrived = arrived
        self._payload: Any = _UNREAD

    # ---- content -------------------------------------------------------------------------------------------------

    @property
    def payload(self) -> Any:
        """The decoded payload. Raises RemoteProtocolError when it is not what its content type says."""
        value = self._payload
        if value is _UNREAD:
            frame, flow = self.frame, self.flow
            if flow.is_bytes:
                return frame[_U16(frame, 6)[0] :]
            value = decode_payload(self.flow.selector.content_type, self.payload_bytes)
            self._payload = value
        return value

    @property
    def payload_bytes(self) -> bytes:
        frame = self.frame
        return frame[_U16(frame, 6)[0] :]

    @property
    def text(self) -> str | None:
        """The text of a text/v1 or text payload, None when the payload is something else."""
        return text_of(self.payload)

    @property
    def content_type(self) -> ContentType:
        return self.flow.selector.content_type

    @property
    def meta(self) -> dict[str, Any]:
        """The members of meta that have no field of their own."""
        extension = self.extension(Tag.META)
        value: dict[str, Any] = orjson.loads(extension) if extension else {}
        return value

    @property
    def plain(self) -> bool:
        """Whether the frame has no extension fields."""
        return self.frame[4:6] == self.frame[6:8]

    def extension(self, tag: int) -> bytes | None:
        """The extension field `tag`, or None."""
        frame, at, end = self.frame, self.flow.key_end, _U16(self.frame, 6)[0]
        while at + 4 <= end:
            found, length = _FIELD(frame, at)
            if found & 0x7FFF == tag:
                return frame[at + 4 : at + 4 + length]
            at += 4 + length
        return None

    # ---- from, to, about -----------------------------------------------------------------------------------------

    @property
    def source(self) -> bytes:
        """The sender's uuid, as the router vouches for it."""
        return self.flow.source

    @property
    def source_name(self) -> str:
        """The sender's name, or its uuid as text when it is not known (any more)."""
        return self.client.name_of(self.flow.source)

    @property
    def origin(self) -> tuple[bytes, int] | None:
        """Of a message that was handed over: the uuid and message id that an answer goes to. None for others."""
        handed = None if self.plain else self.meta.get("handoff")
        if not isinstance(handed, dict):
            return None
        source, message_id = parse_uuid(str(handed.get("source", ""))), handed.get("message_id", 0)
        if source is None or not isinstance(message_id, int) or not 0 <= message_id <= U64_MAX:
            return None
        return source, message_id

    @property
    def selector(self) -> Selector:
        return self.flow.selector

    @property
    def destination(self) -> Destination:
        """As the sender wrote it: a name, a uuid, BROADCAST, or None for the policy."""
        selector = self.flow.selector
        kind = selector.dst_kind
        if kind == DstKind.NAME:
            return selector.destination.decode()
        return (
            selector.destination if kind == DstKind.UUID else BROADCAST if kind == DstKind.BROADCAST else None
        )

    @property
    def type(self) -> str:
        return type_text(self.flow.selector)

    @property
    def verb(self) -> str:
        return self.flow.selector.verb

    @property
    def action(self) -> str:
        return self.flow.selector.action

    @property
    def target(self) -> str:
        return self.flow.selector.target

    @property
    def scope(self) -> Scope:
        return self.flow.selector.scope

    @property
    def ttl(self) -> int:
        return self.flow.selector.ttl

    @property
    def phase(self) -> Phase:
        return self.flow.selector.phase

    @property
    def context(self) -> dict[str, Any] | None:
        context = self.flow.selector.context
        return orjson.loads(context) if context else None

    @property
    def src_ilk(self) -> str:
        return format_ilk(self.flow.selector.src_ilk)

    @property
    def dst_ilk(self) -> str:
        return format_ilk(self.flow.selector.dst_ilk)

    @property
    def thread_id(self) -> str | None:
        selector = self.flow.selector
        if not selector.thread:
            return None
        return selector.thread.decode() if selector.thread_is_text else THREAD_DIGEST + selector.thread.hex()

    # ---- header words --------------------------------------------------------------------------------------------

    @property
    def message_id(self) -> int:
        value: int = _U64(self.frame, 8)[0]
        return value

    @property
    def reply_to(self) -> int:
        value: int = _U64(self.frame, 16)[0]
        return value

    @property
    def trace(self) -> bytes:
        return self.frame[24:40]

    @property
    def trace_id(self) -> str:
        """The trace id as text: a uuid, unless its sender wrote another text."""
        text = None if self.plain else self.extension(Tag.TRACE_TEXT)
        return text.decode() if text else format_uuid(self.frame[24:40])

    @property
    def thread_seq(self) -> int:
        value: int = _U64(self.frame, 48)[0]
        return value

    @property
    def part_number(self) -> int:
        """The number of this part in a streamed answer, from 1; 0 when it is no part."""
        value: int = _U32(self.frame, 68)[0]
        return value

    @property
    def label_set(self) -> int:
        value: int = _U32(self.frame, 60)[0]
        return value

    @property
    def budget(self) -> int:
        value: int = _U32(self.frame, 64)[0]
        return value

    @property
    def remaining(self) -> float | None:
        """Seconds left until the sender's deadline (never below 0), None without one."""
        deadline_ms: int = _U32(self.frame, 56)[0]
        if not deadline_ms:
            return None
        return max(0.0, self.arrived + deadline_ms / 1000 - self.client.clock.now())

    def too_late(self) -> bool:
        """Whether the sender's deadline has passed."""
        frame = self.frame
        if frame[56:60] == _NONE:
            return False
        deadline_ms: int = _U32(frame, 56)[0]
        return self.client.clock.now() >= self.arrived + deadline_ms / 1000

    @property
    def answered(self) -> bool:
        """Whether the handler itself has sent a reply or the end of a stream."""
        return hasattr(self, "_answered")

    @property
    def ack_level(self) -> AckLevel:
        return self.flow.selector.ack_level

    @property
    def wants_reply(self) -> bool:
        return self.flow.phase == Phase.REQUEST

    @property
    def is_system(self) -> bool:
        return self.flow.selector.message_class == MessageClass.SYSTEM

    # ---- answers -------------------------------------------------------------------------------------------------

    async def reply(self, payload: Any) -> None:
        """Answers the sender: same thread and trace, `reply_to` this message."""
        self._answered = True
        await self.client.answer(self, payload, Phase.REPLY)

    async def progress(self, payload: Any) -> None:
        """Tells the sender how far the work is; the reply still follows."""
        await self.client.answer(self, payload, Phase.PROGRESS)

    async def part(self, payload: Any) -> None:
        """Sends the next part of a streamed answer; `end` or the handler's return value closes it."""
        self._parts = number = getattr(self, "_parts", 0) + 1
        await self.client.answer(self, payload, Phase.PART, part=number)

    async def end(self, payload: Any = None) -> None:
        """Ends a streamed answer."""
        self._answered = True
        await self.client.answer(self, payload, Phase.END)

    def __repr__(self) -> str:
        return f"<Message {self.message_id} {self.phase.name.lower()} {self.type} from {self.source_name}>"
