"""A table of checksummed records with a hash index: what `nodes` and `threads` are made of.

    records   fixed size; text that does not fit goes on in further records of the same table (State.MORE)
    buckets   one sealed word each: slot + 1 of the first record of the chain, 0 = empty
    links     one sealed word for each record: slot + 1 of the next in its chain
    ring      what changed at which revision
    undo      the last good version of the record being written

Every operation touches one record and a few words, whatever the size of the table. The order of stores makes
each step harmless to a reader, and to the death of the writer after any of them: a record is whole before a
chain leads to it, and out of its chain before it is freed. The slot of a removed record keeps its link until
it is used again, so a reader that stands on it walks on. "Not found" is believed only if the revision stood
still meanwhile; after a few tries, or when an index word is damaged, the records themselves are searched,
which cannot miss.

Buckets are chosen by multiply-shift with a random odd 128-bit factor: whoever picks uuids cannot aim at one bucket.

Rejected: open addressing (a removal leaves tombstones, so either look-ups decay or a removal moves others
under the readers); a copy of the table per change (upstream's way; 10,000 nodes joining copy 10^8 records).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Generic, TypeVar
from zlib import crc32

from skep_shm.anchor import GENERATION
from skep_shm.errors import RegionCode, RegionError
from skep_shm.layout import Layout
from skep_shm.layouts import HEADER, MORE, MORE_OVERHEAD, SLOT_NONE, State
from skep_shm.region import HIGH_WATER, LIVE, Attachment, Owner, Shape, new_multiplier
from skep_shm.rescue import Settle
from skep_shm.ring import RingWriter, read_changes
from skep_shm.segment import Segment
from skep_shm.seqlock import Reader, Writer, first_version
from skep_shm.types import Change, ChangeKind
from skep_shm.words import seal, unseal

CAPACITY_FIRST = 1024  # records; a small hive fits in 160 KiB
CAPACITY_MAX = 1 << 20
GROWTH = 4  # few generations on the way up: each costs a copy and a rebuilt index
RING_ENTRIES = 4096  # a reader that looks once in 10 ms keeps up with 400,000 changes/s
T = TypeVar("T")
_M128 = (1 << 128) - 1
_FIND_TRIES = 4  # a miss while the revision moves; then the records are searched
_CHAIN_USUAL = 8  # records walked without verifying the words; longer chains are rarer than one in 10^6
_TEXT_TRIES = 64

_PREFIX = Struct("<QIBxHI")  # sequence, slot, state, text_bytes, next: the same in every table layout
_MORE = Struct("<QIBxHII")


def shape_of(layout: Layout, capacity: int) -> Shape:
    return Shape(capacity, layout.size, capacity, RING_ENTRIES, undo=True)


def bucket_of(key: bytes, multiplier: int, shift: int) -> int:
    """Bucket of a key (its first 16 bytes); `shift` is 128 minus the number of bucket bits."""
    return ((int.from_bytes(key[:16], "little") * multiplier) & _M128) >> shift


def shift_of(buckets: int) -> int:
    return 129 - buckets.bit_length()


class TableWriter:
    """Owns the table of one region. `layout` must have `text` and begin as every table record does."""

    def __init__(self, owner: Owner, layout: Layout, key: str, capacity: int = CAPACITY_FIRST) -> None:
        if capacity & (capacity - 1) or not 2 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity {capacity} is not a power of two from 2 to {CAPACITY_MAX}")
        self.owner = owner
        self.layout = layout
        self._key_start = layout.offset(key)
        self._key_end = self._key_start + layout.width(key)
        self._inline = layout.width("text")
        self._piece = layout.size - MORE_OVERHEAD
        self._free: list[int] = []
        self._high = 0
        self.live = 0
        self._use(owner.new_segment(shape_of(layout, capacity), new_multiplier()), capacity)
        self._seal_index()
        self.revision = owner.base_revision

    def _use(self, segment: Segment, capacity: int) -> None:
        shape = shape_of(self.layout, capacity)
        self._segment = segment
        self._capacity = capacity
        self._records = shape.records_offset
        self._links = shape.links_offset // 8
        self._buckets = shape.buckets_offset // 8
        self._shift = shift_of(capacity)
        start = HEADER.offset("hash_multiplier")
        self._multiplier = int.from_bytes(segment.mapping[start : start + 16], "little")
        segment.mapping[shape.undo_offset : shape.undo_offset + self.layout.size] = self._free_version(0)
        self._write = Writer(segment.mapping, segment.words, self.layout.size, shape.undo_offset).write
        self._ring = RingWriter(segment.words, shape.ring_offset, shape.ring_entries)

    def start(self) -> None:
        """Makes the table visible."""
        self.owner.swing(self._segment)
        self.owner.publish(self.revision)

    def _seal_index(self) -> None:
        """Empty chains; zero would read as damage."""
        empty = seal(0).to_bytes(8, "little")
        mapping = self._segment.mapping
        for start in (self._links * 8, self._buckets * 8):
            mapping[start : start + self._capacity * 8] = empty * self._capacity

    # -- what the regions call ------------------------------------------------------------------------------

    def insert(self, key: bytes, text: bytes, pack: Callable[[int, int, bytes], bytes]) -> int:
        """Adds a record. `pack(slot, next, inline text)` returns its bytes between sequence and check."""
        pieces = self._split(text)
        self._make_room(1 + len(pieces))
        following = SLOT_NONE
        for piece in reversed(pieces):
            slot = self._take()
            self._put(slot, _MORE.pack(0, slot, State.MORE, len(piece), following, crc32(key)) + piece)
            following = slot
        slot = self._take()
        self._put(slot, pack(slot, following, text[: self._inline]))
        self._chain(slot, key)
        self.live += 1
        self._count()
        self._announce(slot, ChangeKind.ADDED)
        return slot

    def replace(self, slot: int, pack: Callable[[int, int, bytes], bytes]) -> None:
        """Rewrites the fixed fields of a live record; key and text stay."""
        old = self.raw(slot)
        following = _PREFIX.unpack_from(old)[4]
        start = self.layout.offset("text")
        self._put(slot, pack(slot, following, old[start : start + self._inline]))
        self._announce(slot, ChangeKind.UPDATED)

    def delete(self, slot: int) -> None:
        """Takes the record out of its chain, then frees it and the rest of its text."""
        old = self.raw(slot)
        self._unchain(slot, old[self._key_start : self._key_end])
        self._release(slot)
        following = _PREFIX.unpack_from(old)[4]
        while following != SLOT_NONE:
            start = self._start(following)
            after: int = _PREFIX.unpack(self._segment.mapping[start : start + _PREFIX.size])[4]
            self._release(following)
            following = after
        self.live -= 1
        self._count()
        self._announce(slot, ChangeKind.REMOVED)

    def raw(self, slot: int) -> bytes:
        """The live record at `slot`. Raises RegionError MISSING for any other slot: that is the caller's mistake."""
        raw = b""
        if 0 <= slot < self._high:
            start = self._start(slot)
            raw = self._segment.mapping[start : start + self.layout.size]
        if not raw or raw[12] != State.LIVE:
            raise RegionError(RegionCode.MISSING, self.owner.name, f"slot {slot} holds no record")
        return raw

    def slot_of(self, key: bytes) -> int | None:
        """Where a key is, from the writer's own index: O(1)."""
        words = self._segment.words
        slot = (words[self._buckets + bucket_of(key, self._multiplier, self._shift)] >> 16) - 1
        while slot >= 0:
            if self.raw(slot)[self._key_start : self._key_end] == key:
                return slot
            slot = (words[self._links + slot] >> 16) - 1
        return None

    def statistics(self) -> dict[str, int]:
        """Live records, slots ever used, slots there are, generation."""
        generation = self.owner.generation
        return {
            "live": self.live,
            "high_water": self._high,
            "capacity": self._capacity,
            "generation": generation,
        }

    # -- one record -----------------------------------------------------------------------------------------

    def _start(self, slot: int) -> int:
        return self._records + slot * self.layout.size

    def _split(self, text: bytes) -> list[bytes]:
        return [text[at : at + self._piece] for at in range(self._inline, len(text), self._piece)]

    def _put(self, slot: int, body: bytes) -> None:
        """`body` starts with 8 bytes for the sequence, which the seqlock fills in, and is padded to the record."""
        whole = body[8:].ljust(self.layout.size - 12, b"\0")
        start = self._start(slot)
        fresh = self._segment.words[start >> 3] == 0
        self._write(start, whole, self._free_version(slot) if fresh else None)

    def _free_version(self, slot: int) -> bytes:
        """What a reader is given while a slot's first record is being written."""
        body = _PREFIX.pack(0, slot, State.FREE, 0, SLOT_NONE)[8:]
        return first_version(body.ljust(self.layout.size - 12, b"\0"))

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._high += 1
        self._segment.words[HIGH_WATER] = seal(self._high)
        return self._high - 1

    def _release(self, slot: int) -> None:
        self._put(slot, _PREFIX.pack(0, slot, State.FREE, 0, SLOT_NONE))
        self._free.append(slot)

    def _count(self) -> None:
        self._segment.words[LIVE] = seal(self.live)

    def _announce(self, slot: int, kind: ChangeKind) -> None:
        self.revision += 1
        self._ring.write(self.revision, slot, kind)
        self.owner.publish(self.revision)

    # -- the index ------------------------------------------------------------------------------------------

    def _chain(self, slot: int, key: bytes) -> None:
        words = self._segment.words
        bucket = self._buckets + bucket_of(key, self._multiplier, self._shift)
        words[self._links + slot] = words[bucket]
        words[bucket] = seal(slot + 1)

    def _unchain(self, slot: int, key: bytes) -> None:
        words = self._segment.words
        place = self._buckets + bucket_of(key, self._multiplier, self._shift)
        for _ in range(self._capacity):
            here = (words[place] >> 16) - 1
            if here == slot:
                words[place] = words[self._links + slot]
                return
            if here < 0:
                break
            place = self._links + here
        raise RegionError(RegionCode.DAMAGED, self.owner.name, f"slot {slot} is not in its chain")

    # -- growth ---------------------------------------------------------------------------------------------

    def _make_room(self, slots: int) -> None:
        while len(self._free) + self._capacity - self._high < slots:
            self._grow()

    def _grow(self) -> None:
        """Moves to a larger segment; slots, sequences, ring and revision stay. O(records), rarely."""
        capacity = min(self._capacity * GROWTH, CAPACITY_MAX)
        if capacity == self._capacity:
            raise RegionError(RegionCode.LIMIT, self.owner.name, f"holds {CAPACITY_MAX} records, its limit")
        self._move(capacity, self.owner.swing)

    def restore(self, settle: Settle) -> None:
        """The same records in a new segment of the same size; see `rescue`."""
        self._move(self._capacity, settle)

    def _move(self, capacity: int, settle: Settle) -> None:
        old, before = self._segment, shape_of(self.layout, self._capacity)
        segment = self.owner.new_segment(shape_of(self.layout, capacity), new_multiplier())
        self._use(segment, capacity)
        after = shape_of(self.layout, capacity)
        _copy(old, before.records_offset, segment, after.records_offset, self._high * self.layout.size)
        _copy(old, before.ring_offset, segment, after.ring_offset, before.undo_offset - before.ring_offset)
        self._seal_index()
        for slot in range(self._high):
            start = self._start(slot)
            raw = segment.mapping[start : start + self.layout.size]
            if raw[12] == State.LIVE:
                self._chain(slot, raw[self._key_start : self._key_end])
        segment.words[HIGH_WATER] = seal(self._high)
        self._count()
        try:
            settle(segment)
        except BaseException:
            self._use(old, before.capacity)
            self.owner.discard(segment)
            raise


