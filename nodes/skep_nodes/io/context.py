"""The `meta.context.io` block: where a message entered and where an answer to it would go.

The router bounds a context (it is part of a flow's key), so texts that strangers choose are cut to shares that
always fit, ids are kept whole or refused upstream, and a display name is the first thing to go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CONTEXT_BYTES_MAX = 1024  # the protocol's limit for the canonical JSON; asserted equal by a test
TEXT_BYTES_MAX = 128  # each id; the longest real ones (WhatsApp message ids) have about 60


@dataclass(frozen=True, slots=True)
class Inbound:
    """What a channel knows of one message that came in."""

    channel: str
    entrypoint_kind: str
    entrypoint_id: str
    sender: str
    conversation_kind: str
    conversation_id: str
    thread: str
    message_id: str
    timestamp: str
    reply_kind: str
    reply_address: str


def io_context(inbound: Inbound) -> dict[str, Any]:
    """The context of `inbound`; its canonical JSON has at most CONTEXT_BYTES_MAX bytes."""
    for message_bytes in (TEXT_BYTES_MAX, 48, 16):
        context = _context(inbound, message_bytes)
        if len(canonical(context)) <= CONTEXT_BYTES_MAX:
            return context
    return {"io": {"channel": inbound.channel, "conversation": {"thread_id": inbound.thread}}}


def canonical(context: dict[str, Any]) -> bytes:
    return json.dumps(context, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def cut(text: str, bytes_max: int) -> str:
    """`text` within `bytes_max` bytes of UTF-8, never ending in half a character."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= bytes_max else data[:bytes_max].decode("utf-8", "ignore")


def _context(inbound: Inbound, text_bytes: int) -> dict[str, Any]:
    def short(text: str) -> str:
        return cut(text, text_bytes)

    return {
        "io": {
            "channel": inbound.channel,
            "entrypoint": {"kind": inbound.entrypoint_kind, "id": short(inbound.entrypoint_id)},
            "sender": short(inbound.sender),
            "conversation": {
                "kind": inbound.conversation_kind,
                "id": short(inbound.conversation_id),
                "thread_id": inbound.thread,
            },
            "message": {"id": short(inbound.message_id), "timestamp": short(inbound.timestamp)},
            "reply_target": {
                "kind": inbound.reply_kind,
                "address": short(inbound.reply_address),
                "params": {},
            },
        }
    }
