"""The two ends of a region: `Owner` (its one writer) and `Attachment` (a reader).

    created   Owner: lock the anchor, sweep leftovers, fill a segment, swing the anchor to it
    removed   by somebody else: Owner makes the names again within about a second (`rescue`), contents and revision stay
    grown     Owner: fill a larger segment (the revision stays), swing, unlink the old one
    closed    Owner: generation word 0, unlink segment and anchor
    dead      nobody: readers go on reading; the next writer takes over anchor and revision, and makes a new segment

An Attachment compares the anchor's generation word with the one it mapped before each answer, and follows. A
segment that vanished in between means that the anchor swung: it is read again. A reader never unlinks and
never writes; its exit leaves no trace.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skep_shm.anchor import (
    GENERATION,
    HEARTBEAT,
    REVISION,
    check_magic,
    claim,
    generation_name,
    open_anchor,
    word_value,
)
from skep_shm.errors import RegionCode, RegionError
from skep_shm.layouts import CHANGE, HEADER, HEADER_IDENTITY_BYTES, MAGIC, VERSION, RegionKind
from skep_shm.segment import (
    MODE_DEFAULT,
    Segment,
    create_segment,
    hive_prefix,
    is_named,
    open_segment,
    segment_names,
    trusted_owners,
    unlink,
)
from skep_shm.seqlock import is_whole, sealed
from skep_shm.types import ZERO16, Header
from skep_shm.words import seal, unseal

HIGH_WATER = HEADER.word("high_water")
LIVE = HEADER.word("live")
_MAGIC_WORD = HEADER.word("magic")
_GENERATION_WORD = HEADER.word("generation")
_FOLLOW_TRIES = 64  # each means that the anchor swung between two system calls
_LINE = 64  # tables start on a cache line


@dataclass(frozen=True, slots=True)
class Shape:
    """How many records, buckets and ring entries a segment has; every offset follows."""

    capacity: int
    record_bytes: int
    buckets: int = 0
    ring_entries: int = 0
    undo: bool = False

    @property
    def records_offset(self) -> int:
        return _aligned(HEADER.size)

    @property
    def links_offset(self) -> int:
        return _aligned(self.records_offset + self.capacity * self.record_bytes)

    @property
    def buckets_offset(self) -> int:
        return _aligned(self.links_offset + (self.capacity * 8 if self.buckets else 0))

    @property
    def ring_offset(self) -> int:
        return _aligned(self.buckets_offset + self.buckets * 8)

    @property
    def undo_offset(self) -> int:
        return _aligned(self.ring_offset + self.ring_entries * CHANGE.size)

    @property
    def size_bytes(self) -> int:
        return _aligned(self.undo_offset + (self.record_bytes if self.undo else 0))


def _aligned(offset: int) -> int:
    return -(-offset // _LINE) * _LINE


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose region it is, for the header."""

    kind: RegionKind
    hive: str = ""
    router_uuid: bytes = ZERO16
    router_name: str = ""


