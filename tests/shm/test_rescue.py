"""Somebody removes a living writer's files from /dev/shm: they come back, with their contents, and readers follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shm.writers import ROUTER, node
from skep_shm import (
    Binding,
    ConfigReader,
    ConfigState,
    ConfigWriter,
    NodesReader,
    NodesWriter,
    Record,
    RecordsReader,
    RecordsWriter,
    RegionCode,
    RegionError,
    Route,
    ThreadsReader,
    ThreadsWriter,
    hive_prefix,
)
from skep_shm import rescue as rescue_module
from skep_shm.segment import segment_names, unlink

S = 1_000_000_000


@dataclass
class Case:
    """One kind of region: how it is written, read and added to, in the same words for all four."""

    writer: Any
    attach: Callable[[], Any]
    add: Callable[[int], object]
    read: Callable[[Any], list[Any]]


def nodes_case(root: Path) -> Case:
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test", capacity=2)
    return Case(
        writer,
        lambda: NodesReader.attach(root, ROUTER),
        lambda number: writer.add(node(number)),
        lambda reader: sorted(record.name for record in reader.all()),
    )


def threads_case(root: Path) -> Case:
    writer = ThreadsWriter.create(root)
    return Case(
        writer,
        lambda: ThreadsReader.attach(root),
        lambda number: writer.bind(Binding(bytes([number]) * 32, f"AI.{number}@test")),
        lambda reader: sorted(binding.handler for binding in reader.all()),
    )


def config_case(root: Path) -> Case:
    writer, state = ConfigWriter.create(root, "test"), [ConfigState()]

    def add(number: int) -> None:
        routes = (*state[0].routes, Route(f"AI.{number}"))
        state[0] = ConfigState(version=number, routes=routes)
        writer.publish(state[0])

    return Case(
        writer,
        lambda: ConfigReader.attach(root),
        add,
        lambda reader: [route.prefix for route in reader.read().routes],
    )


def records_case(root: Path) -> Case:
    writer = RecordsWriter.create(root, ROUTER)
    return Case(
        writer,
        lambda: RecordsReader.attach(root, ROUTER),
        lambda number: writer.append(
            Record(1, 0, number, bytes(16), number, bytes(16), "", bytes(16), "", "", str(number))
        ),
        lambda reader: [record.detail for record in reader.since(0)[0]],
    )


@pytest.fixture(params=[nodes_case, threads_case, config_case, records_case], ids=lambda made: made.__name__)
def case(request: pytest.FixtureRequest, clean_root: Path) -> Iterator[Case]:
    made = request.param(clean_root)
    yield made
    made.writer.close()
    made.writer.close()


def names(root: Path, only: str) -> list[str]:
    found = segment_names(hive_prefix(root))
    wanted = {
        "anchor": lambda name: "." not in name,
        "segment": lambda name: "." in name,
        "both": lambda _: True,
    }
    return [name for name in found if wanted[only](name)]


@pytest.mark.goal("G1")
@pytest.mark.parametrize("only", ["anchor", "segment", "both"])
def test_removed_names_come_back_with_their_contents(case: Case, clean_root: Path, only: str) -> None:
    for number in range(1, 6):
        case.add(number)
    reader = case.attach()
    before = case.read(reader)
    seen = reader.revision
    for name in names(clean_root, only):
        unlink(name)
    case.writer.heartbeat(5 * S)
    fresh = case.attach()
    assert case.read(fresh) == case.read(reader) == before
    case.add(6)
    assert reader.revision == fresh.revision > seen
    assert len(case.read(fresh)) == len(case.read(reader)) == 6
    fresh.close()
    reader.close()


def test_readers_that_compare_revisions_notice_at_once(case: Case, clean_root: Path) -> None:
    """Whoever waits for the word to move looks, lands on the new files, and misses nothing that comes next."""
    case.add(1)
    reader = case.attach()
    seen = reader.revision
    for name in names(clean_root, "both"):
        unlink(name)
    case.writer.heartbeat(5 * S)
    moved = reader.revision
    assert moved != seen
    case.read(reader)
    case.add(2)
    assert reader.revision not in (seen, moved)
    assert len(case.read(reader)) == 2
    reader.close()


def test_names_are_looked_at_once_a_second(case: Case, clean_root: Path) -> None:
    case.writer.heartbeat(5 * S)
    for name in names(clean_root, "both"):
        unlink(name)
    case.writer.heartbeat(6 * S - 1)
    assert names(clean_root, "both") == []
    case.writer.heartbeat(6 * S)
    assert len(names(clean_root, "both")) == 2


def test_full_memory_is_logged_once_and_tried_again(
    case: Case, clean_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case.add(1)

    def full(*_: object) -> None:
        raise RegionError(RegionCode.NO_SPACE, "region", "no room")

    for name in names(clean_root, "both"):
        unlink(name)
    with monkeypatch.context() as patched:
        patched.setattr("skep_shm.region.create_segment", full)
        for second in (5, 6, 7):
            case.writer.heartbeat(second * S)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    case.add(2)
    case.writer.heartbeat(8 * S)
    reader = case.attach()
    assert len(case.read(reader)) == 2
    reader.close()


def test_a_name_that_another_writer_took_stays_its(
    case: Case, clean_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case.add(1)
    (anchor,) = names(clean_root, "anchor")
    for name in names(clean_root, "both"):
        unlink(name)
    other = type(case.writer)
    taken = (
        other.create(clean_root, ROUTER, "RT.other@test", "test")
        if other in (NodesWriter, RecordsWriter)
        else other.create(clean_root, "test")
    )
    case.writer.heartbeat(5 * S)
    assert "another process writes" in caplog.text
    case.add(2)  # into nowhere, and without harm
    case.writer.close()
    reader = case.attach()
    assert case.read(reader) == []
    reader.close()
    taken.close()
    assert anchor not in names(clean_root, "both")


def test_a_look_costs_little_and_changes_nothing(case: Case, clean_root: Path) -> None:
    case.add(1)
    before = names(clean_root, "both")
    for second in range(10):
        case.writer.heartbeat(second * S)
    assert names(clean_root, "both") == before
    assert rescue_module.LOOK_EVERY_NS == S
