"""What a hive does, written once. Where a framing or a hive cannot do it, a table says what happens instead."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

import pytest

from conformance.hives import Hive
from skep import DeliveryError, Node, Receiver, Sender
from skep.flows import encode_thread
from skep.protocol.codes import Reason
from skep.protocol.errors import LocalProtocolError
from skep.protocol.header import AckLevel
from skep_shm import Grant, MatchKind, VpnRule

THREAD = "thread:sha256:" + "ab" * 32
UIDS = {"core": 1000, "unix": os.getuid()}
LATE = 30.0  # a deadline for things that happen at once: only a hang reaches it

# What an acknowledgement comes to. A JSON sender may ask for none; a JSON consumer gives none.
ACKS = {
    ("native", "routed"): AckLevel.ROUTED,
    ("native", "delivered"): AckLevel.DELIVERED,
}


async def got(receiver: Receiver) -> Any:
    return await receiver.receive(LATE)


async def payloads(hive: Hive, receiver: Receiver, count: int) -> list[Any]:
    found: list[Any] = []

    def enough() -> bool:
        while (message := receiver.receive_nowait()) is not None:
            found.append(message.payload)
        return len(found) >= count

    await hive.until(enough, f"{count} messages")
    return found


async def refusal(hive: Hive, sender: Sender, receiver: Receiver, dst: Any, **options: Any) -> Reason:
    """Why a message that nobody waits for was refused."""
    receipt = await sender.send(dst, {"n": 1}, **options)
    report = await hive.until(lambda: receiver.reports.popleft() if receiver.reports else None, "a report")
    assert report.message_id == receipt.message_id, "it names the message"
    reason: Reason = report.reason
    return reason


# ---- addressing ------------------------------------------------------------------------------------------------------


async def test_by_name_by_full_name_and_by_uuid(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    b, b_in = await hive.node("AI.b")
    for dst in ("AI.b", "AI.b@test", "AI.b@*", b.client.uuid):
        await a.send(dst, {"to": str(dst)})
        message = await got(b_in)
        assert message.payload == {"to": str(dst)}
        assert message.source == a.client.uuid
        await hive.until(partial(_is_from, message, "AI.a@test"), "the sender's name")


def _is_from(message: Any, name: str) -> bool:
    return bool(message.source_name == name)


async def test_order_is_kept(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    _, b_in = await hive.node("AI.b")
    for n in range(200):
        await a.send("AI.b", n)
    assert await payloads(hive, b_in, 200) == list(range(200))


async def test_a_broadcast_reaches_all_but_its_sender(hive: Hive) -> None:
    a, a_in = await hive.node("AI.a")
    _, b_in = await hive.node("AI.b")
    _, c_in = await hive.node("WF.c")
    await a.broadcast(["all"])
    assert (await got(b_in)).payload == (await got(c_in)).payload == ["all"]
    await a.broadcast(["agents"], target="AI.*")
    await a.broadcast(["after"])
    assert (await payloads(hive, b_in, 2)) == [["agents"], ["after"]]
    assert (await payloads(hive, c_in, 1)) == [["after"]]
    await hive.quiet()
    assert a_in.receive_nowait() is None


async def test_a_group_shares_and_a_thread_sticks(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    members = [await hive.node("AI.pool") for _ in range(3)]
    for n in range(30):
        await a.send("AI.pool", n)
    shares = [0, 0, 0]

    def all_came() -> bool:
        for at, (_, receiver) in enumerate(members):
            while receiver.receive_nowait() is not None:
                shares[at] += 1
        return sum(shares) == 30

    await hive.until(all_came, "thirty messages")
    assert min(shares) > 0, shares
    for n in range(12):
        await a.send("AI.pool", n, thread=THREAD)
    await hive.until(lambda: sum(r.waiting() for _, r in members) == 12, "twelve messages")
    assert sorted(r.waiting() for _, r in members) == [0, 0, 12]


async def test_sequences_of_a_thread_grow(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    c, _ = await hive.node("AI.c")
    _, b_in = await hive.node("AI.b")
    seen = []
    for n in range(6):
        await (a, c)[n % 2].send("AI.b", n, thread=THREAD)
        seen.append((await got(b_in)).thread_seq)
    if hive.kind == "memory":
        assert seen == [0] * 6, "the small router keeps no sequences"
    else:
        assert seen == sorted(set(seen)), seen
        assert seen[0] > 0


async def test_a_binding_leads_a_thread_to_its_handler(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    _, front = await hive.node("AI.front")
    _, desk = await hive.node("AI.desk")
    await a.send("AI.front", 1, thread=THREAD)
    assert (await got(front)).payload == 1
    await hive.bind(encode_thread(THREAD)[0], "AI.desk@test")
    for n in range(2, 50):
        await a.send("AI.front", n, thread=THREAD)
        await hive.quiet()
        if desk.waiting():
            break
    assert (await got(desk)).payload == n
    await a.send("AI.front", "end")
    last = await hive.until(lambda: _last(front) == {"type": "text", "content": "end"}, "a message without the thread")
    assert last, "without the thread nothing has changed"


def _last(receiver: Receiver) -> Any:
    found = None
    while (message := receiver.receive_nowait()) is not None:
        found = message.payload
    return found


# ---- asking ----------------------------------------------------------------------------------------------------------


def echo(name: str, hive: Hive) -> Node:
    node = Node(name, hive=hive.place(), framing=hive.framing)

    @node.on_message
    async def answer(message: Any) -> Any:
        if message.payload == ["parts"]:
            for n in range(3):
                await message.part(n)
            return None
        return {"echo": message.payload}

    return node


async def test_a_request_is_answered(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    async with echo("AI.echo", hive):
        answer = await a.request("AI.echo", [1, 2], timeout=LATE)
        assert answer.payload == {"echo": [1, 2]}
        asked = [a.request("AI.echo", n, timeout=LATE) for n in range(20)]
        assert [m.payload["echo"] for m in await asyncio.gather(*asked)] == list(range(20))


async def test_a_stream_yields_its_parts(hive: Hive) -> None:
    a, _ = await hive.node("AI.a")
    async with echo("AI.echo", hive):
        parts = [part.payload async for part in a.stream("AI.echo", ["parts"], timeout=LATE)]
    assert parts[:3] == [0, 1, 2]


# ---- refusals --------------------------------------------------------------------------------------------------------


async def test_nobody_there(hive: Hive) -> None:
    a, a_in = await hive.node("AI.a")
    for dst in ("AI.nobody", bytes(range(16))):
        assert await refusal(hive, a, a_in, dst) is Reason.NODE_NOT_FOUND
        with pytest.raises(DeliveryError) as caught:
            await a.request(dst, {}, timeout=LATE)
        assert caught.value.reason is Reason.NODE_NOT_FOUND


async def test_a_used_up_ttl(hive: Hive) -> None:
    a, a_in = await hive.node("AI.a")
    _, b_in = await hive.node("AI.b")
    assert await refusal(hive, a, a_in, "AI.b", ttl=0) is Reason.TTL_EXCEEDED
    await hive.quiet()
    assert b_in.receive_nowait() is None


async def allowed(hive: Hive, sender: Sender, receiver: Receiver, dst: str, to: Receiver) -> Reason | None:
    """None when the message arrives; what the small router, which knows no such rules, always says."""
    if hive.rules:
        return await refusal(hive, sender, receiver, dst)
    await sender.send(dst, {"n": 1})
    await got(to)
    return None


async def test_vpns_part_nodes_and_a_change_counts_at_once(hive: Hive) -> None:
    a, a_in = await hive.node("AI.a")
    _, b_in = await hive.node("AI.b")
    _, far_in = await hive.node("AI.far")
    if hive.rules:
        await a.send("AI.far", ["before"])
        assert (await got(far_in)).payload == ["before"]
        await hive.configure(vpns=(VpnRule("AI.far*", MatchKind.GLOB, 7, 1),))
    expected = Reason.VPN_BLOCKED if hive.rules else None
    assert await allowed(hive, a, a_in, "AI.far", far_in) is expected
    await a.send("AI.b", ["near"])
    assert (await got(b_in)).payload == ["near"]


async def test_tenants_part_nodes(hive: Hive) -> None:
    a, a_in = await hive.node("AI.a")
    _, red_in = await hive.node("AI.red")
    if hive.rules:
        own = UIDS[hive.kind]
        grants = (Grant(own, "AI.a", 0, bytes(16), b"a" * 16, ""), Grant(own, "AI.red", 0, bytes(16), b"r" * 16, ""))
        await hive.configure(grants=grants)
    expected = Reason.TENANT_BLOCKED if hive.rules else None
    assert await allowed(hive, a, a_in, "AI.red", red_in) is expected


# ---- confirmation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["routed", "delivered"])
async def test_acknowledgements(hive: Hive, level: str) -> None:
    a, _ = await hive.node("AI.a")
    _, b_in = await hive.node("AI.b")
    expected = ACKS.get((hive.framing, level))
    if expected is None:
        with pytest.raises(LocalProtocolError, match="confirms nothing"):
            await a.send("AI.b", 1, ack=level)
        return
    asked = asyncio.ensure_future(a.send("AI.b", 1, ack=level))
    receipt = await hive.until(lambda: asked.result() if asked.done() else None, "the acknowledgement")
    assert receipt.level is expected
    assert (await got(b_in)).payload == 1


async def test_a_dead_consumer_is_reported(hive: Hive) -> None:
    """What a consumer took with it: UNKNOWN. A JSON consumer takes what its kernel has: there nothing can be said."""
    a, a_in = await hive.node("AI.a")
    b, _ = await hive.node("AI.b")
    b.client.may_take = lambda: False  # type: ignore[method-assign]  # reads, and never says TAKEN
    b.client.after_read = lambda link: None  # type: ignore[method-assign]
    receipt = await a.send("AI.b", 1)
    await hive.quiet()
    assert b.client.link is not None
    b.client.link.transport.abort()
    if hive.json:
        await hive.quiet()
        assert not a_in.reports
        return
    report = await hive.until(lambda: a_in.reports.popleft() if a_in.reports else None, "a report")
    assert (report.message_id, report.reason) == (receipt.message_id, Reason.UNKNOWN)


async def test_a_slow_consumer_pauses_its_sender_alone(hive: Hive) -> None:
    """PAUSE names one destination. A JSON sender cannot be told: its socket waits, or the hive keeps what it sends."""
    a, _ = await hive.node("AI.a")
    slow, _ = await hive.node("AI.slow", framing="native")
    _, quick_in = await hive.node("AI.quick")
    slow.client.may_take = lambda: False  # type: ignore[method-assign]
    slow.client.after_read = lambda link: None  # type: ignore[method-assign]
    if hive.json:
        await a.send("AI.slow", "x")
    else:
        paused = a.client.outbox.paused
        await hive.until(lambda: paused or _push(a, "AI.slow", 64), "PAUSE")
        assert list(paused) == [b"\x02AI.slow@test"]
    await a.send("AI.quick", ["still"])
    assert (await got(quick_in)).payload == ["still"]


def _push(sender: Sender, dst: str, count: int) -> bool:
    """Sends what there is room for. False: nobody knows yet whether that was enough."""
    for _ in range(count):
        try:
            sender.client.send_nowait(dst, "x" * 8_000)
        except DeliveryError:
            break
    return False


async def test_what_is_in_flight_survives_a_drain(hive: Hive) -> None:
    """The router announces its end; nodes finish with it first. The small router has no such end."""
    a, a_in = await hive.node("AI.a")
    _, b_in = await hive.node("AI.b")
    for n in range(50):
        await a.send("AI.b", n)
    if hive.kind != "memory":
        await hive.quiet()
        await hive.drain()
    assert await payloads(hive, b_in, 50) == list(range(50))
    assert [report.reason for report in a_in.reports if report.reason is Reason.LOST] == []
