"""Router, configuration and nodes come up in any order; without a configuration ordinary nodes hear NOT_READY."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from e2e.processes import start_system
from protocol.plain_client import PlainClient
from skep import DeliveryError, Message, Node
from support.hives import HiveFolder, RouterProcess
from support.wait import eventually_async


def not_ready(router: RouterProcess) -> str:
    client = PlainClient(str(router.socket), "IO.early")
    client.send("AI.b", "user", {})
    reason: str = client.receive()["payload"]["reason"]
    client.close()
    return reason


class Parts:
    """What a hive consists of, started one by one."""

    def __init__(self, hive: HiveFolder) -> None:
        self.hive = hive
        self.router: RouterProcess | None = None
        self.configured = False
        self.starting: list[asyncio.Task[None]] = []
        self.asker, self.answerer = Node("IO.a", hive=hive.root), Node("AI.b", hive=hive.root)

        @self.answerer.on_message
        async def answer(message: Message) -> object:
            return message.payload

    async def start(self, part: str) -> None:
        if part == "router":
            self.router = await asyncio.to_thread(self.hive.start_router)
        elif part == "config":
            start_system(self.hive, "SY.config.routes")
            self.configured = True
        else:
            self.starting = [asyncio.create_task(node.start(15)) for node in (self.answerer, self.asker)]
        if self.router is not None and not self.configured:
            assert await asyncio.to_thread(not_ready, self.router) == "NOT_READY"

    async def answered(self) -> bool:
        try:
            return (await self.asker.request("AI.b", {"n": 1}, timeout=2)).payload == {"n": 1}
        except DeliveryError:
            return False


@pytest.mark.goal("G1")
@pytest.mark.parametrize("order", list(permutations(("router", "config", "nodes"))), ids="-".join)
async def test_any_order_of_starts_ends_ready(hive_folder: HiveFolder, order: tuple[str, ...]) -> None:
    parts = Parts(hive_folder)
    for part in order:
        await parts.start(part)
    await asyncio.gather(*parts.starting)
    await eventually_async(parts.answered, within=10)
    for node in (parts.asker, parts.answerer):
        await node.stop()
