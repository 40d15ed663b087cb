"""The WhatsApp Cloud API's formats: what its webhook sends us, what its messages endpoint wants. No I/O.

A webhook body is one `object` with `entry[].changes[].value`; a value holds messages of customers, statuses of
messages we sent, or neither. Meta adds kinds of message and fields at will, so what is unknown is passed over and
counted, never an error; what is malformed in a known place is passed over alone, since refusing the whole body would
make Meta resend its good parts for days.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

TEXT_CHARS_MAX = 4096  # Cloud API: text.body of a message
ID_CHARS_MAX = 128  # wamids have about 60 characters, numbers at most 15 digits; more is not from Meta
NAME_CHARS_MAX = 120
EVENTS_MAX = 1000  # new messages taken of one body; Meta batches at most that many updates
SIGNATURE_PREFIX = "sha256="


class BadWebhook(Exception):
    """The body is not a webhook at all."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message of a customer. `text` is None for a kind we do not read (image, location…)."""

    number_id: str
    sender: str
    message_id: str
    timestamp: str
    kind: str
    text: str | None
    profile_name: str = ""
    answers: str = ""


@dataclass(frozen=True, slots=True)
class Webhook:
    messages: tuple[Inbound, ...]
    statuses: int
    ignored: int


def signature_of(body: bytes, app_secret: str) -> str:
    """The X-Hub-Signature-256 header that Meta puts on `body`."""
    return SIGNATURE_PREFIX + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()


def signature_ok(body: bytes, header: str, app_secret: str) -> bool:
    """Compares in constant time, over the raw bytes: a body parsed and written again would differ."""
    if not app_secret:
        return False
    return hmac.compare_digest(signature_of(body, app_secret).encode(), header.encode("utf-8", "replace"))


def challenge_answer(query: Mapping[str, str], verify_token: str) -> str | None:
    """What to echo to the verification request, or None when it does not know the token."""
    given = query.get("hub.verify_token", "").encode("utf-8", "replace")
    known = bool(verify_token) and hmac.compare_digest(given, verify_token.encode())
    if query.get("hub.mode") != "subscribe" or not known:
        return None
    return query.get("hub.challenge", "")[:1024]


def parse_webhook(body: bytes) -> Webhook:
    """All messages in `body`, in its order; the server bounds the body. Raises BadWebhook for no webhook's JSON."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadWebhook(f"not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("entry"), list):
        raise BadWebhook("a webhook is an object with an entry list")
    messages: list[Inbound] = []
    statuses = ignored = 0
    for value in _values(document):
        statuses += len(_dicts(value.get("statuses")))
        names = _names(value)
        for raw in _dicts(value.get("messages")):
            message = _message(value, raw, names)
            if message is None:
                ignored += 1
            else:
                messages.append(message)
    return Webhook(tuple(messages), statuses, ignored)


def text_message(to: str, text: str, answers: str = "") -> dict[str, Any]:
    """The body that POST /{phone_number_id}/messages takes."""
    message: dict[str, Any] = {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": to,
        "type": "text",
        "text": {"preview_url": False, "body": text},
    }
    if answers:
        message["context"] = {"message_id": answers}
    return message


def split_text(text: str, chars_max: int = TEXT_CHARS_MAX) -> list[str]:
    """`text` in pieces of at most `chars_max`, cut at a paragraph, line, sentence or word where one is near."""
    pieces: list[str] = []
    rest = text.strip()
    while len(rest) > chars_max:
        at = _cut_at(rest, chars_max)
        pieces.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [*pieces, rest] if rest else pieces


def _cut_at(text: str, chars_max: int) -> int:
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, chars_max // 2, chars_max)
        if at > 0:
            return at + len(mark.rstrip(" ")) if mark.strip() else at
    return chars_max


def _values(document: dict[str, Any]) -> list[dict[str, Any]]:
    changes = (change for entry in _dicts(document["entry"]) for change in _dicts(entry.get("changes")))
    return [change["value"] for change in changes if isinstance(change.get("value"), dict)]


def _names(value: dict[str, Any]) -> dict[str, str]:
    """Profile names by WhatsApp id."""
    return {
        _id(contact.get("wa_id")): _short(_dict(contact.get("profile")).get("name"), NAME_CHARS_MAX)
        for contact in _dicts(value.get("contacts"))
    }


def _message(value: dict[str, Any], raw: dict[str, Any], names: Mapping[str, str]) -> Inbound | None:
    number_id = _id(_dict(value.get("metadata")).get("phone_number_id"))
    sender, message_id = _id(raw.get("from")), _id(raw.get("id"))
    if not (number_id and sender and message_id):
        return None
    kind = _short(raw.get("type"), 32) or "unknown"
    return Inbound(
        number_id=number_id,
        sender=sender,
        message_id=message_id,
        timestamp=_id(raw.get("timestamp")),
        kind=kind,
        text=_text(kind, raw),
        profile_name=names.get(sender, ""),
        answers=_id(_dict(raw.get("context")).get("id")),
    )


def _text(kind: str, raw: dict[str, Any]) -> str | None:
    """What the customer said in words, whichever way the app let them say it."""
    part = _dict(raw.get(kind))
    if kind == "text":
        return _words(part.get("body"))
    if kind == "button":
        return _words(part.get("text"))
    if kind == "interactive":
        chosen = _dict(part.get("button_reply")) or _dict(part.get("list_reply"))
        return _words(chosen.get("title"))
    if kind in ("image", "video", "document"):
        return _words(part.get("caption"))
    return None


def _words(value: object) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return value.strip()


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _id(value: object) -> str:
    fits = isinstance(value, str) and len(value) <= ID_CHARS_MAX and value.isprintable()
    return value if fits else ""  # type: ignore[return-value]


def _short(value: object, chars_max: int) -> str:
    return (_words(value) or "")[:chars_max] if isinstance(value, str) else ""
