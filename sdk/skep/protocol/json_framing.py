"""JSON framing: a big-endian length and a JSON envelope, as upstream's clients speak it.

`decode_body` is strict where upstream is not (docs/compat.md lists each rule): what it accepts has one meaning, and
`encode_body` of that meaning, decoded again, gives an equal Message. Members that are null or "" where upstream omits
them are taken as absent. Members nobody knows are kept in `Message.meta` and `Message.routing`; a member of one
section that belongs to another (a `dst` in meta) is a fact stated twice and refused.

Frames that break a rule inside a whole body leave the stream readable: the caller refuses the frame and reads on. Only
a length above the limit ends the connection, because nothing after it can be found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import (
    ZERO8,
    ZERO16,
    AckLevel,
    ActionClass,
    ContentType,
    MessageClass,
    Phase,
    Scope,
)
from skep.protocol.limits import (
    CONTEXT_BYTES_MAX,
    FRAME_BYTES_MAX,
    META_BYTES_MAX,
    NAME_BYTES_MAX,
    SHORT_TEXT_BYTES_MAX,
    TARGET_BYTES_MAX,
    U32_MAX,
    U64_MAX,
)
from skep.protocol.message import (
    BROADCAST,
    META_FACTS,
    ROUTING_FACTS,
    Message,
    format_uuid,
    parse_ilk,
    parse_uuid,
)
from skep.protocol.strict_json import check_text

LENGTH_BYTES: Final = 4

SCOPES: Final = {"vpn": Scope.VPN, "global": Scope.GLOBAL}
ACTION_CLASSES: Final = {member.name.lower(): member for member in ActionClass if member}
PHASES: Final = {member.name.lower(): member for member in Phase if member}
ACK_LEVELS: Final = {member.name.lower(): member for member in AckLevel if member}
_SCOPE_TEXTS: Final = {member: text for text, member in SCOPES.items()}
_ACTION_CLASS_TEXTS: Final = {member: text for text, member in ACTION_CLASSES.items()}
_PHASE_TEXTS: Final = {member: text for text, member in PHASES.items()}
_ACK_TEXTS: Final = {member: text for text, member in ACK_LEVELS.items()}

_SECTIONS: Final = frozenset({"routing", "meta", "payload"})
_RESERVED_TYPES: Final = frozenset({"link", "tap"})
"""Classes that have no JSON form: LINK frames are no messages, taps are slices of native frames."""

_Enum = TypeVar("_Enum", Scope, ActionClass, Phase, AckLevel)


class JsonFramer:
    """Cuts a stream into bodies. Holds at most one unfinished frame."""

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        self.limit = limit
        self.error: RemoteProtocolError | None = None
        """Why nothing more can be read: FRAME_TOO_LARGE, from the length word alone."""
        self._tail = b""

    def receive_data(self, data: bytes) -> list[bytes]:
        """The whole bodies that this read completes, also those before a length that sets `error`; nothing after it."""
        if self.error is not None:
            return []
        if self._tail:
            data = self._tail + data
        bodies: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= LENGTH_BYTES:
            length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if length > self.limit:
                self._tail = b""
                self.error = RemoteProtocolError(ErrorCode.FRAME_TOO_LARGE, "JSON body", self.limit, length)
                return bodies
            if end - at - LENGTH_BYTES < length:
                break
            at += LENGTH_BYTES
            bodies.append(data[at : at + length])
            at += length
        self._tail = data[at:] if at else data
        return bodies

    @property
    def buffered_bytes(self) -> int:
        return len(self._tail)

    def take_tail(self) -> bytes:
        """What is left over, for another framing to go on with."""
        tail, self._tail = self._tail, b""
        return tail


# Reading ----------------------------------------------------------------------------------------------------------


def decode_body(body: bytes) -> Message:
    """The message in a body. Raises RemoteProtocolError; the frame is then refused as a whole."""
    if len(body) > FRAME_BYTES_MAX:
        raise RemoteProtocolError(ErrorCode.FRAME_TOO_LARGE, "JSON body", FRAME_BYTES_MAX, len(body))
    envelope = strict_json.loads(body)
    routing, meta = _section(envelope, "routing"), _section(envelope, "meta")
    if len(body) > META_BYTES_MAX:
        _check_meta_size(meta)
    if not envelope.keys() <= _SECTIONS:
        raise RemoteProtocolError(ErrorCode.FIELD_UNKNOWN, "an envelope has routing, meta and payload only")
    message = Message(payload=envelope.get("payload"))
    _read_routing(message, routing)
    _read_meta(message, meta)
    return message


def _section(envelope: Any, name: str) -> dict[str, Any]:
    if not isinstance(envelope, dict):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, "a frame is a JSON object")
    section = envelope.get(name)
    if not isinstance(section, dict):
        code = ErrorCode.FIELD_MISSING if section is None else ErrorCode.FIELD_TYPE
        raise RemoteProtocolError(code, f"{name} must be an object")
    return section


def _check_meta_size(meta: dict[str, Any]) -> None:
    size = len(strict_json.dumps(meta))
    if size > META_BYTES_MAX:
        raise RemoteProtocolError(ErrorCode.META_TOO_LARGE, "meta", META_BYTES_MAX, size)


def _read_routing(message: Message, routing: dict[str, Any]) -> None:
    for name in ("src", "dst", "ttl", "trace_id"):
        if name not in routing:
            raise RemoteProtocolError(ErrorCode.FIELD_MISSING, f"routing.{name} is required")
    source = parse_uuid(_text("routing.src", routing["src"], 36))
    if source is None:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "routing.src is not a hyphenated lower-case uuid")
    message.source = source
    message.destination = _read_destination(routing["dst"])
    message.ttl = _number("routing.ttl", routing["ttl"], 255)
    message.trace_id = _text("routing.trace_id", routing["trace_id"], SHORT_TEXT_BYTES_MAX)
    message.source_name = _text("routing.src_l2_name", routing.get("src_l2_name"), NAME_BYTES_MAX)
    if len(routing) > 4:
        message.routing = _extras("routing", routing, ROUTING_FACTS, META_FACTS)


def _read_destination(dst: Any) -> str | bytes | None:
    if dst is None or dst == BROADCAST:
        return dst  # type: ignore[no-any-return]
    text = _text("routing.dst", dst, NAME_BYTES_MAX)
    if not text:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "routing.dst is null, a uuid, a name or broadcast")
    return parse_uuid(text) or text


def _extras(
    section: str, members: dict[str, Any], own: frozenset[str], other: frozenset[str]
) -> dict[str, Any]:
    extras = {name: value for name, value in members.items() if name not in own}
    check_extras(section, extras, other)
    return extras


def check_extras(section: str, extras: dict[str, Any], facts: frozenset[str]) -> None:
    """Refuse a member that is a fact of the other section, or of the header."""
    if not facts.isdisjoint(extras):
        name = next(iter(facts.intersection(extras)))
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, f"{name!r} has its place elsewhere, not in {section}")


def _read_meta(message: Message, meta: dict[str, Any]) -> None:
    type_ = _text("meta.type", meta.get("type"), SHORT_TEXT_BYTES_MAX)
    if not type_:
        raise RemoteProtocolError(ErrorCode.FIELD_MISSING, "meta.type is required")
    if type_ in _RESERVED_TYPES:
        raise RemoteProtocolError(
            ErrorCode.FIELD_RANGE, f"meta.type {type_!r} is reserved for native framing"
        )
    message.type = type_
    if len(meta) == 1:
        return
    extras = {}
    for name, value in meta.items():
        reader = _META_READERS.get(name)
        if reader is not None:
            if value is not None and value != "":
                reader(message, value)
        elif name != "type":
            extras[name] = value
    if extras:
        check_extras("meta", extras, ROUTING_FACTS)
        message.meta = extras


def _text(what: str, value: Any, limit: int) -> str:
    """A text without control characters; null is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, f"{what} must be a string")
    size = len(value) if value.isascii() else len(value.encode())
    if size > limit:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, f"{what} is too long", limit, size)
    check_text(what, value)
    return value


