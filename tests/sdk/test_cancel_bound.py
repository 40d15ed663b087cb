"""A request in a bound thread goes to the handler, and so does what takes it back."""

from __future__ import annotations

import asyncio

import pytest

from skep import Message, Node
from skep.errors import RequestTimeout
from skep.testing import Hive


async def test_a_timed_out_request_is_taken_back_where_it_went() -> None:
    desk, person = Node("AI.desk"), Node("IO.person")
    taken_back = asyncio.Event()

    @desk.on_message
    async def hand_over(message: Message) -> None:
        await desk.handoff(message, to="IO.person", reason="a person knows")

    @person.on_message
    async def wait_for_ever(message: Message) -> None:
        if message.payload_bytes.find(b"second") < 0:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            taken_back.set()
            raise

    async with Hive() as hive:
        await hive.start(person)
        await hive.start(desk)
        asker = await hive.node("IO.ask")
        await asker.send("AI.desk", "first", thread="t1")
        await hive.settle()
        request = asyncio.create_task(asker.request("AI.desk", "second", timeout=5, thread="t1"))
        await hive.settle()
        await hive.clock.advance(6)
        with pytest.raises(RequestTimeout):
            await request
        await hive.settle()
        assert taken_back.is_set()
