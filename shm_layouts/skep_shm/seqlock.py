"""The sequence word of a record: the only module that reads or writes one.

A record is `sequence u64 | ... | check u32`. Even sequence = at rest, odd = being written; each write makes
it two larger, so within one segment no two versions of a record share a number. There is one writer.

    write:  undo := old record;  sequence := odd;  bytes;  sequence := even
    read:   sequence;  copy;  sequence again: unchanged, and the copy's checksum is right

Memory order. The reader relies on loads, and the writer on stores, becoming visible in program order, as
x86-64 (TSO) guarantees; CPython has no fence to ask for more. On a processor that reorders (arm64) the
checksum, which covers the sequence and every byte, refuses what the sequence alone would let pass: a wrong
answer there needs a CRC-32 collision on top of the race.

Stores to words go through `memoryview.cast("Q")`: one aligned 8-byte store. `struct.pack_into` clears the
bytes first, so a reader could see a false, even zero.

A writer may die between odd and even. Before each write it copies the record's last good version to the
segment's *undo* area (one is enough: there is one writer and it writes one record at a time). A reader that
finds an odd sequence takes that copy after a few tries, so it answers at once and never waits for a writer,
dead or slow.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from struct import Struct
from typing import Generic, TypeVar
from zlib import crc32

RESIDUE = 0x2144DF1C  # CRC-32 of anything followed by its own CRC-32
TRIES = 64  # a write section is about 1 us; more tries than this means the writer is not running

KNOWN_MAX = 4096  # decoded records that a reader keeps, about 0.6 KiB each
KNOWN_MAX_LARGE = 512  # of a table of tens of thousands: more would not fit in L2

T = TypeVar("T")

_U64 = Struct("<Q").pack
_U32 = Struct("<I").pack


def is_whole(raw: bytes) -> bool:
    """Whether a copy that ends in its checksum is undamaged."""
    return crc32(raw) == RESIDUE


def sealed(body: bytes) -> bytes:
    """`body` followed by its checksum."""
    return body + _U32(crc32(body))


def first_version(body: bytes) -> bytes:
    """A whole record at rest that was never written before (sequence 2). `body` starts after the sequence word."""
    return sealed(_U64(2) + body)


class Writer:
    """Writes records of one size in one segment, keeping the version before in the undo area at `undo`."""

    __slots__ = ("_mapping", "_words", "_stride", "_undo")

    def __init__(self, mapping: mmap.mmap, words: memoryview, stride: int, undo: int) -> None:
        self._mapping = mapping
        self._words = words
        self._stride = stride
        self._undo = undo

    def write(self, start: int, body: bytes, before: bytes | None = None) -> None:
        """Replaces the record at byte `start`. `body` is all between sequence and check.

        `before` is the version to fall back on when there is none yet (a record never written is all zero).
        """
        mapping, words, word = self._mapping, self._words, start >> 3
        end = start + self._stride
        sequence = (words[word] | 1) + 1
        record = sealed(_U64(sequence) + body)
        if not words[word] & 1:  # odd: a write of ours failed half way; what undo holds is the last good one
            mapping[self._undo : self._undo + self._stride] = mapping[start:end] if before is None else before
        words[word] = sequence - 1
        mapping[start + 8 : end] = record[8:]
        words[word] = sequence


Entry = tuple[bytes, T, slice]  # a checked copy, what it means, and where it is in the mapping
_NOT_KEPT = slice(0)


class Reader(Generic[T]):
    """Reads the records of one table. `entry(slot)` checks and decodes, `copy(slot)` is what it rests on, `known` what
    it remembers, up to `known_max`."""

    __slots__ = ("entry", "copy", "known", "known_max")

    def __init__(
        self,
        segment: tuple[mmap.mmap, memoryview],
        table: tuple[int, int, int],
        undo: int,
        decode: Callable[[int, bytes], T | None],
    ) -> None:
        """`table` is offset, record size and capacity; `decode(slot, copy)` is None for a record that is not live."""
        self.known: dict[int, Entry[T]] = {}
        self.known_max = KNOWN_MAX if table[2] <= 4 * KNOWN_MAX else KNOWN_MAX_LARGE
        self.copy = _copier(*segment, table, undo)
        self.entry = _remembering(*segment, table, self.copy, decode, (self.known, self.known_max))


def _copier(
    mapping: mmap.mmap, words: memoryview, table: tuple[int, int, int], undo: int
) -> Callable[[int], bytes | None]:
    """Returns `copy(slot)`: the last good version; None when it was never written, is damaged or does not exist.

    A closure over locals, because attribute look-ups would cost as much as the copy.
    """
    base, stride, capacity = table

    def last_good(slot: int) -> bytes | None:
        start = base + slot * stride
        word, place = start >> 3, _U32(slot)
        for _ in range(TRIES):
            sequence = words[word]
            raw = mapping[start : start + stride]
            if words[word] != sequence:
                continue
            if crc32(raw) == RESIDUE:
                return raw
            if not sequence & 1:
                return None
            kept = mapping[undo : undo + stride]
            if words[word] == sequence and crc32(kept) == RESIDUE and kept[8:12] == place:
                return kept
        return None

    def copy(slot: int) -> bytes | None:
        if not 0 <= slot < capacity:
            return None
        start = base + slot * stride
        word = start >> 3
        sequence = words[word]
        raw = mapping[start : start + stride]
        if words[word] == sequence and crc32(raw) == RESIDUE:  # an odd sequence never has a right checksum
            return raw
        return last_good(slot)

    return copy


def _remembering(
    mapping: mmap.mmap,
    words: memoryview,
    table: tuple[int, int, int],
    copy: Callable[[int], bytes | None],
    decode: Callable[[int, bytes], T | None],
    memory: tuple[dict[int, Entry[T]], int],
) -> Callable[[int], Entry[T] | None]:
    """Returns `entry(slot)`, which checks and decodes each version once, or twice in a large table (see `lookup`).

    A copy that equals, byte for byte, one that was checked before needs no second check: sequence and checksum are
    among those bytes. Comparing 128 bytes costs 0.03 us, their CRC 0.2 us, decoding them 0.6 us.
    """
    base, stride, capacity = table
    known, known_max = memory
    lately = list(range(known_max))  # as if each slot of a small table had been read before
    classes = known_max - 1
    recall = known.get

    def entry(slot: int) -> Entry[T] | None:
        found = recall(slot)
        if found is not None and mapping[found[2]] == found[0]:
            return found
        start = base + slot * stride
        raw: bytes | None = None
        if 0 <= slot < capacity:  # `copy()`, written out: the call would be a tenth of a first read
            word = start >> 3
            sequence = words[word]
            raw = mapping[start : start + stride]
            if words[word] != sequence or crc32(raw) != RESIDUE:
                raw = copy(slot)
        value = None if raw is None else decode(slot, raw)
        if raw is None or value is None:
            known.pop(slot, None)
            return None
        if lately[slot & classes] != slot:
            lately[slot & classes] = slot
            return raw, value, _NOT_KEPT
        if len(known) >= known_max:
            known.clear()
        found = known[slot] = raw, value, slice(start, start + stride)
        return found

    return entry
