"""Folders that are written once and never change: put there whole, or not at all; read only when every sum fits.

A folder is written beside its place under a name with a leading dot, synced, and renamed. After `put` returned it is
on the disk; after it raised, or after a crash at any point, there is the whole folder or none. `SHA256SUMS` in it is
what `sha256sum -c` reads; `take` checks it, so a damaged file is named instead of used.

Names are never taken from outside unjudged: callers pass targets made of names that `skep.seal` allows.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

from skep_nodes.sy.durable import Disk, StoreBroken, write_all

SUMS = "SHA256SUMS"
SUMS_BYTES_MAX = 1 << 16
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._@+/-]{0,200})")


class ShelfDamaged(Exception):
    """A folder that must not be used: which file, and what is wrong with it."""


def put(disk: Disk, target: Path, files: Mapping[str, bytes]) -> None:
    """Make `target` hold exactly `files` and their sums. Raises FileExistsError, OSError, StoreBroken."""
    if os.path.lexists(target):
        raise FileExistsError(target)
    make_folder(disk, target.parent)
    fresh = target.with_name(f".{target.name}.new")
    discard(fresh)  # what a crash left
    try:
        _write(disk, fresh, {**files, SUMS: sums_of(files)})
        disk.rename(fresh, target)
    except (OSError, StoreBroken):
        discard(fresh)
        raise
    try:
        disk.fsync_folder(target.parent)
    except OSError as error:
        discard(target)
        raise StoreBroken(f"the folder of {target.name} could not be synced: {error.strerror}") from error


def take(folder: Path, bytes_max: int) -> dict[str, bytes]:
    """Every file of a folder, checked. Raises FileNotFoundError (no such folder), ShelfDamaged."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    files: dict[str, bytes] = {}
    *lines, rest = _read(folder / SUMS, SUMS_BYTES_MAX).decode("ascii", "replace").split("\n")
    if rest:
        raise ShelfDamaged(f"{folder / SUMS} is cut short; restore it from a backup")
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None or ".." in found[2]:
            raise ShelfDamaged(f"{folder / SUMS}: a line is damaged")
        files[found[2]] = _read(folder / found[2], bytes_max)
        if sha256(files[found[2]]).hexdigest() != found[1]:
            raise ShelfDamaged(f"{folder / found[2]} is not what was written; restore it from a backup")
    return files


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """SHA256SUMS for these files."""
    return "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()


def make_folder(disk: Disk, folder: Path) -> None:
    """The folder and its parents, each durable in its own parent."""
    if folder.is_dir():
        return
    make_folder(disk, folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    disk.fsync_folder(folder.parent)


def discard(folder: Path) -> None:
    """Remove a folder that nothing refers to."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _write(disk: Disk, folder: Path, files: Mapping[str, bytes]) -> None:
    folders = {folder, *((folder / name).parent for name in files)}
    for each in sorted(folders):
        each.mkdir(mode=0o700, exist_ok=True)
    for name, data in files.items():
        _write_file(disk, folder / name, data)
    for each in sorted(folders, reverse=True):
        _sync(partial(disk.fsync_folder, each), each)


def _write_file(disk: Disk, path: Path, data: bytes) -> None:
    fd = disk.create(path)
    try:
        write_all(disk, fd, data)
        _sync(partial(disk.fsync, fd), path)
    finally:
        os.close(fd)


def _sync(sync: Callable[[], None], path: Path) -> None:
    """A failed sync is final: the kernel may have dropped the pages and will not say so twice."""
    try:
        sync()
    except OSError as error:
        raise StoreBroken(f"{path.name} could not be synced: {error.strerror}") from error


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ShelfDamaged(f"{path} cannot be read: {error.strerror}; restore it from a backup") from error
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > bytes_max:
            raise ShelfDamaged(f"{path} is no file of at most {bytes_max} bytes")
        return file.read(bytes_max + 1)
