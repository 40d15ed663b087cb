"""Native framing of whole messages: Message to frame and back. Slow paths only; hot paths use `header` directly.

A Message has no choice of encoding: its selector, its extension fields and its fixed fields follow from it, so equal
messages give equal bytes, and a frame that says the same in other bytes was refused when its key or extensions were
read. Trace ids that are no uuid keep their text in TRACE_TEXT, beside the first 16 bytes of its digest.
"""

from __future__ import annotations

from typing import Any, Final

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import (
    ZERO16,
    DstKind,
    Flags,
    Frame,
    MessageClass,
    Selector,
    Tag,
    frame_length,
    pack_extensions,
    pack_frame,
    pack_key,
    parse_frame,
    thread_digest,
    unpack_extensions,
    unpack_key,
)
from skep.protocol.json_framing import check_extras
from skep.protocol.limits import (
    CONTEXT_DEPTH_MAX,
    FRAME_BYTES_MAX,
    NAME_BYTES_MAX,
    PAYLOAD_DEPTH_MAX,
    SHORT_TEXT_BYTES_MAX,
)
from skep.protocol.message import (
    BROADCAST,
    META_FACTS,
    ROUTING_FACTS,
    Message,
    decode_payload,
    format_ilk,
    format_uuid,
    parse_ilk,
    parse_uuid,
    trace_bytes,
)
from skep.protocol.names import THREAD_PREFIX

_ALL_FACTS: Final = META_FACTS | ROUTING_FACTS


class NativeFramer:
    """Cuts a stream into frames. Holds at most one unfinished frame."""

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        self.limit = limit
        self._tail = b""

    def receive_data(self, data: bytes) -> list[Frame]:
        """The frames that this read completes. Raises FRAME_TOO_LARGE or FRAME_LENGTHS from eight bytes alone."""
        if self._tail:
            data = self._tail + data
        frames = []
        at, end = 0, len(data)
        while end - at >= 8:
            stop = at + frame_length(data, at, self.limit)
            if stop > end:
                break
            frames.append(parse_frame(data, at, stop))
            at = stop
        self._tail = data[at:] if at else data
        return frames

    @property
    def buffered_bytes(self) -> int:
        return len(self._tail)


# Writing ----------------------------------------------------------------------------------------------------------


def selector_of(message: Message) -> Selector:
    """The selector that the message's facts make. Raises ProtocolError for facts that no header holds."""
    kind, destination = destination_of(message.destination)
    thread, thread_is_text = _thread_of(message.thread_id)
    message_class = message.message_class
    return Selector(
        message_class=message_class,
        flags=Flags.SAMPLED if message.sampled else Flags.NONE,
        ttl=message.ttl,
        hops=message.hops,
        phase=message.phase,
        content_type=message.content_type,
        ack_level=message.ack_level,
        dst_kind=kind,
        scope=message.scope,
        action_class=message.action_class,
        destination=destination,
        src_ilk=parse_ilk(message.src_ilk),
        dst_ilk=parse_ilk(message.dst_ilk),
        verb=message.verb,
        action=message.action,
        type=message.type if message_class is MessageClass.OTHER else "",
        target=message.target,
        context=b"" if message.context is None else strict_json.dumps_canonical(message.context),
        thread=thread,
        thread_is_text=thread_is_text,
    )


def destination_of(destination: str | bytes | None) -> tuple[DstKind, bytes]:
    """Kind and bytes of a destination as `Message` has it."""
    if destination is None:
        return DstKind.POLICY, b""
    if isinstance(destination, bytes):
        return DstKind.UUID, destination
    if destination == BROADCAST:
        return DstKind.BROADCAST, b""
    uuid = parse_uuid(destination)
    return (DstKind.NAME, destination.encode()) if uuid is None else (DstKind.UUID, uuid)


def _thread_of(text: str) -> tuple[bytes, bool]:
    if not text:
        return b"", False
    digest = thread_digest(text)
    return (text.encode(), True) if digest is None else (digest, False)


def extensions_of(message: Message) -> bytes:
    """The extension fields that the message's facts make."""
    fields: dict[int, bytes] = {}
    for tag, section, extras in ((Tag.META, "meta", message.meta), (Tag.ROUTING, "routing", message.routing)):
        if extras:
            check_extras(section, extras, _ALL_FACTS)
            fields[tag] = strict_json.dumps_canonical(extras)
    if message.trace_id and trace_bytes(message.trace_id)[1]:
        fields[Tag.TRACE_TEXT] = message.trace_id.encode()
    if message.memory is not None:
        fields[Tag.MEMORY] = strict_json.dumps_canonical(message.memory)
    return pack_extensions(fields) if fields else b""


def message_to_frame(message: Message, source: bytes) -> bytes:
    """The whole frame. `source` is the connection's uuid, whatever the message says.

    Raises ProtocolError: the message holds what no frame can say, or is too large.
    """
    return frame_with_payload(message, source, message.payload_bytes)


