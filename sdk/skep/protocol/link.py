"""LINK frames: what the two ends of one link tell each other about the link itself.

They are never forwarded and never counted, and carry no source: the link is the source. So all of them have one
and the same flow key, `LINK_KEY`, and a router recognises them by the look-up it makes anyway. Reading one gives a
named tuple per verb; a body that is too short, too long or out of range is refused, because a wrong count would
be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from skep.protocol.codes import CloseReason, ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import (
    HEAD,
    HEAD_BYTES,
    LINK_SELECTOR,
    ZERO8,
    ZERO16,
    DstKind,
    check_destination_name,
    pack_key,
)
from skep.protocol.limits import NAME_BYTES_MAX, REPORT_ENTRIES_MAX

LINK_KEY: Final = pack_key(ZERO16, LINK_SELECTOR)
LINK_HEAD_BYTES: Final = HEAD_BYTES + len(LINK_KEY)
"""The payload of a LINK frame starts here, always."""

_U64: Final = Struct("<Q")
_PAIR: Final = Struct("<QQ")
_U32: Final = Struct("<I")
_U16: Final = Struct("<H")
_ENTRY: Final = Struct("<BQ")
_BYE_TEXT_MAX: Final = 1024


class Verb(IntEnum):
    TAKEN = 1
    CONFIRMED = 2
    PAUSE = 3
    RESUME = 4
    PING = 5
    PONG = 6
    DRAIN = 7
    BYE = 8
    REPORT = 9
    DOORBELL = 10


class Outcome(IntEnum):
    LOST = 1
    UNKNOWN = 2


class Taken(NamedTuple):
    """The consumer's SDK has taken this many frames from the link, since it began."""

    frames: int


class Confirmed(NamedTuple):
    """Ordinals of this link's frames, cumulative: `accepted` were read, all up to `finished` are settled."""

    accepted: int
    finished: int


class Pause(NamedTuple):
    dst_kind: DstKind
    destination: bytes


class Resume(NamedTuple):
    dst_kind: DstKind
    destination: bytes


class Ping(NamedTuple):
    nonce: int


class Pong(NamedTuple):
    nonce: int


class Drain(NamedTuple):
    milliseconds: int


class Bye(NamedTuple):
    reason: CloseReason
    detail: str


class Report(NamedTuple):
    entries: tuple[tuple[Outcome, int], ...]


class Doorbell(NamedTuple):
    region_kind: int


LinkVerb: TypeAlias = Taken | Confirmed | Pause | Resume | Ping | Pong | Drain | Bye | Report | Doorbell


def _frame(payload: bytes) -> bytes:
    head = HEAD.pack(
        LINK_HEAD_BYTES + len(payload), LINK_HEAD_BYTES, LINK_HEAD_BYTES, 0, 0, ZERO16, ZERO8, 0, 0, 0, 0, 0
    )
    return head + LINK_KEY + payload


def pack_taken(frames: int) -> bytes:
    return _frame(b"\x01" + _U64.pack(frames))


def pack_confirmed(accepted: int, finished: int) -> bytes:
    return _frame(b"\x02" + _PAIR.pack(accepted, finished))


def pack_pause(dst_kind: DstKind, destination: bytes) -> bytes:
    return _frame(bytes((Verb.PAUSE, dst_kind)) + destination)


def pack_resume(dst_kind: DstKind, destination: bytes) -> bytes:
    return _frame(bytes((Verb.RESUME, dst_kind)) + destination)


def pack_ping(nonce: int) -> bytes:
    return _frame(b"\x05" + _U64.pack(nonce))


def pack_pong(nonce: int) -> bytes:
    return _frame(b"\x06" + _U64.pack(nonce))


def pack_drain(milliseconds: int) -> bytes:
    return _frame(b"\x07" + _U32.pack(milliseconds))


def pack_bye(reason: CloseReason, detail: str = "") -> bytes:
    text = detail.encode()[:_BYE_TEXT_MAX].decode(errors="ignore").encode()
    return _frame(b"\x08" + _U16.pack(reason) + text)