def _copy(source: Segment, start: int, target: Segment, target_start: int, size: int) -> None:
    target.mapping[target_start : target_start + size] = source.mapping[start : start + size]


class TableReader(Attachment, Generic[T]):
    """Reads a table. Answers come from whole, checksummed copies; a damaged record counts as absent (`damaged`).

    Not for use by several threads at once.
    """

    layout: Layout
    key: str

    def _mapped(self, segment: Segment, fields: dict[str, int | bytes]) -> None:
        self._words = segment.words
        self._links = self.number("links_offset") // 8
        self._buckets = self.number("buckets_offset") // 8
        self._capacity = self.number("capacity")
        self._shift = shift_of(self.number("buckets"))
        self._multiplier = int.from_bytes(bytes(fields["hash_multiplier"]), "little")
        table = (self.number("records_offset"), self.layout.size, self._capacity)
        reader = Reader((segment.mapping, segment.words), table, self.number("undo_offset"), self._decode)
        self._copy = reader.copy
        self._entry = reader.entry
        self._key_start = self.layout.offset(self.key)
        self._key_end = self._key_start + self.layout.width(self.key)
        self._inline = self.layout.width("text")

    def _decode(self, slot: int, raw: bytes) -> T | None:
        """The value in a checked copy; None when the record is not live."""
        raise NotImplementedError

    def get(self, slot: int) -> T | None:
        """The record at `slot`; None when there is none, or it is damaged. Cost: one copy, compared with the copy
        that was checked when this version of the record was first read."""
        if self._anchor_words[GENERATION] != self._generation_word:
            self._follow()
        entry = self._entry(slot)
        if entry is None:
            self._note_damage(slot)
            return None
        return entry[1]

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
        """The record with this key, through the hash index; None when no record has it."""
        if self._anchor_words[GENERATION] != self._generation_word:
            self._follow()
        words, entry_of, start, end = self._words, self._entry, self._key_start, self._key_end
        bucket = ((int.from_bytes(key[:16], "little") * self._multiplier) & _M128) >> self._shift
        slot = (words[self._buckets + bucket] >> 16) - 1
        for _ in range(_CHAIN_USUAL):
            entry = entry_of(slot)
            if entry is None:
                break
            if entry[0][start:end] == key:
                return entry[1]
            slot = (words[self._links + slot] >> 16) - 1
        return self._find(key)

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

    def _walk(self, key: bytes) -> tuple[tuple[bytes, T] | None, bool]:
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
        size, following = _PREFIX.unpack_from(raw)[3:]
        start = self.layout.offset("text")
        text = raw[start : start + min(size, self._inline)]
        owner = crc32(raw[self._key_start : self._key_end])
        while len(text) < size:
            piece = self._copy(following) if following < self._capacity else None
            if piece is None:
                return None
            _, _, state, length, following, belongs = _MORE.unpack_from(piece)
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
