"""The fixed name of a region, and the lock that says who writes.

The writer holds `flock` on the anchor's file for as long as it lives; the kernel releases it when the process
dies, so a dead writer never has to be detected. Only the holder changes the anchor, makes segments or unlinks
anything.

    generation   number of the current segment; 0 = closed, look the name up again
    revision     the region's revision; readers compare this one word once per loop turn
    heartbeat    the writer's last sign of life

These words live here and not in the segment because the anchor stays mapped when generations change: a reader
sees a swing, and a new writer after a crash, by the word it reads anyway. A writer's revisions begin at the
wall clock, and above the ones before, so a number remembered from an earlier writer is never mistaken for one
of this writer's.

The lock excludes writers that behave. Whoever may read the file could also take the lock and keep a writer
from starting: the hive's group is trusted that far.
"""

from __future__ import annotations

import fcntl
import os
import time

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layouts import ANCHOR, ANCHOR_IDENTITY_BYTES, MAGIC, VERSION, RegionKind
from skep_shm.segment import Segment, create_file, open_file, open_segment, reserve, unlink, verify
from skep_shm.seqlock import is_whole, sealed
from skep_shm.words import seal, unseal

GENERATION = ANCHOR.word("generation")
REVISION = ANCHOR.word("revision")
HEARTBEAT = ANCHOR.word("heartbeat")
_MAGIC_WORD = ANCHOR.word("magic")
_CLAIM_TRIES = 8  # each means that another writer ended or started in between


def generation_name(anchor_name: str, generation: int) -> str:
    return f"{anchor_name}.g{generation}"


def claim(name: str, kind: RegionKind, mode: int, group: int | None) -> Segment:
    """Opens or makes the anchor and takes its lock: the caller is now the region's only writer.

    Raises RegionError BUSY while another lives, FOREIGN_OWNER for a file that is not ours.
    """
    for _ in range(_CLAIM_TRIES):
        fd = _open_or_create(name, mode, group)
        try:
            anchor = _claim_file(name, fd, kind)
        except BaseException:
            os.close(fd)
            raise
        if anchor is not None:
            return anchor
        os.close(fd)
    raise RegionError(RegionCode.BUSY, name, "the anchor kept changing hands", "start one writer at a time")


def _open_or_create(name: str, mode: int, group: int | None) -> int:
    """Another writer may make or unlink the name between the calls; then the last one decides."""
    try:
        return open_file(name, writable=True)
    except RegionError as error:
        absent = error.code is RegionCode.MISSING
        if not absent:
            raise
    try:
        return create_file(name, mode, group)
    except RegionError as error:
        taken = error.code is RegionCode.BUSY
        if not taken:
            raise
    return open_file(name, writable=True)


def _claim_file(name: str, fd: int, kind: RegionKind) -> Segment | None:
    """The mapped anchor, or None when this file is no longer (or not yet) the one to use."""
    if os.fstat(fd).st_uid != os.geteuid():
        verify(name, fd, frozenset((os.geteuid(),)), 0)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "stop the other process; `skep shm ls` names it"
        raise RegionError(RegionCode.BUSY, name, "another process writes this region", hint) from None
    if not _is_current(name, fd):
        return None
    if os.fstat(fd).st_size == 0:
        try:
            reserve(name, fd, ANCHOR.size)
        except RegionError:
            unlink(name)  # ours, by the lock, and nothing yet
            raise
        anchor = Segment(name, fd, writable=True)
        _write_identity(anchor, kind)
        return anchor
    return _adopt(name, fd, kind)


def _is_current(name: str, fd: int) -> bool:
    """Whether the name still leads to this file: its last holder may have unlinked it while we waited."""
    try:
        other = open_file(name)
    except RegionError:
        return False
    try:
        return os.path.sameopenfile(fd, other)
    finally:
        os.close(other)


def _adopt(name: str, fd: int, kind: RegionKind) -> Segment | None:
    """Takes over what a dead writer left; an anchor we cannot use is closed and unlinked, to be made anew."""
    if os.fstat(fd).st_size == ANCHOR.size:
        anchor = Segment(name, fd, writable=True)
        try:
            check_anchor(anchor, kind)
        except RegionError:
            anchor.words[GENERATION] = seal(0)  # tells readers that still have it mapped
            anchor.fd = -1  # the caller closes the descriptor
            anchor.close()
        else:
            return anchor
    unlink(name)
    return None


def _write_identity(anchor: Segment, kind: RegionKind) -> None:
    created_at_ms = time.time_ns() // 1_000_000
    identity = ANCHOR.struct.pack(MAGIC, VERSION, kind, anchor.owner, created_at_ms, 0, 0, 0, 0)
    whole = sealed(identity[: ANCHOR_IDENTITY_BYTES - 4])
    anchor.mapping[8:ANCHOR_IDENTITY_BYTES] = whole[8:]
    for word in (GENERATION, REVISION, HEARTBEAT):
        anchor.words[word] = seal(0)
    anchor.words[_MAGIC_WORD] = MAGIC


def open_anchor(name: str, kind: RegionKind, owners: frozenset[int]) -> Segment:
    """Maps the anchor for reading. Raises RegionError."""
    anchor = open_segment(name, owners, ANCHOR.size)
    try:
        check_anchor(anchor, kind)
    except BaseException:
        anchor.close()
        raise
    return anchor


def check_anchor(anchor: Segment, kind: RegionKind) -> None:
    """Raises RegionError unless the anchor is complete, of this version and kind, and undamaged."""
    if anchor.size != ANCHOR.size:
        detail = f"{anchor.size} bytes long instead of {ANCHOR.size}"
        raise RegionError(RegionCode.TRUNCATED, anchor.name, detail, "restart its writer")
    copy = anchor.mapping[: ANCHOR.size]  # one copy for all checks: the writer may just be finishing it
    identity, fields = copy[:ANCHOR_IDENTITY_BYTES], ANCHOR.unpack(copy)
    check_magic(anchor.name, fields)
    if not is_whole(identity) or fields["owner_uid"] != anchor.owner:
        raise RegionError(RegionCode.DAMAGED, anchor.name, "the anchor is damaged", "restart its writer")
    if fields["kind"] != kind:
        detail = f"holds kind {fields['kind']!r}, expected {int(kind)} ({kind.name.lower()})"
        raise RegionError(RegionCode.WRONG_KIND, anchor.name, detail, "remove it")


def check_magic(name: str, fields: dict[str, int | bytes]) -> None:
    """Raises RegionError NOT_READY or WRONG_VERSION, which names both versions."""
    if fields["magic"] == 0:
        raise RegionError(RegionCode.NOT_READY, name, "its writer has not finished making it", "try again")
    if fields["magic"] != MAGIC:
        raise RegionError(RegionCode.DAMAGED, name, "no magic: not a region of Skep", "remove it")
    if fields["version"] != VERSION:
        detail = f"has layout version {fields['version']!r}, this program reads version {VERSION}"
        raise RegionError(RegionCode.WRONG_VERSION, name, detail, "run the same Skep on both ends")


def word_value(anchor: Segment, word: int, name: str) -> int:
    """A word's verified value. Raises RegionError DAMAGED."""
    value = unseal(anchor.words[word])
    if value is None:
        raise RegionError(
            RegionCode.DAMAGED, anchor.name, f"the {name} word is damaged", "restart its writer"
        )
    return value
