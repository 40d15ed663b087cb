"""The SDK beside the production router: names from shared memory, recovery from kill -9, acknowledgements."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from skep import DeliveryError, Node, Outcome, Report, connect
from skep.protocol.codes import Reason
from skep.protocol.header import AckLevel
from skep_shm import ConfigState, ConfigWriter, Grant
from support.hives import HiveFolder
from support.wait import eventually_async

KILLS = 5


@pytest.fixture
def hive(hive_folder: HiveFolder) -> Iterator[HiveFolder]:
    """A hive whose configuration grants this uid everything, with its router running."""
    everything = Grant(
        uid=os.getuid(), pattern="*", ilk_mode=2, ilk=bytes(16), tenant=bytes(16), channel_kinds=""
    )
    writer = ConfigWriter.create(hive_folder.root, hive_folder.hive_id)
    writer.publish(ConfigState(version=1, routes=(), vpns=(), grants=(everything,), limits={}))
    hive_folder.start_router()
    yield hive_folder
    writer.close()


def echo_node(hive: HiveFolder, framing: str) -> Node:
    node = Node("AI.echo", hive=hive.root, framing=framing)

    @node.on_message
    async def echo(message):
        return message.payload

    return node


async def test_names_acks_and_refusals(hive: HiveFolder, framing: str) -> None:
    async with echo_node(hive, framing):
        sender, _ = await connect("IO.x", hive=hive.root)
        answer = await sender.request("AI.echo", {"hi": 1}, timeout=5)
        assert (answer.payload, answer.source_name) == ({"hi": 1}, "AI.echo@test")
        receipt = await sender.send("AI.echo", {"n": 1}, ack="processed", deadline=5)
        assert receipt.level is (AckLevel.PROCESSED if framing == "native" else AckLevel.ROUTED)
        with pytest.raises(DeliveryError) as refused:
            await sender.request("AI.nobody", {}, timeout=5)
        assert refused.value.reason is Reason.NODE_NOT_FOUND
        await sender.close()


@pytest.mark.goal("G1")
async def test_killed_routers_lose_nothing_silently_and_nodes_are_back_at_once(hive: HiveFolder) -> None:
    """Sent = delivered + LOST + UNKNOWN (+ refused while the consumer was not back), counted over kills under load."""
    got: set[int] = set()
    sink = Node("AI.sink", hive=hive.root)

    @sink.on_message
    async def take(message):
        got.add(message.payload["n"])

    source, reports = Node("IO.source", hive=hive.root), []

    @source.on_report
    async def told(report: Report) -> None:
        reports.append(report)

    sent: dict[int, int] = {}
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            for _ in range(20):
                number = len(sent)
                receipt = await source.send("AI.sink", {"n": number})
                sent[receipt.message_id] = number
            await asyncio.to_thread(lambda: None)  # a turn for everybody else

    clock, gone = asyncio.get_running_loop().time, []
    async with sink, source:
        loading = asyncio.ensure_future(load())
        for _ in range(KILLS):
            aim = len(sent) + 500
            await eventually_async(lambda aim=aim: len(sent) >= aim)
            hive.children[-1].kill()
            await asyncio.to_thread(hive.start_router)
            began = clock()
            await eventually_async(lambda: sink.client.link and source.client.link)
            gone.append(clock() - began)
        stop.set()
        await loading
        await source.send("AI.sink", {"n": -1}, ack="processed", deadline=5)  # behind all the others
        told_ids = {sent[report.message_id] for report in reports}
        silent = set(sent.values()) - got - told_ids
        assert not silent, f"{len(silent)} of {len(sent)} disappeared without a word"
        lost = {sent[r.message_id] for r in reports if r.outcome is Outcome.LOST}
        assert not lost & got
        assert sorted(gone)[KILLS // 2] <= 0.3


@pytest.mark.goal("G8")
async def test_a_consumer_that_stops_taking_slows_only_those_who_send_to_it(hive: HiveFolder) -> None:
    gate = asyncio.Event()
    stuck, seen = Node("AI.stuck", hive=hive.root, concurrency=1), []

    @stuck.on_message
    async def wait(message):
        await gate.wait()
        seen.append(message.payload_bytes)

    async with stuck, echo_node(hive, "native"):
        sender, receiver = await connect("IO.x", hive=hive.root)
        sent = 0
        with pytest.raises(DeliveryError) as full:
            while sent < 100_000:
                await sender.send("AI.stuck", b"x" * 1000, deadline=0.5)
                sent += 1
        assert full.value.reason is Reason.QUEUE_FULL
        assert sent < 20_000, "what is on its way must stay bounded"
        for number in range(100):
            assert (await sender.request("AI.echo", {"n": number}, timeout=5)).payload == {"n": number}
        gate.set()
        await eventually_async(lambda: len(seen) + len(receiver.reports) >= sent, 20)
        assert len(seen) + sum(r.reason is Reason.DEADLINE_EXCEEDED for r in receiver.reports) == sent
        await sender.close()
