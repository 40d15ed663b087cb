"""Native framing, header v1: every byte of a frame before its payload.

    [0, 72)            fixed fields that differ from frame to frame
    [72, key_end)      flow key: source uuid + selector; equal for all frames of one flow
    [key_end, body_start)  extension fields
    [body_start, end)  payload

The flow key is contiguous so that a router can look it up as one slice. What decides about a frame is
therefore all in the key, and a router validates a key once, in `unpack_key`, when it first sees it:
everything that two readers could understand differently (lengths that do not add up, unknown enums, padding,
a name that reads as a uuid, a context that is not canonical) is refused there and never reaches a flow table.

`pack_frame` is the sender's hot path: one precompiled struct and one concatenation. Offsets are stated once,
below, and asserted against the structs.
"""

from __future__ import annotations

from struct import Struct, error
from typing import Final, NamedTuple

from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.extensions import ROUTER_TAGS, TAG_CRITICAL, Tag, pack_extensions, unpack_extensions
from skep.protocol.flow_key import (
    DIGEST_BYTES,
    KEY_BYTES_MIN,
    LINK_SELECTOR,
    VERSION,
    ZERO16,
    Selector,
    check_context,
    check_destination_name,
    pack_key,
    thread_digest,
    unpack_key,
)
from skep.protocol.kinds import (
    CLASS_TEXTS,
    AckLevel,
    ActionClass,
    ContentType,
    DstKind,
    Flags,
    MessageClass,
    Phase,
    Scope,
)
from skep.protocol.limits import FRAME_BYTES_MAX

__all__ = [
    "AckLevel",
    "ActionClass",
    "BODY_START_AT",
    "BUDGET_AT",
    "CLASS_TEXTS",
    "ContentType",
    "DEADLINE_AT",
    "DIGEST_BYTES",
    "DstKind",
    "FIELDS_START",
    "FLAGS_AT",
    "FRAME_BYTES_AT",
    "Flags",
    "Frame",
    "HEAD",
    "HEAD_BYTES",
    "HOPS_AT",
    "KEY_BYTES_MIN",
    "KEY_END_AT",
    "KEY_START",
    "LABEL_SET_AT",
    "LINK_SELECTOR",
    "MESSAGE_ID_AT",
    "MessageClass",
    "PART_AT",
    "PHASE_AT",
    "PREFIX",
    "Phase",
    "REPLY_TO_AT",
    "ROUTER_TAGS",
    "SELECTOR_START",
    "SPAN_ID_AT",
    "Scope",
    "Selector",
    "TAG_CRITICAL",
    "THREAD_SEQ_AT",
    "TRACE_ID_AT",
    "TTL_AT",
    "Tag",
    "VERSION",
    "ZERO16",
    "ZERO8",
    "check_context",
    "check_destination_name",
    "frame_length",
    "pack_extensions",
    "pack_frame",
    "pack_key",
    "parse_frame",
    "thread_digest",
    "unpack_extensions",
    "unpack_key",
]

# Offsets in a frame. KEY_* are relative to the start of the key.
FRAME_BYTES_AT: Final = 0
KEY_END_AT: Final = 4
BODY_START_AT: Final = 6
MESSAGE_ID_AT: Final = 8
REPLY_TO_AT: Final = 16
TRACE_ID_AT: Final = 24
SPAN_ID_AT: Final = 40
THREAD_SEQ_AT: Final = 48
DEADLINE_AT: Final = 56
LABEL_SET_AT: Final = 60
BUDGET_AT: Final = 64
PART_AT: Final = 68
HEAD_BYTES: Final = 72
KEY_START: Final = 72
SELECTOR_START: Final = 88
FLAGS_AT: Final = 90
TTL_AT: Final = 91
HOPS_AT: Final = 92
PHASE_AT: Final = 93
FIELDS_START: Final = 112

ZERO8: Final = bytes(8)

HEAD: Final = Struct("<IHHQQ16s8sQIIII")
PREFIX: Final = Struct("<IHH")  # frame_bytes, key_end, body_start

