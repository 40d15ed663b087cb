"""The nodes region: what a reader sees of what a writer did."""

from __future__ import annotations

from pathlib import Path

import pytest

from shm.writers import ROUTER, node
from skep_shm import Change, ChangeKind, NodesReader, NodesWriter, RegionCode, RegionError, nodes_readers
from skep_shm.index import RING_ENTRIES
from skep_shm.ring import RingWriter

OTHER_ROUTER = bytes(range(16, 32))


def writer_of(root: Path, router: bytes = ROUTER, capacity: int = 16) -> NodesWriter:
    return NodesWriter.create(root, router, "RT.main@test", "test", capacity=capacity)


def test_a_node_is_found_by_slot_and_by_uuid(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    slot = writer.add(node(1))
    reader = NodesReader.attach(clean_root, ROUTER)
    assert reader.get(slot) == reader.read(slot) == reader.find(node(1).uuid) == node(1)
    assert reader.find(node(2).uuid) is None
    assert reader.get(slot + 1) is reader.get(-1) is reader.get(10**9) is None
    writer.close()


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100, 132, 133, 232, 233, 256])
def test_names_up_to_256_bytes(clean_root: Path, size: int) -> None:
    writer = writer_of(clean_root)
    long_one = node(1, "é" * (size // 2) + "x" * (size % 2))
    slot = writer.add(long_one)
    writer.add(node(2))
    reader = NodesReader.attach(clean_root, ROUTER)
    assert reader.get(slot) == long_one
    assert reader.all() == [long_one, node(2)]
    writer.update(slot, flags=9)
    assert reader.get(slot) == long_one._replace(flags=9)
    writer.remove(slot)
    assert reader.all() == [node(2)]
    for number in range(3, 40):
        writer.remove(writer.add(node(number, "y" * size)))
    assert writer.statistics()["capacity"] == 16, "removed names must give their records back"
    writer.close()


def test_a_name_of_257_bytes_is_refused(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    with pytest.raises(RegionError) as refusal:
        writer.add(node(1, "x" * 257))
    assert refusal.value.code is RegionCode.TOO_LONG
    assert "257" in str(refusal.value)
    writer.close()


def test_update_changes_only_what_it_may(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    slot = writer.add(node(1))
    writer.update(slot, vpn_id=77, ilk=b"i" * 16)
    reader = NodesReader.attach(clean_root, ROUTER)
    assert reader.get(slot) == node(1)._replace(vpn_id=77, ilk=b"i" * 16)
    with pytest.raises(TypeError, match="name, uuid"):
        writer.update(slot, uuid=b"u" * 16, name=b"x")
    with pytest.raises(ValueError, match="tenant has 3 bytes"):
        writer.update(slot, tenant=b"abc")
    with pytest.raises(RegionError) as refusal:
        writer.remove(slot + 1)
    assert refusal.value.code is RegionCode.MISSING
    writer.close()


def test_changes_tell_what_happened_in_order(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    reader = NodesReader.attach(clean_root, ROUTER)
    before = reader.revision
    first = writer.add(node(1))
    second = writer.add(node(2))
    writer.update(first, flags=3)
    writer.remove(second)
    assert reader.changes(before) == [
        Change(before + 1, first, ChangeKind.ADDED),
        Change(before + 2, second, ChangeKind.ADDED),
        Change(before + 3, first, ChangeKind.UPDATED),
        Change(before + 4, second, ChangeKind.REMOVED),
    ]
    assert reader.changes(reader.revision) == []
    assert reader.changes(before + 3) == [Change(before + 4, second, ChangeKind.REMOVED)]
    assert reader.changes(before - 1) is None, "before this writer's time"
    assert reader.changes(reader.revision + 1) is None, "from the future: another region's number"
    writer.close()


def test_a_reader_that_fell_behind_is_told(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    reader = NodesReader.attach(clean_root, ROUTER)
    slot = writer.add(node(1))
    before = reader.revision
    for number in range(RING_ENTRIES - 1):
        writer.update(slot, flags=number)
    changes = reader.changes(before)
    assert changes is not None
    assert [change.revision for change in changes] == list(range(before + 1, reader.revision + 1))
    writer.update(slot, flags=0)
    assert reader.changes(before) is None
    writer.close()


def test_an_entry_overwritten_during_the_copy_is_not_believed(
    clean_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer laps the ring while a reader copies it: the reader must look again, not mix the two laps."""
    writer = writer_of(clean_root)
    slot = writer.add(node(1))
    reader = NodesReader.attach(clean_root, ROUTER)
    before = reader.revision
    writer.update(slot, flags=1)
    looks = []

    def lapping() -> int:
        if len(looks) == 1:
            for number in range(RING_ENTRIES + 5):
                writer.update(slot, flags=number)
        looks.append(reader.revision)
        return looks[-1]

    monkeypatch.setattr(reader, "_changes", lambda segment, since: _ring_of(reader, segment, since, lapping))
    assert reader.changes(before) is None
    assert len(looks) >= 3
    writer.close()


def _ring_of(reader: NodesReader, segment: object, since: int, revision: object) -> object:
    from skep_shm.ring import read_changes

    start, entries = reader.number("ring_offset"), reader.number("ring_entries")
    return read_changes(segment.mapping, start, entries, since, reader.number("base_revision"), revision)  # type: ignore[attr-defined, arg-type]


def test_growth_keeps_slots_revisions_and_changes(clean_root: Path) -> None:
    writer = writer_of(clean_root, capacity=2)
    reader = NodesReader.attach(clean_root, ROUTER)
    before = reader.revision
    slots = [writer.add(node(number)) for number in range(100)]
    assert slots == list(range(100))
    assert reader.header().generation > 3
    assert [reader.get(slot) for slot in slots] == [node(number) for number in range(100)]
    assert all(reader.find(node(number).uuid) == node(number) for number in range(100))
    changes = reader.changes(before)
    assert changes is not None
    assert [change.slot for change in changes] == slots
    writer.close()


def test_every_reader_of_a_hive(clean_root: Path) -> None:
    assert nodes_readers(clean_root) == []
    writers = [writer_of(clean_root, router) for router in (ROUTER, OTHER_ROUTER)]
    writers[1].add(node(5))
    readers = nodes_readers(clean_root)
    assert [reader.header().router_uuid for reader in readers] == [ROUTER, OTHER_ROUTER]
    assert [len(reader.all()) for reader in readers] == [0, 1]
    for writer in writers:
        writer.close()


def test_the_header_tells_who_writes(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    writer.heartbeat(123_456_789)
    header = NodesReader.attach(clean_root, ROUTER).header()
    assert (header.router_name, header.hive, header.heartbeat_ns) == ("RT.main@test", "test", 123_456_000)
    assert (header.live, header.high_water, header.capacity) == (0, 0, 16)
    writer.close()


def test_a_closed_reader_is_closed(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    slot = writer.add(node(1))
    reader = NodesReader.attach(clean_root, ROUTER)
    reader.close()
    reader.close()
    for use in (lambda: reader.get(slot), lambda: reader.revision, reader.all, lambda: reader.find(ROUTER)):
        with pytest.raises(RegionError) as refusal:
            use()
        assert refusal.value.code is RegionCode.CLOSED
    writer.close()
    writer.close()


def test_a_reader_outlives_its_writer_and_finds_the_next(clean_root: Path) -> None:
    writer = writer_of(clean_root)
    writer.add(node(1))
    reader = NodesReader.attach(clean_root, ROUTER)
    before = reader.revision
    writer.close()
    assert reader.revision != before, "the end is a change"
    with pytest.raises(RegionError) as refusal:
        reader.find(node(1).uuid)
    assert refusal.value.code is RegionCode.MISSING
    writer = writer_of(clean_root)
    writer.add(node(2))
    assert reader.all() == [node(2)]
    assert reader.changes(before) is None
    writer.close()


def test_many_nodes_in_one_bucket_are_all_found(clean_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain longer than usual, as an unlucky factor gives: multiplier 2^127 looks at one bit of the key."""
    monkeypatch.setattr("skep_shm.table.new_multiplier", lambda: (1 << 127 | 1).to_bytes(16, "little"))
    writer = writer_of(clean_root, capacity=256)
    slots = {number: writer.add(node(number * 2)) for number in range(200)}
    reader = NodesReader.attach(clean_root, ROUTER)
    assert all(reader.find(node(number * 2).uuid) == node(number * 2) for number in slots)
    for number in range(0, 200, 3):
        writer.remove(slots[number])
    for number in slots:
        expected = None if number % 3 == 0 else node(number * 2)
        assert reader.find(node(number * 2).uuid) == expected
    writer.close()


def test_the_ring_writer_seals_each_entry_with_its_revision() -> None:
    words = memoryview(bytearray(16 * 4)).cast("Q")
    RingWriter(words, 0, 4).write(5, 7, ChangeKind.ADDED)
    assert words[2] >> 16 == 5
    assert words[3] >> 16 == ChangeKind.ADDED << 32 | 7
