"""Who somebody is, as rows of the table: filling the regions of identity, looking up in them, and one change.

The size is a million interlocutors with two channels each in a full run, 50,000 in a quick one. A look-up of a large
table nearly always reads a record that this reader never read, so that is what is measured: keys in random order. The
same is measured at 10,000. The peers answer one look-up by key each, on the other core.

A second case is what it costs to make somebody durable (`identity_provision` says what a caller is), on SQLite and on
PostgreSQL, beside an append and its fdatasync on the same disk in the same run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.identity_load import SECRET, Filled, address_of, filled, ilk_of, newcomer, sample
from bench.rows import LIMIT, Bench, Case, Effort, Figures, Goal, atleast, atmost

NAME = "interlocutors and channels in shared memory"
SIZES = {"full": (1_000_000, 10_000), "quick": (50_000, 10_000), "tiny": (2_000, 500)}
FILL_S, KIB_PER_ILK, ILK_US, CHANNEL_US, CHANGE_MS = 60.0, 1.0, 2.0, 4.0, 10.0
SIZE_FACTOR = 1.5


def identity(bench: Bench, peer: str) -> Figures:
    large, small = _sizes(bench.effort)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {bench.where.clients})
    try:
        if peer == "skep":
            return _regions(large, bench.effort.reads) | _small(small, bench.effort.reads)
        return _peer(peer, large, bench)
    finally:
        os.sched_setaffinity(0, before)


def _sizes(effort: Effort) -> tuple[int, int]:
    return SIZES[effort.name]


def _regions(size: int, reads: int) -> Figures:
    with filled(size) as regions:
        figures = {"fill_s": regions.fill_s, "kib_per_ilk": regions.shared_bytes() / size / 1024}
        return figures | _look_ups(regions, reads) | _changes(regions, reads)


def _small(size: int, reads: int) -> Figures:
    with filled(size) as regions:
        return {f"{name}_small": value for name, value in _look_ups(regions, reads).items()}


def _look_ups(regions: Filled, reads: int) -> Figures:
    from skep_shm import ChannelsReader, IlksReader, channel_key

    ilks, channels = IlksReader.attach(regions.root), ChannelsReader.attach(regions.root)
    numbers = sample(regions.size, reads)
    addresses = [address_of(number, turn % 2) for turn, number in enumerate(numbers)]
    assert all(ilks.find(ilk_of(number)) is not None for number in numbers[:100])
    assert all(channels.find(channel_key(SECRET, *each)) is not None for each in addresses[:100])
    by_ilk = _timed(ilks.find, [ilk_of(number) for number in numbers])
    by_channel = _timed(lambda each: channels.find(channel_key(SECRET, *each)), addresses)
    ilks.close()
    channels.close()
    return {
        "ilk_p50_us": by_ilk[0],
        "ilk_p99_us": by_ilk[1],
        "channel_p50_us": by_channel[0],
        "channel_p99_us": by_channel[1],
    }


def _timed(look_up: Callable[[Any], object], keys: Sequence[Any]) -> tuple[float, float]:
    """p50 and p99 in us of one look-up of each key. Reading the clock takes a twentieth of one: its own p50, measured
    between the look-ups, is taken off."""
    clock, taken, clocks = time.perf_counter_ns, [], []
    for key in keys:
        begun = clock()
        nothing = clock()
        look_up(key)
        ended = clock()
        taken.append(ended - nothing)
        clocks.append(nothing - begun)
    clocks.sort()
    off = clocks[len(clocks) // 2]
    return _percentiles([one - off for one in taken])


def _percentiles(taken_ns: list[int]) -> tuple[float, float]:
    taken_ns.sort()
    return taken_ns[len(taken_ns) // 2] / 1e3, taken_ns[len(taken_ns) * 99 // 100] / 1e3


def _changes(regions: Filled, reads: int) -> Figures:
    """New interlocutors and changed ones in turn, each until a reader was told and has read the record."""
    from skep_shm import IlkRecord, IlksReader

    reader = IlksReader.attach(regions.root)
    numbers = sample(regions.size, reads)
    taken = []
    for turn, number in enumerate(numbers[: max(reads // 4, 100)]):
        record = IlkRecord(ilk_of(number) if turn % 2 else newcomer(), seal_until_ms=turn)
        begun, seen = time.perf_counter_ns(), reader.revision
        regions.ilks.put(record)
        told = reader.changes(seen)
        assert told is not None
        assert reader.get(told[0].slot) == record
        taken.append(time.perf_counter_ns() - begun)
    reader.close()
    taken.sort()
    return {"change_p50_us": taken[len(taken) // 2] / 1e3, "change_max_ms": taken[-1] / 1e6}


def _peer(peer: str, size: int, bench: Bench) -> Figures:
    from bench import databases

    count = min(size, databases.ROWS_MAX)
    keys = [ilk_of(number) for number in range(count)]
    wanted = [keys[number] for number in sample(count, bench.effort.reads)]
    look_up = databases.redis_get if peer == "redis" else databases.postgres_select
    p50, p99 = _percentiles(look_up(keys, wanted, bench.where.broker))
    return {"ilk_p50_us": p50, "ilk_p99_us": p99}


def _limit(name: str, figure: str, unit: str, limit: float) -> Goal:
    return Goal(name, LIMIT, figure, unit, True, 1, limit, required=f"<= {limit:g} {unit}")


def _same_as_small(name: str, figure: str) -> Goal:
    required = f"<= {SIZE_FACTOR} x at 10,000"
    target = atmost(SIZE_FACTOR)
    return Goal(name, LIMIT, figure, "us", True, target, peer_figure=f"{figure}_small", required=required)


def _against(name: str, peer: str, shown: str, factor: float) -> Goal:
    target = atleast(factor)
    return Goal(name, peer, "ilk_p50_us", "us", True, target, required=f">= {factor:g} x", shown=shown)


PROVISIONING = "provisioning of interlocutors, durable"
PER_S, SYNC_FACTOR = 10_000, 2.0
COUNTS = {"full": 200, "quick": 40, "tiny": 4}  # requests of each caller, in each round
STORES = {"skep": "sqlite", "skep on PostgreSQL": "postgres"}


def provisioning(bench: Bench, peer: str) -> Figures:
    from bench.identity_provision import provisioning as measured

    return measured(STORES[peer], COUNTS[bench.effort.name])


def _provisioning() -> Case:
    one, many = "provisioning, one caller", "provisioning, 64 callers"
    floor = {"peer_figure": "floor_us", "shown": "append + fdatasync"}
    postgres = {"of": "skep on PostgreSQL"}
    rate = (LIMIT, "many_per_s", "/s", False, 1, PER_S)
    needed = f">= {PER_S:,} a second"
    goals = (
        Goal(f"{one}, SQLite, p50", LIMIT, "p50_us", "us", True, atmost(SYNC_FACTOR), **floor,
             required=f"<= {SYNC_FACTOR:g} x append + fdatasync"),
        Goal(f"{one}, PostgreSQL, p50", LIMIT, "p50_us", "us", True, **floor, **postgres),
        Goal(f"{many}, SQLite", *rate, required=needed),
        Goal(f"{many}, PostgreSQL", *rate, required=needed, **postgres),
    )  # fmt: skip
    return Case(PROVISIONING, tuple(STORES), provisioning, goals, rounds=1)


def cases() -> list[Case]:
    by_ilk, by_channel = "look-up of an interlocutor by ILK, p50", "look-up of a channel by address, p50"
    goals = (
        _limit("regions of identity filled from SQLite", "fill_s", "s", FILL_S),
        _limit("shared memory for an interlocutor and two channels", "kib_per_ilk", "KiB", KIB_PER_ILK),
        _limit(by_ilk, "ilk_p50_us", "us", ILK_US),
        _limit(by_channel, "channel_p50_us", "us", CHANNEL_US),
        _same_as_small(f"{by_ilk}, against a region of 10,000", "ilk_p50_us"),
        _same_as_small(f"{by_channel}, against a region of 10,000", "channel_p50_us"),
        _against(f"{by_ilk}, against Redis", "redis", "Redis GET", 20),
        _against(f"{by_ilk}, against PostgreSQL", "postgres", "PostgreSQL, primary key", 50),
        _limit("a change of an interlocutor until it is read, slowest", "change_max_ms", "ms", CHANGE_MS),
        Goal(
            "a change of an interlocutor until it is read, p50", LIMIT, "change_p50_us", "us", True, limit=100
        ),
    )
    return [Case(NAME, ("skep", "redis", "postgres"), identity, goals, rounds=1), _provisioning()]
