"""Testing a node: a whole hive in memory, time that moves when you say so, and wires that you may cut.

Run it with pytest (and pytest-asyncio): `pytest examples/08_test_your_node.py`.
"""

import asyncio

import pytest

from skep import DeliveryError, Message, Node, RequestTimeout
from skep.testing import Hive


def slow_node() -> Node:
    node = Node("AI.slow")

    @node.on_message
    async def think(message: Message) -> object:
        await message.client.clock.sleep(60)
        return {"answer": 42}

    return node


async def test_it_answers_after_a_minute() -> None:
    async with Hive() as hive:
        await hive.start(slow_node())
        caller = await hive.node("IO.test")
        asked = asyncio.ensure_future(caller.request("AI.slow", {}, timeout=90))
        await hive.clock.advance(61)
        assert (await asked).payload == {"answer": 42}


async def test_a_caller_who_cannot_wait_is_told() -> None:
    async with Hive() as hive:
        await hive.start(slow_node())
        caller = await hive.node("IO.test")
        asked = asyncio.ensure_future(caller.request("AI.slow", {}, timeout=10))
        await hive.clock.advance(11)
        with pytest.raises(RequestTimeout):
            await asked


async def test_a_cut_is_never_silent() -> None:
    async with Hive() as hive:
        await hive.start(slow_node())
        caller = await hive.node("IO.test")
        asked = asyncio.ensure_future(caller.request("AI.slow", {}))
        await hive.settle()
        hive.cut(caller)
        with pytest.raises(DeliveryError):
            await asked
