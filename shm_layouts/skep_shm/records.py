"""The records region: hop records and events of one router, a ring that overwrites its oldest.

Writer: that router, alone. Readers: `skep events`, `skep explain`, each with a cursor of its own; a reader
that falls behind is told how many it lost. Record n (n > 0) stands at n modulo the capacity; the region's
revision is the number of the newest. The writer stores the record, then the revision, so while the newest is
n, record n + 1 may be half written over record n + 1 - capacity: readers believe only what is younger than
that. Each record carries its number and a checksum, so what a slow copy or a reordering processor mixes up is
counted as lost and never shown.

Numbers go on when a new router takes the region over from a dead one; what the dead one wrote is gone by
then, except for readers that were attached: they finish the old segment first.
"""

from __future__ import annotations

from pathlib import Path

from skep_shm.layouts import RECORD, RegionKind
from skep_shm.region import HIGH_WATER, LIVE, Attachment, Identity, Owner, Shape
from skep_shm.rescue import Rescue, Settle
from skep_shm.segment import MODE_DEFAULT, Segment
from skep_shm.seqlock import is_whole, sealed
from skep_shm.types import Record
from skep_shm.words import seal

REGION_PREFIX = "records-"
CAPACITY_DEFAULT = 4096  # 1.3 MiB: a few seconds of a busy hive, hours of a quiet one
CAPACITY_MAX = 1 << 20
_CHUNK = 256  # records copied at once: 80 KiB, so that a copy is short against a lap of the ring

_NAME = RECORD.width("source_name")
_CODE = RECORD.width("code")
_DETAIL = RECORD.width("detail")
_pack = RECORD.struct.pack
_unpack = RECORD.struct.unpack


def region_name(router_uuid: bytes) -> str:
    return REGION_PREFIX + router_uuid.hex()


class RecordsWriter:
    """Appends records; never blocks, never fails for a slow reader."""

    def __init__(self, owner: Owner, capacity: int) -> None:
        if not 2 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity {capacity} is not between 2 and {CAPACITY_MAX}")
        self._owner = owner
        self._capacity = capacity
        shape = Shape(capacity, RECORD.size)
        self._segment = owner.new_segment(shape)
        self._records = shape.records_offset
        self._position = owner.base_revision
        self._segment.words[HIGH_WATER] = self._segment.words[LIVE] = seal(0)
        owner.swing(self._segment)
        owner.publish(self._position)
        self._rescue = Rescue(owner, self._restore)

    @classmethod
    def create(
        cls,
        root: Path,
        router_uuid: bytes,
        router_name: str = "",
        hive: str = "",
        *,
        mode: int = MODE_DEFAULT,
        group: int | None = None,
        capacity: int = CAPACITY_DEFAULT,
    ) -> RecordsWriter:
        """Takes the region over from a dead writer or makes it. Raises RegionError BUSY, NO_SPACE."""
        identity = Identity(RegionKind.RECORDS, hive, router_uuid, router_name)
        owner = Owner(root, region_name(router_uuid), identity, mode, group)
        try:
            return cls(owner, capacity)
        except BaseException:
            owner.give_up()
            raise

    def append(self, record: Record) -> int:
        """Writes a record and returns its number. Strings are cut to their fields."""
        self._position += 1
        body = _encode(record, self._position)
        start = self._records + self._position % self._capacity * RECORD.size
        self._segment.mapping[start : start + RECORD.size] = body
        self._owner.publish(self._position)
        return self._position

    def heartbeat(self, now_ns: int) -> None:
        """Sign of life, and makes the region again if its files were removed; `now_ns` is CLOCK_BOOTTIME."""
        self._owner.heartbeat(now_ns)
        self._rescue.look(now_ns)

    def _restore(self, settle: Settle) -> None:
        """The same records in a new segment; see `rescue`."""
        segment = self._owner.new_segment(Shape(self._capacity, RECORD.size))
        segment.mapping[self._records :] = self._segment.mapping[self._records :]
        try:
            settle(segment)
        except BaseException:
            self._owner.discard(segment)
            raise
        self._segment = segment

    def close(self) -> None:
        """Ends the region: nothing stays behind. May be called twice."""
        self._owner.close()


