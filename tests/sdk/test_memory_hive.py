"""The in-memory hive as a node author uses it."""

from __future__ import annotations

import pytest

from skep import Node, RequestTimeout
from skep.testing import Hive


def echo_node() -> Node:
    node = Node("AI.echo")

    @node.on_message
    async def echo(message):
        return message.payload

    return node


async def test_five_lines() -> None:
    async with Hive() as hive:
        await hive.start(echo_node())
        caller = await hive.node("IO.test")
        assert (await caller.request("AI.echo", {"q": 1})).payload == {"q": 1}


async def test_time_moves_only_when_told() -> None:
    async with Hive() as hive:
        silent = Node("AI.silent")

        @silent.on_message
        async def never(message):
            await message.client.clock.sleep(3600)

        await hive.start(silent)
        caller = await hive.node("IO.test")
        import asyncio

        asked = asyncio.ensure_future(caller.request("AI.silent", {}, timeout=30))
        await hive.clock.advance(29)
        assert not asked.done()
        await hive.clock.advance(1.1)
        with pytest.raises(RequestTimeout):
            await asked
