"""text/v1, the payload that people's words travel in: `{type:"text", content, attachments}`.

A channel or an agent here accepts the words of any payload that has some (a plain string, a `text` or `content`
member) and sends text/v1 only. `content_ref` (a blob) cannot be read until blobs exist and is told so.
"""

from __future__ import annotations

from typing import Any

CONTENT_BYTES_MAX = 65_536 - 2_048  # text/v1: message maximum less the envelope's allowance


def text_payload(content: str, **more: Any) -> dict[str, Any]:
    """A text/v1 payload; `more` are members a reader may use or leave (citations, conversation…)."""
    return {"type": "text", "content": content, "attachments": [], **more}


def words_of(payload: object) -> str | None:
    """The words in `payload`, or None when it has none that can be read here."""
    if isinstance(payload, str):
        return payload.strip() or None
    if isinstance(payload, dict):
        for name in ("content", "text", "message"):
            value = payload.get(name)
            if isinstance(value, str) and value.strip():
                return value.strip()
    return None
