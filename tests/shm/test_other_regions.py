"""The config, threads and records regions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.writers import ROUTER
from skep_shm import (
    Binding,
    ConfigReader,
    ConfigState,
    ConfigWriter,
    Grant,
    MatchKind,
    Record,
    RecordKind,
    RecordsReader,
    RecordsWriter,
    RegionCode,
    RegionError,
    Route,
    RouteAction,
    ThreadsReader,
    ThreadsWriter,
    VpnRule,
)
from skep_shm.config_codec import decode_state, encode_state

STATE = ConfigState(
    version=7,
    routes=(
        Route("AI.desk@test", next_hop_name="AI.desk2@test", metric=3, priority=1, installed_at_ms=9),
        Route("AI.", MatchKind.PREFIX, RouteAction.DROP),
        Route("WF.*", MatchKind.GLOB, next_hop_hive="other"),
    ),
    vpns=(VpnRule("AI.*", MatchKind.GLOB, 3, 5),),
    grants=(Grant(1000, "AI.*", 1, b"i" * 16, b"t" * 16, "whatsapp,http"), Grant(0, "*")),
    limits={"queue_bytes_max": 1 << 40, "flows": 0},
)


# -- config ---------------------------------------------------------------------------------------------------


def test_a_state_is_published_whole(clean_root: Path) -> None:
    writer = ConfigWriter.create(clean_root, "test")
    reader = ConfigReader.attach(clean_root)
    assert reader.read() == ConfigState()
    seen = reader.revision
    writer.publish(STATE)
    assert reader.revision == seen + 1
    assert reader.read() == STATE
    writer.close()


def test_a_state_larger_than_a_bank_goes_to_a_new_generation(clean_root: Path) -> None:
    writer = ConfigWriter.create(clean_root, "test")
    reader = ConfigReader.attach(clean_root)
    big = ConfigState(8, tuple(Route(f"AI.n{number}@test") for number in range(5000)))
    for state in (big, STATE, big):
        writer.publish(state)
        assert reader.read() == state
    assert reader.header().generation == 2
    writer.close()


def test_a_state_beyond_the_limit_leaves_the_old_one(
    clean_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skep_shm.config.BANK_BYTES_MAX", 1 << 16)
    writer = ConfigWriter.create(clean_root, "test")
    writer.publish(STATE)
    with pytest.raises(RegionError) as refusal:
        writer.publish(ConfigState(9, tuple(Route(f"AI.n{number}@test") for number in range(5000))))
    assert refusal.value.code is RegionCode.LIMIT
    assert ConfigReader.attach(clean_root).read() == STATE
    with pytest.raises(RegionError) as refusal:
        writer.publish(ConfigState(9, (Route("x" * 70_000),)))
    assert refusal.value.code is RegionCode.TOO_LONG
    writer.close()


texts = st.text(max_size=40)
u32s = st.integers(0, 2**32 - 1)
states = st.builds(
    ConfigState,
    version=st.integers(0, 2**64 - 1),
    routes=st.lists(
        st.builds(
            Route,
            texts,
            st.sampled_from(MatchKind),
            st.sampled_from(RouteAction),
            texts,
            texts,
            u32s,
            u32s,
            st.integers(0, 2**64 - 1),
        ),
        max_size=5,
    ).map(tuple),
    vpns=st.lists(st.builds(VpnRule, texts, st.sampled_from(MatchKind), u32s, u32s), max_size=5).map(tuple),
    grants=st.lists(
        st.builds(
            Grant,
            u32s,
            texts,
            st.integers(0, 2),
            st.binary(min_size=16, max_size=16),
            st.binary(min_size=16, max_size=16),
            texts,
        ),
        max_size=5,
    ).map(tuple),
    limits=st.dictionaries(texts, st.integers(0, 2**64 - 1), max_size=5),
)


@given(states, st.integers(0, 2**48 - 1))
@settings(max_examples=150, deadline=None)
def test_any_state_comes_back_as_it_was(state: ConfigState, revision: int) -> None:
    assert decode_state(encode_state(state, revision)) == state


# -- threads --------------------------------------------------------------------------------------------------


def binding(number: int, handler: str = "AI.desk@test", reason: str = "asked for a person") -> Binding:
    thread = number.to_bytes(4, "big") * 8
    return Binding(thread, handler, number.to_bytes(16, "big"), number * 10**9, reason, number)


def test_a_thread_is_bound_bound_anew_and_unbound(clean_root: Path) -> None:
    writer = ThreadsWriter.create(clean_root, "test")
    reader = ThreadsReader.attach(clean_root)
    writer.bind(binding(1))
    assert reader.find(binding(1).thread) == binding(1)
    writer.bind(binding(1, "IO.terminal@test"))
    assert reader.all() == [binding(1, "IO.terminal@test")]
    assert writer.unbind(binding(1).thread)
    assert not writer.unbind(binding(1).thread)
    assert reader.find(binding(1).thread) is None
    writer.close()


def test_longest_handler_and_cut_reason(clean_root: Path) -> None:
    writer = ThreadsWriter.create(clean_root)
    writer.bind(binding(1, "h" * 256, "é" * 100))
    found = ThreadsReader.attach(clean_root).find(binding(1).thread)
    assert found is not None
    assert (found.handler, found.reason) == ("h" * 256, "é" * 48)
    with pytest.raises(RegionError) as refusal:
        writer.bind(binding(2, "h" * 257))
    assert refusal.value.code is RegionCode.TOO_LONG
    with pytest.raises(ValueError, match="32 bytes"):
        writer.bind(Binding(b"short"))
    writer.close()


def test_thousands_of_bindings_grow_under_a_reader(clean_root: Path) -> None:
    writer = ThreadsWriter.create(clean_root)
    reader = ThreadsReader.attach(clean_root)
    for number in range(1500):
        writer.bind(binding(number))
    assert all(reader.find(binding(number).thread) == binding(number) for number in range(1500))
    assert writer.statistics()["live"] == 1500
    writer.close()


def test_more_long_bindings_than_the_first_segment_holds_are_taken_over(root: Path) -> None:
    """Each takes three records, so the new writer's table grows before anybody may see it."""
    bindings = [binding(number, "h" * 256, "r" * 96) for number in range(1000)]
    first = ThreadsWriter.create(root)
    for each in bindings:
        first.bind(each)
    reader = ThreadsReader.attach(root)
    first._owner.anchor.close()  # as death does: the lock is gone, everything else stays
    second = ThreadsWriter.create(root)
    assert all(reader.find(each.thread) == each for each in bindings)
    assert len(ThreadsReader.attach(root).all()) == 1000
    second.close()


