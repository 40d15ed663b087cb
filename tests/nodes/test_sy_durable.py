"""Whole-file replacement: whatever call fails or is the last before a crash, the file is the old or the new one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nodes.sy_disk import Crash, TroubledDisk
from skep_nodes.sy.durable import Disk, StoreBroken, replace_file


def a_file(folder: Path) -> Path:
    path = folder / "file"
    replace_file(Disk(), path, b"old")
    return path


def call_count(folder: Path) -> int:
    disk = TroubledDisk(10_000, Crash())
    replace_file(disk, a_file(folder), b"new")
    return len(disk.calls)


def test_new_bytes_are_in_place_and_private(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    replace_file(Disk(), path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o077 == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.goal("G5")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_failing_call_leaves_the_old_file(tmp_path: Path, code: int) -> None:
    count = call_count(tmp_path)
    assert count >= 6
    for nth in range(1, count + 1):
        path = a_file(tmp_path)
        with pytest.raises((OSError, StoreBroken)):
            replace_file(TroubledDisk(nth, OSError(code, "trouble")), path, b"new")
        assert path.read_bytes() == b"old", f"call {nth}"
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"], f"call {nth}"


@pytest.mark.goal("G5")
def test_a_failed_fsync_says_that_the_store_is_broken(tmp_path: Path) -> None:
    path = a_file(tmp_path)
    with pytest.raises(StoreBroken):
        replace_file(TroubledDisk(3, OSError(errno.EIO, "trouble")), path, b"new")


@pytest.mark.goal("G2")
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_every_point_leaves_one_whole_file(tmp_path: Path, after: bool) -> None:
    for nth in range(1, call_count(tmp_path) + 1):
        path = a_file(tmp_path)
        with pytest.raises(Crash):
            replace_file(TroubledDisk(nth, Crash(), after=after), path, b"new")
        assert path.read_bytes() in (b"old", b"new"), f"call {nth}"
        replace_file(Disk(), path, b"next")
        assert path.read_bytes() == b"next"


@pytest.mark.goal("G5")
def test_a_first_file_that_failed_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for nth in range(1, 6):  # create, write, fsync, rename, fsync of the folder
        with pytest.raises((OSError, StoreBroken)):
            replace_file(TroubledDisk(nth, OSError(errno.ENOSPC, "full")), path, b"new")
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_bytes_in_pieces(tmp_path: Path) -> None:
    class Slow(Disk):
        def write(self, fd: int, data: bytes) -> int:
            return super().write(fd, data[:7])

    replace_file(Slow(), tmp_path / "file", bytes(range(256)))
    assert (tmp_path / "file").read_bytes() == bytes(range(256))
