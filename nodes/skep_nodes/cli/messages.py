"""`skep msg`: send, ask, listen. What a person or a script needs to try a node without writing one."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skep import Message, Node, find_hive
from skep.protocol.limits import JSON_DEPTH_MAX
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Format, Output, printable
from skep_nodes.cli.session import joined, linked

INPUT_BYTES_MAX = 1 << 20
JOIN_S = 5.0  # for `msg sub`; after that somebody should look why
RECEIVED_MAX = 1024  # messages that wait to be printed; the SDK holds the sender back before that


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message as the command line gives it."""

    destination: str
    payload: str
    thread: str = ""
    as_name: str = ""
    timeout: float = 5.0
    ack: str = ""


def msg_send(root: Path | None, out: Output, asked: Outgoing) -> int:
    """`skep msg send`."""
    if asked.ack not in ("routed", "delivered", "processed"):
        raise Failure("USAGE", f"--ack {asked.ack} is unknown", why="use routed, delivered or processed",
                      then="correct what was typed, and repeat it", exit_code=Exit.USAGE)  # fmt: skip
    payload = payload_of(asked.payload)

    async def send(node: Node) -> dict[str, Any]:
        if asked.destination == "broadcast":
            await node.broadcast(payload)
            return {"destination": "broadcast", "ack": "none"}
        receipt = await node.send(
            asked.destination,
            payload,
            thread=asked.thread or None,
            ack=asked.ack,
            deadline=asked.timeout,
            sampled=True,
        )
        level = receipt.level.name.lower()
        return {"destination": asked.destination, "ack": level, "trace_id": receipt.trace_id}

    facts = joined(root, asked.as_name, send, asked.timeout)
    if out.form is Format.table:
        broadcast = facts["destination"] == "broadcast"
        out.say("sent to every node here; nobody confirms a broadcast" if broadcast else
                f"sent to {facts['destination']}: {facts['ack']}")  # fmt: skip
        if "trace_id" in facts:
            out.text(facts["trace_id"])
    else:
        out.one("skep.sent/1", facts, facts.get("trace_id", ""))
    return Exit.OK


def msg_req(root: Path | None, out: Output, asked: Outgoing) -> int:
    """`skep msg req`."""
    payload = payload_of(asked.payload)

    async def ask(node: Node) -> dict[str, Any]:
        reply = await node.request(
            asked.destination, payload, timeout=asked.timeout, thread=asked.thread or None, sampled=True
        )
        return message_facts(reply)

    facts = joined(root, asked.as_name, ask, asked.timeout)
    if out.form is Format.table:
        out.text("\n".join(shown(line) for line in lines_of(facts["payload"])))
        out.say(f"from {facts['source_name']}, trace {facts['trace_id']}")
    else:
        out.one("skep.message/1", facts, facts["trace_id"])
    return Exit.OK


def msg_sub(root: Path | None, out: Output, name: str, count: int, timeout: float) -> int:
    """`skep msg sub`."""
    return asyncio.run(_listen(find_hive(root).root, out, name, count, timeout))


async def _listen(root: Path, out: Output, name: str, count: int, timeout: float) -> int:
    arrived: asyncio.Queue[Message] = asyncio.Queue(RECEIVED_MAX)
    node = Node(name, hive=root)

    @node.on_message
    async def keep(message: Message) -> None:
        await arrived.put(message)

    left = count or -1
    try:
        async with linked(node, root, min(timeout or JOIN_S, JOIN_S)), asyncio.timeout(timeout or None):
            out.say(f"listening as {name}; Ctrl-C ends")
            while left:
                _print(out, await arrived.get())
                left -= 1
    except TimeoutError:
        if count:
            raise Failure("TIMEOUT", f"{count - left} of {count} messages came within {timeout:g} s",
                          then="skep node ls", exit_code=Exit.UNREACHABLE) from None  # fmt: skip
    return Exit.OK


def _print(out: Output, message: Message) -> None:
    facts = message_facts(message)
    out.event("skep.message/1", facts, f"{facts['source_name']}  {shown(facts['payload'])}")


def message_facts(message: Message) -> dict[str, Any]:
    """What is printed of a message."""
    return {
        "source_name": message.source_name, "type": message.type, "verb": message.verb or None,
        "phase": message.phase.name.lower(), "thread_id": message.thread_id, "trace_id": message.trace_id,
        "payload": _plain(message),
    }  # fmt: skip


def _plain(message: Message) -> Any:
    payload = message.payload
    return payload.hex() if isinstance(payload, bytes | bytearray) else payload


def lines_of(payload: Any) -> list[Any]:
    """A text payload line by line; anything else as it is."""
    text = payload.get("content") if isinstance(payload, dict) else payload
    return text.splitlines() if isinstance(text, str) else [payload]


def shown(payload: Any) -> str:
    """A payload on one line; a text payload as its text."""
    if isinstance(payload, dict) and isinstance(payload.get("content"), str):
        return printable(payload["content"])
    return printable(payload) if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)


def payload_of(text: str) -> Any:
    """The payload that was typed: JSON, else text; `-` reads standard input."""
    if text == "-":
        data = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
        if len(data) > INPUT_BYTES_MAX:
            raise Failure("PAYLOAD_TOO_LARGE", f"standard input has more than {INPUT_BYTES_MAX} bytes",
                          exit_code=Exit.USAGE)  # fmt: skip
        text = data.decode("utf-8", "replace").removesuffix("\n")
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise Failure("USAGE", "the payload is nested too deeply", why=f"at most {JSON_DEPTH_MAX} levels",
                      exit_code=Exit.USAGE) from None  # fmt: skip
