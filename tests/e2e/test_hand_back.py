"""An acknowledged hand-back is obeyed by the very next message: what a person reads after `/back` is true."""

from __future__ import annotations

import contextlib
import sys
from contextlib import AsyncExitStack

import pytest

from skep import DeliveryError, Message, Node
from support.hives import HiveFolder
from support.wait import eventually_async

THREAD = "thread:sha256:" + "ab" * 32
ROUNDS = 40


def node(hive: HiveFolder, name: str, heard: list[str]) -> Node:
    made = Node(name, hive=hive.root)

    @made.on_message()
    async def hear(message: Message) -> None:
        heard.append(name)

    return made


async def ask(admin: Node, verb: str, payload: dict[str, str]) -> bool:
    try:
        asked = {"thread_id": THREAD, **payload}
        answer = await admin.request("SY.threads", asked, timeout=2, type="system", verb=verb)
    except DeliveryError:  # it is starting
        return False
    return bool(answer.payload["status"] == "ok")


@pytest.mark.goal("G1")
async def test_the_next_message_obeys_an_acknowledged_hand_back(hive_folder: HiveFolder, router: object) -> None:
    for module in ("config_routes", "threads"):
        hive_folder.start(module, [sys.executable, "-m", f"skep_nodes.sy.{module}", "--hive", str(hive_folder.root)])
    heard: list[str] = []
    async with AsyncExitStack() as stack:
        nodes = [node(hive_folder, name, heard) for name in ("AI.desk", "IO.person", "IO.channel", "SY.cli.1")]
        _, _, channel, admin = [await stack.enter_async_context(each) for each in nodes]

        async def bound() -> bool:  # the router has found the region, too
            heard.clear()
            with contextlib.suppress(DeliveryError):  # not ready
                if await ask(admin, "THREAD_BIND", {"handler": "IO.person"}):
                    await channel.send("AI.desk", "hello", thread=THREAD, ack="processed")
            return heard == ["IO.person"]

        await eventually_async(bound, within=15)
        heard.clear()
        for _ in range(ROUNDS):
            assert await ask(admin, "THREAD_BIND", {"handler": "IO.person"})
            await channel.send("AI.desk", "hello", thread=THREAD, ack="processed")
            assert await ask(admin, "THREAD_UNBIND", {})
            await channel.send("AI.desk", "hello", thread=THREAD, ack="processed")
            assert heard == ["IO.person", "AI.desk"]

            heard.clear()
