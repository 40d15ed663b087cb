"""Micro benchmarks of the regions of identity: look-ups that find nothing remembered, keys, puts, and a load."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.identity_load import SECRET, address_of, filled, ilk_of
from skep_shm import (
    ChannelsReader,
    IlkRecord,
    IlksReader,
    IlksWriter,
    PolicyReader,
    PolicyState,
    PolicyStatus,
    PolicyWriter,
    channel_key,
)

ILKS = 20_000  # many times what a reader remembers


@pytest.fixture(scope="module")
def regions() -> Iterator[Any]:
    with filled(ILKS) as made:
        yield made


def test_ilk_find(benchmark: Any, regions: Any) -> None:
    reader = IlksReader.attach(regions.root)
    turn = itertools.cycle([ilk_of(number * 7 % ILKS) for number in range(ILKS)]).__next__
    assert benchmark(lambda: reader.find(turn())).roles in ((), ("customer",))
    reader.close()


def test_ilk_find_and_all_members(benchmark: Any, regions: Any) -> None:
    """A look-up decodes nothing that nobody asks for; here all is asked for."""
    reader = IlksReader.attach(regions.root)
    turn = itertools.cycle([ilk_of(number * 7 % ILKS) for number in range(ILKS)]).__next__
    assert len(benchmark(lambda: tuple(reader.find(turn())))) == len(IlkRecord._fields)
    reader.close()


def test_ilk_find_again(benchmark: Any, regions: Any) -> None:
    reader = IlksReader.attach(regions.root)
    wanted = ilk_of(7)
    assert benchmark(lambda: reader.find(wanted)).ilk == wanted
    reader.close()


def test_channel_key(benchmark: Any) -> None:
    addresses = [address_of(number, number % 2) for number in range(64)]
    turn = itertools.cycle(addresses).__next__
    assert len(benchmark(lambda: channel_key(SECRET, *turn()))) == 16


def test_channel_find(benchmark: Any, regions: Any) -> None:
    reader = ChannelsReader.attach(regions.root)
    addresses = [address_of(number * 7 % ILKS, number % 2) for number in range(ILKS)]
    turn = itertools.cycle(addresses).__next__
    assert benchmark(lambda: reader.find(channel_key(SECRET, *turn()))).kind in ("whatsapp", "email")
    reader.close()


def test_ilk_put(benchmark: Any, regions: Any) -> None:
    numbers = itertools.count(1)
    wanted = ilk_of(9)
    benchmark(lambda: regions.ilks.put(IlkRecord(wanted, seal_until_ms=next(numbers))))
    reader = IlksReader.attach(regions.root)
    assert reader.find(wanted).seal_until_ms > 0
    reader.close()


def test_thousand_ilks_loaded(benchmark: Any, tmp_path: Path) -> None:
    records = [IlkRecord(ilk_of(number), roles=("customer",)) for number in range(1000)]

    def load() -> int:
        writer = IlksWriter.create(tmp_path, "bench", expected=1000)
        try:
            return writer.fill(records)
        finally:
            writer.close()

    assert benchmark(load) == 1000


def test_policy_publish_and_read(benchmark: Any, tmp_path: Path) -> None:
    writer = PolicyWriter.create(tmp_path, "bench")
    reader = PolicyReader.attach(tmp_path)
    versions = itertools.count(1)
    bundle = b"x" * 300_000

    def publish() -> int:
        writer.publish(PolicyState(next(versions), PolicyStatus.OK, bundle))
        return len(reader.read().bundle)

    try:
        assert benchmark(publish) == len(bundle)
    finally:
        reader.close()
        writer.close()
