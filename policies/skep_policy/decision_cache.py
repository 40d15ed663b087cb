"""Decisions kept: found by what they were made from, dropped by what changes.

Two generations of half the bound each: when the young one is full it becomes the old one, and the old one is forgotten
whole; what is found in the old one is young again. So the bound holds without a list of uses, a hit costs one look-up,
and no call pays for more than it uses. (A dict emptied from its front steps over all that it lost there.)

Each generation knows which decisions read which interlocutor, so one changed record drops those and no others.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Kept(Protocol):
    """What the cache reads of an entry."""

    valid_until_ns: int  # 0: it does not end by itself
    ilks: tuple[bytes, ...]  # whose records it read


K = TypeVar("K", bound=Kept)


class _Generation(Generic[K]):
    __slots__ = ("entries", "readers")

    def __init__(self) -> None:
        self.entries: dict[Hashable, K] = {}
        self.readers: dict[bytes, set[Hashable]] = {}

    def put(self, key: Hashable, entry: K) -> None:
        self.entries[key] = entry
        for ilk in entry.ilks:
            self.readers.setdefault(ilk, set()).add(key)

    def forget(self, ilk: bytes) -> None:
        for key in self.readers.pop(ilk, ()):
            self.entries.pop(key, None)


class DecisionCache(Generic[K]):
    """Of one entry point of one policy."""

    __slots__ = ("_half", "_old", "_young", "recent")

    def __init__(self, maximum: int) -> None:
        self._half = max(1, maximum // 2)
        self.clear()

    def __len__(self) -> int:
        return len(self._young.entries) + len(self._old.entries)

    def clear(self) -> None:
        self._young: _Generation[K] = _Generation()
        self._old: _Generation[K] = _Generation()
        self.recent = self._young.entries  # for a caller who cannot afford the call of `find`

    def find(self, key: Hashable, now_ns: int) -> K | None:
        """The decision of this key, unless it has ended. The hot path of a policy."""
        found = self._young.entries.get(key)
        if found is None:
            found = self._old.entries.pop(key, None)
            if found is None:
                return None
            self.put(key, found)
        if found.valid_until_ns and found.valid_until_ns <= now_ns:
            self._young.entries.pop(key, None)
            return None
        return found

    def put(self, key: Hashable, entry: K) -> None:
        """Keep a decision; the oldest half makes room."""
        if len(self._young.entries) >= self._half:
            self._old, self._young = self._young, _Generation()
            self.recent = self._young.entries
        self._young.put(key, entry)

    def forget(self, ilk: bytes) -> None:
        """This interlocutor's record has changed."""
        self._young.forget(ilk)
        self._old.forget(ilk)
