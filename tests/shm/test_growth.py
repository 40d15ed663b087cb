"""A large table grows in steps: nothing is lost, nobody waits, and a full memory only postpones it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep_shm import (
    ChannelRecord,
    ChannelsReader,
    ChannelsWriter,
    IlkRecord,
    IlksReader,
    IlksWriter,
    RegionCode,
    RegionError,
    hive_prefix,
    inspect,
)
from skep_shm import growth as growths
from skep_shm import segment as segments
from skep_shm import table as tables
from skep_shm.segment import segment_names, unlink

CAPACITY = 4096
EXPECTED = CAPACITY * 4 // 5


def key16(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def channel(number: int, owner: int = 0) -> ChannelRecord:
    return ChannelRecord(key16(number), owner.to_bytes(16, "big"), bytes(16), "email")


@pytest.fixture
def writer(root: Path) -> Iterator[ChannelsWriter]:
    """A table just before it begins to grow: 3,000 of 4,096 slots used."""
    made = ChannelsWriter.create(root, "test", expected=EXPECTED + 1)
    made.fill(channel(number) for number in range(3000))
    assert made.statistics()["capacity"] == CAPACITY
    yield made
    made.close()


def grow_until_begun(writer: ChannelsWriter, number: int = 3000) -> int:
    """Adds channels until the next segment is begun; returns the number of the next channel."""
    while writer._table._growth is None:
        writer.put(channel(number))
        number += 1
        assert number < CAPACITY
    return number


def test_growth_is_spread_over_the_insertions(
    root: Path, writer: ChannelsWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No insertion copies more than the records it pays for, and the table has swung before it is full."""
    most = 0
    copy = growths.Growth._copy
    count = [0]

    def counted(self: growths.Growth, slot: int) -> bytes:
        count[0] += 1
        return copy(self, slot)

    monkeypatch.setattr(growths.Growth, "_copy", counted)
    monkeypatch.setattr(tables.TableWriter, "_grow", lambda self: pytest.fail("grown at once"))
    reader = ChannelsReader.attach(root)
    generation = reader.header().generation
    for number in range(3000, 20_000):
        count[0] = 0
        writer.put(channel(number))
        most = max(most, count[0])
    assert most <= growths.RECORDS + 1
    assert reader.header().generation >= generation + 3
    assert all(reader.find(key16(number)) == channel(number) for number in range(20_000))
    assert inspect.check(root) == []


def test_changes_while_it_grows_are_in_both_segments(root: Path, writer: ChannelsWriter) -> None:
    """Puts, changes and removals in random order, through several generations, against a dictionary."""
    reader = ChannelsReader.attach(root)
    model = {key16(number): channel(number) for number in range(3000)}
    rng = random.Random(7)
    generation, added = reader.header().generation, 3000
    while reader.header().generation < generation + 2:
        if rng.random() < 0.6:
            record = channel(added)
            added += 1
        else:
            record = channel(rng.randrange(added), rng.randrange(1 << 32))
        if rng.random() < 0.8:
            writer.put(record)
            model[record.key] = record
        else:
            assert writer.remove(record.key) == (model.pop(record.key, None) is not None)
    assert sorted(reader.all()) == sorted(model.values())
    assert all(reader.find(key) == record for key, record in model.items())
    assert inspect.check(root) == []


def test_long_texts_that_outrun_the_steps_are_not_lost(clean_root: Path) -> None:
    writer = IlksWriter.create(clean_root, "test", expected=EXPECTED + 1)
    writer.fill(IlkRecord(key16(number)) for number in range(3000))
    reader = IlksReader.attach(clean_root)
    long = ("r" * 8000,)
    for number in range(3000, 3100):
        writer.put(IlkRecord(key16(number), roles=long))
    assert all(
        reader.find(key16(number)) == IlkRecord(key16(number), roles=long) for number in range(3000, 3100)
    )
    assert reader.find(key16(5)) == IlkRecord(key16(5))
    assert inspect.check(clean_root) == []
    writer.close()


def full(fd: int, offset: int, size: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_memory_postpones_it_and_only_a_full_table_refuses(
    root: Path, writer: ChannelsWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ChannelsReader.attach(root)
    number = grow_until_begun(writer)
    with monkeypatch.context() as patch:
        patch.setattr(segments.os, "posix_fallocate", full)
        while number < CAPACITY:
            writer.put(channel(number))
            number += 1
        with pytest.raises(RegionError) as refusal:
            writer.put(channel(number))
        assert refusal.value.code is RegionCode.NO_SPACE
        assert len(segment_names(hive_prefix(root))) == 2, "nothing half made is left"
        writer.put(channel(0, 77))
        assert reader.find(key16(0)) == channel(0, 77)
    writer.put(channel(number))
    assert len(reader.all()) == number + 1
    assert inspect.check(root) == []


def test_a_segment_that_is_being_filled_is_no_finding(root: Path, writer: ChannelsWriter) -> None:
    grow_until_begun(writer)
    assert len(segment_names(hive_prefix(root))) == 3
    assert inspect.check(root) == []


def test_the_next_writer_removes_what_a_dead_one_was_filling(root: Path, writer: ChannelsWriter) -> None:
    grow_until_begun(writer)
    writer._owner.anchor.close()  # as death does: the lock is gone, everything else stays
    second = ChannelsWriter.create(root, "test")
    assert len(ChannelsReader.attach(root).all()) > 3000
    second.fill([channel(1)])
    assert len(segment_names(hive_prefix(root))) == 2
    second.close()
    assert segment_names(hive_prefix(root)) == []


def test_files_removed_while_it_grows_come_back(root: Path, writer: ChannelsWriter) -> None:
    number = grow_until_begun(writer)
    for name in segment_names(hive_prefix(root)):
        unlink(name)
    writer.heartbeat(10**9)
    reader = ChannelsReader.attach(root)
    assert len(reader.all()) == number
    for later in range(number, 6000):
        writer.put(channel(later))
    assert all(reader.find(key16(each)) == channel(each) for each in range(6000))
    assert inspect.check(root, now_ns=10**9) == []


def test_an_end_while_it_grows_leaves_nothing(clean_root: Path) -> None:
    writer = ChannelsWriter.create(clean_root, "test", expected=EXPECTED + 1)
    writer.fill(channel(number) for number in range(3000))
    grow_until_begun(writer)
    writer.close()
