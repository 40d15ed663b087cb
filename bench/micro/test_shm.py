"""Micro benchmarks of shared memory: reads, writes, look-ups, and a change from its writer to a reader that asks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.shm_load import ROUTER, node_record, table
from skep_shm import (
    Binding,
    ConfigReader,
    ConfigState,
    ConfigWriter,
    NodesReader,
    Route,
    ThreadsReader,
    ThreadsWriter,
)

NODES = 1000
ROUTES = 100


@pytest.fixture
def nodes() -> Iterator[tuple[Any, Any, list[int]]]:
    """Writer, reader and slots of a table of 1,000 nodes."""
    with table(NODES) as (root, writer, slots):
        reader = NodesReader.attach(root, ROUTER)
        yield writer, reader, slots
        reader.close()


def test_node_get(benchmark: Any, nodes: tuple[Any, Any, list[int]]) -> None:
    _, reader, slots = nodes
    turn = itertools.cycle(slots).__next__
    assert benchmark(lambda: reader.get(turn())).name.startswith("AI.node")


def test_node_find(benchmark: Any, nodes: tuple[Any, Any, list[int]]) -> None:
    _, reader, _ = nodes
    wanted = node_record(NODES // 2)
    assert benchmark(lambda: reader.find(wanted.uuid)) == wanted


def test_node_update(benchmark: Any, nodes: tuple[Any, Any, list[int]]) -> None:
    writer, reader, slots = nodes
    benchmark(lambda: writer.update(slots[5], vpn_id=77))
    assert reader.get(slots[5]).vpn_id == 77


def test_node_join_and_leave(benchmark: Any, nodes: tuple[Any, Any, list[int]]) -> None:
    writer, reader, _ = nodes
    newcomer = node_record(NODES + 1)
    benchmark(lambda: writer.remove(writer.add(newcomer)))
    assert reader.find(newcomer.uuid) is None


def test_change_propagation(benchmark: Any, nodes: tuple[Any, Any, list[int]]) -> None:
    """An update, until a reader has read the ring and the changed record."""
    writer, reader, slots = nodes
    numbers = itertools.count(1)

    def change() -> bool:
        seen, number = reader.revision, next(numbers)
        writer.update(slots[9], vpn_id=number)
        told = reader.changes(seen)
        return [reader.get(change.slot).vpn_id for change in told] == [number]

    assert benchmark(change)


def test_revision_unchanged(benchmark: Any, nodes: tuple[Any, Any, list[int]]) -> None:
    """What a reader pays when nothing happened: one word."""
    _, reader, _ = nodes
    assert benchmark(lambda: reader.revision) == reader.revision


def test_config_publish_and_read(benchmark: Any, tmp_path: Path) -> None:
    writer = ConfigWriter.create(tmp_path, "bench")
    reader = ConfigReader.attach(tmp_path)
    routes = tuple(Route(prefix=f"AI.route{n}@bench", next_hop_name="AI.other@bench") for n in range(ROUTES))
    versions = itertools.count(1)

    def publish() -> int:
        writer.publish(ConfigState(version=next(versions), routes=routes))
        return len(reader.read().routes)

    try:
        assert benchmark(publish) == ROUTES
    finally:
        reader.close()
        writer.close()


def test_binding_find(benchmark: Any, tmp_path: Path) -> None:
    writer = ThreadsWriter.create(tmp_path, "bench")
    bindings = [_binding(number) for number in range(NODES)]
    for binding in bindings:
        writer.bind(binding)
    reader = ThreadsReader.attach(tmp_path)
    try:
        assert benchmark(lambda: reader.find(bindings[7].thread)).handler == "AI.desk@bench"
    finally:
        reader.close()
        writer.close()


def _binding(number: int) -> Binding:
    return Binding(
        thread=hashlib.sha256(number.to_bytes(8, "big")).digest(),
        handler="AI.desk@bench",
        handler_uuid=bytes(16),
        lease_until_ns=0,
        reason="benchmark",
        revision=0,
    )
