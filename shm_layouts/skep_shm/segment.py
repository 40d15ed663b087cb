"""POSIX shared memory files: made, checked, mapped, and the names they bear.

A name is `/skep-<uid>-<12 hex of the hive folder>-<region>`: the uid is the hive folder's owner, so every
process of a hive computes the same name and hives, users and parallel tests never meet in /dev/shm.

Making: `posix_fallocate` reserves every page, so a full /dev/shm is an error at birth. (`ftruncate` past a
full tmpfs succeeds and later kills every reader with SIGBUS.) Writable by the owner only; the group may read.

Opening: owner, mode and length are read by `fstat` and judged *before* anything is mapped; no field of a
foreign file is believed. Sealing is not available: seals need `memfd_create`, and a file made by `shm_open`
carries F_SEAL_SEAL from birth, which forbids further seals. So the owner could still truncate under its
readers; only the owner and root can, and both are trusted to write anyway.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import threading
from pathlib import Path

import posix_ipc

from skep_shm.errors import RegionCode, RegionError

SHM_DIR = Path("/dev/shm")  # where Linux keeps POSIX shared memory
MODE_DEFAULT = 0o640  # readers are the hive's group
RETIRED_BYTES_MIN = 16 << 20  # unmapped in about 4 ms
SEGMENT_BYTES_MAX = 1 << 32  # no region is larger; a length beyond is a damaged header


def hive_owner(root: Path) -> int:
    """The uid whose hive this is: the folder's owner, or ours when there is no folder yet."""
    try:
        return os.stat(root).st_uid
    except FileNotFoundError:
        return os.geteuid()


def hive_prefix(root: Path) -> str:
    """What the name of each segment of this hive begins with."""
    digest = hashlib.sha256(os.fsencode(Path(root).resolve())).hexdigest()[:12]
    return f"/skep-{hive_owner(root)}-{digest}-"


def region_path(root: Path, region: str) -> str:
    """Where the anchor of a region is, once there is one. A reader that waits for it asks for this file first: to
    attach in vain costs thirty times as much."""
    return f"{SHM_DIR}{hive_prefix(root)}{region}"


def trusted_owners(root: Path) -> frozenset[int]:
    """Uids whose segments a reader of this hive believes: the hive's owner, itself and root."""
    return frozenset((hive_owner(root), os.geteuid(), 0))


def segment_names(prefix: str) -> list[str]:
    """Names in /dev/shm that begin with `prefix`, sorted."""
    wanted = prefix.removeprefix("/")
    return sorted(f"/{name}" for name in os.listdir(SHM_DIR) if name.startswith(wanted))


class Segment:
    """One mapped file. `words` is the mapping as u64; `values` holds the low 32 bits of each sealed word's value, at
    twice the word's index: all of a slot, and cheaper than a word. None leaves this package. `close()` may be called
    twice."""

    __slots__ = ("name", "fd", "mapping", "words", "values", "size", "owner")

    def __init__(self, name: str, fd: int, writable: bool) -> None:
        info = os.fstat(fd)
        self.name = name
        self.fd = fd
        self.size = info.st_size
        self.owner = info.st_uid
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self.mapping = mmap.mmap(fd, self.size, mmap.MAP_SHARED, protection)
        self.words = memoryview(self.mapping)[: self.size & ~7].cast("Q")
        self.values = memoryview(self.mapping)[2 : 2 + ((self.size - 2) & ~3)].cast("I")

    def close(self) -> None:
        self._release()
        self._unmap()

    def retire(self) -> None:
        """As `close`, where the caller goes on: whoever lets go of a large segment last frees its pages, which takes
        45 ms for 170 MB, so a thread does that (`munmap` and `close` run without the interpreter's lock)."""
        if self.size < RETIRED_BYTES_MIN or self.fd < 0:
            self.close()
            return
        self._release()
        threading.Thread(target=self._unmap, name="skep-shm-unmap", daemon=True).start()

    def _release(self) -> None:
        self.words.release()
        self.values.release()

    def _unmap(self) -> None:
        fd, self.fd = self.fd, -1
        self.mapping.close()
        if fd >= 0:
            os.close(fd)


