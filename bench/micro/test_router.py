"""Micro benchmarks of the forwarding core: a flow that hits, one that misses, a join, a look-up in the FIB.

The figures are per call of the core; the calls with 64 frames say so in their names.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bench.micro.core_rig import HIVE, SECOND, Rig, RigNode
from skep_shm import ConfigState, MatchKind, Route

FRAMES = 64
CROWD = 1000


@pytest.fixture
def rig() -> Rig:
    return Rig()


def exchange(sender: RigNode, consumers: list[RigNode], read: bytes) -> int:
    """One read of `read`, and every consumer takes its share; returns the bytes that went out."""
    before = sum(node.port.bytes_written for node in consumers)
    sender.send(read)
    for node in consumers:
        node.take(FRAMES // len(consumers))
    return sum(node.port.bytes_written for node in consumers) - before


@pytest.mark.parametrize("destinations", [1, 16, 64])
def test_flow_hit_64_frames(benchmark: Any, rig: Rig, destinations: int) -> None:
    sender = rig.node("AI.sender")
    consumers = [rig.node(f"AI.to{number}") for number in range(destinations)]
    frames = [sender.frame(f"AI.to{number % destinations}") for number in range(FRAMES)]
    read = b"".join(frames)
    exchange(sender, consumers, read)
    assert benchmark(lambda: exchange(sender, consumers, read)) >= len(read)


def test_flow_miss(benchmark: Any, rig: Rig) -> None:
    """A thread never seen before: decode, decide, install."""
    sender, consumer = rig.node("AI.sender"), rig.node("AI.to")
    numbers = itertools.count(1)

    def miss() -> int:
        rig.now += SECOND  # so that the allowance of misses is never what is measured
        before = consumer.port.bytes_written
        sender.send(sender.frame("AI.to", thread=next(numbers).to_bytes(32, "big")))
        consumer.take(1)
        return consumer.port.bytes_written - before

    assert benchmark(miss) >= 256


def test_join_and_leave_among_1000(benchmark: Any, rig: Rig) -> None:
    """Registry, FIB and grants for one newcomer: independent of how many are there."""
    from skep.protocol.codes import CloseReason

    for number in range(CROWD):
        rig.node(f"AI.crowd{number}")

    def come_and_go() -> None:
        newcomer = rig.node("AI.newcomer")
        rig.core.lost(newcomer.link, CloseReason.PEER_CLOSED, rig.now)

    benchmark(come_and_go)
    assert rig.core.counters.joined - rig.core.counters.left == CROWD


def test_fib_resolve_with_500_routes(benchmark: Any, rig: Rig) -> None:
    rig.node("AI.desk")
    routes = tuple(
        Route(prefix=f"AI.area{n}.", match_kind=MatchKind.PREFIX, next_hop_name="AI.desk") for n in range(500)
    )
    rig.core.configure(ConfigState(version=2, routes=routes), rig.now)
    assert benchmark(lambda: rig.core.fib.resolve(f"AI.desk@{HIVE}"))
