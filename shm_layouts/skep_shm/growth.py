"""A larger segment that is filled beside the one in use, a little at each insertion.

Copying a million records and building their index takes a second, which no caller of one `put` may wait for. So when a
table is three quarters full its writer begins the next segment, and each record it adds pays for a few that are there:
first the memory is reserved piece by piece (nothing is written where no page is reserved: that would be SIGBUS on a
full /dev/shm), then records are copied and indexed in order of their slots. A change to a slot that was copied already
is made in both. When every slot is copied, the table swings; the last quarter of the old one is enough for that twice.

Nobody knows of the new segment until then. A writer that dies leaves it to the next one's sweep.
"""

from __future__ import annotations

from skep_shm.index import IndexWriter, shape_of
from skep_shm.layout import Layout
from skep_shm.layouts import State
from skep_shm.region import Owner, Shape, new_multiplier
from skep_shm.segment import Segment, reserve

PIECE_BYTES = 256 << 10  # reserved at once: 64 pages, about 0.1 ms
RECORDS = 8  # copied for each record that is added: about 0.02 ms; two would do


class Growth:
    """`step()` until it is done; meanwhile `store`, `chain` and `unchain` follow every change of the old table."""

    def __init__(
        self, owner: Owner, layout: Layout, old: tuple[Segment, Shape], key: slice, capacity: int
    ) -> None:
        """Raises RegionError NO_SPACE."""
        self.shape = shape_of(layout, capacity)
        self.segment = owner.new_segment(
            self.shape, new_multiplier(), min(PIECE_BYTES, self.shape.size_bytes)
        )
        self._old, old_shape = old
        self._from, self._to = old_shape.records_offset, self.shape.records_offset
        self._size = layout.size
        self._key = key
        self._index = IndexWriter(self.segment, self.shape)
        self._reserved = 0
        self._copied = 0

    def step(self, high: int, records: int = RECORDS) -> bool:
        """One bounded piece of the work; True when every slot below `high` is copied. Raises RegionError NO_SPACE."""
        if self._reserved < self.shape.size_bytes:
            self._reserve()
            return False
        end = min(self._copied + records, high)
        for slot in range(self._copied, end):
            raw = self._copy(slot)
            if raw[12] == State.LIVE:
                self._index.chain(slot, raw[self._key])
        self._copied = end
        return end == high

    def finish(self, high: int) -> None:
        """All the rest of the work at once."""
        while not self.step(high, high):
            pass

    def _reserve(self) -> None:
        start = self._reserved
        end = min(start + PIECE_BYTES, self.shape.size_bytes)
        reserve(self.segment.name, self.segment.fd, end - start, start)
        self._index.clear(start, end)
        self._reserved = end

    def _copy(self, slot: int) -> bytes:
        start, target, size = self._from + slot * self._size, self._to + slot * self._size, self._size
        raw = self._old.mapping[start : start + size]
        self.segment.mapping[target : target + size] = raw
        return raw

    # -- what the table does meanwhile ----------------------------------------------------------------------

    def store(self, slot: int) -> None:
        """The record at `slot` was written."""
        if slot < self._copied:
            self._copy(slot)

    def chain(self, slot: int, key: bytes) -> None:
        if slot < self._copied:
            self._index.chain(slot, key)

    def unchain(self, slot: int, key: bytes) -> None:
        if slot < self._copied:
            self._index.unchain(slot, key)
