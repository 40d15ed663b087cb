"""Thousands of registered nodes: what an idle one costs, what joining costs, what forwarding among all of them costs.

One C process is all the nodes; the router is looked at from outside between its steps. Nobody else maps the router's
node table here, so its pages are private to the router and the record, the index and the change ring of each node are
in the figure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bench import loadgen
from bench.brokers import Broker
from bench.children import Child, start
from bench.hive import open_hive, raise_descriptors
from bench.machine import NotRunError, private_kib, pss_kib
from bench.rows import LIMIT, Bench, Case, Figures, Goal

FEW = 10
HUNDRED = 100
FRAMES_PER_WRITE = 64
WINDOW = 2048
DESCRIPTORS_SPARE = 128


@dataclass(slots=True)
class Swarm:
    """The nodes; each line said is answered with one object."""

    child: Child

    def say(self, line: str) -> dict[str, Any]:
        pipe = self.child.process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(line.encode() + b"\n")
        pipe.stdin.flush()
        answer = pipe.stdout.readline()
        if not answer:
            raise NotRunError(f"the swarm ended at `{line}`: {self.child.complaint()}")
        found: dict[str, Any] = json.loads(answer)
        if found.get("errors"):
            raise loadgen.InvalidRunError(f"swarm, {line}: {found}")
        return found


def measure(bench: Bench, peer: str) -> Figures:
    """Its own hive: memory is only comparable in a router that did nothing before."""
    count = bench.effort.swarm
    if raise_descriptors() < count + DESCRIPTORS_SPARE:
        raise NotRunError(
            f"{count} nodes need RLIMIT_NOFILE {count + DESCRIPTORS_SPARE}; raise it or run as root"
        )
    hive = open_hive(bench.where.broker)
    try:
        broker = Broker("skep", hive.pid, str(hive.socket), hive=hive)
        argv = loadgen.command(
            broker, "swarm", bench.where.clients, count=count, fpw=FRAMES_PER_WRITE, window=WINDOW, size=256
        )
        swarm = Swarm(start(argv, bench.where.clients, pipe=True))
        try:
            return _steps(swarm, hive.pid, count, max(0.3, bench.effort.seconds))
        finally:
            swarm.child.kill()
            swarm.child.log.close()
    finally:
        hive.close()


def _steps(swarm: Swarm, pid: int, count: int, seconds: float) -> Figures:
    swarm.say(f"open {FEW}")
    before, before_pss = private_kib(pid), pss_kib(pid)
    joined = swarm.say(f"open {count}")
    swarm.say("warm")
    added = count - FEW
    after, after_pss = private_kib(pid), pss_kib(pid)
    few = swarm.say(f"ring {FEW} {seconds}")
    all_of_them = swarm.say(f"ring {count} {seconds}")
    return {
        "idle_kib": (after - before) / added,
        "idle_pss_kib": (after_pss - before_pss) / added,
        "join_100th_us": joined["join_100th_us"],
        "join_last_us": joined["join_last_us"],
        "rate_few": few["rate"],
        "rate_all": all_of_them["rate"],
    }


def cases() -> list[Case]:
    name = "10,000 registered nodes"
    return [
        Case(
            "registered nodes",
            ("skep",),
            measure,
            (
                Goal(
                    f"{name}: memory and node record of an idle node with one warm flow",
                    LIMIT,
                    "idle_kib",
                    "KiB",
                    True,
                    target=1,
                    limit=2.5,
                    required="<= 2.5 KiB",
                ),
                Goal(
                    f"{name}: joining the last",
                    LIMIT,
                    "join_last_us",
                    "us",
                    True,
                    target=0.5,
                    peer_figure="join_100th_us",
                    required="<= 2 x joining the 100th",
                ),
                Goal(
                    f"{name}: forwarding among all of them",
                    LIMIT,
                    "rate_all",
                    "msg/s",
                    target=0.5,
                    size=256,
                    peer_figure="rate_few",
                    required=">= 0.5 x among 10",
                ),
            ),
            rounds=1,
        ),
    ]