assert HEAD.size == HEAD_BYTES
assert FIELDS_START - KEY_START == KEY_BYTES_MIN


class Frame(NamedTuple):
    """One frame of native framing. `key` is unvalidated until `unpack_key` has read it."""

    frame_bytes: int
    key_end: int
    body_start: int
    message_id: int
    reply_to: int
    trace_id: bytes
    span_id: bytes
    thread_seq: int
    deadline_ms: int
    label_set: int
    budget: int
    part: int
    key: bytes
    extensions: bytes
    payload: bytes

    @property
    def source(self) -> bytes:
        return self.key[:16]


_head_pack = HEAD.pack
_head_unpack = HEAD.unpack_from
_new_frame = tuple.__new__


def pack_frame(
    key: bytes,
    payload: bytes,
    *,
    message_id: int = 0,
    reply_to: int = 0,
    trace_id: bytes = ZERO16,
    span_id: bytes = ZERO8,
    thread_seq: int = 0,
    deadline_ms: int = 0,
    label_set: int = 0,
    budget: int = 0,
    part: int = 0,
    extensions: bytes = b"",
) -> bytes:
    """One whole frame. The key comes from `pack_key` and is reused for every frame of a flow.

    Nothing but the total size is checked here: the numbers are checked by the struct, the key when it was
    packed. Raises LocalProtocolError PAYLOAD_TOO_LARGE or FIELD_RANGE.
    """
    key_end = 72 + len(key)
    body_start = key_end + len(extensions)
    frame_bytes = body_start + len(payload)
    if frame_bytes > FRAME_BYTES_MAX:
        raise LocalProtocolError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            "the frame is larger than the wire allows",
            FRAME_BYTES_MAX,
            frame_bytes,
        )
    try:
        head = _head_pack(
            frame_bytes, key_end, body_start, message_id, reply_to, trace_id, span_id,
            thread_seq, deadline_ms, label_set, budget, part,
        )  # fmt: skip
    except error as problem:
        raise LocalProtocolError(ErrorCode.FIELD_RANGE, f"a header field does not fit: {problem}") from None
    return head + key + extensions + payload


def parse_frame(data: bytes, pos: int, end: int) -> Frame:
    """The frame that fills `data[pos:end]`. Raises RemoteProtocolError FRAME_LENGTHS."""
    if end - pos < FIELDS_START:
        raise RemoteProtocolError(
            ErrorCode.FRAME_LENGTHS, "shorter than the smallest header", FIELDS_START, end - pos
        )
    head = _head_unpack(data, pos)
    frame_bytes, key_end, body_start = head[:3]
    if frame_bytes != end - pos or not FIELDS_START <= key_end <= body_start <= frame_bytes:
        raise RemoteProtocolError(
            ErrorCode.FRAME_LENGTHS,
            f"frame_bytes {frame_bytes}, key_end {key_end}, body_start {body_start} in {end - pos} bytes",
        )
    key_at, body_at = pos + key_end, pos + body_start
    return _new_frame(
        Frame,
        (
            *head,
            data[pos + 72 : key_at],
            data[key_at:body_at] if body_at > key_at else b"",
            data[body_at:end],
        ),
    )


def frame_length(data: bytes, pos: int, limit: int = FRAME_BYTES_MAX) -> int:
    """frame_bytes of the frame that begins at pos; needs eight bytes. Raises when no frame can have these words."""
    frame_bytes, key_end, body_start = PREFIX.unpack_from(data, pos)
    if frame_bytes > limit:
        raise RemoteProtocolError(ErrorCode.FRAME_TOO_LARGE, "native frame", limit, frame_bytes)
    if not FIELDS_START <= key_end <= body_start <= frame_bytes:
        raise RemoteProtocolError(
            ErrorCode.FRAME_LENGTHS, f"frame_bytes {frame_bytes}, key_end {key_end}, body_start {body_start}"
        )
    return int(frame_bytes)