def create_segment(
    name: str, size: int, mode: int = MODE_DEFAULT, group: int | None = None, first: int | None = None
) -> Segment:
    """A new file of `size` zero bytes, all reserved, or the `first` of them: then the caller reserves before it writes.
    Raises RegionError NO_SPACE, BUSY (name taken)."""
    fd = create_file(name, mode, group)
    try:
        reserve(name, fd, size if first is None else first)
        if first is not None:
            os.ftruncate(fd, size)
        return Segment(name, fd, writable=True)
    except BaseException:
        os.close(fd)
        unlink(name)
        raise


def create_file(name: str, mode: int, group: int | None) -> int:
    try:
        fd = int(posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd)
    except posix_ipc.ExistentialError:
        raise RegionError(RegionCode.BUSY, name, "the name is taken", "another writer is starting") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(name, 0) from error
        raise
    os.fchmod(fd, mode)  # the umask does not decide who may read
    if group is not None:
        os.fchown(fd, -1, group)
    return fd


def reserve(name: str, fd: int, size: int, start: int = 0) -> None:
    """Makes sure that `size` bytes from `start` on have their pages. Raises RegionError NO_SPACE."""
    try:
        os.posix_fallocate(fd, start, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
            raise _no_space(name, size) from error
        raise


def _no_space(name: str, size: int) -> RegionError:
    hint = f"free space in {SHM_DIR} or enlarge it (mount -o remount,size=...)"
    return RegionError(RegionCode.NO_SPACE, name, f"no room for {size} bytes in {SHM_DIR}", hint)


def open_file(name: str, writable: bool = False) -> int:
    """A descriptor of an existing file. Raises RegionError MISSING, FOREIGN_OWNER."""
    try:
        return int(posix_ipc.SharedMemory(name, 0, read_only=not writable).fd)
    except posix_ipc.ExistentialError:
        hint = "start its writer"
        raise RegionError(RegionCode.MISSING, name, "there is no such segment", hint) from None
    except (posix_ipc.PermissionsError, PermissionError):
        hint = "its owner or its group may read it"
        raise RegionError(RegionCode.FOREIGN_OWNER, name, "this user may not open it", hint) from None


def open_segment(name: str, owners: frozenset[int], bytes_min: int) -> Segment:
    """Maps an existing file for reading once its owner, mode and length are acceptable."""
    fd = open_file(name)
    try:
        verify(name, fd, owners, bytes_min)
        return Segment(name, fd, writable=False)
    except BaseException:
        os.close(fd)
        raise


def verify(name: str, fd: int, owners: frozenset[int], bytes_min: int) -> None:
    """Raises RegionError for a file that must not be mapped."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid not in owners:
        detail = f"owned by uid {info.st_uid}, expected {' or '.join(map(str, sorted(owners)))}"
        raise RegionError(RegionCode.FOREIGN_OWNER, name, detail, "remove it as root: it is not this hive's")
    if info.st_mode & 0o022:
        detail = f"mode {stat.S_IMODE(info.st_mode):04o} lets group or others write"
        raise RegionError(RegionCode.WRONG_MODE, name, detail, "stop its writer and remove it")
    if info.st_size == 0:
        raise RegionError(
            RegionCode.NOT_READY, name, "empty: its writer has not finished making it", "try again"
        )
    if not bytes_min <= info.st_size <= SEGMENT_BYTES_MAX:
        detail = f"{info.st_size} bytes long, at least {bytes_min} expected"
        raise RegionError(RegionCode.TRUNCATED, name, detail, "restart its writer, which makes a new one")


def is_named(segment: Segment) -> bool:
    """Whether the name still leads to this file: its owner and root may remove names under a living writer."""
    try:
        named = os.stat(SHM_DIR / segment.name[1:])
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(segment.fd))


def unlink(name: str) -> None:
    """Removes the name; readers that have it mapped keep it. Only the holder of the anchor's lock may call this."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        pass
