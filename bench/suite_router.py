"""Routers under the C load generator: one way and round trip.

Shapes follow the table of docs/benchmarks.md. `relay` is the floor: what a router costs that only looks up a number.
"""

from __future__ import annotations

from functools import partial

from bench import loadgen
from bench.machine import UNPINNED, moved
from bench.rows import Bench, Case, Figures, Goal, atleast, atmost

ROUTERS = ("skep", "nats", "relay")


def one_way(
    bench: Bench,
    peer: str,
    *,
    size: int = 256,
    frames_per_write: int = 64,
    dests: int = 1,
    vary: int = 0,
    shape: str = "plain",
) -> Figures:
    """Messages a second, and per CPU-second of the router. `shape` counts for Skep alone: peers have plain messages."""
    broker = bench.brokers.get(peer)
    free = peer.endswith("-free")
    where = UNPINNED if free else bench.where
    shaped: dict[str, object] = {"shape": shape, "tap": 1} if peer == "skep" and shape == "sdk" else {}
    return loadgen.run(
        broker,
        "oneway",
        where.clients,
        size=size,
        fpw=frames_per_write,
        dests=dests,
        vary=vary,
        window=loadgen.window(size, frames_per_write),
        seconds=bench.effort.seconds,
        warm=bench.effort.warm_s,
        **shaped,
    )


def round_trip(bench: Bench, peer: str, *, size: int = 256, one_core: bool = False) -> Figures:
    """With one message in flight only one process has work at a time: on two cores most of a round trip is the waking
    of an idle core, four times; on one core it is the work itself. Both are measured."""
    broker = bench.brokers.get(peer)
    where = bench.where
    with moved(broker.pid, where.clients if one_core else -1, where.broker):
        return loadgen.run(
            broker, "rtt", where.clients, size=size, seconds=bench.effort.seconds, warm=bench.effort.warm_s
        )


def _rate_case(
    name: str,
    target: float,
    required: str,
    *,
    size: int = 256,
    frames_per_write: int = 64,
    dests: int = 1,
    vary: int = 0,
    shape: str = "plain",
) -> Case:
    measure = partial(one_way, size=size, frames_per_write=frames_per_write, dests=dests, vary=vary, shape=shape)
    goals = (
        Goal(name, "nats", "rate", "msg/s", target=atleast(target), size=size, required=required),
        Goal(
            f"{name}, per CPU-second of the router",
            "nats",
            "per_cpu_s",
            "msg/CPU-s",
            target=atleast(target),
            size=size,
            required=required,
        ),
        Goal(name, "relay", "rate", "msg/s", size=size),
    )
    return Case(name, ROUTERS, measure, goals)


def _trip_case(name: str, *, one_core: bool) -> Case:
    nats, relay = "<= 0.6 x nats-server", "<= 1.5 x C relay"
    goals = (
        Goal(f"{name}, p50", "nats", "p50_us", "us", True, atmost(0.6), size=256, required=nats),
        Goal(f"{name}, p50", "relay", "p50_us", "us", True, atmost(1.5), size=256, required=relay),
        Goal(f"{name}, p99", "nats", "p99_us", "us", True, size=256),
    )
    return Case(name, ROUTERS, partial(round_trip, one_core=one_core), goals)


def cases() -> list[Case]:
    one = "routed one-way, 64 frames a write"
    trip = "routed round trip, C clients"
    return [
        _rate_case(f"{one}, 1 destination", 1.2, ">= 1.2 x nats-server"),
        _rate_case(f"{one}, 1 destination, 1 KiB", 1.3, ">= 1.3 x nats-server", size=1024),
        _rate_case(f"{one}, 16 destinations", 1.3, ">= 1.3 x nats-server", dests=16),
        _rate_case(f"{one}, 1 destination, sizes differ", 1.2, ">= 1.2 x nats-server", vary=200),
        _rate_case(f"{one}, 16 destinations, sizes differ", 1.3, ">= 1.3 x nats-server", dests=16, vary=200),
        _rate_case(f"{one}, 256 destinations", 1.0, ">= 1.0 x nats-server", dests=256),
        _rate_case(
            "routed one-way, 1 frame a write, 16 destinations",
            0.7,
            ">= 0.7 x nats-server",
            frames_per_write=1,
            dests=16,
        ),
        _rate_case(
            f"{one}, 1 destination, the SDK's default message",
            0.5,
            ">= 0.5 x nats-server's plain message",
            shape="sdk",
        ),
        _trip_case(f"{trip}, one core", one_core=True),
        _trip_case(f"{trip}, two cores", one_core=False),
        Case(
            f"{one}, 1 destination, nothing pinned",
            ("skep-free", "nats-free"),
            one_way,
            (
                Goal(
                    f"{one}, 1 destination, nothing pinned",
                    "nats-free",
                    "rate",
                    "msg/s",
                    size=256,
                    of="skep-free",
                ),
                Goal(
                    f"{one}, 1 destination, nothing pinned, per CPU-second of the router",
                    "nats-free",
                    "per_cpu_s",
                    "msg/CPU-s",
                    size=256,
                    of="skep-free",
                ),
            ),
            quick=False,
        ),
    ]
