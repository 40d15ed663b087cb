"""A table of checksummed records with a hash index: what all regions are made of whose records have a key.

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
from zlib import crc32

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layout import Layout
from skep_shm.layouts import HEADER, MORE_OVERHEAD, SLOT_NONE, State
from skep_shm.region import HIGH_WATER, LIVE, Owner, Shape, new_multiplier
from skep_shm.rescue import Settle
from skep_shm.ring import RingWriter
from skep_shm.segment import Segment
from skep_shm.seqlock import Writer, first_version
from skep_shm.types import ChangeKind
from skep_shm.words import seal

CAPACITY_FIRST = 1024  # records; a small hive fits in 160 KiB
CAPACITY_MAX = 1 << 23  # of 192 bytes: 1.7 GiB, so that every offset fits in 32 bits
GROWTH = 4  # few generations on the way up: each costs a copy and a rebuilt index
RING_ENTRIES = 4096  # a reader that looks once in 10 ms keeps up with 400,000 changes/s
M128 = (1 << 128) - 1

Pack = Callable[[int, int, bytes], bytes]
"""`(slot, next, inline text)` to a record's bytes up to its check."""

_U32 = Struct("<I").pack
_FIRST = (2).to_bytes(8, "little")  # sequence of a record that was written once
_EMPTY = seal(0)  # end of a chain
PREFIX = Struct("<QIBxHI")  # sequence, slot, state, text_bytes, next: the same in every table layout
MORE_STRUCT = Struct("<QIBxHII")


def shape_of(layout: Layout, capacity: int) -> Shape:
    """At least one bucket for each record: a chain has one record, rarely more."""
    return Shape(capacity, layout.size, 1 << (capacity - 1).bit_length(), RING_ENTRIES, undo=True)