def pack_report(entries: Iterable[tuple[int, int]]) -> bytes:
    """Entries of (Outcome, message id), at most REPORT_ENTRIES_MAX; the caller sends more in several frames."""
    packed = [_ENTRY.pack(outcome, message_id) for outcome, message_id in entries]
    if len(packed) > REPORT_ENTRIES_MAX:
        raise LocalProtocolError(
            ErrorCode.FIELD_RANGE, "entries of one REPORT", REPORT_ENTRIES_MAX, len(packed)
        )
    return _frame(b"\x09" + b"".join(packed))


def pack_doorbell(region_kind: int) -> bytes:
    return _frame(bytes((Verb.DOORBELL, region_kind)))


def parse_link(payload: bytes) -> LinkVerb:
    """What a LINK payload says. Raises RemoteProtocolError LINK_INVALID."""
    reader = _READERS.get(payload[0]) if payload else None
    if reader is None:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, f"unknown verb {payload[:1].hex() or 'none'}")
    return reader(payload[1:])


def _sized(body: bytes, struct: Struct) -> tuple[int, ...]:
    if len(body) != struct.size:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, "body of a LINK verb", struct.size, len(body))
    return struct.unpack(body)


def _taken(body: bytes) -> Taken:
    return Taken(*_sized(body, _U64))


def _confirmed(body: bytes) -> Confirmed:
    accepted, finished = _sized(body, _PAIR)
    if finished > accepted:
        raise RemoteProtocolError(
            ErrorCode.LINK_INVALID, "more frames finished than accepted", accepted, finished
        )
    return Confirmed(accepted, finished)


def _destination(body: bytes) -> tuple[DstKind, bytes]:
    kind, destination = body[:1], body[1:]
    if kind == b"\x01" and len(destination) == 16:
        return DstKind.UUID, destination
    if kind == b"\x02" and 0 < len(destination) <= NAME_BYTES_MAX:
        check_destination_name(destination)
        return DstKind.NAME, destination
    if kind in (b"\x00", b"\x03") and not destination:
        return DstKind(kind[0]), destination
    raise RemoteProtocolError(ErrorCode.LINK_INVALID, "not a destination")


def _pause(body: bytes) -> Pause:
    return Pause(*_destination(body))


def _resume(body: bytes) -> Resume:
    return Resume(*_destination(body))


def _ping(body: bytes) -> Ping:
    return Ping(*_sized(body, _U64))


def _pong(body: bytes) -> Pong:
    return Pong(*_sized(body, _U64))


def _drain(body: bytes) -> Drain:
    return Drain(*_sized(body, _U32))


def _bye(body: bytes) -> Bye:
    try:
        code, text = _U16.unpack(body[:2])[0] if len(body) >= 2 else -1, body[2:].decode()
        reason = CloseReason(code)
    except ValueError as problem:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, f"BYE: {problem}") from None
    if len(text) > _BYE_TEXT_MAX:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, "text of BYE", _BYE_TEXT_MAX, len(text))
    return Bye(reason, text)


def _report(body: bytes) -> Report:
    if len(body) % _ENTRY.size:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, "REPORT has whole entries of 9 bytes")
    try:
        return Report(
            tuple((Outcome(outcome), message_id) for outcome, message_id in _ENTRY.iter_unpack(body))
        )
    except ValueError as problem:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, f"REPORT: {problem}") from None


def _doorbell(body: bytes) -> Doorbell:
    if len(body) != 1:
        raise RemoteProtocolError(ErrorCode.LINK_INVALID, "DOORBELL names one region kind", 1, len(body))
    return Doorbell(body[0])


_READERS: Final[dict[int, Callable[[bytes], LinkVerb]]] = {
    Verb.TAKEN: _taken,
    Verb.CONFIRMED: _confirmed,
    Verb.PAUSE: _pause,
    Verb.RESUME: _resume,
    Verb.PING: _ping,
    Verb.PONG: _pong,
    Verb.DRAIN: _drain,
    Verb.BYE: _bye,
    Verb.REPORT: _report,
    Verb.DOORBELL: _doorbell,
}

assert set(_READERS) == set(Verb)