# -- records --------------------------------------------------------------------------------------------------


def record(number: int) -> Record:
    return Record(
        RecordKind.HOP_IN,
        number,
        number * 1000,
        number.to_bytes(16, "big"),
        number,
        b"s" * 16,
        "AI.source@test",
        b"d" * 16,
        "AI.dest@test",
        "OK",
        f"number {number}",
    )


def test_records_are_read_with_a_cursor(clean_root: Path) -> None:
    writer = RecordsWriter.create(clean_root, ROUTER, capacity=64)
    reader = RecordsReader.attach(clean_root, ROUTER)
    assert reader.since()[0] == []
    for number in range(10):
        writer.append(record(number))
    records, cursor, lost = reader.since()
    assert (records, lost) == ([record(number) for number in range(10)], 0)
    assert reader.since(cursor) == ([], cursor, 0)
    writer.append(record(10))
    assert reader.since(cursor) == ([record(10)], cursor + 1, 0)
    writer.close()


def test_a_lapped_reader_is_told_how_many_it_lost(clean_root: Path) -> None:
    writer = RecordsWriter.create(clean_root, ROUTER, capacity=64)
    reader = RecordsReader.attach(clean_root, ROUTER)
    cursor = reader.since()[1]
    for number in range(200):
        writer.append(record(number))
    records, _, lost = reader.since(cursor)
    assert records == [record(number) for number in range(200 - len(records), 200)]
    assert len(records) == 63, "one is the writer's to overwrite"
    assert lost + len(records) == 200
    writer.close()


def test_long_strings_are_cut_to_whole_characters(clean_root: Path) -> None:
    writer = RecordsWriter.create(clean_root, ROUTER, capacity=4)
    writer.append(Record(1, 0, 0, source_name="x" + "é" * 200, detail="y" * 500, code="c" * 99))
    found = RecordsReader.attach(clean_root, ROUTER).since()[0][0]
    assert (found.source_name, found.detail, found.code) == ("x" + "é" * 35, "y" * 56, "c" * 24)
    writer.close()


def test_a_reader_finishes_the_old_ring_before_it_follows_a_new_writer(clean_root: Path) -> None:
    writer = RecordsWriter.create(clean_root, ROUTER, capacity=64)
    reader = RecordsReader.attach(clean_root, ROUTER)
    writer.append(record(1))
    _, cursor, _ = reader.since()
    writer.append(record(2))
    writer.close()
    writer = RecordsWriter.create(clean_root, ROUTER, capacity=64)
    writer.append(record(3))
    assert reader.since(cursor)[0] == [record(2), record(3)]
    writer.close()
