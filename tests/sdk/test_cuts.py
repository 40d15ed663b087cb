"""Cuts, kills and slow peers: what the application is told, and that nothing disappears silently."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from sdk.fake_router import UnixRouter
from skep import DeliveryError, LinkClosed, Node, Outcome, Report, connect
from skep.errors import HiveError
from skep.protocol import link
from skep.protocol.codes import CloseReason, Reason
from skep.reports import of_cut
from skep.testing import Hive
from skep.testing.router import PAUSE_FRAMES, REFUSE_FRAMES
from support.wait import eventually_async


def reporting(name: str, **options) -> tuple[Node, list[Report]]:
    node, reports = Node(name, **options), []

    @node.on_report
    async def told(report: Report) -> None:
        reports.append(report)

    return node, reports


def counting(name: str = "AI.sink") -> tuple[Node, list[int]]:
    node, got = Node(name), []

    @node.on_message
    async def take(message):
        got.append(message.payload["n"])

    return node, got


def test_the_ranges_of_a_cut_cover_every_message_once() -> None:
    lost, unknown = of_cut(first_id=10, finished=3, flushed_id=16, next_id=20)
    assert [*range(10, 13), *unknown, *lost] == list(range(10, 20))


@pytest.mark.goal("G1")
async def test_sent_is_delivered_plus_lost_plus_unknown_over_twenty_cuts() -> None:
    async with Hive() as hive:
        sink, got = counting()
        await hive.start(sink)
        source, reports = reporting("IO.src", hive=hive)
        await hive.start(source)
        sent: dict[int, int] = {}
        for number in range(2000):
            receipt = await source.send("AI.sink", {"n": number})
            sent[receipt.message_id] = number
            if number % 100 == 37:
                hive.cut(source)
                await hive.clock.advance(1)
        await hive.settle()
        told = {sent[report.message_id] for report in reports}
        assert set(got) | told == set(range(2000)), "a message disappeared without a word"
        assert len(reports) == len({r.message_id for r in reports}), "a message was reported twice"
        assert not any(count > 1 for count in Counter(got).values())
        lost = {sent[report.message_id] for report in reports if report.outcome is Outcome.LOST}
        assert not lost & set(got), "a message reported LOST was delivered"


@pytest.mark.goal("G1")
async def test_a_killed_router_is_found_again_and_the_uuid_is_the_same() -> None:
    async with Hive() as hive:
        sink, got = counting()
        await hive.start(sink)
        source, reports = reporting("IO.src", hive=hive)
        await hive.start(source)
        await source.send("AI.sink", {"n": 1}, ack="routed")
        await hive.clock.advance(0.1)  # the consumer reports it taken
        uuid = source.uuid
        hive.kill_router()
        await hive.settle()
        with pytest.raises(DeliveryError) as down:
            source.send_nowait("AI.sink", {"n": 2})
        assert down.value.reason is Reason.NOT_READY
        waiting = asyncio.ensure_future(source.send("IO.src", {"n": 3}))
        await hive.clock.advance(1)
        hive.restart_router()
        await hive.clock.advance(0.1)
        await waiting
        await source.send("AI.sink", {"n": 4})
        await hive.settle()
        assert got == [1, 4]
        assert source.uuid == uuid
        assert reports == []


async def test_waiting_to_send_ends_with_the_deadline() -> None:
    async with Hive() as hive:
        source = await hive.node("IO.src")
        hive.kill_router()
        await hive.settle()
        sending = asyncio.ensure_future(source.send("AI.sink", {}, deadline=5))
        await hive.clock.advance(5.1)
        with pytest.raises(DeliveryError) as late:
            await sending
        assert late.value.reason is Reason.NOT_READY


@pytest.mark.goal("G8")
async def test_a_paused_destination_holds_back_only_its_own_senders() -> None:
    async with Hive() as hive:
        gate = asyncio.Event()
        slow = Node("AI.slow", concurrency=1)

        @slow.on_message
        async def wait(message):
            await gate.wait()

        await hive.start(slow)
        slow.client.may_take = lambda: False  # as a node whose queue is above its mark
        hive.wire(slow).drop = lambda data: True
        sink, got = counting()
        await hive.start(sink)
        source = await hive.node("IO.src")

        async def flood() -> None:
            for number in range(REFUSE_FRAMES):
                await source.send("AI.slow", {"n": number})
                await hive.settle()

        flooding = asyncio.ensure_future(flood())
        while b"\x02AI.slow@test" not in source.client.outbox.paused:
            await asyncio.sleep(0)
        assert len(hive.router.peers[slow.uuid].owed) in range(PAUSE_FRAMES, PAUSE_FRAMES + 20)
        for number in range(50):
            await source.send("AI.sink", {"n": number})
        await hive.settle()
        assert got == list(range(50))
        with pytest.raises(DeliveryError) as full:
            source.send_nowait("AI.slow", {})
        assert full.value.reason is Reason.QUEUE_FULL
        hive.restore()
        hive.router.peers[slow.uuid].settle(10**6)
        await asyncio.sleep(0)
        flooding.cancel()
        gate.set()


async def test_taken_is_withheld_while_the_queue_is_above_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep.client.TAKE_MARK", 10)
    async with Hive() as hive:
        sender, _ = await hive.connect("IO.src")
        _, receiver = await hive.connect("IO.dst")
        for number in range(40):
            await sender.send("IO.dst", {"n": number})
        await hive.clock.advance(1)
        peer = next(p for p in hive.router.peers.values() if p.name == "IO.dst@test")
        assert len(peer.owed) == 40, "nothing may be reported taken above the mark"
        got = [(await receiver.receive(1)).payload["n"] for _ in range(40)]
        await hive.clock.advance(1)
        assert got == list(range(40))
        assert len(peer.owed) == 0


async def test_a_drain_moves_the_node_without_losing_a_message() -> None:
    async with Hive() as hive:
        sink, got = counting()
        await hive.start(sink)
        source, reports = reporting("IO.src", hive=hive)
        await hive.start(source)
        for number in range(100):
            await source.send("AI.sink", {"n": number})
        wire = hive.wire(source)
        hive.router.peers[source.uuid].say(link.pack_drain(1000))
        await hive.clock.advance(2)
        assert hive.wire(source) is not wire
        await source.send("AI.sink", {"n": 100})
        await hive.settle()
        assert got == list(range(101))
        assert reports == []


async def test_a_refusal_for_good_ends_the_node_with_its_reason() -> None:
    async with Hive() as hive:
        source = await hive.node("IO.src")
        hive.router.peers[source.uuid].end(CloseReason.GRANT_REVOKED, "not any more")
        await hive.settle()
        with pytest.raises(LinkClosed) as ended:
            await source.serve_forever()
        assert ended.value.reason is CloseReason.GRANT_REVOKED
        with pytest.raises(DeliveryError):
            await source.send("AI.x", {})


async def test_a_name_that_is_taken_is_tried_again_and_then_given_up() -> None:
    async with Hive() as hive:
        first = await hive.node("SY.single")
        second = asyncio.ensure_future(hive.connect("SY.single"))
        await hive.clock.advance(10)
        assert not second.done()
        await first.stop()
        await hive.clock.advance(30)
        assert (await second)[0].name == "SY.single@test"
        third = asyncio.ensure_future(hive.connect("SY.single"))
        await hive.clock.advance(90)
        with pytest.raises(HiveError, match="NAME_TAKEN"):
            await third


async def test_a_refusal_that_nobody_waits_for_is_a_report() -> None:
    async with Hive() as hive:
        source, reports = reporting("IO.src", hive=hive)
        await hive.start(source)
        receipt = await source.send("AI.nobody", {})
        await hive.settle()
        assert [(r.outcome, r.reason, r.message_id) for r in reports] == [
            (Outcome.REFUSED, Reason.NODE_NOT_FOUND, receipt.message_id)
        ]
        assert reports[0].trace_id == receipt.trace_id


async def test_frames_in_any_pieces_are_the_same_frames() -> None:
    async with Hive() as hive:
        sink, got = counting()
        await hive.start(sink)
        hive.wire(sink).piece = 7
        source = await hive.node("IO.src")
        for number in range(50):
            await source.send("AI.sink", {"n": number})
        await hive.settle()
        assert got == list(range(50))


async def test_a_payload_over_the_frame_limit_is_refused_here() -> None:
    async with Hive() as hive:
        source = await hive.node("IO.src")
        before = source.client.outbox.next_id
        with pytest.raises(DeliveryError) as large:
            await source.send("AI.sink", "x" * 200_000)
        assert large.value.reason is Reason.PAYLOAD_TOO_LARGE
        assert source.client.outbox.next_id == before


@pytest.mark.goal("G1")
async def test_a_node_is_back_within_300_ms_of_its_routers_return(root: Path, unix: UnixRouter) -> None:
    sender, _ = await connect("IO.x", hive=root)
    clock, times = asyncio.get_running_loop().time, []
    for _ in range(5):
        await unix.stop()
        await eventually_async(lambda: sender.client.link is None)
        again = UnixRouter(root, "test")
        await again.start()
        began = clock()
        await sender.send("IO.x", {"hello": "myself"}, ack="routed", deadline=5)
        times.append(clock() - began)
        unix.server, unix.wires, unix.router, unix.path = again.server, again.wires, again.router, again.path
    assert sorted(times)[2] <= 0.3
    await sender.close()


async def test_a_message_that_came_too_late_to_be_handled_is_reported() -> None:
    async with Hive() as hive:
        handled: list[int] = []
        busy = Node("AI.busy", concurrency=1)

        @busy.on_message
        async def one_at_a_time(message):
            handled.append(message.payload["n"])
            await message.client.clock.sleep(10)

        await hive.start(busy)
        source, reports = reporting("IO.src", hive=hive)
        await hive.start(source)
        for number in range(3):
            await source.send("AI.busy", {"n": number}, deadline=15)
        await hive.clock.advance(40)
        assert handled == [0, 1]
        assert [(r.outcome, r.reason) for r in reports] == [(Outcome.REFUSED, Reason.DEADLINE_EXCEEDED)]
