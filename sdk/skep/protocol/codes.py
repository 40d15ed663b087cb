"""The words for what went wrong: three closed lists.

`CloseReason` says how a link ended: one member for each way, used on the wire (BYE, CLOSING), in counters and
in logs. `Reason` says why one message was not delivered; its texts go to clients in UNREACHABLE, and
upstream's clients compare some of them, so they never change. `ErrorCode` says what was wrong with some
bytes; it is the `code` of a ProtocolError. Numbers and texts are stable: they may be added to, never reused.
docs/errors.md explains each, and a test compares.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum, unique
from typing import Final


@unique
class CloseReason(IntEnum):
    """How a link ended. 1-9 ordinary, 10-29 before registration, 30-49 for cause, 50-59 trouble of our own."""

    WITHDRAWN = 1  # the peer said WITHDRAW or BYE
    PEER_CLOSED = 2  # end of file without a word: a crashed or careless peer
    IO_ERROR = 3  # the kernel reported an error on the socket
    DRAINED = 4  # this router is shutting down
    REPLACED = 5  # a newer connection of the same uid took over this uuid
    LOCAL_CLOSED = 6  # our own application closed it

    HELLO_TIMEOUT = 10  # no whole HELLO in time
    HELLO_TOO_LARGE = 11  # more than HELLO_BYTES_MAX before registration
    HELLO_INVALID = 12  # HELLO that cannot be read or contradicts itself
    HELLO_EXPECTED = 13  # a whole frame, but not HELLO
    UNAUTHENTICATED_LIMIT = 14  # too many connections of this uid without HELLO
    UID_NOT_GRANTED = 15  # this uid may not connect at all
    NAME_INVALID = 16  # the name breaks the rules for names
    NAME_NOT_GRANTED = 17  # the name is not granted to this uid
    NAME_TAKEN = 18  # another uid holds the name, or held it a moment ago, or it is single and live
    UUID_TAKEN = 19  # the uuid is live and belongs to another uid
    TICKET_INVALID = 20  # a ticket was shown and is unknown, spent or for another name
    TABLE_FULL = 21  # no room for another node
    DRAINING = 22  # this router takes no new nodes, it is shutting down
    HANDSHAKE_UNEXPECTED = 23  # the other end answered HELLO with something else than ANNOUNCE

    FRAME_TOO_LARGE = 30  # a length above the limit: the stream cannot be read on
    FRAME_INVALID = 31  # header words that do not add up: the stream cannot be read on
    LINK_INVALID = 32  # a LINK frame that cannot be read, or that says what cannot be
    HELLO_REPEATED = 33  # HELLO on a registered link
    TOO_MANY_BAD_FRAMES = 34  # BAD_FRAMES_PER_LINK reached
    SLOW_CONSUMER = 35  # it did not read for too long while holding its whole quota
    QUOTA_EXCEEDED = 36  # the uid went past what it may hold and cannot be paused
    UNRESPONSIVE = 37  # PING unanswered: half-open
    GRANT_REVOKED = 38  # the name's grant was taken away

    INTERNAL = 50  # a fault of ours; the log has it
    DESCRIPTORS = 51  # no file descriptors left

    @property
    def retryable(self) -> bool:
        """Whether connecting again with the same HELLO may succeed."""
        return self in _CLOSE_RETRYABLE

    @property
    def orderly(self) -> bool:
        """Whether somebody asked for this end, so that nobody needs to be alarmed."""
        return self in _CLOSE_ORDERLY


_CLOSE_RETRYABLE: Final = frozenset(
    {
        CloseReason.PEER_CLOSED,
        CloseReason.IO_ERROR,
        CloseReason.DRAINED,
        CloseReason.DRAINING,
        CloseReason.HELLO_TIMEOUT,
        CloseReason.UNAUTHENTICATED_LIMIT,
        CloseReason.NAME_TAKEN,
        CloseReason.TABLE_FULL,
        CloseReason.SLOW_CONSUMER,
        CloseReason.QUOTA_EXCEEDED,
        CloseReason.UNRESPONSIVE,
        CloseReason.INTERNAL,
        CloseReason.DESCRIPTORS,
    }
)
_CLOSE_ORDERLY: Final = frozenset(
    {CloseReason.WITHDRAWN, CloseReason.DRAINED, CloseReason.REPLACED, CloseReason.LOCAL_CLOSED}
)


@unique
class Reason(StrEnum):
    """Why one message was not delivered. The first seven are upstream's own texts."""

    NODE_NOT_FOUND = "NODE_NOT_FOUND"
    VPN_BLOCKED = "VPN_BLOCKED"
    PEER_UNAVAILABLE = "PEER_UNAVAILABLE"
    WAN_UNAVAILABLE = "WAN_UNAVAILABLE"
    GATEWAY_UNAVAILABLE = "GATEWAY_UNAVAILABLE"
    OPA_ERROR = "OPA_ERROR"
    OPA_NO_TARGET = "OPA_NO_TARGET"
    QUEUE_FULL = "QUEUE_FULL"
    NOT_READY = "NOT_READY"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNTRANSLATABLE = "UNTRANSLATABLE"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    SOURCE_FORGED = "SOURCE_FORGED"
    ILK_FORBIDDEN = "ILK_FORBIDDEN"
    TENANT_BLOCKED = "TENANT_BLOCKED"
    FORBIDDEN = "FORBIDDEN"
    BAD_FRAME = "BAD_FRAME"
    LOST = "LOST"
    UNKNOWN = "UNKNOWN"
    DRAINING = "DRAINING"
    TTL_EXCEEDED = "TTL_EXCEEDED"
    POLICY_DENIED = "POLICY_DENIED"
    POLICY_BUSY = "POLICY_BUSY"
    SEAL_REQUIRED = "SEAL_REQUIRED"

    @property
    def retryable(self) -> bool:
        """Whether the same message, sent again later, may arrive. UNKNOWN is not: it may have arrived already."""
        return self in _REASON_RETRYABLE