def frame_with_payload(message: Message, source: bytes, payload: bytes) -> bytes:
    try:
        key = pack_key(source, selector_of(message))
        extensions = extensions_of(message)
    except UnicodeEncodeError as problem:
        raise LocalProtocolError(ErrorCode.TEXT_INVALID, f"a text is not UTF-8: {problem}") from None
    return pack_frame(
        key,
        payload,
        message_id=message.message_id,
        reply_to=message.reply_to,
        trace_id=trace_bytes(message.trace_id)[0],
        span_id=message.span_id,
        thread_seq=message.thread_seq,
        deadline_ms=message.deadline_ms,
        label_set=message.label_set,
        budget=message.budget,
        part=message.part,
        extensions=extensions,
    )


# Reading ----------------------------------------------------------------------------------------------------------


def frame_to_message(frame: Frame) -> Message:
    """The message in a frame, its payload decoded. Raises RemoteProtocolError."""
    message = message_without_payload(frame)
    message.payload = decode_payload(message.content_type, frame.payload)
    return message


def message_without_payload(frame: Frame, *, from_node: bool = False) -> Message:
    """All but the payload. `from_node` refuses the extension fields that only routers write."""
    source, selector = unpack_key(frame.key)
    message = message_of_selector(source, selector)
    message.message_id = frame.message_id
    message.reply_to = frame.reply_to
    message.span_id = frame.span_id
    message.thread_seq = frame.thread_seq
    message.deadline_ms = frame.deadline_ms
    message.label_set = frame.label_set
    message.budget = frame.budget
    message.part = frame.part
    if frame.trace_id != ZERO16:
        message.trace_id = format_uuid(frame.trace_id)
    if frame.extensions:
        _read_extensions(message, frame, from_node)
    return message


def message_of_selector(source: bytes, s: Selector) -> Message:
    """A message with the facts of a flow key, and defaults for the rest."""
    return Message(
        destination=_destination(s),
        type=s.type or s.message_class.name.lower(),
        verb=s.verb,
        source=source,
        ttl=s.ttl,
        hops=s.hops,
        sampled=bool(s.flags & Flags.SAMPLED),
        src_ilk=format_ilk(s.src_ilk),
        dst_ilk=format_ilk(s.dst_ilk),
        thread_id=thread_text(s),
        context=strict_json.loads(s.context) if s.context else None,
        scope=s.scope,
        target=s.target,
        action=s.action,
        action_class=s.action_class,
        phase=s.phase,
        ack_level=s.ack_level,
        content_type=s.content_type,
    )


def _destination(s: Selector) -> str | bytes | None:
    if s.dst_kind is DstKind.NAME:
        return s.destination.decode()
    if s.dst_kind is DstKind.UUID:
        return s.destination
    return BROADCAST if s.dst_kind is DstKind.BROADCAST else None


def thread_text(s: Selector) -> str:
    """The thread id as JSON has it."""
    if s.thread_is_text:
        return s.thread.decode()
    return THREAD_PREFIX + s.thread.hex() if s.thread else ""


def check_extensions(frame: Frame, *, from_node: bool) -> None:
    """Everything that can be wrong with a frame's extension fields, for who carries them on unread."""
    if frame.extensions:
        _read_extensions(Message(), frame, from_node)


def _read_extensions(message: Message, frame: Frame, from_node: bool) -> None:
    fields = unpack_extensions(frame.extensions, from_node=from_node)
    if Tag.META in fields:
        message.meta = _members("meta", fields[Tag.META])
    if Tag.ROUTING in fields:
        message.routing = _members("routing", fields[Tag.ROUTING])
    if Tag.SRC_NAME in fields:
        message.source_name = _field_text("source name", fields[Tag.SRC_NAME], NAME_BYTES_MAX)
    if Tag.TRACE_TEXT in fields:
        message.trace_id = _trace_text(fields[Tag.TRACE_TEXT], frame.trace_id)
    if Tag.MEMORY in fields:
        message.memory = _object("memory package", fields[Tag.MEMORY], CONTEXT_DEPTH_MAX)


def _object(what: str, data: bytes, depth_max: int) -> dict[str, Any]:
    value = strict_json.loads_canonical(data, depth_max)
    if not isinstance(value, dict):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, f"{what} must be an object")
    return value


def _members(section: str, data: bytes) -> dict[str, Any]:
    members = _object(section, data, PAYLOAD_DEPTH_MAX)
    if not members:
        raise RemoteProtocolError(ErrorCode.NOT_CANONICAL, f"an empty {section} extension is left out")
    check_extras(section, members, _ALL_FACTS)
    return members


def _field_text(what: str, data: bytes, limit: int) -> str:
    if not 0 < len(data) <= limit:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, what, limit, len(data))
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise RemoteProtocolError(ErrorCode.TEXT_INVALID, f"{what} is not UTF-8: {problem}") from None
    strict_json.check_text(what, text)
    return text


def _trace_text(data: bytes, trace_id: bytes) -> str:
    text = _field_text("trace text", data, SHORT_TEXT_BYTES_MAX)
    if trace_bytes(text) != (trace_id, True):
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, "trace_id is not the digest of its text")
    return text
