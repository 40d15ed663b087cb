"""Look-ups: views of a record, what is remembered, when it is believed, and methods that outlive their generation."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from shm.test_identity_regions import KINDS, agent, channel, filled, human, key16
from shm.writers import ROUTER, node
from skep_shm import (
    ChannelsReader,
    IlkRecord,
    IlksReader,
    IlksWriter,
    NodesReader,
    NodesWriter,
    RegionCode,
    RegionError,
)

LARGE = 20_000  # records: a reader remembers only what it reads twice


@pytest.mark.parametrize("name", ["ilks", "channels"])
def test_a_view_is_read_like_the_record_and_equal_to_it(clean_root: Path, name: str) -> None:
    kind = KINDS[name]
    writer = filled(kind, clean_root)
    reader = kind.reader.attach(clean_root)
    views = 0
    for number in range(100):
        found, record = reader.find(key16(number)), kind.make(number)
        views += type(found) is reader.view
        for member in record._fields:
            assert getattr(found, member) == getattr(record, member), member
        again = kind.reader.attach(clean_root).find(key16(number))
        assert found == record == again == found
        assert hash(found) == hash(record)
        assert (tuple(found), len(found), found[0], repr(found)) == (record, len(record), record[0], repr(record))
        assert found != kind.make(number + 1)
        assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == record
        assert kind.change(found) == kind.change(record)
    assert views > 50, "only what reaches beyond its record is decoded at once"
    writer.close()


def test_members_of_a_view_are_of_the_right_types(clean_root: Path) -> None:
    writer = IlksWriter.create(clean_root, "test")
    record = human(3)._replace(alias_until_ms=1 << 40, seal_until_ms=7, canonical=key16(9))
    writer.fill([record])
    found: Any = IlksReader.attach(clean_root).find(record.ilk)
    for member in record._fields:
        assert type(getattr(found, member)) is type(getattr(record, member)), member
    with pytest.raises(AttributeError):
        found.nickname  # noqa: B018
    with pytest.raises(AttributeError):
        found.kind = record.kind
    writer.close()


def test_a_view_stays_what_it_was_when_the_record_changes(clean_root: Path) -> None:
    writer = filled(KINDS["ilks"], clean_root)
    reader = IlksReader.attach(clean_root)
    before = reader.find(key16(1))
    writer.put(human(1)._replace(roles=("later",)))
    after = reader.find(key16(1))
    writer.remove(key16(1))
    assert before == human(1)
    assert after is not None
    assert after.roles == ("later",)
    assert reader.find(key16(1)) is None
    writer.close()
    assert before == human(1)


@pytest.mark.parametrize("size", [100, LARGE])
def test_what_is_remembered_is_believed_only_while_it_stands(clean_root: Path, size: int) -> None:
    writer = filled(KINDS["channels"], clean_root, size)
    reader = ChannelsReader.attach(clean_root)
    for number in (0, 1, size // 2, size - 1):
        wanted = key16(number)
        first, second, third = (reader.find(wanted) for _ in range(3))
        assert first == second == third == channel(number)
        assert third is second, "remembered at the second look, at the latest"
        slot = writer.put(channel(number)._replace(ilk=b"z" * 16))
        for _ in range(3):
            found = reader.find(wanted)
            assert found is not None
            assert found.ilk == b"z" * 16
            assert reader.get(slot) == found
        place = writer._table._start(slot) + 60
        writer._table._segment.mapping[place] ^= 1
        assert reader.find(wanted) is reader.get(slot) is None, "damaged after it was remembered"
        writer._table._segment.mapping[place] ^= 1
        assert reader.find(wanted) == found
        writer.remove(wanted)
        assert reader.find(wanted) is reader.get(slot) is None
    writer.close()


def test_the_rest_of_a_text_is_not_taken_for_a_record(clean_root: Path) -> None:
    """What a sender wrote into a long text stands where others have their key: it is nobody's record."""
    writer = NodesWriter.create(clean_root, ROUTER, "RT.main@test", "test")
    long_one = node(1, "AI." + "n" * 29 + "k" * 16 + "@test" + "x" * 40)
    writer.add(long_one)
    reader = NodesReader.attach(clean_root, ROUTER)
    words, index = writer._table._segment.words, writer._table._index
    bucket = index.bucket(b"k" * 16)
    kept, piece = words[bucket], index.first(long_one.uuid) - 1
    assert reader.raw(piece) is None
    words[bucket] = words[index.bucket(long_one.uuid)] - (1 << 16)  # as after a removal, while a reader was on its way
    assert reader.find(b"k" * 16) is None
    words[bucket] = kept
    assert reader.find(long_one.uuid) == long_one
    writer.close()


def test_a_kept_method_follows_growth_and_ends_with_its_reader(clean_root: Path) -> None:
    writer = NodesWriter.create(clean_root, ROUTER, "RT.main@test", "test", capacity=4)
    slot = writer.add(node(0))
    reader = NodesReader.attach(clean_root, ROUTER)
    get, find = reader.get, reader.find
    for number in range(1, 100):
        added = writer.add(node(number))
        assert get(added) == find(node(number).uuid) == node(number)
    writer.close()
    writer = NodesWriter.create(clean_root, ROUTER, "RT.main@test", "test")
    assert get(writer.add(node(7))) == find(node(7).uuid) == node(7)
    reader.close()
    for use in (lambda: get(slot), lambda: find(node(7).uuid)):
        with pytest.raises(RegionError) as refusal:
            use()
        assert refusal.value.code is RegionCode.CLOSED
    writer.close()


def test_records_of_identity_that_are_put_again_as_they_were_found(clean_root: Path) -> None:
    writer = IlksWriter.create(clean_root, "test")
    writer.fill([human(1), agent(5)])
    reader = IlksReader.attach(clean_root)
    for number in (1, 5):
        found = reader.find(key16(number))
        assert found is not None
        writer.put(found)
        assert isinstance(reader.get(0), IlkRecord)
        assert reader.find(key16(number)) == found
    writer.close()
