"""Files that survive a crash: whole-file replacement through one narrow view of the disk.

`Disk` is the only place where system nodes write, sync, rename or link, so a test can fail or crash the n-th of
these calls and look at what is left. `replace_file` keeps this promise: after it returned, the new bytes are on
the disk; after it raised, the old file is in place; after a crash at any point, the file is the old one or the
new one, whole.

Rejected: writing in place (a torn file), and ignoring the folder's fsync (the rename itself may be lost). A
failed fsync is final: the kernel may have dropped the pages and will not say so twice. The caller must not retry;
`StoreBroken` says so.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class StoreBroken(Exception):
    """The disk refused an fsync: what it holds is unknown, so nothing more may be promised until a restart."""


class Disk:
    """The real disk; tests pass one whose n-th call fails."""

    def create(self, path: Path) -> int:
        """Open a new, private file for writing, emptying one left by a crash."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open_append(self, path: Path) -> int:
        """Open a file whose every write goes to its end."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes) -> int:
        """Write some of `data`; returns how much, as the kernel does."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        """Make one file durable."""
        os.fsync(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Put `old` in the place of `new`, atomically."""
        os.rename(old, new)

    def link(self, old: Path, new: Path) -> None:
        """Give a file a second name, taking that name from whatever had it."""
        with suppress(FileNotFoundError):
            os.unlink(new)
        os.link(old, new)

    def fsync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Write every byte; the kernel may take them in pieces."""
    view = memoryview(data)
    while view:
        view = view[disk.write(fd, bytes(view)) :]


def replace_file(disk: Disk, path: Path, data: bytes) -> None:
    """Put `data` in the place of `path`, durably, or leave the old file there and raise OSError or StoreBroken."""
    new, previous = path.with_name(path.name + ".new"), path.with_name(path.name + ".prev")
    try:
        _write_new(disk, new, data)
        had_one = path.exists()
        if had_one:
            disk.link(path, previous)
        disk.rename(new, path)
    except OSError:
        _forget(new)
        _forget(previous)
        raise
    try:
        disk.fsync_folder(path.parent)
    except OSError as error:
        _put_back(path, previous, had_one)
        raise StoreBroken(f"the folder of {path.name} could not be synced: {error.strerror}") from error
    _forget(previous)


def _write_new(disk: Disk, new: Path, data: bytes) -> None:
    fd = disk.create(new)
    try:
        write_all(disk, fd, data)
        try:
            disk.fsync(fd)
        except OSError as error:
            _forget(new)
            raise StoreBroken(f"{new.name} could not be synced: {error.strerror}") from error
    finally:
        os.close(fd)


def _put_back(path: Path, previous: Path, had_one: bool) -> None:
    """Withdraw a rename whose durability is unknown; a link needs no space, so a full disk cannot prevent it."""
    if had_one:
        os.rename(previous, path)
    else:
        _forget(path)


def _forget(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
