"""A table of checksummed records with a hash index: what all regions are made of whose records have a key.

    records   fixed size; text that does not fit goes on in further records of the same table (State.MORE)
    index     from a key to its slot (`index`)
    ring      what changed at which revision
    undo      the last good version of the record being written

Every operation touches one record and a few words, whatever the size of the table. The order of stores makes
each step harmless to a reader, and to the death of the writer after any of them: a record is whole before a
chain leads to it, and out of its chain before it is freed. The slot of a removed record keeps its link until
it is used again, so a reader that stands on it walks on (`table_reader`).

A small table grows at once, a large one in steps (`growth`): no call takes more than some milliseconds, whatever the
size. What is O(records) is `restore`, after somebody removed the files, and a burst of long texts that fills the last
quarter faster than the next segment.

Rejected: open addressing (a removal leaves tombstones, so either look-ups decay or a removal moves others
under the readers); a copy of the table per change (upstream's way; 10,000 nodes joining copy 10^8 records).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from zlib import crc32

from skep_shm.errors import RegionCode, RegionError
from skep_shm.growth import Growth
from skep_shm.index import EMPTY, IndexWriter, shape_of
from skep_shm.layout import Layout
from skep_shm.layouts import MORE_OVERHEAD, SLOT_NONE, State
from skep_shm.region import HIGH_WATER, LIVE, Owner, Shape, new_multiplier
from skep_shm.rescue import Settle
from skep_shm.ring import RingWriter
from skep_shm.segment import Segment
from skep_shm.seqlock import Writer, first_version
from skep_shm.types import ChangeKind
from skep_shm.words import seal

CAPACITY_FIRST = 1024  # records; a small hive fits in 160 KiB
CAPACITY_MAX = 1 << 23  # of 192 bytes: 1.7 GiB, so that every offset fits in 32 bits
GROWTH = 4  # few generations on the way up: each costs a copy and a new index
CAPACITY_LARGE = (
    4096  # grown at once it would keep its caller waiting for more than 5 ms: so it grows in steps
)
GROWTH_LARGE = 2  # and takes no more memory than it must

Pack = Callable[[int, int, bytes], bytes]
"""`(slot, next, inline text)` to a record's bytes up to its check."""

_U32 = Struct("<I").pack
_FIRST = (2).to_bytes(8, "little")  # sequence of a record that was written once
PREFIX = Struct("<QIBxHI")  # sequence, slot, state, text_bytes, next: the same in every table layout
MORE_STRUCT = Struct("<QIBxHII")


