"""The decision log on disk: NDJSON files that each begin with all that is needed to read them.

Owns `state/decisions/<UTC time>.ndjson`. A line is one JSON object with a `kind` and, last, the CRC-32 of all that
stands before it:

    data      the policy's data as it was, whole, with the revisions of the regions it came from
    policy    the policy in force: version, hash, Rego, manifest
    patch     what changed in the data, up to these revisions
    decision  one decision (`skep_policy.record`)
    lost      how many decisions are missing here, and where they were lost

Every file begins with `data` and `policy`, and its patches are complete: when a line could not be written, its file
ends, what was lost is counted, and the next file begins with all of the data again. So one file, or any number of
files in a row, can be replayed, and a file that was removed leaves no riddle behind.

Bounds: a file ends after `file_bytes` of lines (its head not counted) or `file_age_s`; the oldest files go when all of
them have more than `total_bytes`. What goes is old, not lost, and not counted; what could not be kept is counted in
`losses`, which survives a restart.

Durability: what was written survives the death of this process at once, and a power cut after `SYNC_S` seconds at
most: the caller syncs from a thread, so no decision waits for a disk. A failed sync is said and never retried: its
file ends too. A torn or damaged line is passed over and counted by who reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import orjson

from skep_nodes.sy.durable import Disk, write_all

SYNC_S: Final = 5.0
RETRY_S: Final = 1.0  # after a failure the next file is not begun sooner: a full disk is not hammered
LINE_BYTES_MAX: Final = 256 << 20  # the data of the largest hive; a decision has 64 KiB at most
SUFFIX: Final = ".ndjson"
LOSSES: Final = "losses"
_SEAL: Final = b',"crc":"'
_SEAL_BYTES: Final = len(_SEAL) + 8 + 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept."""

    file_bytes: int = 32 << 20
    file_age_s: float = 3600.0
    total_bytes: int = 1 << 30


# -- lines ---------------------------------------------------------------------------------------------------------


def sealed(document: dict[str, Any]) -> bytes:
    """A document as a line. `document` is not empty and has no `crc`."""
    body = orjson.dumps(document)[:-1]
    return b'%b%b%08x"}\n' % (body, _SEAL, crc32(body))


def opened(line: bytes) -> dict[str, Any] | None:
    """The document of a whole line; None when it is torn or damaged."""
    line = line.removesuffix(b"\n")
    seal = line[-_SEAL_BYTES:]
    if not seal.startswith(_SEAL) or seal != b'%b%08x"}' % (_SEAL, crc32(memoryview(line)[:-_SEAL_BYTES])):
        return None
    found = orjson.loads(line)
    return found if isinstance(found, dict) else None


def log_files(folder: Path) -> list[Path]:
    """The files of a log, oldest first."""
    return sorted(folder.glob(f"[0-9]*{SUFFIX}"))


def files_since(folder: Path, moment: datetime) -> list[Path]:
    """The files that may hold something of `moment` or later: those begun after it, and the one before them."""
    files = log_files(folder)
    name = file_name(moment)
    first = next((index for index, path in enumerate(files) if path.name > name), len(files))
    return files[max(0, first - 1) :]


def read_losses(folder: Path) -> int:
    """How many decisions were lost since the folder exists."""
    try:
        return int((folder / LOSSES).read_text())
    except (FileNotFoundError, ValueError):
        return 0


