"""The demo's school: the desk's degree is composed and sealed, and later its text is changed on the disk.

What `skep module publish`, `skep degree create` and `skep degree graduate` do, with the same requests.
"""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

from skep import DeliveryError, Node
from skep.degree import degree_folder
from skep_nodes.cli.degree_life import ilk_of
from skep_nodes.cli.degree_session import OWNER
from skep_nodes.cli.demo_hive import DemoError
from skep_nodes.cli.session import answered, linked

AGENT = "AI.desk"
LESSON = "Answer from the documents of the shop, and pass on to a person what they do not answer.\n"
ANSWER_S, ATTEMPTS = 5.0, 20


def graduate(root: Path) -> str:
    """The degree that AI.desk holds from now on. It grants what the policy looks for: `general`."""
    return asyncio.run(_graduate(root))


async def _graduate(root: Path) -> str:
    lesson = base64.b64encode(LESSON.encode()).decode()
    module = {"name": "shop", "version": "1.0.0", "content": lesson, "form": "text", "category": "tone"}
    degree = {"name": "support", "modules": ["shop@1.0.0"], "capabilities": ["general"], "description": ""}
    node = Node(f"SY.cli.{os.getpid()}", hive=root)
    async with linked(node, root, ANSWER_S):
        await _ask(node, OWNER, "MODULE_PUBLISH", {**module, "description": ""})
        await _ask(node, OWNER, "DEGREE_CREATE", degree)
        sealed = {"ilk": ilk_of(root, AGENT), "handler": AGENT, "degree": "support", "reason": "demo"}
        answer = await _ask(node, OWNER, "DEGREE_GRADUATE", sealed)
    if answer.get("identity") != "ok":
        raise DemoError(f"identity did not take the seal: {answer}")
    return str(answer["degree"])


def change_prompt(root: Path) -> Path:
    """One letter of the sealed text is another."""
    file = next(iter((degree_folder(root, AGENT) / "modules").iterdir()))
    text = file.read_text()
    file.write_text(text.replace("Answer", "answer", 1))
    return file


def why_silent(root: Path) -> str:
    """What the agent itself says of its state; empty while it would speak."""
    return asyncio.run(_why_silent(root))


async def _why_silent(root: Path) -> str:
    node = Node(f"SY.cli.{os.getpid()}", hive=root)
    async with linked(node, root, ANSWER_S):
        reply = await node.request(AGENT, {}, timeout=ANSWER_S, type="system", verb="STATUS")
    facts: dict[str, Any] = reply.payload.get("degree") or {}
    code = facts.get("code") or ""
    return f"{code}: {facts.get('module') or facts.get('detail') or ''}".strip(": ") if code else ""


async def _ask(node: Node, to: str, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
    """A node that was found may still be starting: it is asked again."""
    for _ in range(ATTEMPTS - 1):
        try:
            reply = await node.request(to, payload, timeout=ANSWER_S, type="system", verb=verb)
            return answered(reply.payload, verb)
        except DeliveryError:
            await asyncio.sleep(0.1)
    reply = await node.request(to, payload, timeout=ANSWER_S, type="system", verb=verb)
    return answered(reply.payload, verb)
