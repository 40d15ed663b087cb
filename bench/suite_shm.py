"""Shared memory as rows of the table: a read beside a writer at 1 kHz, and how soon a router obeys a change."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from bench.hive import BenchHive, open_hive
from bench.machine import NotRunError
from bench.plain_client import PlainNode, first_to_hear
from bench.rows import LIMIT, Bench, Case, Figures, Goal
from bench.shm_load import ROUTER, reads, written_table

WRITER_HZ = 1000
CHANGES = 20
CHANGE_WITHIN_S = 5.0


def node_reads(bench: Bench, peer: str) -> Figures:
    """A reader may keep what it decoded of an unchanged record, so records that it never read are a row of their own:
    each such call copies the record, verifies its checksum and decodes it."""
    before = os.sched_getaffinity(0)
    with written_table(WRITER_HZ, bench.where.broker) as root:
        os.sched_setaffinity(0, {bench.where.clients})
        try:
            return _often(root, bench.effort.reads) | _once(bench)
        finally:
            os.sched_setaffinity(0, before)


def _often(root: Path, count: int) -> Figures:
    from skep_shm import NodesReader

    reader = NodesReader.attach(root, ROUTER)
    nodes = reader.all()
    slots = random.Random(1).choices(range(len(nodes)), k=4096)
    get = reads(reader.get, slots, count)
    find = reads(reader.find, [nodes[slot].uuid for slot in slots], count)
    reader.close()
    return {"get_p50_us": get[0], "get_p99_us": get[1], "find_p50_us": find[0], "find_p99_us": find[1]}


def _once(bench: Bench) -> Figures:
    from skep_shm import NodesReader

    count = bench.effort.reads
    with written_table(WRITER_HZ, bench.where.broker, count) as root:
        reader = NodesReader.attach(root, ROUTER)
        slots = random.Random(2).sample(range(count), k=count)
        first = reads(reader.get, slots, count)
        reader.close()
    return {"first_p50_us": first[0], "first_p99_us": first[1]}


def change_seen(bench: Bench, peer: str) -> Figures:
    """From before the store of a new configuration to the first message that obeys it, over many changes."""
    hive = open_hive(bench.where.broker)
    try:
        sender, first, second = (
            PlainNode(hive.socket, f"AI.{name}@bench") for name in ("asks", "first", "second")
        )
        delays = sorted(_one_change(hive, sender, first, second, to_second) for to_second in _alternating())
        for node in (sender, first, second):
            node.close()
    finally:
        hive.close()
    return {"change_p50_ms": delays[len(delays) // 2], "change_max_ms": delays[-1]}


def _alternating() -> list[bool]:
    return [number % 2 == 0 for number in range(CHANGES)]


def _one_change(
    hive: BenchHive, sender: PlainNode, first: PlainNode, second: PlainNode, to_second: bool
) -> float:
    """Moves AI.first's messages to AI.second by a static route, or back, and sends until they arrive there."""
    from skep_shm import Route

    routes = (Route(prefix="AI.first@bench", next_hop_name="AI.second@bench"),) if to_second else ()
    wanted = second if to_second else first
    begun = time.monotonic()
    hive.publish(*routes)
    while time.monotonic() - begun < CHANGE_WITHIN_S:
        sender.send("AI.first@bench", "where does this go")
        heard = first_to_hear([first, second], 1.0)
        if heard is wanted:
            return (time.monotonic() - begun) * 1e3
        if heard is None:
            raise NotRunError("a message of the probe did not arrive within 1 s")
    raise NotRunError(f"the router did not obey a change within {CHANGE_WITHIN_S} s")


def _read_goal(name: str, figure: str, target: float | None) -> Goal:
    return Goal(name, LIMIT, figure, "us", True, target, 0.6, required="<= 0.6 us" if target else "")


def cases() -> list[Case]:
    name = "node-table read from Python, writer at 1 kHz"
    return [
        Case(
            name,
            ("skep",),
            node_reads,
            (
                _read_goal(f"{name}, p50", "get_p50_us", 1),
                _read_goal(f"{name}, p50 of records never read before", "first_p50_us", None),
                _read_goal("node-table look-up by uuid, writer at 1 kHz, p50", "find_p50_us", None),
            ),
        ),
        Case(
            "a change seen by the router",
            ("skep",),
            change_seen,
            (
                Goal(
                    "a change seen by the router, slowest of 20",
                    LIMIT,
                    "change_max_ms",
                    "ms",
                    True,
                    target=1,
                    limit=10,
                    required="<= 10 ms",
                ),
                Goal("a change seen by the router, p50", LIMIT, "change_p50_ms", "ms", True, limit=10),
            ),
            rounds=1,
        ),
    ]