def capacity_for(expected: int) -> int:
    """Records for `expected` keys: a quarter more, for growth and for long texts."""
    return min(max(CAPACITY_FIRST, expected + expected // 4), CAPACITY_MAX)


def placed(body: bytes) -> Pack:
    """A packer for a record that was packed for slot 0 and with its inline text."""

    def pack(slot: int, following: int, _: bytes) -> bytes:
        return b"".join((body[:8], _U32(slot), body[12:16], _U32(following), body[20:]))

    return pack


def bucket_of(key: bytes, multiplier: int, shift: int) -> int:
    """Bucket of a key (its first 16 bytes); `shift` is 128 minus the number of bucket bits."""
    return ((int.from_bytes(key[:16], "little") * multiplier) & M128) >> shift


def shift_of(buckets: int) -> int:
    return 129 - buckets.bit_length()


class TableWriter:
    """Owns the table of one region. `layout` begins as every table record does; one without `text` holds no text.

    `load` fills it while nobody sees it, `start` shows it; from then on each call shows at once what it did."""

    def __init__(self, owner: Owner, layout: Layout, key: str, capacity: int = CAPACITY_FIRST) -> None:
        if not 2 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity {capacity} is not from 2 to {CAPACITY_MAX}")
        self.owner = owner
        self.layout = layout
        self._key_start = layout.offset(key)
        self._key_end = self._key_start + layout.width(key)
        self._inline = layout.width("text") if "text" in layout else 0
        self._piece = layout.size - MORE_OVERHEAD
        self.started = False
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
        self._bucket_count = shape.buckets
        self._shift = shift_of(shape.buckets)
        start = HEADER.offset("hash_multiplier")
        self._multiplier = int.from_bytes(segment.mapping[start : start + 16], "little")
        segment.mapping[shape.undo_offset : shape.undo_offset + self.layout.size] = self._free_version(0)
        self._write = Writer(segment.mapping, segment.words, self.layout.size, shape.undo_offset).write
        self._ring = RingWriter(segment.words, shape.ring_offset, shape.ring_entries)

    def start(self) -> None:
        """Makes the table visible."""
        self._segment.words[HIGH_WATER] = seal(self._high)
        self._count()
        self.started = True
        self.owner.swing(self._segment)
        self.owner.publish(self.revision)

    def _seal_index(self) -> None:
        """Empty chains; zero would read as damage."""
        empty = seal(0).to_bytes(8, "little")
        mapping = self._segment.mapping
        for word, count in ((self._links, self._capacity), (self._buckets, self._bucket_count)):
            mapping[word * 8 : (word + count) * 8] = empty * count

    # -- what the regions call ------------------------------------------------------------------------------

    def load(self, key: bytes, text: bytes, body: bytes) -> None:
        """Adds a record before `start`, or replaces the one with this key: plain stores, and no entry in the ring.
        `body` is the record up to its check, as for slot 0 and with nothing that follows."""
        words = self._segment.words
        bucket = self._buckets + bucket_of(key, self._multiplier, self._shift)
        head = words[bucket]
        simple = len(text) <= self._inline and self._high < self._capacity
        if not simple or (head != _EMPTY and self.slot_of(key) is not None):
            self._load_slowly(key, text, body)
            return
        slot = self._high
        self._high = slot + 1
        start = self._records + slot * self.layout.size
        record = b"".join((_FIRST, _U32(slot), body[12:]))
        self._segment.mapping[start : start + self.layout.size] = record + _U32(crc32(record))
        words[self._links + slot] = head
        words[bucket] = seal(slot + 1)
        self.live += 1

    def _load_slowly(self, key: bytes, text: bytes, body: bytes) -> None:
        """The record before it goes, or the text needs records of its own, or the segment is full."""
        old = self.slot_of(key)
        if old is not None:
            self._drop(old)
        self._add(key, text, placed(body))

    def put(self, key: bytes, text: bytes, pack: Pack) -> int:
        """Adds the record with this key, or replaces it: in place unless its text reaches beyond the record."""
        old = self.slot_of(key)
        if old is None:
            return self.insert(key, text, pack)
        if len(text) <= self._inline and PREFIX.unpack_from(self.raw(old))[4] == SLOT_NONE:
            self._put(old, pack(old, SLOT_NONE, text))
            self._announce(old, ChangeKind.UPDATED)
            return old
        slot = self.insert(
            key, text, pack
        )  # first the new one: a reader between the two finds one or the other
        self.delete(old)
        return slot

    def insert(self, key: bytes, text: bytes, pack: Pack) -> int:
        """Adds a record. `pack(slot, next, inline text)` returns its bytes between sequence and check."""
        slot = self._add(key, text, pack)
        self._count()
        self._announce(slot, ChangeKind.ADDED)
        return slot

    def _add(self, key: bytes, text: bytes, pack: Pack) -> int:
        pieces = self._split(text)
        self._make_room(1 + len(pieces))
        following = SLOT_NONE
        for piece in reversed(pieces):
            slot = self._take()
            self._put(slot, MORE_STRUCT.pack(0, slot, State.MORE, len(piece), following, crc32(key)) + piece)
            following = slot
        slot = self._take()
        self._put(slot, pack(slot, following, text[: self._inline]))
        self._chain(slot, key)
        self.live += 1
        return slot

    def replace(self, slot: int, pack: Pack) -> None:
        """Rewrites the fixed fields of a live record; key and text stay."""
        old = self.raw(slot)
        following = PREFIX.unpack_from(old)[4]
        start = self.layout.offset("text")
        self._put(slot, pack(slot, following, old[start : start + self._inline]))
        self._announce(slot, ChangeKind.UPDATED)

    def delete(self, slot: int) -> None:
        """Removes a record."""
        self._drop(slot)
        self._count()
        self._announce(slot, ChangeKind.REMOVED)

    def _drop(self, slot: int) -> None:
        """Takes the record out of its chain, then frees it and the rest of its text."""
        old = self.raw(slot)
        self._unchain(slot, old[self._key_start : self._key_end])
        self._release(slot)
        following = PREFIX.unpack_from(old)[4]
        while following != SLOT_NONE:
            start = self._start(following)
            after: int = PREFIX.unpack(self._segment.mapping[start : start + PREFIX.size])[4]
            self._release(following)
            following = after
        self.live -= 1

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

    def close(self) -> None:
        """Ends the region. One that was not started yet leaves what a dead writer left, for the next to replace."""
        if self.started:
            self.owner.close()
        elif self._segment.fd >= 0:
            self.owner.discard(self._segment)
            self.owner.give_up()

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
        body = PREFIX.pack(0, slot, State.FREE, 0, SLOT_NONE)[8:]
        return first_version(body.ljust(self.layout.size - 12, b"\0"))

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._high += 1
        if self.started:
            self._segment.words[HIGH_WATER] = seal(self._high)
        return self._high - 1

    def _release(self, slot: int) -> None:
        self._put(slot, PREFIX.pack(0, slot, State.FREE, 0, SLOT_NONE))
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
        unseen = self._segment
        self._move(capacity, self.owner.swing if self.started else lambda _: self.owner.discard(unseen))

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