def _number(what: str, value: Any, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, f"{what} must be an integer")
    if not 0 <= value <= limit:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, f"{what} is out of range", limit, value)
    return value


def _one_of(what: str, value: Any, members: dict[str, _Enum]) -> _Enum:
    member = members.get(value) if isinstance(value, str) else None
    if member is None:
        raise RemoteProtocolError(ErrorCode.ENUM_UNKNOWN, f"{what} is not one of {', '.join(members)}")
    return member


def _set_verb(message: Message, value: Any) -> None:
    message.verb = _text("meta.msg", value, SHORT_TEXT_BYTES_MAX)


def _set_src_ilk(message: Message, value: Any) -> None:
    message.src_ilk = _text("meta.src_ilk", value, 64)
    parse_ilk(message.src_ilk)


def _set_dst_ilk(message: Message, value: Any) -> None:
    message.dst_ilk = _text("meta.dst_ilk", value, 64)
    parse_ilk(message.dst_ilk)


def _set_thread_id(message: Message, value: Any) -> None:
    message.thread_id = _text("meta.thread_id", value, SHORT_TEXT_BYTES_MAX)


def _set_thread_seq(message: Message, value: Any) -> None:
    message.thread_seq = _number("meta.thread_seq", value, U64_MAX)


def _set_memory(message: Message, value: Any) -> None:
    if not isinstance(value, dict):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, "meta.memory_package must be an object")
    message.memory = value


