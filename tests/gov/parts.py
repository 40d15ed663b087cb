"""What tests of the front desk share: a hive with identity and a policy, a channel, an agent, and a desk's parts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from skep import DeliveryError, Message, Node
from skep_nodes.io.provision import Provision
from skep_nodes.io.provision_ask import IdentityVoice
from skep_nodes.io.text import text_payload, words_of
from support.hives import Child, HiveFolder
from support.wait import eventually_async

MODULES = {
    "SY.config.routes": "skep_nodes.sy.config_routes",
    "SY.threads": "skep_nodes.sy.threads",
    "SY.identity": "skep_nodes.sy.identity",
    "SY.opa.rules": "skep_nodes.sy.opa_rules",
    "SY.frontdesk.gov": "skep_nodes.sy.frontdesk_gov",
}
WHO = "agents: [{node: AI.desk, capabilities: [general]}]\n"


def start(hive: HiveFolder, name: str) -> Child:
    return hive.start(name, [sys.executable, "-m", MODULES[name], "--hive", str(hive.root)])


async def ask(node: Node, verb: str, payload: dict[str, Any], to: str = "SY.identity") -> dict[str, Any]:
    """One question of an administrator, asked until somebody answers."""

    async def answer() -> Any:
        try:
            return await node.request(to, payload, timeout=5, type="system", verb=verb)
        except DeliveryError:
            return None

    message: Any = await eventually_async(answer, within=20, what=f"{to} answers {verb}")
    found: dict[str, Any] = message.payload
    assert found["status"] == "ok", found
    return found


@dataclass
class Phone:
    """A channel with one customer at its end."""

    node: Node
    provision: Provision
    heard: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)

    async def say(self, text: str, address: str = "+34600111222", tenant: str = "", kind: str = "whatsapp") -> str:
        """As whom it was sent."""
        ilk = await self.provision.speaker(kind, address, tenant)
        await self.node.send(
            None, text_payload(text), src_ilk=ilk, thread=f"thread:{kind}:{address}", ack="routed",
            context={"io": {"channel": kind}},
        )  # fmt: skip
        return ilk

    async def hear(self) -> str:
        message = await asyncio.wait_for(self.heard.get(), 20)
        return words_of(message.payload) or ""

    async def ask(self, text: str, **more: str) -> str:
        await self.say(text, **more)
        return await self.hear()


@asynccontextmanager
async def phone(hive: HiveFolder, name: str = "IO.whatsapp") -> AsyncIterator[Phone]:
    node = Node(name, hive=hive.root)
    one = Phone(node, Provision(hive.root, IdentityVoice(node)))

    @node.on_message
    async def keep(message: Message) -> None:
        one.heard.put_nowait(message)

    async with node:
        yield one
    one.provision.close()


@asynccontextmanager
async def agent(hive: HiveFolder, name: str = "AI.desk") -> AsyncIterator[list[Message]]:
    """An agent that repeats what it is asked, and everything it was asked."""
    node, asked = Node(name, hive=hive.root), list[Message]()

    @node.on_message
    async def answer(message: Message) -> dict[str, Any]:
        asked.append(message)
        return text_payload(f"you asked: {words_of(message.payload)}")

    async with node:
        yield asked
