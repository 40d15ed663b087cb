"""A full disk or a full shared memory is named by `skep up`, at once and by itself: a log has no room for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep_nodes.cli.room import ROOM_BYTES, without_room
from skep_nodes.cli.run import translated
from support.hives import environment

UP = f"exec {sys.executable} -m skep_nodes.cli up --hive"


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sk", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("place", "size", "told"),
    [
        ("memory", "16k", "no room in /dev/shm: 16 KiB are left\n  why:  RT.main exited with 1: "),
        ("folder", "4k", "KiB are left\n  why:  [Errno 28] No space left on device"),
        ("folder", "16k", "0 KiB are left\n  why:  RT.main exited with 1"),
        ("folder", "200k", "KiB are left\n  why:  SY."),
    ],
)
def test_skep_up_says_what_is_full_and_what_to_do(root: Path, place: str, size: str, told: str) -> None:
    """In a mount namespace of its own, so that nobody else's is small."""
    where = "/dev/shm" if place == "memory" else str(root)
    command = f"mount -t tmpfs -o size={size} none {where} && {UP} {root}"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", command], env=environment(), capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"error NO_SPACE: no room in {where}: " in done.stderr
    assert told in done.stderr
    assert "next: free space there or enlarge it" in done.stderr


def test_room_is_asked_for_in_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    real = os.statvfs(tmp_path)

    def statvfs(folder: Path) -> os.statvfs_result:
        facts = list(real)
        if folder == full:
            facts[4] = (ROOM_BYTES - 1) // real.f_frsize  # f_bavail
        return os.statvfs_result(facts)

    monkeypatch.setattr("os.statvfs", statvfs)
    assert without_room(tmp_path, tmp_path) == ""
    assert without_room(full, tmp_path).startswith(f"no room in {full}: ")
    assert without_room(tmp_path, full).startswith(f"no room in {full}: ")


def test_any_command_calls_a_full_disk_by_its_name() -> None:
    failure = translated(OSError(28, "No space left on device", "/srv/hive/x"))
    assert (failure.code, failure.what) == ("NO_SPACE", "No space left on device: /srv/hive/x")
    assert "df -h" in failure.then