class LogReader:
    """Reads documents out of files; `damaged` counts the lines that were passed over."""

    def __init__(self) -> None:
        self.damaged = 0

    def read(self, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
        """Every whole line, in order. A file that was rotated away meanwhile is passed over."""
        for path in paths:
            with suppress(FileNotFoundError):
                yield from self._file(path)

    def _file(self, path: Path) -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                document = opened(line)
                if document is None:
                    self.damaged += 1
                else:
                    yield document


def file_name(moment: datetime) -> str:
    """Sorts as time does."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%f") + "Z" + SUFFIX


# -- writing -------------------------------------------------------------------------------------------------------

Head = Callable[[], Sequence[dict[str, Any]]]


class DecisionLog:
    """The writing end; one process owns a folder. Times are arguments: wall for names, monotonic for ages."""

    def __init__(
        self, folder: Path, head: Head, bounds: Bounds | None = None, disk: Disk | None = None
    ) -> None:
        """`head` gives the lines that a file begins with, as things are at that moment."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder, self._head = folder, head
        self._bounds, self._disk = bounds or Bounds(), disk or Disk()
        self.lost_count = read_losses(folder)
        self.written_count = 0
        self._fd, self._path = -1, Path()
        self._size = self._head_size = self._synced = 0
        self._began_s, self._retry_s = 0.0, float("-inf")

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def unsynced(self) -> bool:
        """Is there something that a power cut would take?"""
        return self._fd >= 0 and self._size != self._synced

    def write(self, documents: Sequence[dict[str, Any]], now_s: float, wall: datetime) -> bool:
        """Keep these lines, all or none. False when the disk did not take them; the caller counts what that loses."""
        if not documents:
            return True
        if self._is_full(now_s):
            self.end()
        if self._fd < 0:
            if not self._begin(now_s, wall):
                return False
            documents = [
                each for each in documents if each["kind"] not in ("patch", "policy")
            ]  # the head has them
        if not self._put(b"".join(map(sealed, documents))):
            self._give_up(now_s)
            return False
        self.written_count += len(documents)
        return True

    def lose(self, count: int) -> None:
        """`count` decisions will not be found here."""
        if count <= 0:
            return
        self.lost_count += count
        new = self.folder / f"{LOSSES}.new"
        try:
            new.write_text(f"{self.lost_count}\n")
            new.rename(self.folder / LOSSES)
        except OSError:
            return  # a full disk: the count stays in memory and is written with the next loss

    def sync_job(self) -> Callable[[], None]:
        """What makes all that was written survive a power cut; call it in a thread. It raises OSError: then `end`, for
        this file must not be believed any further. The descriptor is a copy, so the file may end meanwhile."""
        fd, self._synced = os.dup(self._fd), self._size

        def sync() -> None:
            try:
                self._disk.fsync(fd)
            finally:
                os.close(fd)

        return sync

    def end(self) -> None:
        """End the file; the next write begins another."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def size_bytes(self) -> int:
        """What all files have now."""
        return sum(size for _, size in self._sizes())

    def _is_full(self, now_s: float) -> bool:
        if self._fd < 0:
            return False
        return (
            self._size - self._head_size >= self._bounds.file_bytes
            or now_s - self._began_s >= self._bounds.file_age_s
        )

    def _begin(self, now_s: float, wall: datetime) -> bool:
        if now_s < self._retry_s:
            return False
        path = self._next_path(wall)
        try:
            self._fd = self._disk.open_append(path)
        except OSError:
            self._retry_s = now_s + RETRY_S
            return False
        self._path, self._began_s = path, now_s
        self._size = self._head_size = self._synced = 0
        if not self._put(b"".join(map(sealed, self._head()))):
            self._give_up(now_s)
            with suppress(OSError):
                path.unlink()
            return False
        self._head_size = self._size
        self._drop_old()
        return True

    def _next_path(self, wall: datetime) -> Path:
        """Named by time, and after every file there is, also when the clock was put back."""
        files = log_files(self.folder)
        name = file_name(wall)
        while files and name <= files[-1].name:
            last = datetime.strptime(files[-1].name, "%Y%m%dT%H%M%S.%fZ" + SUFFIX).replace(tzinfo=UTC)
            name = file_name(last + timedelta(microseconds=1))
        return self.folder / name

    def _put(self, data: bytes) -> bool:
        """Whole or not at all: a part is cut off again."""
        try:
            write_all(self._disk, self._fd, data)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            return False
        self._size += len(data)
        return True

    def _give_up(self, now_s: float) -> None:
        self._retry_s = now_s + RETRY_S
        self.end()

    def _drop_old(self) -> None:
        sizes = self._sizes()
        total = sum(size for _, size in sizes)
        for path, size in sizes[:-1]:  # never the newest
            if total <= self._bounds.total_bytes:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            total -= size

    def _sizes(self) -> list[tuple[Path, int]]:
        found = []
        for path in log_files(self.folder):
            with suppress(FileNotFoundError):
                found.append((path, path.stat().st_size))
        return found
