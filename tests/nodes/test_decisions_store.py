"""The decision log on disk: rotated, bounded, complete or ended, readable after damage and a full disk."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.sy_disk import Crash, TroubledDisk
from skep_nodes.sy.decisions_store import (
    RETRY_S,
    Bounds,
    DecisionLog,
    LogReader,
    files_since,
    log_files,
    opened,
    read_losses,
    sealed,
)  # fmt: skip
from skep_nodes.sy.durable import Disk

NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)
HEAD: list[dict[str, Any]] = [{"kind": "data", "data": {}}, {"kind": "policy", "version": 1}]


def decision(number: int, size: int = 0) -> dict[str, Any]:
    return {"kind": "decision", "n": number, "text": "x" * size}


def log_in(folder: Path, disk: Disk | None = None, head: Any = None, **bounds: Any) -> DecisionLog:
    return DecisionLog(folder, head or (lambda: HEAD), Bounds(**bounds), disk)


def everything(folder: Path) -> list[dict[str, Any]]:
    return list(LogReader().read(log_files(folder)))


def numbers(folder: Path) -> list[int]:
    return [line["n"] for line in everything(folder) if line["kind"] == "decision"]


# -- lines ---------------------------------------------------------------------------------------------------------


@pytest.mark.goal("G4")
def test_every_damage_of_a_line_is_seen() -> None:
    line = sealed({"kind": "decision", "n": 7})
    assert opened(line) == {"kind": "decision", "n": 7, "crc": opened(line)["crc"]}  # type: ignore[index]
    for bit in range(8 * (len(line) - 1)):
        damaged = bytearray(line)
        damaged[bit // 8] ^= 1 << bit % 8
        assert opened(bytes(damaged)) is None
    for cut in range(len(line) - 1):
        assert opened(line[:cut]) is None


@given(st.binary(max_size=60))
def test_no_line_of_a_stranger_is_believed(line: bytes) -> None:
    assert opened(line) is None


@pytest.mark.goal("G4")
def test_a_damaged_and_a_torn_line_are_passed_over_and_no_good_one_is(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for number in range(5):
        assert log.write([decision(number)], 0, NOW)
    log.end()
    [path] = log_files(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"n":1', b'"n":9')
    path.write_bytes(b"".join(lines)[:-5])
    reader = LogReader()
    assert [line["n"] for line in reader.read([path]) if line["kind"] == "decision"] == [0, 2, 3]
    assert reader.damaged == 2


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_file_begins_with_data_and_policy_and_a_log_without_decisions_has_none(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    assert log_files(tmp_path) == []
    log.write([{"kind": "patch"}, {"kind": "policy", "version": 1}, decision(1)], 0, NOW)
    log.write([{"kind": "patch"}, decision(2)], 0, NOW)
    kinds = [line["kind"] for line in everything(tmp_path)]
    assert kinds == ["data", "policy", "decision", "patch", "decision"], (
        "the head has the first patch already"
    )


@pytest.mark.parametrize("bounds", [{"file_bytes": 2000}, {"file_age_s": 30.0}])
def test_a_file_ends_by_size_and_by_age_and_the_next_has_a_head(
    tmp_path: Path, bounds: dict[str, Any]
) -> None:
    log = log_in(tmp_path, **bounds)
    for number in range(20):
        assert log.write(
            [decision(number, 300)], now_s=number * 10, wall=NOW + timedelta(seconds=number * 10)
        )
    files = log_files(tmp_path)
    assert 4 <= len(files) <= 8
    for path in files:
        assert [line["kind"] for line in LogReader().read([path])][:3] == ["data", "policy", "decision"]
    assert numbers(tmp_path) == list(range(20))


def test_a_long_head_does_not_fill_a_file(tmp_path: Path) -> None:
    log = log_in(tmp_path, head=lambda: [{"kind": "data", "data": "x" * 5000}], file_bytes=2000)
    for number in range(4):
        log.write([decision(number, 300)], 0, NOW)
    assert len(log_files(tmp_path)) == 1


@given(st.lists(st.integers(0, 900), max_size=60))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_is_the_newest_and_bounded(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = log_in(folder, file_bytes=2000, total_bytes=6000)
    for number, size in enumerate(sizes):
        assert log.write([decision(number, size)], 0, NOW)
    kept = numbers(folder)
    assert kept == list(range(len(sizes)))[len(sizes) - len(kept) :]
    assert log.size_bytes() <= 6000 + 2000 + 1000, "the file that is being written is not counted yet"
    assert log.lost_count == 0, "old is not lost"


def test_the_names_of_files_grow_when_the_clock_is_put_back(tmp_path: Path) -> None:
    for number in range(3):
        log = log_in(tmp_path)
        log.write([decision(number)], 0, NOW - timedelta(hours=number))
        log.end()
    assert numbers(tmp_path) == [0, 1, 2]


def test_a_moment_is_in_the_file_that_was_begun_before_it(tmp_path: Path) -> None:
    log = log_in(tmp_path, file_age_s=1.0)
    for hour in range(4):
        log.write([decision(hour)], hour * 10.0, NOW + timedelta(hours=hour))
    files = log_files(tmp_path)
    assert files_since(tmp_path, NOW + timedelta(hours=1.5)) == files[1:]
    assert files_since(tmp_path, NOW - timedelta(days=7)) == files
    assert files_since(tmp_path, NOW + timedelta(days=7)) == files[-1:]
    assert files_since(tmp_path / "none", NOW) == []


# -- trouble -------------------------------------------------------------------------------------------------------


def test_the_count_of_what_was_lost_survives_a_restart(tmp_path: Path) -> None:
    log_in(tmp_path).lose(3)
    log_in(tmp_path).lose(4)
    assert read_losses(tmp_path) == 7


@pytest.mark.goal("G5")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("nth", range(1, 12))
def test_a_disk_that_fails_costs_lines_and_never_the_rest(tmp_path: Path, nth: int, number: int) -> None:
    """After a write that failed the next file has all of the data again: no patch is missing from any file."""
    state: dict[str, int] = {"n": 0}
    log = log_in(
        tmp_path, TroubledDisk(nth, OSError(number, "trouble")), lambda: [{"kind": "data", "n": state["n"]}]
    )
    kept = []
    for step in range(12):
        state["n"] = step
        if log.write([{"kind": "patch", "n": step}, decision(step)], step * 2 * RETRY_S, NOW):
            kept.append(step)
    assert numbers(tmp_path) == kept
    assert len(kept) >= 11
    known = None
    for line in everything(tmp_path):
        if line["kind"] == "data":
            known = line["n"]
        elif line["kind"] == "patch":
            assert line["n"] == known + 1
            known = line["n"]
        else:
            assert line["n"] == known


@pytest.mark.goal("G5")
def test_a_full_disk_is_not_hammered(tmp_path: Path) -> None:
    class Full(Disk):
        tries = 0

        def write(self, fd: int, data: bytes) -> int:
            self.tries += 1
            raise OSError(errno.ENOSPC, "full")

    disk = Full()
    log = log_in(tmp_path, disk)
    for step in range(100):
        assert not log.write([decision(step)], step / 100, NOW)
    assert disk.tries <= 2
    assert log_files(tmp_path) == []


@pytest.mark.goal("G2")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", range(1, 12))
def test_after_a_crash_at_any_call_the_log_is_read_and_goes_on(tmp_path: Path, nth: int, after: bool) -> None:
    disk = TroubledDisk(nth, Crash(), after=after)
    log = log_in(tmp_path, disk, file_bytes=150)
    done = []
    try:
        for step in range(12):
            if log.write([decision(step)], 0, NOW):
                done.append(step)
    except Crash:
        pass
    again = log_in(tmp_path)
    assert again.write([decision(99)], 0, NOW)
    found = numbers(tmp_path)
    assert found[-1] == 99
    assert found[:-1] in (done, [*done, len(done)])


@pytest.mark.goal("G5")
def test_a_sync_that_fails_ends_its_file(tmp_path: Path) -> None:
    class Unsynced(Disk):
        def fsync(self, fd: int) -> None:
            raise OSError(errno.EIO, "no")

    log = log_in(tmp_path, Unsynced())
    log.write([decision(1)], 0, NOW)
    assert log.unsynced
    with pytest.raises(OSError):
        log.sync_job()()
    log.end()
    assert not log.unsynced
    log.write([decision(2)], 0, NOW)
    assert len(log_files(tmp_path)) == 2


def test_what_was_synced_needs_no_sync(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    assert not log.unsynced
    log.write([decision(1)], 0, NOW)
    log.sync_job()()
    assert not log.unsynced
    log.write([decision(2)], 0, NOW)
    assert log.unsynced