def _encode(record: Record, position: int) -> bytes:
    source_name = record.source_name.encode()[:_NAME]
    dest_name = record.dest_name.encode()[:_NAME]
    code = record.code.encode()[:_CODE]
    detail = record.detail.encode()[:_DETAIL]
    return sealed(
        _pack(
            position,
            record.at_ms,
            record.mono_ns,
            record.message_id,
            record.trace_id,
            record.source,
            record.dest,
            record.kind,
            len(source_name),
            len(dest_name),
            len(code),
            len(detail),
            source_name,
            dest_name,
            code,
            detail,
            0,
        )[:-4]
    )


def _decode(raw: bytes) -> Record:
    fields = _unpack(raw)
    _, at_ms, mono_ns, message_id, trace_id, source, dest, kind = fields[:8]
    texts = [
        text[:size].decode(errors="ignore")  # the cut may have split a character
        for size, text in zip(fields[8:12], fields[12:16], strict=True)
    ]
    source_name, dest_name, code, detail = texts
    return Record(
        kind, at_ms, mono_ns, trace_id, message_id, source, source_name, dest, dest_name, code, detail
    )


class RecordsReader(Attachment):
    """Reads with a cursor. Not for use by several threads at once."""

    kind = RegionKind.RECORDS
    record_bytes = RECORD.size

    @classmethod
    def attach(cls, root: Path, router_uuid: bytes, owner_uid: int | None = None) -> RecordsReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, region_name(router_uuid), owner_uid)

    def _mapped(self, segment: Segment, fields: dict[str, int | bytes]) -> None:
        self._capacity = self.number("capacity")
        self._records = self.number("records_offset")
        self._base = self.number("base_revision")

    def since(self, cursor: int = 0) -> tuple[list[Record], int, int]:
        """Records after `cursor`, the next cursor, and how many in between were lost. 0 = from the oldest there is.

        A cursor of an earlier writer counts as lost what that writer and this one numbered in between, when the
        region was taken over; it starts over when the region was closed in order.
        """
        records: list[Record] = []
        lost = 0
        if self._moved():
            records, cursor, lost = self._read_mapped(cursor, self._base_after())
            self._follow()
        more, cursor, lost_more = self._read_mapped(cursor, self.revision)
        return records + more, cursor, lost + lost_more

    def _base_after(self) -> int:
        """The last number that can stand in the old segment: what follows the anchor's words belongs to the next."""
        return self._newest_in_segment()

    def _newest_in_segment(self) -> int:
        """The largest number in the mapped segment: its writer is gone, so it stands still."""
        assert self._segment is not None
        newest = self._base
        for slot in range(self._capacity):
            start = self._records + slot * RECORD.size
            raw = self._segment.mapping[start : start + RECORD.size]
            if is_whole(raw):
                newest = max(newest, int.from_bytes(raw[:8], "little"))
        return newest

    def _read_mapped(self, cursor: int, newest: int) -> tuple[list[Record], int, int]:
        first = max(cursor, self._base, newest - self._capacity + 1) + 1
        lost = first - 1 - cursor if cursor >= self._base else 0
        records: list[Record] = []
        for start in range(first, newest + 1, _CHUNK):
            found = self._chunk(start, min(start + _CHUNK, newest + 1))
            lost += min(start + _CHUNK, newest + 1) - start - len(found)
            records += found
        return records, max(newest, cursor if cursor >= self._base else newest), lost

    def _chunk(self, first: int, end: int) -> list[Record]:
        """Records `first` to `end` - 1 that are still whole after they were copied."""
        assert self._segment is not None
        mapping, size = self._segment.mapping, RECORD.size
        places = [self._records + number % self._capacity * size for number in range(first, end)]
        copies = [mapping[at : at + size] for at in places]
        overwritten = 0 if self._moved() else self.revision + 1 - self._capacity
        found = []
        for number, raw in enumerate(copies, first):
            if number > overwritten and is_whole(raw) and int.from_bytes(raw[:8], "little") == number:
                found.append(_decode(raw))
        return found
