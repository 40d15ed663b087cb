"""The hot path of a table's reader: `get(slot)` and `find(key)` for one generation, as closures over locals.

What a read costs, in ns, on one of two shared x86-64 cores with CPython 3.11 (best of many short runs; what happened
to be in no cache costs as much again):

    a call, and the generation word compared    90    an answer is never from a segment that was left
    bucket of a key                            240    number 70, times 128 bits 105, shift and mask 65
    first slot of its chain                     60    `Segment.values`: one digit, and no shift of a sealed word
    place, and its bounds                       60
    sequence before and after                  115
    copy of 128 bytes                          115
    state, length of the text, key             110    one `unpack_from`
    CRC-32 of 128 bytes                        220
    a view of the copy                         135    or all members at once: 570 for an interlocutor

Until now a look-up of a record never read before paid 240 for two more calls, 45 for shifts, the 570, and 700 for
remembering it: of a million records the one remembered is hardly ever asked for, and what was remembered pushes the
interpreter's own objects out of the cache. So

    views       a table may answer with a *view* (`found`): the verified copy, whose members are decoded when asked for
    second look only what is read for the second time within a while is remembered. `lately` holds the last slot of
                each of 512 classes (4,096 in a table of up to 16,384), so one that is there was read lately

What is remembered is believed only while its bytes in memory, sequence and checksum among them, are those that were
verified. Anything that is not usual (a swing, a long chain, a record being written, damage) is for `again` and `slow`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, Generic, TypeVar
from zlib import crc32

from skep_shm.anchor import GENERATION
from skep_shm.layouts import State
from skep_shm.seqlock import RESIDUE, Entry, Reader

T = TypeVar("T")

_CHAIN_USUAL = 8  # records walked without verifying the words; longer chains are rarer than one in 10^6
_LIVE = int(State.LIVE)
_NOW = GENERATION * 2  # where `values` have the anchor's generation


@dataclass(frozen=True, slots=True)
class Generation(Generic[T]):
    """What the closures need to know of the segment that a reader has mapped."""

    anchor: memoryview  # values of the anchor
    number: int  # of this generation, as `values` show it
    mapping: mmap.mmap
    words: memoryview
    values: memoryview
    table: tuple[int, int, int]  # offset, record size, capacity
    key: tuple[int, int]  # where it is in a record, and its width
    inline: int  # bytes of a text that fit in a record
    index: tuple[int, int, int, int]  # words where buckets and links begin; multiplier; bits of a bucket's number
    records: Reader[T]
    decode: Callable[[int, bytes], T | None]
    view: type[Any] | None


def getter(
    at: Generation[T], again: Callable[[int], T | None], missing: Callable[[int], None]
) -> Callable[[int], T | None]:
    """Returns `get` for this generation. `again` follows the anchor and asks anew; `missing` hears of empty slots."""
    anchor, generation, mapping = at.anchor, at.number, at.mapping
    recall, entry = at.records.known.get, at.records.entry

    def get(slot: int) -> T | None:
        try:
            moved = anchor[_NOW] != generation
        except ValueError:  # released: closed, or another anchor is followed
            moved = True
        if moved:
            return again(slot)
        found = recall(slot)
        if found is not None and mapping[found[2]] == found[0]:
            return found[1]
        found = entry(slot)
        if found is None:
            missing(slot)
            return None
        return found[1]

    return get


def finder(
    at: Generation[T], again: Callable[[bytes], T | None], slow: Callable[[bytes], T | None]
) -> Callable[[bytes], T | None]:
    """Returns `find` for this generation: straight through the index; `slow` is for what is not usual.

    A record that seems to have another key is passed over unchecked: a hint good enough to look further along the
    chain, never to answer "not found". A chain then costs one check and one decoding, not one for each record on it.
    """
    anchor, generation, mapping, words, values = at.anchor, at.number, at.mapping, at.words, at.values
    base, stride, capacity = at.table
    head = Struct(f"<12xBxH{at.key[0] - 16}x{at.key[1]}s").unpack_from
    buckets, links, multiplier, bits = at.index
    buckets, links = buckets * 2, links * 2 - 2  # a link is found by its slot + 1
    shift, mask = 127 - bits, (1 << bits) - 1 << 1  # twice a bucket's number, as `values` is indexed
    inline, view, decode, new, number = at.inline, at.view, at.decode, object.__new__, int.from_bytes
    known_max, before = at.records.known_max, base - stride
    lately, classes = list(range(known_max)), known_max - 1  # as if each record of a small table had been read before
    places: dict[bytes, Entry[T]] = {}
    recall = places.get

    def find(wanted: bytes) -> T | None:
        try:
            moved = anchor[_NOW] != generation
        except ValueError:  # released: closed, or another anchor is followed
            moved = True
        if moved:
            return again(wanted)
        known = recall(wanted)
        if known is not None and mapping[known[2]] == known[0]:
            return known[1]
        place = values[buckets + (number(wanted, "little") * multiplier >> shift & mask)]
        left = _CHAIN_USUAL
        while True:
            if not 0 < place <= capacity:
                return slow(wanted)
            start = before + place * stride
            word = start >> 3
            sequence = words[word]
            raw = mapping[start : start + stride]
            state, size, key = head(raw)
            if key == wanted:
                break
            left -= 1
            if not left:
                return slow(wanted)
            place = values[links + place + place]
        if words[word] != sequence or crc32(raw) != RESIDUE or state != _LIVE:
            return slow(wanted)
        value: Any
        if view is not None and size <= inline:
            value = new(view)
            value.raw, value.known = raw, None
        else:
            value = decode(place - 1, raw)
            if value is None:
                return slow(wanted)
        if lately[place & classes] != place:
            lately[place & classes] = place
            return value  # type: ignore[no-any-return]  # a view has the members of a T
        if len(places) >= known_max:
            places.clear()
        places[wanted] = raw, value, slice(start, start + stride)
        return value  # type: ignore[no-any-return]

    return find
