"""Who answers a thread: the requests to SY.threads behind handoff, escalate and return.

A binding (thread → handler, lease, reason) is asked by routers before everything else. Handing off binds first and
passes the message on only when the binding stands, so that the next message of the person cannot overtake it to the
old handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from skep.errors import RemoteError, SkepError
from skep.message import Message
from skep.protocol.message import format_uuid
from skep.protocol.names import parse_name

if TYPE_CHECKING:
    from skep.client import Client

THREADS: Final = "SY.threads"
ANSWER_S: Final = 5.0


async def handoff(client: Client, message: Message, to: str, reason: str, lease: float | None) -> None:
    """Binds the message's thread to `to` and forwards the message. Raises RemoteError or DeliveryError."""
    handler = parse_name(to, client.hive.hive_id)
    asked: dict[str, Any] = {"thread_id": _thread_of(message), "handler": handler, "reason": reason}
    if lease is not None:
        asked["lease_s"] = lease
    await ask(client, "THREAD_BIND", asked)
    await forward(client, message, handler, reason)


async def unbind(client: Client, message: Message, reason: str) -> None:
    """Removes the binding of the message's thread."""
    await ask(client, "THREAD_UNBIND", {"thread_id": _thread_of(message), "reason": reason})


async def ask(client: Client, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
    """One system request to SY.threads; its payload. Raises RemoteError when it answered anything but ok."""
    answer = await client.request(THREADS, payload, ANSWER_S, type="system", verb=verb)
    result = answer.payload
    if not isinstance(result, dict) or result.get("status") != "ok":
        found: dict[str, Any] = result if isinstance(result, dict) else {}
        code = str(found.get("error_code") or found.get("code") or "refused")
        raise RemoteError(
            code, str(found.get("error_detail") or found.get("detail") or f"{verb} was refused")
        )
    return result


async def forward(client: Client, message: Message, handler: str, reason: str) -> None:
    """Sends the message on to `handler`, saying who handed it over and why, and whom an answer is for."""
    source, message_id = message.origin or (message.source, message.message_id)
    handed = {
        "from": client.name,
        "reason": reason,
        "source": format_uuid(source),
        "source_name": client.name_of(source),
        "message_id": message_id,
    }
    meta = {**message.meta, "handoff": handed}
    context = message.context
    await client.send(
        handler,
        message.payload,
        thread=message.thread_id,
        dst_ilk=message.src_ilk or None,
        trace=message.trace_id,
        context=context,
        type=message.type,
        action=message.action or None,
        meta=meta,
    )


def _thread_of(message: Message) -> str:
    thread = message.thread_id
    if not thread:
        raise SkepError(
            f"{message!r} belongs to no thread, so there is nothing to hand over. Send it with thread="
        )
    return thread
