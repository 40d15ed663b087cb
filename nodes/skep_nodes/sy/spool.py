"""A bounded, rotated spool: length-prefixed records in numbered files, oldest dropped first, every loss counted.

Owns `state/tap/<8 digits>.spool`. A record is `u32 length, u32 crc32, bytes` (little-endian). When the newest
file is full the next is begun, and the oldest goes when there are too many: a record of traffic must never fill
the disk. What is dropped is added to `state/tap/losses`, which survives a restart. Writes are not synced: a tap
is not a promise.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

FILE_BYTES_MAX = 16 << 20
FILES_MAX = 8  # 128 MiB in all
RECORD_BYTES_MAX = 1 << 20
_HEAD = struct.Struct("<II")


class Spool:
    """The writing end; one process owns a folder."""

    def __init__(
        self, folder: Path, file_bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._file_bytes_max, self._files_max = folder, file_bytes_max, files_max
        self.lost_count = read_losses(folder)
        files = spool_files(folder)
        self._number = int(files[-1].stem) if files else 0
        self._fd, self._size = -1, 0
        self._begin_next()

    def append(self, record: bytes) -> bool:
        """Keep one record; False when it had to be dropped, which is then counted."""
        if len(record) > RECORD_BYTES_MAX:
            return self._lose(1)
        if self._size and self._size + len(record) + _HEAD.size > self._file_bytes_max:
            self._begin_next()
        try:
            self._write(_HEAD.pack(len(record), crc32(record)) + record)
        except OSError:
            return self._lose(1)
        return True

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        """Write a record whole or not at all: a part is cut off again, so what follows stays readable."""
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, self._size)
            raise OSError("the disk took only a part of a record")
        self._size += written

    def _begin_next(self) -> None:
        self.close()
        self._number += 1
        path = self._folder / f"{self._number:08d}.spool"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        for old in spool_files(self._folder)[: -self._files_max]:
            self._lose(sum(1 for _ in read_records(old)))
            old.unlink()

    def _lose(self, count: int) -> bool:
        self.lost_count += count
        new = self._folder / "losses.new"
        try:
            new.write_text(f"{self.lost_count}\n")
            new.rename(self._folder / "losses")
        except OSError:
            return False  # a full disk: the count stays in memory and is written with the next loss
        return False


def spool_files(folder: Path) -> list[Path]:
    """The spool's files, oldest first."""
    return sorted(folder.glob("[0-9]*.spool"))


def read_losses(folder: Path) -> int:
    """How many records were dropped since the folder exists."""
    try:
        return int((folder / "losses").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def read_records(path: Path) -> Iterator[bytes]:
    """Records of one file, up to the first that is unfinished or damaged."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if length > RECORD_BYTES_MAX:
                return
            record = file.read(length)
            if len(record) != length or crc32(record) != checksum:
                return
            yield record