def _set_scope(message: Message, value: Any) -> None:
    message.scope = _one_of("meta.scope", value, SCOPES)


def _set_target(message: Message, value: Any) -> None:
    message.target = _text("meta.target", value, TARGET_BYTES_MAX)


def _set_action(message: Message, value: Any) -> None:
    message.action = _text("meta.action", value, SHORT_TEXT_BYTES_MAX)


def _set_action_class(message: Message, value: Any) -> None:
    message.action_class = _one_of("meta.action_class", value, ACTION_CLASSES)


def _set_context(message: Message, value: Any) -> None:
    size = len(strict_json.dumps_canonical(value))
    if size > CONTEXT_BYTES_MAX:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "meta.context", CONTEXT_BYTES_MAX, size)
    message.context = value


def _set_message_id(message: Message, value: Any) -> None:
    message.message_id = _number("meta.message_id", value, U64_MAX)


def _set_reply_to(message: Message, value: Any) -> None:
    message.reply_to = _number("meta.reply_to", value, U64_MAX)


def _set_phase(message: Message, value: Any) -> None:
    message.phase = _one_of("meta.phase", value, PHASES)


def _set_part(message: Message, value: Any) -> None:
    message.part = _number("meta.part", value, U32_MAX)


def _set_deadline(message: Message, value: Any) -> None:
    message.deadline_ms = _number("meta.deadline_ms", value, U32_MAX)


def _set_ack(message: Message, value: Any) -> None:
    message.ack_level = _one_of("meta.ack", value, ACK_LEVELS)


def _set_span_id(message: Message, value: Any) -> None:
    text = _text("meta.span_id", value, 16)
    if len(text) != 16 or text.strip("0123456789abcdef"):
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "meta.span_id is 16 lower-case hexadecimal digits")
    message.span_id = bytes.fromhex(text)


def _set_labels(message: Message, value: Any) -> None:
    message.label_set = _number("meta.labels", value, U32_MAX)


def _set_budget(message: Message, value: Any) -> None:
    message.budget = _number("meta.budget", value, U32_MAX)


def _set_sampled(message: Message, value: Any) -> None:
    if not isinstance(value, bool):
        raise RemoteProtocolError(ErrorCode.FIELD_TYPE, "meta.sampled must be true or false")
    message.sampled = value


