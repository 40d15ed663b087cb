"""Extension fields: what a frame may carry besides its fixed fields and its key.

A field is `u16 tag, u16 length, bytes`. Unknown fields are carried on unread, unless bit 15 of their tag says that
a receiver must know them. A tag stands once; some tags belong to routers.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.limits import EXTENSION_BYTES_MAX

_EXTENSION: Final = Struct("<HH")


class Tag(IntEnum):
    """Extension fields, without the critical bit."""

    META = 1
    ROUTING = 2
    SRC_NAME = 3
    TRACE_TEXT = 4
    MEMORY = 5


TAG_CRITICAL: Final = 0x8000
ROUTER_TAGS: Final = frozenset({Tag.SRC_NAME, Tag.MEMORY})
"""Tags that only a router may write; from a node they are refused."""


def pack_extensions(fields: dict[int, bytes]) -> bytes:
    """Extension fields in the order given. Raises LocalProtocolError when they are too large."""
    packed = b"".join(
        _EXTENSION.pack(tag, len(value)) + value for tag, value in fields.items() if len(value) < 65536
    )
    size = sum(_EXTENSION.size + len(value) for value in fields.values())
    if size > EXTENSION_BYTES_MAX or size != len(packed):
        raise LocalProtocolError(ErrorCode.META_TOO_LARGE, "extension fields", EXTENSION_BYTES_MAX, size)
    return packed


def unpack_extensions(data: bytes, *, from_node: bool = False) -> dict[int, bytes]:
    """Fields by tag (the critical bit removed); unknown fields that are not critical are kept.

    `from_node` refuses the tags that only a router writes. Raises RemoteProtocolError.
    """
    if not data:
        return {}
    if len(data) > EXTENSION_BYTES_MAX:
        raise RemoteProtocolError(
            ErrorCode.META_TOO_LARGE, "extension fields", EXTENSION_BYTES_MAX, len(data)
        )
    fields: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        if end - at < _EXTENSION.size:
            raise RemoteProtocolError(ErrorCode.EXTENSION_INVALID, "half an extension field")
        tag, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        known = _checked_tag(tag, fields, from_node)
        fields[known] = data[at : at + length]
        at += length
    if at != end:
        raise RemoteProtocolError(
            ErrorCode.EXTENSION_INVALID, "an extension field ends outside its area", end, at
        )
    return fields


def _checked_tag(tag: int, fields: dict[int, bytes], from_node: bool) -> int:
    number = tag & ~TAG_CRITICAL
    if number in fields:
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, f"extension {number} is there twice")
    if number == 0 or (tag & TAG_CRITICAL and number not in Tag.__members__.values()):
        raise RemoteProtocolError(ErrorCode.EXTENSION_UNKNOWN, f"critical extension {number} is not known")
    if from_node and number in ROUTER_TAGS:
        raise RemoteProtocolError(
            ErrorCode.EXTENSION_FORBIDDEN, f"extension {number} is written by routers only"
        )
    return number
