"""Sets of characters, as sorted ranges of code points: what one position of a regular expression accepts."""

from __future__ import annotations

import sys
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import Final

LAST: Final = sys.maxunicode
Ranges = tuple[tuple[int, int], ...]

DIGIT: Final[Ranges] = ((0x30, 0x39),)
WORD: Final[Ranges] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Final[Ranges] = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
POSIX: Final[dict[str, Ranges]] = {
    "alnum": ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)), "alpha": ((0x41, 0x5A), (0x61, 0x7A)), "ascii": ((0, 0x7F),),
    "blank": ((9, 9), (0x20, 0x20)), "cntrl": ((0, 0x1F), (0x7F, 0x7F)), "digit": DIGIT, "graph": ((0x21, 0x7E),),
    "lower": ((0x61, 0x7A),), "print": ((0x20, 0x7E),),
    "punct": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)), "space": ((9, 13), (0x20, 0x20)),
    "upper": ((0x41, 0x5A),), "word": WORD, "xdigit": ((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)),
}  # fmt: skip


class Charset:
    """One set; membership is a binary search."""

    __slots__ = ("_highs", "_lows", "ranges")

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self._lows = [low for low, _ in ranges]
        self._highs = [high for _, high in ranges]

    def __contains__(self, character: str) -> bool:
        code = ord(character)
        at = bisect_right(self._lows, code) - 1
        return at >= 0 and code <= self._highs[at]


def joined(ranges: list[tuple[int, int]]) -> Ranges:
    """Sorted, without overlaps."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def negated(ranges: Ranges) -> Ranges:
    found: list[tuple[int, int]] = []
    following = 0
    for low, high in ranges:
        if low > following:
            found.append((following, low - 1))
        following = high + 1
    if following <= LAST:
        found.append((following, LAST))
    return tuple(found)


def folded(ranges: Ranges) -> Ranges:
    """With every character's other cases. Ranges beyond 0x1000 characters are taken as they are outside ASCII."""
    found = list(ranges)
    for low, high in ranges:
        for code in range(low, min(high, low + 0x1000) + 1):
            character = chr(code)
            others = {character.lower(), character.upper(), character.swapcase()}
            found += [(ord(other), ord(other)) for other in others if len(other) == 1]
    codes = {0x4B: 0x212A, 0x6B: 0x212A, 0x53: 0x17F, 0x73: 0x17F}  # K and S have a third case
    found += [(codes[c], codes[c]) for c in codes if any(low <= c <= high for low, high in ranges)]
    return joined(found)


@lru_cache(maxsize=64)
def category(name: str) -> Ranges | None:
    """A general category of Unicode, such as L or Lu; None for a name that is none."""
    if name == "Any":
        return ((0, LAST),)
    if not 1 <= len(name) <= 2 or name[0] not in "LMNPSZC":
        return None
    found: list[tuple[int, int]] = []
    for code in range(LAST + 1):
        if unicodedata.category(chr(code)).startswith(name):
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return tuple(found) or None