_META_READERS: Final[dict[str, Callable[[Message, Any], None]]] = {
    "msg": _set_verb,
    "src_ilk": _set_src_ilk,
    "dst_ilk": _set_dst_ilk,
    "thread_id": _set_thread_id,
    "thread_seq": _set_thread_seq,
    "memory_package": _set_memory,
    "scope": _set_scope,
    "target": _set_target,
    "action": _set_action,
    "action_class": _set_action_class,
    "context": _set_context,
    "message_id": _set_message_id,
    "reply_to": _set_reply_to,
    "phase": _set_phase,
    "part": _set_part,
    "deadline_ms": _set_deadline,
    "ack": _set_ack,
    "span_id": _set_span_id,
    "labels": _set_labels,
    "budget": _set_budget,
    "sampled": _set_sampled,
}

assert set(_META_READERS) == META_FACTS - {"type"}


# Writing ----------------------------------------------------------------------------------------------------------


def encode_body(message: Message, *, source_name: str) -> bytes:
    """The whole frame with its length word. `source_name` is the router's stamp; "" leaves it out.

    Raises LocalProtocolError PAYLOAD_TOO_LARGE, or PAYLOAD_INVALID for a content type that JSON has not.
    """
    if message.content_type is not ContentType.JSON:
        raise LocalProtocolError(
            ErrorCode.PAYLOAD_INVALID, f"JSON framing has no {message.content_type.name}"
        )
    return frame_envelope(envelope_of(message, source_name, message.payload), FRAME_BYTES_MAX)


def frame_envelope(envelope: dict[str, Any], limit: int) -> bytes:
    body = strict_json.dumps(envelope)
    if len(body) > limit:
        raise LocalProtocolError(
            ErrorCode.PAYLOAD_TOO_LARGE, "the JSON body is larger than its receiver allows", limit, len(body)
        )
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def envelope_of(message: Message, source_name: str, payload: Any) -> dict[str, Any]:
    """The three sections; members with their default are left out."""
    routing: dict[str, Any] = {"src": format_uuid(message.source)}
    if source_name:
        routing["src_l2_name"] = source_name
    dst = message.destination
    routing["dst"] = format_uuid(dst) if isinstance(dst, bytes) else dst
    routing["ttl"] = message.ttl
    routing["trace_id"] = message.trace_id
    if message.routing:
        check_extras("routing", message.routing, ROUTING_FACTS | META_FACTS)
        routing |= message.routing
    return {"routing": routing, "meta": _meta_of(message), "payload": payload}


def _meta_of(message: Message) -> dict[str, Any]:
    m = message
    if m.message_class in (MessageClass.LINK, MessageClass.TAP):
        raise LocalProtocolError(
            ErrorCode.PAYLOAD_INVALID, f"JSON framing has no class {m.message_class.name}"
        )
    members = (
        ("type", m.type),
        ("msg", m.verb),
        ("src_ilk", m.src_ilk),
        ("dst_ilk", m.dst_ilk),
        ("thread_id", m.thread_id),
        ("thread_seq", m.thread_seq),
        ("scope", _SCOPE_TEXTS.get(m.scope)),
        ("target", m.target),
        ("action", m.action),
        ("action_class", _ACTION_CLASS_TEXTS.get(m.action_class)),
        ("message_id", m.message_id),
        ("reply_to", m.reply_to),
        ("phase", _PHASE_TEXTS.get(m.phase)),
        ("part", m.part),
        ("deadline_ms", m.deadline_ms),
        ("ack", _ACK_TEXTS.get(m.ack_level)),
        ("labels", m.label_set),
        ("budget", m.budget),
        ("sampled", m.sampled),
    )
    meta: dict[str, Any] = {name: value for name, value in members if value}
    if m.context is not None:
        meta["context"] = m.context
    if m.memory is not None:
        meta["memory_package"] = m.memory
    if m.span_id != ZERO8:
        meta["span_id"] = m.span_id.hex()
    if m.meta:
        check_extras("meta", m.meta, META_FACTS | ROUTING_FACTS)
        meta |= m.meta
    return meta


assert len(format_uuid(ZERO16)) == 36
