"""The hash index of a table: sealed words that lead from a key to its slot.

    buckets   slot + 1 of the first record of the chain, 0 = empty
    links     one for each record: slot + 1 of the next in its chain

Buckets are chosen by multiply-shift with a random odd 128-bit factor: whoever picks uuids cannot aim at one bucket.
There is at least one bucket for each record, so a chain has one record, rarely more.
"""

from __future__ import annotations

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layout import Layout
from skep_shm.layouts import HEADER
from skep_shm.region import Shape
from skep_shm.segment import Segment
from skep_shm.words import seal

RING_ENTRIES = 4096  # a reader that looks once in 10 ms keeps up with 400,000 changes/s
M128 = (1 << 128) - 1
EMPTY = seal(0)  # end of a chain; zero would read as damage
_EMPTY_BYTES = EMPTY.to_bytes(8, "little")


def shape_of(layout: Layout, capacity: int) -> Shape:
    """The shape of a table with room for `capacity` records."""
    return Shape(capacity, layout.size, 1 << (capacity - 1).bit_length(), RING_ENTRIES, undo=True)


def bucket_of(key: bytes, multiplier: int, shift: int) -> int:
    """Bucket of a key; `shift` is 128 minus the number of bucket bits. Modulo 2^128 only the first 16 bytes count."""
    return ((int.from_bytes(key, "little") * multiplier) & M128) >> shift


def shift_of(buckets: int) -> int:
    return 129 - buckets.bit_length()


class IndexWriter:
    """The index of one segment, as its writer changes it. Every step leaves chains that a reader can walk."""

    __slots__ = ("words", "links", "_buckets", "_multiplier", "_shift", "_segment", "_shape")

    def __init__(self, segment: Segment, shape: Shape) -> None:
        start = HEADER.offset("hash_multiplier")
        self._segment = segment
        self._shape = shape
        self.words = segment.words
        self.links = shape.links_offset // 8
        self._buckets = shape.buckets_offset // 8
        self._multiplier = int.from_bytes(segment.mapping[start : start + 16], "little")
        self._shift = shift_of(shape.buckets)

    def clear(self, start: int, end: int) -> None:
        """Empty chains in the part of the index that lies in these bytes of the segment."""
        shape = self._shape
        for first, count in ((shape.links_offset, shape.capacity), (shape.buckets_offset, shape.buckets)):
            begin, stop = max(start, first), min(end, first + count * 8)
            if begin < stop:
                self._segment.mapping[begin:stop] = _EMPTY_BYTES * ((stop - begin) // 8)

    def bucket(self, key: bytes) -> int:
        """Index of the word that the key's chain begins with."""
        return self._buckets + bucket_of(key, self._multiplier, self._shift)

    def first(self, key: bytes) -> int:
        """First slot of the key's chain; -1 = none."""
        return int(self.words[self.bucket(key)] >> 16) - 1

    def after(self, slot: int) -> int:
        """The slot after this one in its chain; -1 = none."""
        return int(self.words[self.links + slot] >> 16) - 1

    def chain(self, slot: int, key: bytes) -> None:
        words, bucket = self.words, self.bucket(key)
        words[self.links + slot] = words[bucket]
        words[bucket] = seal(slot + 1)

    def unchain(self, slot: int, key: bytes) -> None:
        words, place = self.words, self.bucket(key)
        for _ in range(self._shape.capacity):
            here = (words[place] >> 16) - 1
            if here == slot:
                words[place] = words[self.links + slot]
                return
            if here < 0:
                break
            place = self.links + here
        raise RegionError(RegionCode.DAMAGED, self._segment.name, f"slot {slot} is not in its chain")
