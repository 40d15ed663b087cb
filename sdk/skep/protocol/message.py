"""One message in friendly form: what slow paths, handlers and tests work with.

Each fact has one field here, and one place in each framing. `meta` and `routing` hold only what has no field:
members that an upstream client or a later version added; they are carried, never interpreted. A member of the
same name as a field is refused by both framings, so that no reader can find two answers. Fields with a length
in the header are checked where the frame is made, not here: a Message is a draft.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgpack

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import (
    CLASS_TEXTS,
    ZERO8,
    ZERO16,
    AckLevel,
    ActionClass,
    ContentType,
    MessageClass,
    Phase,
    Scope,
)
from skep.protocol.limits import PAYLOAD_DEPTH_MAX, TTL_DEFAULT
from skep.protocol.strict_json import UUID_TEXT

BROADCAST: Final = "broadcast"
"""The destination that is everybody. No name can be this text: a name has a dot."""

ROUTING_FACTS: Final = frozenset({"src", "src_l2_name", "dst", "ttl", "trace_id"})
META_FACTS: Final = frozenset(
    {
        "type", "msg", "src_ilk", "dst_ilk", "thread_id", "thread_seq", "memory_package", "scope", "target",
        "action", "action_class", "context", "message_id", "reply_to", "phase", "part", "deadline_ms", "ack",
        "span_id", "labels", "budget", "sampled",
    }
)  # fmt: skip
"""Members of meta that have a field in Message and a place in the native header."""


@dataclass(slots=True)
class Message:
    """A message. `destination` is None (the policy decides), 16 bytes (a uuid), a name, or BROADCAST.

    `trace_id` is a uuid text where the sender follows the rules, any text otherwise, "" for none. `payload` is
    a JSON or msgpack value, a str or bytes, as `content_type` says. `memory` is written by routers only.
    """

    payload: Any = None
    destination: str | bytes | None = None
    type: str = "user"
    verb: str = ""
    source: bytes = ZERO16
    source_name: str = ""
    ttl: int = TTL_DEFAULT
    hops: int = 0
    trace_id: str = ""
    span_id: bytes = ZERO8
    sampled: bool = False
    src_ilk: str = ""
    dst_ilk: str = ""
    thread_id: str = ""
    thread_seq: int = 0
    context: Any = None
    scope: Scope = Scope.NONE
    target: str = ""
    action: str = ""
    action_class: ActionClass = ActionClass.NONE
    phase: Phase = Phase.MESSAGE
    ack_level: AckLevel = AckLevel.NONE
    content_type: ContentType = ContentType.JSON
    message_id: int = 0
    reply_to: int = 0
    part: int = 0
    deadline_ms: int = 0
    label_set: int = 0
    budget: int = 0
    memory: Any = None
    meta: dict[str, Any] = field(default_factory=dict)
    routing: dict[str, Any] = field(default_factory=dict)

    @property
    def message_class(self) -> MessageClass:
        return CLASS_TEXTS.get(self.type, MessageClass.OTHER)

    @property
    def payload_bytes(self) -> bytes:
        """The payload as it stands in a native frame. Raises LocalProtocolError PAYLOAD_INVALID."""
        return encode_payload(self.content_type, self.payload)


def encode_payload(content_type: ContentType, payload: Any) -> bytes:
    """Bytes of a payload. Raises LocalProtocolError PAYLOAD_INVALID when it is not of this type."""
    if content_type is ContentType.JSON:
        return strict_json.dumps(payload)
    if content_type is ContentType.BYTES and isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if content_type is ContentType.TEXT and isinstance(payload, str):
        return bytes(_local(payload.encode, "text"))
    if content_type is ContentType.MSGPACK:
        return bytes(_local(lambda: msgpack.packb(payload), "msgpack"))
    raise LocalProtocolError(
        ErrorCode.PAYLOAD_INVALID, f"{type(payload).__name__} cannot be sent as {content_type.name}"
    )


def _local(encode: Any, what: str) -> Any:
    try:
        return encode()
    except (TypeError, ValueError, OverflowError, RecursionError) as problem:
        raise LocalProtocolError(
            ErrorCode.PAYLOAD_INVALID, f"cannot be written as {what}: {problem}"
        ) from None


def decode_payload(content_type: ContentType, data: bytes) -> Any:
    """The payload in these bytes; empty JSON is None. Raises RemoteProtocolError."""
    if content_type is ContentType.JSON:
        return strict_json.loads(data, PAYLOAD_DEPTH_MAX) if data else None
    if content_type is ContentType.BYTES:
        return data
    try:
        return data.decode() if content_type is ContentType.TEXT else _unpack(data)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as problem:
        raise RemoteProtocolError(ErrorCode.PAYLOAD_INVALID, f"{content_type.name}: {problem!r}") from None


def _unpack(data: bytes) -> Any:
    value = msgpack.unpackb(data, object_pairs_hook=_unique, strict_map_key=True)
    _check_nesting(value)
    return value


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise RemoteProtocolError(ErrorCode.PAYLOAD_INVALID, "a msgpack map has a key twice")
    return members


def _check_nesting(value: Any) -> None:
    """Breadth first, one level at a time, so that depth costs no stack."""
    level = [value]
    for _ in range(PAYLOAD_DEPTH_MAX + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise RemoteProtocolError(ErrorCode.PAYLOAD_INVALID, "msgpack nested too deep", PAYLOAD_DEPTH_MAX)


def _children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


# Texts of 16-byte facts -------------------------------------------------------------------------------------------


def format_uuid(data: bytes) -> str:
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_uuid(text: str) -> bytes | None:
    """Sixteen bytes of a hyphenated lower-case uuid; None for any other spelling, so that each has one."""
    return bytes.fromhex(text.replace("-", "")) if UUID_TEXT.fullmatch(text) else None


def format_ilk(ilk: bytes | None) -> str:
    return "" if ilk is None else f"ilk:{format_uuid(ilk)}"


def parse_ilk(text: str) -> bytes | None:
    """Sixteen bytes of `ilk:<uuid>`; None for the empty text. Raises RemoteProtocolError FIELD_RANGE."""
    if not text:
        return None
    ilk = parse_uuid(text[4:]) if text.startswith("ilk:") else None
    if ilk is None:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, f"not ilk:<lower-case uuid>: {text[:80]!r}")
    return ilk


def trace_bytes(text: str) -> tuple[bytes, bool]:
    """The 16 bytes of a trace id, and whether the text must travel beside them (TRACE_TEXT)."""
    if not text:
        return ZERO16, False
    trace = parse_uuid(text)
    if trace is None or trace == ZERO16:
        return sha256(text.encode()).digest()[:16], True
    return trace, False
