"""Every byte of a region accounted for: what `inspect.check` reports as damage.

Each auditor names the spans it has judged by checksum or seal; whatever is left of the file must be zero. It reads the
mapping directly, below the readers, which serve only what is whole and so would not notice damage to what they do not
serve (an old ring entry, the undo area, padding).
"""

from __future__ import annotations

from collections.abc import Iterator

from skep_shm.anchor import GENERATION, HEARTBEAT, REVISION, check_anchor
from skep_shm.config import ConfigReader, body_bytes
from skep_shm.errors import RegionError
from skep_shm.index import bucket_of, shift_of
from skep_shm.layouts import BANK, CHANGE, HEADER, RECORD, State
from skep_shm.policy import PolicyReader
from skep_shm.records import RecordsReader
from skep_shm.region import HIGH_WATER, LIVE, Attachment, check_header
from skep_shm.segment import Segment
from skep_shm.seqlock import is_whole
from skep_shm.table_reader import TableReader
from skep_shm.words import unseal

FAULTS_MAX = 100  # a region in ruins needs no longer list

Span = tuple[int, int]


def faults(reader: Attachment) -> list[str]:
    """What is damaged, in words; empty = nothing."""
    found = list(_anchor_faults(reader))
    segment = reader._current()
    found += _word_faults(segment)
    judged: list[Span] = [(0, HEADER.size)]
    found += _content_faults(reader, segment, judged)
    found += _gaps(segment, judged)
    return found[:FAULTS_MAX]


def _content_faults(reader: Attachment, segment: Segment, judged: list[Span]) -> Iterator[str]:
    if isinstance(reader, TableReader):
        return _table_faults(reader, segment, judged)
    if isinstance(reader, ConfigReader):
        return _config_faults(reader, segment, judged)
    if isinstance(reader, PolicyReader):
        return _policy_faults(reader, segment, judged)
    assert isinstance(reader, RecordsReader)
    return _records_faults(reader, segment, judged)


def _anchor_faults(reader: Attachment) -> Iterator[str]:
    anchor = reader._anchor
    try:
        check_anchor(anchor, reader.kind)
    except RegionError as error:
        yield error.detail
    for word, name in ((GENERATION, "generation"), (REVISION, "revision"), (HEARTBEAT, "heartbeat")):
        if unseal(anchor.words[word]) is None:
            yield f"anchor: the {name} word is damaged"
    segment = reader._segment
    if segment is not None:
        try:
            check_header(segment, reader.kind, reader.number("generation"), reader.record_bytes)
        except RegionError as error:
            yield error.detail


def _word_faults(segment: Segment) -> Iterator[str]:
    for word, name in ((HIGH_WATER, "high-water"), (LIVE, "live")):
        if unseal(segment.words[word]) is None:
            yield f"header: the {name} word is damaged"


def _gaps(segment: Segment, judged: list[Span]) -> Iterator[str]:
    """Bytes that belong to nothing must be zero."""
    position = 0
    for start, end in [*sorted(judged), (segment.size, segment.size)]:
        if start > position and segment.mapping[position:start].strip(b"\0"):
            yield f"bytes {position} to {start} should be zero"
        position = max(position, end)


# -- tables ---------------------------------------------------------------------------------------------------


def _table_faults(reader: TableReader[object], segment: Segment, judged: list[Span]) -> Iterator[str]:
    high = unseal(segment.words[HIGH_WATER]) or 0
    yield from _record_faults(reader, segment, min(high, reader.number("capacity")), judged)
    yield from _index_faults(reader, segment, judged)
    yield from _ring_faults(reader, segment, judged)
    undo, size = reader.number("undo_offset"), reader.layout.size
    kept = segment.mapping[undo : undo + size]
    judged.append((undo, undo + size))
    if not is_whole(kept):
        yield "the undo area is damaged"


