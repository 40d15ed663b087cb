"""G1: kill -9 of the router and of the owners of its regions, under load: back at once, no ghosts, nothing silent.

Each message ends as delivered, or as a Report to its sender (LOST, UNKNOWN, REFUSED); UNKNOWN may have been delivered
too. Silent is what is neither. SKEP_KILLS sets the number of kills; a commit does 5.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable

import pytest

from e2e.processes import listed, paced, start_system
from skep import DeliveryError, Message, Node, Report
from skep_shm import ConfigReader, ThreadsReader
from support.hives import HiveFolder
from support.wait import eventually, eventually_async

KILLS = int(os.environ.get("SKEP_KILLS", "5"))
BURST, EVERY_S = 5, 0.005  # 1,000 messages a second from each sender
SENDERS = ("IO.one", "IO.two")
SINKS = ("AI.one", "AI.two")
BACK_P50_S, BACK_MAX_S = 0.3, 1.0
BUSY = 3.0  # a commit's machine runs other things: what one kill may take there, in multiples


class Load:
    """Senders, consumers, and the fate of every message."""

    def __init__(self, hive: HiveFolder) -> None:
        self.hive = hive
        self.stop = asyncio.Event()
        self.sent: dict[tuple[str, int], int] = {}  # (sender, message id) -> number
        self.told: set[tuple[str, int]] = set()
        self.delivered: set[tuple[str, int]] = set()  # (sender, number)
        self.outcomes: dict[str, int] = {}
        self.numbers = dict.fromkeys(SENDERS, 0)
        self.back_at: dict[tuple[str, str], float] = {}  # (sender, sink) -> first arrival since `marked`
        self.marked = dict.fromkeys(SENDERS, 0)
        self.nodes = [self._sender(name) for name in SENDERS] + [self._sink(name) for name in SINKS]

    def _sender(self, name: str) -> Node:
        node = Node(name, hive=self.hive.root)

        @node.on_report
        async def told(report: Report) -> None:
            self.told.add((name, report.message_id))
            self.outcomes[report.outcome] = self.outcomes.get(report.outcome, 0) + 1

        return node

    def _sink(self, name: str) -> Node:
        node = Node(name, hive=self.hive.root)

        @node.on_message
        async def take(message: Message) -> None:
            sender, number = message.payload["from"], message.payload["n"]
            self.delivered.add((sender, number))
            if number >= self.marked[sender]:
                self.back_at.setdefault((sender, name), time.monotonic())

        return node

    async def run(self, node: Node, name: str) -> None:
        while not self.stop.is_set():
            for number in range(BURST):
                n = self.numbers[name]
                self.numbers[name] = n + 1
                receipt = await node.send(SINKS[number % 2], {"from": name, "n": n})
                self.sent[name, receipt.message_id] = n
            await paced(self.stop, EVERY_S)

    def mark(self) -> None:
        """From now on first arrivals count; what was sent before does not."""
        self.marked = dict(self.numbers)
        self.back_at.clear()

    def flowing(self, count: int) -> Callable[[], bool]:
        """So many more were sent by everybody: the moment of the next kill."""
        goal = {name: number + count for name, number in self.numbers.items()}
        return lambda: all(self.numbers[name] >= at for name, at in goal.items())

    def all_back(self) -> bool:
        return len(self.back_at) == len(SENDERS) * len(SINKS)

    def silent(self) -> list[tuple[str, int]]:
        return [key for key, n in self.sent.items() if key not in self.told and (key[0], n) not in self.delivered]


@pytest.mark.slow
@pytest.mark.goal("G1")
async def test_a_router_killed_under_load_is_back_at_once_and_nothing_is_silent(hive_folder: HiveFolder) -> None:
    config = start_system(hive_folder, "SY.config.routes")
    router = await asyncio.to_thread(hive_folder.start_router)
    load = Load(hive_folder)
    for node in load.nodes:
        await node.start()
    everybody = sorted((*SENDERS, *SINKS, "SY.config.routes"))
    await eventually_async(lambda: listed(hive_folder.root) == everybody, within=10)
    running = [asyncio.create_task(load.run(node, name)) for node, name in zip(load.nodes, SENDERS, strict=False)]
    load.mark()
    await eventually_async(load.all_back, within=10)
    times = []
    dice = random.Random(1)
    for _ in range(KILLS):
        await eventually_async(load.flowing(dice.randrange(200, 600)), within=10)
        load.mark()
        killed = time.monotonic()
        router.kill()
        router = await asyncio.to_thread(hive_folder.start_router)
        await eventually_async(load.all_back, within=10)
        times.append(max(load.back_at.values()) - killed)
        await eventually_async(lambda: listed(hive_folder.root) == everybody, within=5)
    load.stop.set()
    await asyncio.gather(*running)
    await eventually_async(lambda: not load.silent(), within=10)
    for node in load.nodes:
        await node.stop()
    config.stop()
    await asyncio.to_thread(router.stop)
    p50 = statistics.median(times)
    print(f"G1: {KILLS} kills, back p50 {p50 * 1e3:.0f} ms, max {max(times) * 1e3:.0f} ms; sent {len(load.sent)}, "
          f"delivered {len(load.delivered)}, told {load.outcomes}, silent {len(load.silent())}")  # fmt: skip
    assert not load.silent()
    assert p50 <= BACK_P50_S * BUSY
    assert max(times) <= BACK_MAX_S * BUSY
    assert (hive_folder.sockets(), hive_folder.segments()) == ([], [])


async def asked(node: Node, verb: str, payload: dict[str, str]) -> dict[str, object]:
    """SY.threads' answer, asked again while the hive is not ready yet."""

    async def answer() -> dict[str, object] | None:
        try:
            return (await node.request("SY.threads", payload, timeout=5, type="system", verb=verb)).payload  # type: ignore[no-any-return]
        except DeliveryError:
            return None

    return await eventually_async(answer, within=10)  # type: ignore[return-value]


@pytest.mark.goal("G1")
async def test_the_owners_of_regions_die_and_readers_go_on(hive_folder: HiveFolder) -> None:
    await asyncio.to_thread(hive_folder.start_router)
    names = ("SY.config.routes", "SY.threads")
    system = {name: start_system(hive_folder, name) for name in names}
    thread = "thread:sha256:" + "ab" * 32
    async with Node("IO.a", hive=hive_folder.root) as node, Node("AI.b", hive=hive_folder.root) as other:
        await eventually_async(lambda: set(names) <= set(listed(hive_folder.root)), within=10)
        binding = {"thread_id": thread, "handler": "IO.a", "reason": "test"}
        assert (await asked(node, "THREAD_BIND", binding))["status"] == "ok"
        config, threads = ConfigReader.attach(hive_folder.root), ThreadsReader.attach(hive_folder.root)
        version = config.read().version
        for name in names:
            system[name].kill()
            digest = bytes.fromhex("ab" * 32)
            assert config.read().version == version
            found = threads.find(digest)
            assert found is not None
            receipt = await node.send(other.uuid, "still here", ack="delivered")
            assert receipt.level >= 2
            system[name] = start_system(hive_folder, name)
            await eventually_async(lambda name=name: name in listed(hive_folder.root), within=10)  # type: ignore[misc]
        assert "IO.a" in str(await asked(node, "THREAD_GET", {"thread_id": thread}))
        config.close()
        threads.close()
    for child in system.values():
        await asyncio.to_thread(child.stop)
    eventually(lambda: listed(hive_folder.root) == [])
