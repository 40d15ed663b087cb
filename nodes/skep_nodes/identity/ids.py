"""Ids of identity: 16 bytes inside, `ilk:<uuid>`, `tnt:<uuid>`, `ich:<uuid>` outside.

New ids begin with the time they were made, to the millisecond, so that a database and its indexes grow at their ends
instead of everywhere: a group of new interlocutors then writes half as many pages. The rest, 74 bits, is random.

An id that no one has is `NONE`, sixteen zero bytes, and the empty text. Nothing is ever derived from a name: who knows
a company's name knows nothing of its tenant's id.
"""

from __future__ import annotations

import os
import re
import time
from hashlib import blake2b
from typing import Final

NONE: Final = bytes(16)
ILK, TENANT, CHANNEL = "ilk:", "tnt:", "ich:"
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def new_id() -> bytes:
    """A new uuid, marked as version 4."""
    return as_version_4((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))


def as_version_4(raw: bytes) -> bytes:
    """Sixteen bytes with the marks of a uuid of version 4."""
    data = bytearray(raw)
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    return bytes(data)


def text_of(prefix: str, key: bytes) -> str:
    """`ilk:0f…`; empty for NONE."""
    if key == NONE:
        return ""
    digits = key.hex()
    return f"{prefix}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ilk_text(key: bytes) -> str:
    return text_of(ILK, key)


def tenant_text(key: bytes) -> str:
    return text_of(TENANT, key)


def channel_text(key: bytes) -> str:
    return text_of(CHANNEL, key)


def parse(prefix: str, text: str) -> bytes | None:
    """The sixteen bytes, or None when this is no id of that kind in its one spelling."""
    if not text.startswith(prefix) or _UUID.fullmatch(text, len(prefix)) is None:
        return None
    key = bytes.fromhex(text[len(prefix) :].replace("-", ""))
    return key if key != NONE else None


def digest16(*parts: bytes) -> bytes:
    """Sixteen bytes that stand for these parts; each carries its length, so none can imitate a boundary."""
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(4, "little") + part)
    return state.digest()
