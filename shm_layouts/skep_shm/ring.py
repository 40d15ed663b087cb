"""The change ring: which records changed at which revision.

Entry of revision r stands at r modulo the ring's size. The writer stores the entry, then the region's
revision; so while the revision is R, the entry of R + 1 may be half written over the entry of R + 1 - size. A
reader copies, looks at the revision again, and believes what is younger than that. Asked for older changes it
answers None: an overrun, read everything. Both words of an entry are sealed, the second with the revision as
salt, so a mixture of two entries is refused on processors that reorder, too.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from struct import Struct

from skep_shm.layouts import CHANGE
from skep_shm.types import Change, ChangeKind
from skep_shm.words import seal, unseal

_ENTRIES = Struct("<QQ")
_TRIES = 16  # the writer would have to run through the whole ring during each copy
_KIND_SHIFT = 32


class RingWriter:
    """Writes entries; the caller publishes the revision afterwards."""

    __slots__ = ("_words", "_first", "_entries")

    def __init__(self, words: memoryview, offset: int, entries: int) -> None:
        self._words = words
        self._first = offset // 8
        self._entries = entries

    def write(self, revision: int, slot: int, kind: ChangeKind) -> None:
        place = self._first + revision % self._entries * 2
        self._words[place + 1] = seal(kind << _KIND_SHIFT | slot, revision)
        self._words[place] = seal(revision)


def read_changes(
    mapping: mmap.mmap,
    offset: int,
    entries: int,
    since: int,
    base: int,
    revision: Callable[[], int],
) -> list[Change] | None:
    """Changes after `since`, oldest first; None when some were overwritten, or predate `base`, or are damaged."""
    for _ in range(_TRIES):
        now = revision()
        if since >= now:
            return [] if since == now else None
        if since < base or now - since >= entries:
            return None
        found = _copy(mapping, offset, entries, since, now)
        if revision() - since < entries:
            return found
    return None


def _copy(mapping: mmap.mmap, offset: int, entries: int, since: int, now: int) -> list[Change] | None:
    changes = []
    for revision in range(since + 1, now + 1):
        place = offset + revision % entries * CHANGE.size
        first, second = _ENTRIES.unpack(mapping[place : place + CHANGE.size])
        what = unseal(second, revision)
        if unseal(first) != revision or what is None:
            return None
        changes.append(Change(revision, what & 0xFFFFFFFF, ChangeKind(what >> _KIND_SHIFT)))
    return changes
