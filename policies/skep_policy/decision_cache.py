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
    __slots__ = ("parts", "readers")

    def __init__(
        self, parts: dict[int, dict[Hashable, K]], readers: dict[bytes, set[tuple[int, Hashable]]]
    ) -> None:
        self.parts = parts
        self.readers = readers

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def put(self, part: int, key: Hashable, entry: K) -> None:
        self.parts.setdefault(part, {})[key] = entry
        for ilk in entry.ilks:
            self.readers.setdefault(ilk, set()).add((part, key))

    def pop(self, part: int, key: Hashable) -> K | None:
        return self.parts[part].pop(key, None) if part in self.parts else None

    def forget(self, ilk: bytes) -> None:
        for part, key in self.readers.pop(ilk, ()):
            self.parts[part].pop(key, None)


class DecisionCache(Generic[K]):
    """Of one entry point of one policy. A key has two members, a small number and the rest: to join the two would cost
    the caller more than to look up twice. What ends by itself is kept apart, under the number's complement, so what
    stands under the number needs no look at the clock."""

    __slots__ = ("_half", "_old", "_young", "recent")

    def __init__(self, maximum: int) -> None:
        self._half = max(1, maximum // 2)
        self.recent: dict[int, dict[Hashable, K]] = {}  # the young: who finds it here need not call `find`
        self.clear()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def clear(self) -> None:
        self.recent.clear()
        self._young: _Generation[K] = _Generation(self.recent, {})
        self._old: _Generation[K] = _Generation({}, {})

    def find(self, part: int, key: Hashable, now_ns: int) -> K | None:
        """The decision of this key, unless it has ended."""
        for place in (part, ~part):
            found = self._young.parts.get(place, {}).get(key)
            if found is None:
                found = self._old.pop(place, key)
                if found is not None:
                    self.put(part, key, found)
            if found is not None and found.valid_until_ns and found.valid_until_ns <= now_ns:
                self._young.pop(place, key)
            elif found is not None:
                return found
        return None

    def put(self, part: int, key: Hashable, entry: K) -> None:
        """Keep a decision; the oldest half makes room."""
        if len(self._young) >= self._half:
            self._old = _Generation(self.recent.copy(), self._young.readers)
            self.recent.clear()
            self._young = _Generation(self.recent, {})
        place = ~part if entry.valid_until_ns else part
        self._young.pop(~place, key)
        self._old.pop(~place, key)
        self._young.put(place, key, entry)

    def forget(self, ilk: bytes) -> None:
        """This interlocutor's record has changed."""
        self._young.forget(ilk)
        self._old.forget(ilk)