def _record_faults(
    reader: TableReader[object], segment: Segment, high: int, judged: list[Span]
) -> Iterator[str]:
    start, size = reader.number("records_offset"), reader.layout.size
    judged.append((start, start + high * size))
    live = 0
    for slot in range(high):
        place = start + slot * size
        raw = segment.mapping[place : place + size]
        if not is_whole(raw) or raw[8:12] != slot.to_bytes(4, "little"):
            served = (
                "its last good version is served" if reader._copy(slot) is not None else "it is not served"
            )
            yield f"record {slot} is damaged or half written; {served}"
        elif raw[12] == State.LIVE:
            live += 1
            if reader._walk(reader._key(raw))[0] is None:
                yield f"record {slot} is not in the index"
    if live != unseal(segment.words[LIVE]):
        yield f"{live} records are live, the header counts {unseal(segment.words[LIVE])}"


def _index_faults(reader: TableReader[object], segment: Segment, judged: list[Span]) -> Iterator[str]:
    capacity, buckets = reader.number("capacity"), reader.number("buckets")
    multiplier, shift = reader._multiplier, shift_of(buckets)
    links, heads = reader.number("links_offset"), reader.number("buckets_offset")
    judged += [(links, links + capacity * 8), (heads, heads + buckets * 8)]
    for at, count, name in ((links, capacity, "link"), (heads, buckets, "bucket")):
        for index in range(count):
            value = unseal(segment.words[at // 8 + index])
            if value is None or value > capacity:
                yield f"{name} {index} is damaged"
            elif value and name == "bucket":
                raw = reader._copy(value - 1)
                if raw is None or bucket_of(reader._key(raw), multiplier, shift) != index:
                    yield f"bucket {index} leads to a record of another bucket"


def _ring_faults(reader: TableReader[object], segment: Segment, judged: list[Span]) -> Iterator[str]:
    """Each place holds the newest revision that belongs there, or (the writer goes on) a newer one."""
    start, entries = reader.number("ring_offset"), reader.number("ring_entries")
    judged.append((start, start + entries * CHANGE.size))
    now, base = unseal(reader._anchor.words[REVISION]), reader.number("base_revision")
    if now is None or now < base:
        return
    for index in range(entries):
        due = now - (now - index) % entries  # the newest revision up to now whose place this is
        word = (start + index * CHANGE.size) // 8
        first, second = segment.words[word], segment.words[word + 1]
        if due <= base and first == second == 0:
            continue  # never used
        revision = unseal(first)
        sound = revision is not None and revision >= due and revision % entries == index
        if not sound or unseal(second, revision or 0) is None:
            yield f"change ring: the entry of revision {due} is damaged"


# -- the other kinds ------------------------------------------------------------------------------------------


def _config_faults(reader: ConfigReader, segment: Segment, judged: list[Span]) -> Iterator[str]:
    start, size = reader.number("records_offset"), reader.number("record_bytes")
    revision = max(unseal(reader._anchor.words[REVISION]) or 0, reader.number("base_revision"))
    for bank, number in ((revision & 1, revision), (revision & 1 ^ 1, None)):
        place = start + bank * size
        header = segment.mapping[place : place + BANK.size]
        fields = BANK.unpack(header)
        if number is None:
            number = int(fields["revision"])
        if reader._bank(segment, number) is None or number & 1 != bank:
            yield f"bank {bank} is damaged or half written"
        else:
            judged.append((place, place + body_bytes(fields)))


def _policy_faults(reader: PolicyReader, segment: Segment, judged: list[Span]) -> Iterator[str]:
    body = reader._body(segment)
    if body is None:
        yield "the published policy is damaged; it is not served"
        return
    start = reader.number("records_offset")
    judged.append((start, start + len(body)))


def _records_faults(reader: RecordsReader, segment: Segment, judged: list[Span]) -> Iterator[str]:
    start, capacity = reader.number("records_offset"), reader.number("capacity")
    newest, base = unseal(reader._anchor.words[REVISION]), reader.number("base_revision")
    if newest is None or newest < base:
        return
    for number in range(max(base, newest - capacity) + 1, newest + 1):
        place = start + number % capacity * RECORD.size
        judged.append((place, place + RECORD.size))
        raw = segment.mapping[place : place + RECORD.size]
        if not is_whole(raw) or int.from_bytes(raw[:8], "little") != number:
            yield f"record {number} is damaged or half written; it is not served"