_REASON_RETRYABLE: Final = frozenset(
    {
        Reason.NODE_NOT_FOUND,
        Reason.PEER_UNAVAILABLE,
        Reason.WAN_UNAVAILABLE,
        Reason.GATEWAY_UNAVAILABLE,
        Reason.OPA_ERROR,
        Reason.QUEUE_FULL,
        Reason.NOT_READY,
        Reason.LOST,
        Reason.DRAINING,
        Reason.POLICY_BUSY,
    }
)


@unique
class ErrorCode(StrEnum):
    """What was wrong with some bytes, or with what a caller asked to have encoded."""

    FRAME_TOO_LARGE = "FRAME_TOO_LARGE"
    FRAME_LENGTHS = "FRAME_LENGTHS"
    VERSION_UNKNOWN = "VERSION_UNKNOWN"
    ENUM_UNKNOWN = "ENUM_UNKNOWN"
    FLAGS_UNKNOWN = "FLAGS_UNKNOWN"
    PADDING_NOT_ZERO = "PADDING_NOT_ZERO"
    TEXT_INVALID = "TEXT_INVALID"
    NOT_CANONICAL = "NOT_CANONICAL"
    FACT_TWICE = "FACT_TWICE"
    EXTENSION_INVALID = "EXTENSION_INVALID"
    EXTENSION_UNKNOWN = "EXTENSION_UNKNOWN"
    EXTENSION_FORBIDDEN = "EXTENSION_FORBIDDEN"
    JSON_INVALID = "JSON_INVALID"
    JSON_DUPLICATE_KEY = "JSON_DUPLICATE_KEY"
    JSON_TOO_DEEP = "JSON_TOO_DEEP"
    JSON_NUMBER = "JSON_NUMBER"
    FIELD_MISSING = "FIELD_MISSING"
    FIELD_TYPE = "FIELD_TYPE"
    FIELD_RANGE = "FIELD_RANGE"
    FIELD_UNKNOWN = "FIELD_UNKNOWN"
    META_TOO_LARGE = "META_TOO_LARGE"
    NAME_INVALID = "NAME_INVALID"
    PATTERN_INVALID = "PATTERN_INVALID"
    THREAD_INVALID = "THREAD_INVALID"
    LINK_INVALID = "LINK_INVALID"
    PAYLOAD_INVALID = "PAYLOAD_INVALID"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    HANDSHAKE_STATE = "HANDSHAKE_STATE"
