"""Words that carry their own check: 48 bits of value and 16 bits of check in one aligned u64.

A revision, a heartbeat, an index entry is stored by one store of one word, so it is never torn and needs no
sequence word. The check bits detect a flipped bit: multiplying by an odd constant spreads each bit of the
value into the top 16 bits of the product, so any single flip changes them (a test tries every bit). The
constant `_MARK` makes the sealed zero differ from a zeroed page.

Readers on the hot path take `word >> 16` and do not verify; what verifies is `check`, and every answer "not found".
"""

from __future__ import annotations

VALUE_BITS = 48
VALUE_MAX = (1 << VALUE_BITS) - 1
_M64 = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: Knuth's multiplicative hash
_MARK = 0xA5A5


def seal(value: int, salt: int = 0) -> int:
    """The word for `value` (0 .. 2^48 - 1); `salt` binds it to a place or a revision."""
    return value << 16 | ((((value * _SPREAD) & _M64) >> 48) ^ _MARK ^ (salt & 0xFFFF))


def unseal(word: int, salt: int = 0) -> int | None:
    """The value, or None when the check bits do not match."""
    value = word >> 16
    return value if seal(value, salt) == word else None