class Owner:
    """The writer's end: holds the lock, makes generations, publishes revisions."""

    def __init__(
        self,
        root: Path,
        region: str,
        identity: Identity,
        mode: int = MODE_DEFAULT,
        group: int | None = None,
    ) -> None:
        self.name = hive_prefix(root) + region
        self.identity = identity
        self._mode = mode
        self._group = group
        self._header_text = _header_text(self.name, identity)
        self.anchor = claim(self.name, identity.kind, mode, group)
        self._previous = unseal(self.anchor.words[GENERATION]) or 0
        self._generation = self._made = self._previous
        self.segment: Segment | None = None
        self._sweep()
        before = unseal(self.anchor.words[REVISION]) or 0
        self.base_revision = max(before + 1, clock_revision(time.time_ns()))
        self.revision = self.base_revision

    def _sweep(self) -> None:
        """Removes segments that a dead writer filled and never swung to, or swung from and never removed."""
        kept = generation_name(self.name, self._previous)
        for name in segment_names(self.name + ".g"):
            if name != kept:
                unlink(name)

    def new_segment(self, shape: Shape, multiplier: bytes = ZERO16, first: int | None = None) -> Segment:
        """An empty segment of the next generation, header written, magic not yet; only `first` bytes of it reserved if
        that is given. Raises RegionError NO_SPACE."""
        generation = self._made + 1
        name = generation_name(self.name, generation)
        segment = create_segment(name, shape.size_bytes, self._mode, self._group, first)
        self._made = generation  # one that is never swung to keeps its number: no name is used twice
        segment.mapping[8:HEADER_IDENTITY_BYTES] = self._identity_bytes(shape, generation, multiplier)[8:]
        segment.words[HIGH_WATER] = seal(0)
        segment.words[LIVE] = seal(0)
        return segment

    def _identity_bytes(self, shape: Shape, generation: int, multiplier: bytes) -> bytes:
        hive, router_name = self._header_text
        packed = HEADER.struct.pack(
            MAGIC,
            VERSION,
            self.identity.kind,
            generation,
            shape.size_bytes,
            os.geteuid(),
            os.getpid(),
            process_start(os.getpid()) or 0,
            time.time_ns() // 1_000_000,
            self.base_revision,
            shape.capacity,
            shape.record_bytes,
            shape.buckets,
            shape.ring_entries,
            shape.records_offset,
            shape.links_offset,
            shape.buckets_offset,
            shape.ring_offset,
            shape.undo_offset,
            multiplier,
            self.identity.router_uuid,
            hive,
            router_name,
            0,
            0,
            0,
        )
        return sealed(packed[: HEADER_IDENTITY_BYTES - 4])

    def discard(self, segment: Segment) -> None:
        """Drops a segment that is not, or no longer, the current one; a name that leads elsewhere is not ours."""
        named = is_named(segment)
        segment.retire()
        if named:
            unlink(segment.name)

    def swing(self, segment: Segment) -> None:
        """Makes a filled segment the current one, then unlinks the one before."""
        segment.words[_MAGIC_WORD] = MAGIC
        self._generation = segment.words[_GENERATION_WORD]
        self.anchor.words[GENERATION] = seal(self._generation)
        old, self.segment = self.segment, segment
        if old is not None:
            self.discard(old)
        elif self._previous:
            unlink(generation_name(self.name, self._previous))

    @property
    def is_orphaned(self) -> bool:
        """Whether the name of the anchor or of the segment was removed, so that nobody can attach any more."""
        if self.anchor.fd < 0 or self.segment is None:
            return False
        return not (is_named(self.anchor) and is_named(self.segment))

    def restore(self, segment: Segment) -> None:
        """As `swing`, with an anchor made anew where its name was removed. Raises RegionError (BUSY: another writer
        took the name), with everything as it was.

        Whoever still reads the removed anchor finds generation 0 there and looks the name up again. Its revision word
        steps back by one, which is a change to everyone who compares, and a number that will not be published again.
        """
        removed = self.anchor
        if is_named(removed):
            self.swing(segment)
            return
        anchor = claim(self.name, self.identity.kind, self._mode, self._group)
        anchor.words[REVISION] = seal(self.revision)
        anchor.words[HEARTBEAT] = removed.words[HEARTBEAT]
        self.anchor = anchor
        self.swing(segment)
        removed.words[GENERATION] = seal(0)
        removed.words[REVISION] = seal(self.revision - 1)
        removed.close()

    def publish(self, revision: int) -> None:
        """Stores the revision word: what was written before it is now visible as done."""
        self.revision = revision
        self.anchor.words[REVISION] = seal(revision)

    def heartbeat(self, now_ns: int) -> None:
        """`now_ns`: CLOCK_BOOTTIME, which readers in other processes share and which counts a suspend."""
        self.anchor.words[HEARTBEAT] = seal(now_ns // 1000)

    def close(self) -> None:
        """Ends the region in order: readers see generation 0, nothing stays in /dev/shm. May be called twice."""
        if self.anchor.fd < 0:
            return
        self.anchor.words[GENERATION] = seal(0)
        self.publish(self.revision + 1)
        if self.segment is not None:
            self.discard(self.segment)
            self.segment = None
        elif self._previous:
            unlink(generation_name(self.name, self._previous))
        if is_named(self.anchor):
            unlink(self.name)  # before the lock goes, so that nobody can have claimed it in between
        self.anchor.close()

    @property
    def generation(self) -> int:
        return self._generation

    def give_up(self) -> None:
        """For a start that failed half way: leaves what a dead writer left as it was, else leaves nothing."""
        if self._previous and self.segment is None:
            self.anchor.close()
        else:
            self.close()


def clock_revision(wall_ns: int) -> int:
    """Where a writer's revisions begin: Unix time in 1/65536 s. Below 2^48 until 2106, and 65,536 changes a second
    for ever would be needed to run ahead of the clock."""
    return (wall_ns << 16) // 1_000_000_000


def _header_text(name: str, identity: Identity) -> tuple[bytes, bytes]:
    """Hive and router name as the header holds them. Raises RegionError TOO_LONG."""
    texts = []
    for field, text in (("hive", identity.hive), ("router_name", identity.router_name)):
        encoded, most = text.encode(), HEADER.width(field)
        if len(encoded) > most:
            raise RegionError(RegionCode.TOO_LONG, name, f"{field} has {len(encoded)} bytes, at most {most}")
        texts.append(encoded)
    return texts[0], texts[1]


def new_multiplier() -> bytes:
    """A random odd 128-bit factor for the hash index."""
    return (secrets.randbits(128) | 1).to_bytes(16, "little")


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when there is no such process (or it is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return None if state in "ZX" else int(fields[18])


class _Closed:
    """Stands where the words were, so that a use after close is an error and never a wild read."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, index: int) -> int:
        raise RegionError(RegionCode.CLOSED, self.name, "this reader was closed", "attach again")


class Attachment:
    """A reader's end. Subclasses set up their tables in `_mapped()`, called for each segment it moves to."""

    kind: RegionKind
    record_bytes = 0  # of this kind's layout; 0 = any

    def __init__(self, root: Path, region: str, owner_uid: int | None = None) -> None:
        self.name = hive_prefix(root) + region
        self._owners = trusted_owners(root) if owner_uid is None else frozenset((owner_uid,))
        self._anchor = open_anchor(self.name, self.kind, self._owners)
        self._anchor_words: memoryview | _Closed = self._anchor.words
        self._segment: Segment | None = None
        self._generation_word = -1
        self._fields: dict[str, int | bytes] = {}
        self.damaged = 0  # records not served because their checksum was wrong
        try:
            self._follow()
        except BaseException:
            self.close()
            raise

    @property
    def revision(self) -> int:
        """The region's revision: one word. Compare it each turn; ask `changes()` or read again when it moved."""
        return self._anchor_words[REVISION] >> 16

    def _moved(self) -> bool:
        return self._anchor_words[GENERATION] != self._generation_word

    def _follow(self) -> None:
        """Maps the segment that the anchor names now. Raises RegionError when there is none or it is not usable."""
        for _ in range(_FOLLOW_TRIES):
            word = self._anchor_words[GENERATION]
            generation = word_value(self._anchor, GENERATION, "generation")
            if generation == 0:
                self._reopen_anchor()
                continue
            try:
                segment = self._open(generation)
            except RegionError as error:
                if error.code is RegionCode.MISSING and self._anchor_words[GENERATION] != word:
                    continue
                raise
            self._switch(segment, int(word))
            return
        raise RegionError(RegionCode.UNSTABLE, self.name, "the anchor never stood still", "try again")

    def _reopen_anchor(self) -> None:
        """The writer ended in order; another may have started under the same name."""
        anchor = open_anchor(self.name, self.kind, self._owners)
        if unseal(anchor.words[GENERATION]) == 0:
            anchor.close()
            detail = "its writer has not made a segment yet, or ended"
            raise RegionError(RegionCode.NOT_READY, self.name, detail, "try again")
        self._anchor.close()
        self._anchor = anchor
        self._anchor_words = anchor.words

    def _open(self, generation: int) -> Segment:
        owners = frozenset((self._anchor.owner,))
        segment = open_segment(generation_name(self.name, generation), owners, HEADER.size)
        try:
            self._fields = check_header(segment, self.kind, generation, self.record_bytes)
        except BaseException:
            segment.close()
            raise
        return segment

    def _switch(self, segment: Segment, word: int) -> None:
        old, self._segment = self._segment, segment
        self._generation_word = word
        self._mapped(segment, self._fields)
        if old is not None:
            old.retire()

    def _mapped(self, segment: Segment, fields: dict[str, int | bytes]) -> None:
        raise NotImplementedError

    def _current(self) -> Segment:
        """The mapped segment, after following the anchor."""
        if self._moved() or self._segment is None:
            self._follow()
        assert self._segment is not None
        return self._segment

    def number(self, field: str) -> int:
        """A number of the current segment's header."""
        value = self._fields[field]
        assert isinstance(value, int)
        return value

    def header(self) -> Header:
        """Who writes, since when, and how much is used."""
        segment = self._current()
        return Header(
            region=self.name,
            kind=int(self.kind),
            generation=self.number("generation"),
            revision=word_value(self._anchor, REVISION, "revision"),
            hive=_text(self._fields["hive"]),
            router_uuid=bytes(self._fields["router_uuid"]),
            router_name=_text(self._fields["router_name"]),
            owner_uid=self.number("owner_uid"),
            owner_pid=self.number("owner_pid"),
            owner_start=self.number("owner_start"),
            created_at_ms=self.number("created_at_ms"),
            heartbeat_ns=word_value(self._anchor, HEARTBEAT, "heartbeat") * 1000,
            capacity=self.number("capacity"),
            high_water=word_value(segment, HIGH_WATER, "high-water"),
            live=word_value(segment, LIVE, "live"),
            size_bytes=segment.size,
        )

    def close(self) -> None:
        """Unmaps. May be called twice; any use after it raises RegionError CLOSED."""
        self._anchor_words = _Closed(self.name)
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._generation_word = -1
        self._anchor.close()


def _text(value: int | bytes) -> str:
    assert isinstance(value, bytes)
    return value.rstrip(b"\0").decode(errors="replace")


def check_header(
    segment: Segment, kind: RegionKind, generation: int, record_bytes: int
) -> dict[str, int | bytes]:
    """The header's fields once everything in it agrees with the file. Raises RegionError."""
    copy = segment.mapping[: HEADER.size]
    fields = HEADER.unpack(copy)
    check_magic(segment.name, fields)
    if not is_whole(copy[:HEADER_IDENTITY_BYTES]):
        raise RegionError(RegionCode.DAMAGED, segment.name, "the header is damaged", "restart its writer")
    if fields["size_bytes"] != segment.size:
        detail = f"{segment.size} bytes long, its header says {fields['size_bytes']!r}"
        raise RegionError(RegionCode.TRUNCATED, segment.name, detail, "restart its writer")
    if fields["kind"] != kind:
        detail = f"holds kind {fields['kind']!r}, expected {int(kind)} ({kind.name.lower()})"
        raise RegionError(RegionCode.WRONG_KIND, segment.name, detail, "remove it")
    agrees = (
        fields["generation"] == generation
        and fields["owner_uid"] == segment.owner
        and record_bytes in (0, fields["record_bytes"])
        and _offsets_agree(fields)
    )
    if not agrees:
        raise RegionError(
            RegionCode.DAMAGED, segment.name, "the header contradicts itself", "restart its writer"
        )
    return fields


def _offsets_agree(fields: dict[str, int | bytes]) -> bool:
    names = ("capacity", "record_bytes", "buckets", "ring_entries")
    capacity, record_bytes, buckets, ring_entries = (int(fields[name]) for name in names)
    shape = Shape(capacity, record_bytes, buckets, ring_entries, undo=bool(buckets))
    offsets: Iterable[str] = (
        "records_offset",
        "links_offset",
        "buckets_offset",
        "ring_offset",
        "undo_offset",
        "size_bytes",
    )
    return all(getattr(shape, name) == fields[name] for name in offsets) and buckets & (buckets - 1) == 0
