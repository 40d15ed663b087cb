"""What other nodes may send to do harm: none of it reaches a caller as an answer, none of it costs the link."""

from __future__ import annotations

import asyncio

import pytest

from skep import Node, RemoteError
from skep.protocol.header import (
    ContentType,
    DstKind,
    MessageClass,
    Phase,
    Selector,
    pack_frame,
    pack_key,
)
from skep.testing import Hive


def forged(attacker: Node, victim: bytes, payload: bytes, **changes) -> bytes:
    facts = {name: changes.pop(name) for name in ("message_id", "reply_to", "trace_id") if name in changes}
    selector = Selector(dst_kind=DstKind.UUID, destination=victim, **changes)
    return pack_frame(pack_key(attacker.uuid, selector), payload, **{"message_id": 1, **facts})


async def inject(hive: Hive, attacker: Node, frame: bytes) -> None:
    hive.wire(attacker).write(frame)
    await hive.settle()


@pytest.mark.goal("G14")
async def test_an_answer_with_the_right_id_and_a_guessed_trace_is_not_believed() -> None:
    async with Hive() as hive:
        slow, attacker, caller = Node("AI.slow"), await hive.node("AI.evil"), await hive.node("IO.caller")

        @slow.on_message
        async def think(message):
            await message.client.clock.sleep(10)
            return {"from": "the right one"}

        await hive.start(slow)
        asked = asyncio.ensure_future(caller.request("AI.slow", {}))
        await hive.settle()
        message_id = next(iter(caller.client.calls.pending))
        for phase in (Phase.REPLY, Phase.ERROR, Phase.END):
            frame = forged(
                attacker,
                caller.uuid,
                b'{"from":"evil"}',
                phase=phase,
                reply_to=message_id,
                trace_id=b"g" * 16,
            )
            await inject(hive, attacker, frame)
        assert not asked.done()
        await hive.clock.advance(11)
        assert (await asked).payload == {"from": "the right one"}


@pytest.mark.goal("G14")
async def test_a_refusal_with_a_guessed_trace_is_not_believed() -> None:
    async with Hive() as hive:
        await hive.start(Node("AI.quiet"))
        attacker, caller = await hive.node("AI.evil"), await hive.node("IO.caller")
        asked = asyncio.ensure_future(caller.request("AI.quiet", {}, type="user", timeout=5))
        await asyncio.sleep(0)
        message_id = next(iter(caller.client.calls.pending))
        frame = forged(
            attacker,
            caller.uuid,
            b'{"reason":"NODE_NOT_FOUND"}',
            message_class=MessageClass.SYSTEM,
            verb="UNREACHABLE",
            reply_to=message_id,
            trace_id=b"g" * 16,
        )
        await inject(hive, attacker, frame)
        with pytest.raises(RemoteError, match="no_handler"):  # what the node that was asked says itself
            await asked


@pytest.mark.parametrize(
    ("changes", "payload"),
    [
        ({"message_class": MessageClass.SYSTEM, "verb": "UNREACHABLE"}, b"{half"),
        ({"message_class": MessageClass.SYSTEM, "verb": "TTL_EXCEEDED"}, b"[1]"),
        ({"message_class": MessageClass.RECEIPT, "content_type": ContentType.BYTES}, b"\xff"),
        ({"message_class": MessageClass.RECEIPT, "content_type": ContentType.BYTES}, b""),
        ({"message_class": MessageClass.SYSTEM, "verb": "CONFIG_SET", "phase": Phase.REQUEST}, b"\xff\xfe"),
        ({"phase": Phase.REQUEST}, b"{half"),
        ({"phase": Phase.CANCEL}, b"null"),
        ({"phase": Phase.PART, "reply_to": 7}, b"null"),
        ({"phase": Phase.REPLY, "reply_to": 7}, b"{half"),
    ],
)
@pytest.mark.goal("G13")
async def test_frames_that_make_no_sense_cost_nothing(changes: dict, payload: bytes) -> None:
    async with Hive() as hive:
        victim = Node("AI.victim")

        @victim.on_message
        async def echo(message):
            return message.payload

        await hive.start(victim)
        attacker = await hive.node("AI.evil")
        link = victim.client.link
        await inject(hive, attacker, forged(attacker, victim.uuid, payload, **changes))
        caller = await hive.node("IO.caller")
        assert (await caller.request("AI.victim", {"still": "here"})).payload == {"still": "here"}
        assert victim.client.link is link


async def test_an_ever_changing_flow_does_not_grow_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep.link.IN_FLOWS_MAX", 50)
    monkeypatch.setattr("skep.outbox.OUT_FLOWS_MAX", 50)
    async with Hive() as hive:
        victim, seen = Node("AI.victim"), []

        @victim.on_message
        async def take(message):
            seen.append(message.thread_id)

        await hive.start(victim)
        source = await hive.node("IO.source")
        for number in range(300):
            await source.send("AI.victim", {}, thread=f"t{number}")
            if number % 50 == 0:
                await hive.clock.advance(0.1)
        await hive.clock.advance(0.1)
        assert len(seen) == 300
        assert len(victim.client.link._flows) <= 51
        assert len(source.client.outbox.flows) <= 51
