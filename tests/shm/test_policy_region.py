"""The policy region: a publish is there whole or not at all, and outlives its writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from skep_shm import (
    PolicyReader,
    PolicyState,
    PolicyStatus,
    PolicyWriter,
    RegionCode,
    RegionError,
    hive_prefix,
    inspect,
)
from skep_shm import segment as segments
from skep_shm.policy import BUNDLE_BYTES_MAX
from skep_shm.segment import segment_names

STATE = PolicyState(7, PolicyStatus.OK, b"signed" * 1000, b"shadow" * 10)


def test_before_the_first_publish_there_is_no_policy(clean_root: Path) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    assert PolicyReader.attach(clean_root).read() == PolicyState(0, PolicyStatus.LOADING, b"", b"")
    writer.close()


def test_a_state_is_published_whole(clean_root: Path) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    reader = PolicyReader.attach(clean_root)
    seen = reader.revision
    assert writer.publish(STATE) == reader.revision == seen + 1
    assert reader.read() == STATE
    failed = PolicyState(8, PolicyStatus.ERROR, STATE.bundle)
    writer.publish(failed)
    assert reader.read() == failed
    assert len(segment_names(hive_prefix(clean_root))) == 2, "the generation before is gone"
    writer.close()


def test_the_largest_bundles_are_published_and_larger_ones_refused(clean_root: Path) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    reader = PolicyReader.attach(clean_root)
    largest = PolicyState(1, PolicyStatus.OK, b"b" * BUNDLE_BYTES_MAX, b"s" * BUNDLE_BYTES_MAX)
    writer.publish(largest)
    assert reader.read() == largest
    for refused in (
        PolicyState(2, bundle=largest.bundle + b"."),
        PolicyState(2, shadow=largest.bundle + b"."),
    ):
        with pytest.raises(RegionError) as refusal:
            writer.publish(refused)
        assert refusal.value.code is RegionCode.TOO_LONG
    with pytest.raises(ValueError, match="64 bits"):
        writer.publish(PolicyState(-1))
    assert reader.read() == largest
    writer.close()


def test_a_full_memory_leaves_the_old_policy_in_force(
    clean_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    writer.publish(STATE)
    with monkeypatch.context() as patch:

        def full(fd: int, offset: int, size: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(segments.os, "posix_fallocate", full)
        with pytest.raises(RegionError) as refusal:
            writer.publish(PolicyState(8, PolicyStatus.OK, b"new"))
    assert refusal.value.code is RegionCode.NO_SPACE
    assert PolicyReader.attach(clean_root).read() == STATE
    writer.publish(PolicyState(9, PolicyStatus.OK, b"new"))
    assert PolicyReader.attach(clean_root).read().version == 9
    writer.close()


@pytest.mark.goal("G2")
def test_a_new_writer_takes_over_what_a_dead_one_published(root: Path) -> None:
    first = PolicyWriter.create(root, "test")
    first.publish(STATE)
    reader = PolicyReader.attach(root)
    seen = reader.revision
    first._owner.anchor.close()  # as death does: the lock is gone, everything else stays
    assert reader.read() == STATE, "readers go on without a writer"
    second = PolicyWriter.create(root, "test")
    assert reader.revision > seen
    assert reader.read() == STATE
    second.close()
    assert inspect.list_regions(root) == []


def test_a_second_writer_is_refused(clean_root: Path) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    writer.publish(STATE)
    with pytest.raises(RegionError) as refusal:
        PolicyWriter.create(clean_root, "test")
    assert refusal.value.code is RegionCode.BUSY
    assert PolicyReader.attach(clean_root).read() == STATE
    writer.close()


def test_a_damaged_bundle_is_refused_and_a_publish_mends_it(clean_root: Path) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    writer.publish(STATE)
    reader = PolicyReader.attach(clean_root)
    segment = writer._owner.segment
    assert segment is not None
    segment.mapping[2000] ^= 1
    with pytest.raises(RegionError) as refusal:
        reader.read()
    assert refusal.value.code is RegionCode.DAMAGED
    writer.publish(STATE)
    assert reader.read() == STATE
    writer.close()


def test_the_dump_shows_digests_and_no_bundles(clean_root: Path) -> None:
    writer = PolicyWriter.create(clean_root, "test")
    writer.publish(STATE)
    shown = inspect.dump(clean_root, "policy")["policy"]
    assert (shown["version"], shown["status"]) == (7, "ok")
    assert shown["bundle"]["bytes"] == 6000
    assert len(shown["shadow"]["sha256"]) == 64
    writer.close()