def capacity_for(expected: int) -> int:
    """Records for `expected` keys: a quarter more, for growth and for long texts."""
    return min(max(CAPACITY_FIRST, expected + expected // 4), CAPACITY_MAX)


def placed(body: bytes) -> Pack:
    """A packer for a record that was packed for slot 0 and with its inline text."""

    def pack(slot: int, following: int, _: bytes) -> bytes:
        return b"".join((body[:8], _U32(slot), body[12:16], _U32(following), body[20:]))

    return pack


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
        shape = shape_of(layout, capacity)
        self._use(owner.new_segment(shape, new_multiplier()), shape)
        self._index.clear(0, shape.size_bytes)
        self.revision = owner.base_revision

    def _use(self, segment: Segment, shape: Shape) -> None:
        self._segment = segment
        self._shape = shape
        self._capacity = shape.capacity
        self._records = shape.records_offset
        self._index = IndexWriter(segment, shape)
        self._growth: Growth | None = None
        self._grow_at = _grow_at(shape.capacity)
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

    # -- what the regions call ------------------------------------------------------------------------------

    def load(self, key: bytes, text: bytes, body: bytes) -> None:
        """Adds a record before `start`, or replaces the one with this key: plain stores, and no entry in the ring.
        `body` is the record up to its check, as for slot 0 and with nothing that follows."""
        words, bucket = self._segment.words, self._index.bucket(key)
        head = words[bucket]
        simple = len(text) <= self._inline and self._high < self._capacity
        if not simple or (head != EMPTY and self.slot_of(key) is not None):
            self._load_slowly(key, text, body)
            return
        slot = self._high
        self._high = slot + 1
        start = self._records + slot * self.layout.size
        record = b"".join((_FIRST, _U32(slot), body[12:]))
        self._segment.mapping[start : start + self.layout.size] = record + _U32(crc32(record))
        words[self._index.links + slot] = head
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
        slot = self.insert(key, text, pack)  # first the new one: a reader in between finds one or the other
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
        slot = self._index.first(key)
        while slot >= 0:
            if self.raw(slot)[self._key_start : self._key_end] == key:
                return slot
            slot = self._index.after(slot)
        return None

    def close(self) -> None:
        """Ends the region. One that was not started yet leaves what a dead writer left, for the next to replace."""
        if self.started:
            self._abandon_growth()
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
        if self._growth is not None:
            self._growth.store(slot)

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

    def _chain(self, slot: int, key: bytes) -> None:
        self._index.chain(slot, key)
        if self._growth is not None:
            self._growth.chain(slot, key)

    def _unchain(self, slot: int, key: bytes) -> None:
        self._index.unchain(slot, key)
        if self._growth is not None:
            self._growth.unchain(slot, key)

    # -- growth ---------------------------------------------------------------------------------------------

    def _make_room(self, slots: int) -> None:
        used = self._high - len(self._free)
        if used + slots > self._grow_at and self.started:
            self._advance(slots, used)
        while len(self._free) + self._capacity - self._high < slots:
            self._grow()

    def _advance(self, slots: int, used: int) -> None:
        """Begins the next segment, or goes on with it. Without room for it the table goes on as it is, and tries again
        when half of what is free is gone."""
        try:
            if self._growth is None:
                self._growth = self._begin(min(self._capacity * GROWTH_LARGE, CAPACITY_MAX))
            for _ in range(slots):
                if self._growth.step(self._high):
                    self._settle(self._growth, self.owner.swing)
                    return
        except RegionError:
            self._abandon_growth()
            self._grow_at = used + (self._capacity - used) // 2 + slots

    def _begin(self, capacity: int) -> Growth:
        key = slice(self._key_start, self._key_end)
        return Growth(self.owner, self.layout, (self._segment, self._shape), key, capacity)

    def _abandon_growth(self) -> None:
        if self._growth is not None:
            self.owner.discard(self._growth.segment)
            self._growth = None

    def _grow(self) -> None:
        """Moves to a larger segment at once: slots, sequences, ring and revision stay. O(records)."""
        unseen = self._segment
        settle = self.owner.swing if self.started else lambda _: self.owner.discard(unseen)
        growth, self._growth = self._growth, None
        if growth is not None:
            self._finish(growth, settle)
            return
        capacity = min(self._capacity * GROWTH, CAPACITY_MAX)
        if capacity == self._capacity:
            raise RegionError(RegionCode.LIMIT, self.owner.name, f"holds {CAPACITY_MAX} records, its limit")
        self._finish(self._begin(capacity), settle)

    def restore(self, settle: Settle) -> None:
        """The same records in a new segment of the same size; see `rescue`."""
        self._abandon_growth()
        self._finish(self._begin(self._capacity), settle)

    def _finish(self, growth: Growth, settle: Settle) -> None:
        try:
            growth.finish(self._high)
        except BaseException:
            self.owner.discard(growth.segment)
            raise
        self._settle(growth, settle)

    def _settle(self, growth: Growth, settle: Settle) -> None:
        """Uses the grown segment from now on, unless `settle` raises."""
        old, before, segment, after = self._segment, self._shape, growth.segment, growth.shape
        ring = before.undo_offset - before.ring_offset
        segment.mapping[after.ring_offset : after.ring_offset + ring] = old.mapping[
            before.ring_offset : before.undo_offset
        ]
        self._use(segment, after)
        segment.words[HIGH_WATER] = seal(self._high)
        self._count()
        try:
            settle(segment)
        except BaseException:
            self._use(old, before)
            self.owner.discard(segment)
            raise


def _grow_at(capacity: int) -> int:
    """How many slots may be in use before the next segment is begun in steps; a small table grows at once instead."""
    stepwise = CAPACITY_LARGE <= capacity < CAPACITY_MAX
    return capacity - capacity // 4 if stepwise else SLOT_NONE
