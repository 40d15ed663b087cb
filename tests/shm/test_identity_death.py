"""The regions of policy and identity when their writer is killed, doubled, or never pauses."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shm.test_identity_regions import KINDS, Kind, each_kind, key16
from shm.writers import FILLED, Crash, policy, spawn, twin
from skep_shm import (
    IlksReader,
    IlksWriter,
    PolicyReader,
    PolicyWriter,
    RegionCode,
    RegionError,
    hive_prefix,
    inspect,
)
from skep_shm.segment import segment_names, unlink

KILLS = 8
Crashing = Callable[..., Crash]


def allowed(kind: Kind, number: int) -> tuple[Any, ...]:
    """What may be found under a key while it is being put and changed in turn."""
    record = kind.make(number)
    return (record, kind.change(record)) if number < FILLED else (record, None)


@pytest.mark.goal("G2")
@pytest.mark.goal("G18")
@pytest.mark.parametrize("name", KINDS)
def test_a_writer_killed_in_the_middle_of_a_store_leaves_whole_records(
    root: Path, crashing: Crashing, name: str
) -> None:
    """Each kill in another store: half a record, half an undo copy, half a further piece of text, or between."""
    kind, rng, slowest = KINDS[name], random.Random(name), 0.0
    for kill in range(KILLS):
        crashing("half_put", name, kill + 1 if kill < 3 else rng.randrange(4, 120))
        reader = kind.reader.attach(root)
        for number in range(2 * FILLED):
            begun = time.thread_time()
            found = reader.find(key16(number))
            slowest = max(slowest, time.thread_time() - begun)
            assert found in allowed(kind, number)
        assert reader.damaged == 0
        reader.close()
    writer = kind.writer.create(root, "test")
    writer.fill(kind.make(number) for number in range(3))
    assert len(kind.reader.attach(root).all()) == 3
    assert inspect.check(root) == []
    writer.close()
    assert slowest < 0.05, "a reader never waits for a dead writer"


@pytest.mark.goal("G2")
def test_a_publish_that_was_cut_short_leaves_the_policy_before(root: Path, crashing: Crashing) -> None:
    for stores in range(1, 7):
        crashing("half_publish", stores)
        state = PolicyReader.attach(root).read()
        assert state == policy(state.version)
        assert state.version >= 1
        writer = PolicyWriter.create(root, "test")
        assert PolicyReader.attach(root).read() == state, "the next writer goes on with it"
        assert inspect.check(root) == []
        writer.close()


def test_a_second_process_is_refused_while_the_first_lives(root: Path) -> None:
    child = spawn("endless_ilks", root, 2)
    try:
        with pytest.raises(RegionError) as refusal:
            IlksWriter.create(root, "test")
        assert refusal.value.code is RegionCode.BUSY
        assert IlksReader.attach(root).find(bytes(16)) is not None, "the refusal disturbed nothing"
    finally:
        child.kill()
        child.wait()
    second = IlksWriter.create(root, "test")
    second.fill(())
    second.close()


@pytest.mark.goal("G18")
def test_no_torn_interlocutor_beside_a_flat_out_writer(root: Path) -> None:
    """Texts of changing length move from slot to slot meanwhile; found by key, each is whole and none is missing."""
    child = spawn("endless_ilks", root, 3)
    versions = set()
    try:
        reader = IlksReader.attach(root)
        for turn in range(int(os.environ.get("SKEP_G18_ILKS", "30000"))):
            number = turn % 3
            found = reader.find(number.to_bytes(16, "big"))
            assert found is not None
            assert found == twin(number, found.alias_until_ms)
            versions.add(found.alias_until_ms)
    finally:
        child.kill()
        child.wait()
    assert len(versions) > 50, "the writer was running"


@each_kind
def test_files_that_somebody_removed_come_back(root: Path, kind: Kind) -> None:

    writer = kind.writer.create(root, "test")
    writer.fill(kind.make(number) for number in range(20))
    reader = kind.reader.attach(root)
    for name in segment_names(hive_prefix(root)):
        unlink(name)
    writer.heartbeat(10**9)
    writer.put(kind.make(20))
    for each in (reader, kind.reader.attach(root)):
        assert sorted(each.all()) == sorted(kind.make(number) for number in range(21))
    writer.close()
