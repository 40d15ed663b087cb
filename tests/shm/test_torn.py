"""G18: no torn read beside a writer that never pauses.

The writer updates every field of its records from one number, in a process of its own, as fast as it can. A read is
torn when fields of one record disagree, which neither the sequence nor the checksum may let happen. SKEP_G18_READS
sets how many reads are done (10^7 at each commit, 10^8 nightly), SKEP_G18_SECONDS when to stop all the same; the test
prints how many it did.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shm.writers import ROUTER, node, spawn
from skep_shm import NodeRecord, NodesReader, seqlock

READS = int(os.environ.get("SKEP_G18_READS", "10000000"))
SECONDS = float(os.environ.get("SKEP_G18_SECONDS", "25"))
RECORDS = 4  # few, so that reader and writer meet all the time
BATCH = 10_000
VERSIONS_MIN = 1000  # fewer seen, and the writer was not running: the test would show nothing


def torn_in(get: Callable[[int], NodeRecord | None], count: int, seen: set[int]) -> int:
    """Reads `count` times; returns how many were torn or missing."""
    torn = 0
    for number in range(count):
        found = get(number % RECORDS)
        if found is None or found.uid != found.flags or found.tenant != found.ilk:
            torn += 1
        else:
            seen.add(found.flags)
    return torn


@pytest.mark.goal("G18")
@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 60)
def test_no_torn_read_beside_a_flat_out_writer(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = spawn("endless", root, RECORDS)
    reads = torn = 0
    versions: set[int] = set()
    try:
        reader = NodesReader.attach(root, ROUTER)
        deadline = time.monotonic() + SECONDS
        while reads < READS and time.monotonic() < deadline:
            fresh: set[int] = set()
            torn += torn_in(reader.get, BATCH, fresh)
            if len(versions) < VERSIONS_MIN:
                versions |= fresh
            reads += BATCH
    finally:
        child.kill()
        child.wait()
    with capsys.disabled():
        print(
            f"\nG18: {torn} torn of {reads:,} reads ({os.uname().machine}), {reader.damaged} counted as damaged"
        )
    assert torn == reader.damaged == 0
    assert len(versions) >= VERSIONS_MIN
    assert all(reader.find(node(number).uuid) is not None for number in range(RECORDS))


@pytest.mark.goal("G18")
def test_no_torn_look_up_beside_a_flat_out_writer(root: Path) -> None:
    """By key: what was remembered, what is read anew and what is taken from the undo area, as it comes."""
    child = spawn("endless", root, RECORDS)
    try:
        reader = NodesReader.attach(root, ROUTER)
        uuids = [node(number).uuid for number in range(RECORDS)]
        seen: set[int] = set()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            assert torn_in(lambda number: reader.find(uuids[number]), BATCH, seen) == 0
    finally:
        child.kill()
        child.wait()
    assert reader.damaged == 0
    assert len(seen) >= VERSIONS_MIN


@pytest.mark.goal("G18")
def test_the_checksum_catches_what_the_sequence_does_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a processor that reorders would do: the look at the sequence is taken away, copies are torn, and none passes
    the checksum. (Without the checksum too, torn reads must appear, or this test would show nothing.)"""
    child = spawn("endless", root, RECORDS)
    try:
        reader = NodesReader.attach(root, ROUTER)
        segment, start, size = reader._current(), reader.number("records_offset"), NodesReader.record_bytes
        mapping = segment.mapping
        naive = passed = 0
        deadline = time.monotonic() + 10
        while naive < 20 and time.monotonic() < deadline:
            for number in range(BATCH):
                place = start + number % RECORDS * size
                raw = mapping[place : place + size]
                if raw[20:24] != raw[88:92]:  # uid and flags
                    naive += 1
                    passed += seqlock.is_whole(raw)
    finally:
        child.kill()
        child.wait()
    assert naive > 0, "no torn copy was seen: the writer did not run beside the reader"
    assert passed == 0
