"""kill -9 of the router, again and again, under load: who is back when, and is every message accounted for.

Senders and receivers are SDK nodes in this process, the router is killed and started anew as a supervisor would, at
once. A receiver is back when the first message sent after the kill reaches it. At the end every message that `send`
accepted must have arrived or been reported LOST, UNKNOWN or refused; one that did neither is *silent*. After each
kill the new router's table must hold exactly the live nodes; any other is a *ghost*.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.hive import BenchHive, open_hive
from bench.machine import NotRunError
from bench.rows import LIMIT, Bench, Case, Figures, Goal

PAIRS = 4
PAUSE_S = 0.002  # per sender: 2,000 messages a second in all
BACK_WITHIN_S = 10.0
SETTLE_WITHIN_S = 5.0
POLL_S = 0.002


@dataclass(slots=True)
class Ledger:
    """What was sent, what arrived, what was told. A message is (sender, number in its payload)."""

    sent: dict[tuple[int, int], int] = field(default_factory=dict)  # message -> message_id
    delivered: set[tuple[int, int]] = field(default_factory=set)
    told: dict[tuple[int, int], str] = field(default_factory=dict)  # (sender, message_id) -> outcome
    refused_at_once: int = 0
    doubled: int = 0

    def outcome(self, message: tuple[int, int]) -> str | None:
        return self.told.get((message[0], self.sent[message]))

    def silent(self) -> int:
        return sum(
            1 for message in self.sent if message not in self.delivered and self.outcome(message) is None
        )

    def wrongly_lost(self) -> int:
        """Reported LOST, yet it arrived: LOST is a promise that it did not."""
        return sum(
            1 for message in self.delivered if message in self.sent and self.outcome(message) == "LOST"
        )

    def count(self, outcome: str) -> int:
        """Told so, and did not arrive."""
        return sum(1 for m in self.sent if m not in self.delivered and self.outcome(m) == outcome)


@dataclass(slots=True)
class Load:
    """The nodes and their tasks."""

    ledger: Ledger = field(default_factory=Ledger)
    arrivals: dict[int, tuple[float, float]] = field(
        default_factory=dict
    )  # pair -> (sent at, arrived at) of the last
    nodes: list[Any] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


def crash(bench: Bench, peer: str) -> Figures:
    hive = open_hive(bench.where.broker)
    try:
        return asyncio.run(_kills(hive, bench.effort.kills))
    finally:
        hive.close()


async def _kills(hive: BenchHive, kills: int) -> Figures:
    load, rng = Load(), random.Random(1)
    await _open(hive, load)
    back: list[float] = []
    ready: list[float] = []
    ghosts = 0
    try:
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.15, 0.45))
            ready_ms, back_ms = await _one_kill(hive, load)
            ready.append(ready_ms)
            back += back_ms
            ghosts += await _ghosts(hive, load)
        await _end(load)
    finally:
        for node in load.nodes:
            await node.__aexit__(None, None, None)
    return _figures(load.ledger, back, ready, ghosts)


def _figures(ledger: Ledger, back: list[float], ready: list[float], ghosts: int) -> Figures:
    return {
        "back_p50_ms": statistics.median(back),
        "back_max_ms": max(back),
        "router_ready_p50_ms": statistics.median(ready),
        "ghosts": ghosts,
        "silent": ledger.silent(),
        "wrongly_lost": ledger.wrongly_lost(),
        "doubled": ledger.doubled,
        "sent": len(ledger.sent),
        "delivered": len(ledger.delivered),
        "lost": ledger.count("LOST"),
        "unknown": ledger.count("UNKNOWN"),
        "refused": ledger.count("REFUSED"),
        "refused_at_once": ledger.refused_at_once,
    }


async def _open(hive: BenchHive, load: Load) -> None:
    from skep import Node

    for pair in range(PAIRS):
        receiver, sender = (
            Node(f"AI.crash.to{pair}", hive=hive.root),
            Node(f"AI.crash.from{pair}", hive=hive.root),
        )
        receiver.on_message(_receive(load, pair))
        sender.on_report(_told(load, pair))
        for node in (receiver, sender):
            await node.__aenter__()
            load.nodes.append(node)
        load.tasks.append(asyncio.create_task(_send(load, pair, sender)))


def _receive(load: Load, pair: int) -> Callable[[Any], Any]:
    async def receive(message: Any) -> None:
        number, sent_at = message.payload["n"], message.payload["at"]
        load.ledger.doubled += (pair, number) in load.ledger.delivered
        load.ledger.delivered.add((pair, number))
        load.arrivals[pair] = (sent_at, time.monotonic())

    return receive


def _told(load: Load, pair: int) -> Callable[[Any], Any]:
    async def told(report: Any) -> None:
        load.ledger.told[pair, report.message_id] = str(report.outcome)

    return told


async def _send(load: Load, pair: int, node: Any) -> None:
    """Until cancelled. A `send` that raises accepted nothing: its caller knows."""
    from skep import SkepError

    number = 0
    while True:
        number += 1
        try:
            receipt = await node.send(f"AI.crash.to{pair}", {"n": number, "at": time.monotonic()})
            load.ledger.sent[pair, number] = receipt.message_id
        except SkepError:
            load.ledger.refused_at_once += 1
        await asyncio.sleep(PAUSE_S)


async def _one_kill(hive: BenchHive, load: Load) -> tuple[float, list[float]]:
    """Milliseconds from the kill until the router listens, and until each receiver hears again."""
    assert hive.router is not None
    killed = time.monotonic()
    hive.router.process.kill()
    await asyncio.to_thread(_restart, hive)
    ready = time.monotonic() - killed
    back: dict[int, float] = {}
    while len(back) < PAIRS:
        if time.monotonic() - killed > BACK_WITHIN_S:
            raise NotRunError(
                f"after a kill only {len(back)} of {PAIRS} receivers heard again in {BACK_WITHIN_S} s"
            )
        for pair, (sent_at, arrived_at) in load.arrivals.items():
            if sent_at > killed:
                back.setdefault(pair, (arrived_at - killed) * 1e3)
        await asyncio.sleep(POLL_S)
    return ready * 1e3, list(back.values())


def _restart(hive: BenchHive) -> None:
    assert hive.router is not None
    hive.router.kill()
    hive.router.log.close()
    hive.start_router()


async def _ghosts(hive: BenchHive, load: Load) -> int:
    """Nodes in the tables that are not ours; waits until all of ours are there."""
    from skep_shm import nodes_readers

    expected = {node.uuid for node in load.nodes}
    deadline = time.monotonic() + SETTLE_WITHIN_S
    while True:
        readers = nodes_readers(hive.root)
        present = [record.uuid for reader in readers for record in reader.all()]
        for reader in readers:
            reader.close()
        extra = len(present) - len(expected & set(present))
        if (expected <= set(present) and not extra) or time.monotonic() > deadline:
            return extra
        await asyncio.sleep(POLL_S)


async def _end(load: Load) -> None:
    """Stops sending and waits until everything is accounted for, or the time for it is over."""
    for task in load.tasks:
        task.cancel()
    await asyncio.gather(*load.tasks, return_exceptions=True)
    deadline = time.monotonic() + SETTLE_WITHIN_S
    while load.ledger.silent() and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)


def _zero(name: str, figure: str, unit: str) -> Goal:
    return Goal(name, LIMIT, figure, unit, True, target=1, limit=0, required="= 0")


def cases() -> list[Case]:
    name = "kill -9 of the router under load"
    goals = (
        Goal(f"{name}: nodes back, p50", LIMIT, "back_p50_ms", "ms", True, 1, 300, required="<= 300 ms"),
        Goal(f"{name}: nodes back, slowest", LIMIT, "back_max_ms", "ms", True, 1, 1000, required="<= 1 s"),
        _zero(f"{name}: ghosts", "ghosts", "nodes"),
        _zero(f"{name}: silent (neither delivered nor told)", "silent", "messages"),
        _zero(f"{name}: told LOST, yet delivered", "wrongly_lost", "messages"),
    )
    return [Case(name, ("skep",), crash, goals, rounds=1)]
