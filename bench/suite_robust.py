"""Robustness in figures: a slow consumer beside another flow of its sender (G8), floods by another uid (G9).

G8 compares the p99 of pings with and without the stuck consumer, on the same connection. The sender is measured
twice: one that obeys PAUSE, as the SDK does, and one that ignores it. G9 compares the victim's p99 with its own p99
alone, and its throughput with its fair share: half of what it reaches alone. The flooder is niced, so that what is
measured is the router's fairness and not the scheduler's on the clients' core.
"""

from __future__ import annotations

import json
from functools import partial

from bench import loadgen
from bench.brokers import Broker
from bench.children import Child, start
from bench.hive import FLOODER_UID, BenchHive, open_hive
from bench.machine import NotRunError, need_root, private_kib
from bench.rows import LIMIT, Bench, Case, Figures, Goal

BULK_BYTES = 4096
BULK_RATE = 10_000
QUOTA_KIB = 8 * 1024 * 1.1
FLOOD_NICE = 19
FLOODS = (("own", 1), ("own", 50), ("unknown", 1), ("unknown", 50), ("selectors", 1), ("selectors", 50))


def slow_consumer(bench: Bench, peer: str) -> Figures:
    """Calm and stuck in turn, twice; p99 of the pings in each."""
    hive = open_hive(bench.where.broker)
    try:
        broker = Broker("skep", hive.pid, str(hive.socket), hive=hive)
        seconds = max(0.3, bench.effort.seconds * 2)
        calm = _slow(broker, bench, "calm", 1, seconds)
        memory = private_kib(hive.pid)
        stuck = _slow(broker, bench, "stuck", 1, seconds)
        rude = _slow(broker, bench, "stuck", 0, seconds)
        return {
            "calm_p99_us": calm["p99_us"],
            "p99_us": stuck["p99_us"],
            "rude_p99_us": rude["p99_us"],
            "grown_kib": max(0, private_kib(hive.pid) - memory),
            "silent": abs(stuck["silent"]) + abs(rude["silent"]),
            "first_refusal_ms": rude["first_refusal_ms"],
            "bulk_sent": rude["bulk_sent"],
        }
    finally:
        hive.close()


def _slow(broker: Broker, bench: Bench, kind: str, obey: int, seconds: float) -> Figures:
    return loadgen.run(
        broker,
        "slow",
        bench.where.clients,
        kind=kind,
        obey=obey,
        rate=BULK_RATE,
        size=BULK_BYTES,
        seconds=seconds,
    )


def flood(bench: Bench, peer: str, *, kind: str, conns: int) -> Figures:
    """The victim alone, then beside the flood: round trips, then one way."""
    need_root("a flood from another uid")
    hive = open_hive(bench.where.broker)
    try:
        broker = Broker("skep", hive.pid, str(hive.socket), hive=hive)
        alone = _victim(broker, bench)
        beside, fired = _under_fire(hive, broker, bench, kind, conns)
        return {
            "alone_p99_us": alone["p99_us"],
            "p99_us": beside["p99_us"],
            "fair_rate": alone["rate"] / 2,
            "rate": beside["rate"],
            "flood_sent": fired.get("sent", 0.0),
            "flood_delivered": fired.get("delivered", 0.0),
            "flood_told": fired.get("told", 0.0),
        }
    finally:
        hive.close()


def _under_fire(
    hive: BenchHive, broker: Broker, bench: Bench, kind: str, conns: int
) -> tuple[Figures, Figures]:
    seconds = 4 * bench.effort.seconds + 4 * bench.effort.warm_s + 1
    argv = loadgen.command(
        broker,
        "flood",
        bench.where.clients,
        kind=kind,
        conns=conns,
        uid=FLOODER_UID,
        seconds=seconds,
        size=256,
    )
    gun = start(argv, bench.where.clients, pipe=True, nice=FLOOD_NICE)
    try:
        assert gun.process.stdout is not None
        if gun.process.stdout.readline().strip() != b"ready":
            raise NotRunError(f"the flood did not start: {gun.complaint()}")
        return _victim(broker, bench), _fired(gun)
    finally:
        gun.kill()
        gun.log.close()


def _fired(gun: Child) -> Figures:
    """What the flood did, when it ended by itself; a router that closes flooders is no error of the row."""
    out, _ = gun.process.communicate(timeout=60)
    if gun.process.returncode or not out:
        return {}
    found: Figures = json.loads(out.splitlines()[-1])
    return found


def _victim(broker: Broker, bench: Bench) -> Figures:
    effort = bench.effort
    trips = loadgen.run(
        broker, "rtt", bench.where.clients, size=256, seconds=effort.seconds, warm=effort.warm_s
    )
    rate = loadgen.run(
        broker,
        "oneway",
        bench.where.clients,
        size=256,
        fpw=64,
        window=loadgen.window(256, 64),
        seconds=effort.seconds,
        warm=effort.warm_s,
    )
    return {"p99_us": trips["p99_us"], "rate": rate["rate"]}


def cases() -> list[Case]:
    return [_slow_case(), *(_flood_case(kind, conns) for kind, conns in FLOODS)]


def _slow_case() -> Case:
    name = "G8 slow consumer"
    return Case(
        name,
        ("skep",),
        slow_consumer,
        (
            Goal(
                f"{name}: p99 of another flow of the same sender",
                LIMIT,
                "p99_us",
                "us",
                True,
                target=1 / 1.25,
                peer_figure="calm_p99_us",
                size=256,
                required="<= 1.25 x calm",
            ),
            Goal(
                f"{name}: the same, sender ignores PAUSE",
                LIMIT,
                "rude_p99_us",
                "us",
                True,
                target=1 / 1.25,
                peer_figure="calm_p99_us",
                size=256,
                required="<= 1.25 x calm",
            ),
            Goal(
                f"{name}: router memory grown",
                LIMIT,
                "grown_kib",
                "KiB",
                True,
                target=1,
                limit=QUOTA_KIB,
                required="<= 8 MiB + 10 %",
            ),
            Goal(
                f"{name}: neither delivered nor told",
                LIMIT,
                "silent",
                "messages",
                True,
                target=1,
                limit=0,
                required="= 0",
            ),
        ),
        rounds=3,
    )


def _flood_case(kind: str, conns: int) -> Case:
    what = {"own": "valid messages", "unknown": "unknown names", "selectors": "never-repeated selectors"}[
        kind
    ]
    name = f"G9 flood, {what}, {conns} connection{'s' if conns > 1 else ''}"
    return Case(
        name,
        ("skep",),
        partial(flood, kind=kind, conns=conns),
        (
            Goal(
                f"{name}: p99 of another uid",
                LIMIT,
                "p99_us",
                "us",
                True,
                target=1 / 3,
                peer_figure="alone_p99_us",
                size=256,
                required="<= 3 x alone",
            ),
            Goal(
                f"{name}: throughput of another uid",
                LIMIT,
                "rate",
                "msg/s",
                target=0.8,
                peer_figure="fair_rate",
                size=256,
                required=">= 80 % of its fair share",
            ),
        ),
        rounds=1,
        quick=(kind, conns) == ("own", 50),
    )
