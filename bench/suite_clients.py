"""Python clients through their brokers: the README's decorator API beside nats-py, pyzmq, dbus-fast and two floors.

raw1 is two uvloop processes and a socket; raw2 puts a uvloop relay between them. Client and responder share one core,
the broker has the other, for every peer.
"""

from __future__ import annotations

import json
import sys
from functools import partial

from bench.brokers import Broker
from bench.children import Child, start
from bench.loadgen import InvalidRunError
from bench.machine import NotRunError, moved
from bench.rows import Bench, Case, Figures, Goal, atleast, atmost

PEERS = ("skep", "nats", "raw2", "raw1", "zmq", "dbus-broker")
ROLE = (sys.executable, "-m", "bench.clients.role")


def talk(bench: Bench, peer: str, *, size: int, one_core: bool) -> Figures:
    """Round trips, then one way, between two processes of one peer. See `round_trip` of the routers on `one_core`."""
    broker = bench.brokers.get(peer)
    where = bench.where
    with moved(broker.pid, where.clients if one_core else -1, where.broker):
        return _talk(bench, peer, broker, size)


def _talk(bench: Bench, peer: str, broker: Broker, size: int) -> Figures:
    address = str(broker.hive.root) if broker.hive is not None else broker.address
    core, effort = bench.where.clients, bench.effort
    responder = start([*ROLE, peer, "responder", address], core, pipe=True)
    try:
        _expect_ready(responder, peer)
        options = {"size": size, "seconds": effort.seconds, "warm": effort.warm_s}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        others = ["--others", str(broker.pid), str(responder.pid)]
        return _result(start([*ROLE, peer, "client", address, *words, *others], core, pipe=True), peer)
    finally:
        responder.kill()
        responder.log.close()


def _expect_ready(child: Child, peer: str) -> None:
    assert child.process.stdout is not None
    if child.process.stdout.readline().strip() != b"ready":
        raise NotRunError(f"{peer}: the responder did not start: {child.complaint()}")


def _result(child: Child, peer: str) -> Figures:
    out, _ = child.process.communicate(timeout=120)
    complaint = child.complaint()
    child.log.close()
    if child.process.returncode or not out:
        raise NotRunError(f"{peer}: the client failed: {complaint}")
    found: Figures = json.loads(out.splitlines()[-1])
    if found["sent"] != found["received"]:
        raise InvalidRunError(f"{peer}: sent {found['sent']}, received {found['received']}")
    return found


def cases() -> list[Case]:
    return [_case(size, one_core) for size in (256, 4096) for one_core in (False, True)]


def _case(size: int, one_core: bool) -> Case:
    """One way is a matter of throughput, so it has its targets where the router has a core of its own."""
    where = "one core" if one_core else "two cores"
    trip, way = f"SDK round trip, p50, {where}", f"SDK one-way, {where}"
    goals = [
        Goal(
            trip,
            "nats",
            "p50_us",
            "us",
            True,
            atmost(0.4),
            size=size,
            required="<= 0.4 x nats-py",
            shown="nats-py",
        ),
        Goal(trip, "raw2", "p50_us", "us", True, atmost(1.3), size=size, required="<= 1.3 x raw2"),
    ]
    for peer, factor, shown in (("nats", 1.5, "nats-py"), ("raw2", 0.8, "raw2")):
        required = "" if one_core else f">= {factor} x {shown}"
        target = None if one_core else atleast(factor)
        goals.append(
            Goal(way, peer, "rate", "msg/s", target=target, size=size, required=required, shown=shown)
        )
        goals.append(
            Goal(
                f"{way}, per CPU-second of all three", peer, "per_cpu_s", "msg/CPU-s", size=size, shown=shown
            )
        )
    for peer in ("zmq", "dbus-broker", "raw1"):
        goals += [
            Goal(trip, peer, "p50_us", "us", True, size=size),
            Goal(way, peer, "rate", "msg/s", size=size),
        ]
    measure = partial(talk, size=size, one_core=one_core)
    return Case(f"SDK to SDK, {size} B, {where}", PEERS, measure, tuple(goals), quick=size == 256)
