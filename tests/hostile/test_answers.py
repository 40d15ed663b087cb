"""Answers are believed from whoever was asked, and from nobody else, however much else he was sent."""

from __future__ import annotations

import asyncio

import pytest

from hostile.conftest import Net
from hostile.line import Line, unhyphened
from skep import DeliveryError, Node, RequestTimeout
from skep.protocol.header import MessageClass, Phase
from support.wait import eventually_async


def guessed(trace_id: str, message_id: int) -> bytes:
    """The trace of another message of the same process, for one who has seen one of its traces."""
    return unhyphened(trace_id)[:8] + message_id.to_bytes(8, "little")


def forged(mallory: Line, victim: bytes, trace_id: str, message_id: int, **facts: object) -> bytes:
    head = {"reply_to": message_id, "trace_id": guessed(trace_id, message_id)}
    payload = b"\4" if facts.get("message_class") else b"4"
    return mallory.frame(victim, payload, **head, **facts)


@pytest.mark.goal("G14")
async def test_who_was_sent_one_message_cannot_answer_the_next_one(net: Net) -> None:
    mallory, honest = net.node("mallory"), net.node("honest")
    async with Node(net.called("victim"), hive=net.path.parents[2]) as victim:
        await victim.send(mallory.name, "hello")
        seen = await asyncio.to_thread(mallory.read)
        asking = asyncio.create_task(victim.request(honest.name, "what is true?", timeout=5))
        question = await asyncio.to_thread(honest.read)
        for message_id in range(seen.message_id + 1, seen.message_id + 9):
            mallory.write(forged(mallory, victim.uuid, seen.trace_id, message_id, phase=Phase.REPLY))
        assert await asyncio.to_thread(mallory.settled) == []
        head = {"reply_to": question.message_id, "trace_id": unhyphened(question.trace_id)}
        honest.write(honest.frame(victim.uuid, b'"the truth"', phase=Phase.REPLY, **head))
        assert (await asking).payload == "the truth"


@pytest.mark.goal("G14")
async def test_who_was_sent_one_message_cannot_acknowledge_the_next_one(net: Net) -> None:
    mallory, silent = net.node("mallory"), net.node("silent")
    async with Node(net.called("victim"), hive=net.path.parents[2]) as victim:
        await victim.send(mallory.name, "hello")
        seen = await asyncio.to_thread(mallory.read)
        sending = asyncio.create_task(victim.send(silent.name, "done?", ack="processed", deadline=1))
        await asyncio.to_thread(silent.read)
        for message_id in range(seen.message_id + 1, seen.message_id + 9):
            facts = {"message_class": MessageClass.RECEIPT, "content_type": 3}
            frame = forged(mallory, victim.uuid, seen.trace_id, message_id, **facts)
            mallory.write(frame)
        await asyncio.to_thread(mallory.settled)
        await eventually_async(sending.done, within=5)
        with pytest.raises((RequestTimeout, DeliveryError)):
            sending.result()
