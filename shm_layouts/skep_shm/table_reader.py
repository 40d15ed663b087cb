"""The readers' end of a table: whole, checksummed copies, found by slot or by key; see `table`.

"Not found" is believed only if the revision stood still meanwhile; after a few tries, or when an index word is damaged,
the records themselves are searched, which cannot miss. A damaged record counts as absent and hides no other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar
from zlib import crc32

from skep_shm.found import Found
from skep_shm.index import bucket_of, shift_of
from skep_shm.layout import Layout
from skep_shm.layouts import MORE, State
from skep_shm.lookup import Generation, finder, getter
from skep_shm.region import HIGH_WATER, Attachment
from skep_shm.ring import read_changes
from skep_shm.segment import Segment
from skep_shm.seqlock import Entry, Reader
from skep_shm.table import MORE_STRUCT, PREFIX
from skep_shm.types import Change
from skep_shm.words import unseal

T = TypeVar("T")
_FIND_TRIES = 4  # a miss while the revision moves; then the records are searched
_TEXT_TRIES = 64


class TableReader(Attachment, Generic[T]):
    """Reads a table. Answers come from whole, checksummed copies; a damaged record counts as absent (`damaged`).

    Not for use by several threads at once.
    """

    layout: Layout
    key: str
    view: ClassVar[type[Found[Any]] | None] = None
    _get: Callable[[int], T | None]
    _quick: Callable[[bytes], T | None]

    def _mapped(self, segment: Segment, fields: dict[str, int | bytes]) -> None:
        self._words = segment.words
        self._links = self.number("links_offset") // 8
        self._buckets = self.number("buckets_offset") // 8
        self._capacity = self.number("capacity")
        self._shift = shift_of(self.number("buckets"))
        self._multiplier = int.from_bytes(bytes(fields["hash_multiplier"]), "little")
        table = (self.number("records_offset"), self.layout.size, self._capacity)
        self._key_start = self.layout.offset(self.key)
        self._key_end = self._key_start + self.layout.width(self.key)
        self._inline = self.layout.width("text") if "text" in self.layout else 0
        reader: Reader[T] = Reader((segment.mapping, segment.words), table, self.number("undo_offset"), self._decode)
        self._copy = reader.copy
        self._entry = reader.entry
        self._use(segment, table, reader)

    def _use(self, segment: Segment, table: tuple[int, int, int], reader: Reader[T]) -> None:
        """Puts this generation's closures where the methods `get` and `find` are found; the methods themselves follow
        the anchor and ask the next generation's."""
        at: Generation[T] = Generation(
            anchor=self._anchor.values,
            number=self._generation_word >> 16 & 0xFFFFFFFF,
            mapping=segment.mapping,
            words=segment.words,
            values=segment.values,
            table=table,
            key=(self._key_start, self._key_end - self._key_start),
            inline=self._inline,
            index=(self._buckets, self._links, self._multiplier, 128 - self._shift),
            records=reader,
            decode=self._decode,
            view=self.view,
        )
        get = getter(at, partial(TableReader.get, self), self._note_damage)
        find = finder(at, partial(TableReader.find, self), self._find)
        self._get, self._quick = get, find
        vars(self).update(get=get, find=find)

    def _decode(self, slot: int, raw: bytes) -> T | None:
        """The value in a checked copy; None when the record is not live."""
        raise NotImplementedError

    def get(self, slot: int) -> T | None:
        """The record at `slot`; None when there is none, or it is damaged. Cost: one copy, compared with the copy
        that was checked when this version of the record was first read."""
        self._current()
        return self._get(slot)

    def read(self, slot: int) -> T | None:
        """As `get()`, but computes the checksum and decodes at each call."""
        if self._moved():
            self._follow()
        raw = self._copy(slot)
        return None if raw is None else self._decode(slot, raw)

    def _note_damage(self, slot: int) -> None:
        """A slot below the high-water mark always holds a whole record; else it is damaged."""
        high = unseal(self._words[HIGH_WATER])
        if high is not None and 0 <= slot < high and self._copy(slot) is None:
            self.damaged += 1

    def find(self, key: bytes) -> T | None:
        """The record with this key, through the hash index; None when no record has it. Of a region with views the
        answer may be one: it has the members of a record and is equal to it, and decodes a member at each request."""
        self._current()
        return self._quick(key)

    def _find(self, key: bytes) -> T | None:
        """The whole look-up: the chain, again if the table changed meanwhile, and then every record."""
        for _ in range(_FIND_TRIES):
            if self._moved():
                self._follow()
            before = self.revision
            entry, sound = self._walk(key)
            if entry is not None:
                return entry[1]
            if not sound:
                break
            if self.revision == before and not self._moved():
                return None
        return self._search(key)

    def _walk(self, key: bytes) -> tuple[Entry[T] | None, bool]:
        """The chain's answer, and whether the chain was sound."""
        words = self._words
        word = words[self._buckets + bucket_of(key, self._multiplier, self._shift)]
        for _ in range(self._capacity):
            following = unseal(word)
            if following is None or following > self._capacity:
                return None, False
            if following == 0:
                return None, True
            entry = self._entry(following - 1)
            if entry is not None and self._key(entry[0]) == key:
                return entry, True
            if entry is None and self._copy(following - 1) is None:
                return None, False
            word = words[self._links + following - 1]
        return None, False

    def _search(self, key: bytes) -> T | None:
        for slot in self.slots():
            entry = self._entry(slot)
            if entry is not None and self._key(entry[0]) == key:
                return entry[1]
        return None

    def _key(self, raw: bytes) -> bytes:
        return raw[self._key_start : self._key_end]

    def slots(self) -> range:
        """Every slot that may hold a record."""
        self._current()
        high = unseal(self._words[HIGH_WATER])
        return range(self._capacity if high is None else min(high, self._capacity))

    def items(self) -> list[tuple[int, T]]:
        """As `all()`, with each record's slot, which is what `changes()` speaks of."""
        return [(slot, value) for slot in self.slots() if (value := self.get(slot)) is not None]

    def all(self) -> list[T]:
        """Every record. Each is whole, but they are read one after the other: remember `revision` before the call and
        ask `changes()` for what happened meanwhile."""
        return [value for _, value in self.items()]

    def raw(self, slot: int) -> bytes | None:
        """A checked copy of the live record at `slot`."""
        raw = self._copy(slot)
        return raw if raw is not None and raw[12] == State.LIVE else None

    def text(self, slot: int, raw: bytes) -> tuple[bytes, bytes] | None:
        """The whole text of a record and the version of the record it belongs to; None when the record is gone, or
        the text damaged."""
        for _ in range(_TEXT_TRIES):
            text = self._gather(raw)
            current = self.raw(slot)
            if current is None or self._key(current) != self._key(raw) or (text is None and current == raw):
                return None
            if text is not None and current[:8] == raw[:8]:
                return text, raw
            raw = current
        return None

    def _gather(self, raw: bytes) -> bytes | None:
        size, following = PREFIX.unpack_from(raw)[3:]
        start = self.layout.offset("text")
        text = raw[start : start + min(size, self._inline)]
        owner = crc32(raw[self._key_start : self._key_end])
        while len(text) < size:
            piece = self._copy(following) if following < self._capacity else None
            if piece is None:
                return None
            _, _, state, length, following, belongs = MORE_STRUCT.unpack_from(piece)
            if state != State.MORE or belongs != owner or not length:
                return None
            text += piece[MORE.size : MORE.size + length]
        return text

    def changes(self, since_revision: int) -> list[Change] | None:
        """What changed after `since_revision`, oldest first. None: too long ago, read everything again."""
        for _ in range(_FIND_TRIES):
            found = self._changes(self._current(), since_revision)
            if found is not None or not self._moved():
                return found
        return None

    def _changes(self, segment: Segment, since: int) -> list[Change] | None:
        start, entries = self.number("ring_offset"), self.number("ring_entries")
        base = self.number("base_revision")
        return read_changes(segment.mapping, start, entries, since, base, lambda: self.revision)
