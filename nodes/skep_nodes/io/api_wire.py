"""IO.http's formats: who may ask, what a request body says, what an answer and a webhook look like. No I/O.

A caller is an API key; the key's entry names its tenant and integration, and these begin every key derived from the
request (thread, dedup, idempotency), so no two tenants ever meet through an id their customers share. What a body may
choose (destination, interlocutor) it chooses from its key's entry, never freely.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import RemoteProtocolError
from skep_nodes.io.text import CONTENT_BYTES_MAX

ID_BYTES_MAX = 128
SUBJECT = ("display_name", "email", "phone", "company_name")
SUBJECT_BYTES_MAX = 256
TOKEN_CHARS_MIN = 16  # shorter ones can be guessed


class ApiError(Exception):
    """An answer other than success: a status, a stable code, a sentence."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@dataclass(frozen=True, slots=True)
class Caller:
    """One API key's entry. Only the token's digest is kept."""

    key_id: str
    token_digest: bytes
    tenant_id: str = ""
    integration_id: str = "default"
    identity: str = ""
    ilks: tuple[str, ...] = ()
    """Interlocutors this caller may speak for by id; others do not exist for it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request body, judged."""

    text: str
    sender: str
    conversation_id: str
    message_id: str
    timestamp: str
    ilk: str
    destination: str
    wait: bool | None
    wait_s: float | None
    subject: tuple[tuple[str, str], ...] = ()
    """What the client knows of the sender: display_name, email, phone, company_name."""


def callers_from(secrets: Mapping[str, Any]) -> tuple[Caller, ...]:
    """The callers in a secrets file's `api_keys`. Raises ValueError on an entry that is no key."""
    entries = secrets.get("api_keys")
    if not isinstance(entries, list) or not entries:
        raise ValueError("secrets: api_keys must be a list with at least one entry")
    return tuple(_caller(entry, index) for index, entry in enumerate(entries))


def authenticate(header: str, callers: tuple[Caller, ...]) -> Caller | None:
    """The caller whose Bearer token `header` holds. Every entry is compared, each in constant time."""
    scheme, _, token = header.partition(" ")
    digest = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
    found = None
    for caller in callers:
        if hmac.compare_digest(digest, caller.token_digest):
            found = caller
    return found if scheme.lower() == "bearer" else None


def parse_ask(body: bytes, caller: Caller) -> Ask:
    """Raises ApiError(400) for what is not JSON and ApiError(422) for JSON that says the wrong thing."""
    document = _document(body)
    subject = _member(document, "subject")
    message = _member(document, "message")
    options = _member(document, "options")
    sender = _text(subject, "subject.external_user_id", ID_BYTES_MAX) or caller.identity or caller.key_id
    metadata, routing = _member(options, "options.metadata"), _member(options, "options.routing")
    return Ask(
        text=_content(message),
        sender=sender,
        conversation_id=_text(metadata, "options.metadata.conversation_id", ID_BYTES_MAX) or sender,
        message_id=_text(message, "message.external_message_id", ID_BYTES_MAX),
        timestamp=_text(message, "message.timestamp", 64),
        ilk=_ilk(subject, caller),
        destination=_text(routing, "options.routing.dst_node", 256),
        wait=_mode(options),
        wait_s=_seconds(options),
        subject=tuple(
            (name, text) for name in SUBJECT if (text := _text(subject, f"subject.{name}", SUBJECT_BYTES_MAX))
        ),
    )


def webhook_body(
    *,
    delivery_id: str,
    occurred_at: str,
    integration_id: str,
    tenant_id: str,
    request: Mapping[str, Any],
    text: str,
    node_name: str,
    payload: object = None,
) -> bytes:
    """The final reply as a webhook's body."""
    citations = payload.get("citations", []) if isinstance(payload, dict) else []
    result = {
        "final": True,
        "status": "ok",
        "message": {"text": text, "attachments": []},
        "citations": citations,
        "error": None,
    }
    body = {
        "schema_version": 1,
        "delivery_id": delivery_id,
        "event_type": "io.api.final",
        "occurred_at": occurred_at,
        "integration_id": integration_id,
        "tenant_id": tenant_id,
        "request": dict(request),
        "result": result,
        "source": {"node_name": node_name},
    }
    return orjson.dumps(body)


def webhook_signature(secret: str, timestamp: str, body: bytes) -> str:
    """`v1=` + hex HMAC-SHA256(secret, timestamp + "." + body); the timestamp inside stops replays."""
    signed = timestamp.encode() + b"." + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def schema(node_name: str, destinations: tuple[str, ...], body_bytes_max: int) -> dict[str, Any]:
    """What GET /schema answers: enough to write a client."""
    text = {"type": "string"}
    short = {"type": "string", "maxLength": ID_BYTES_MAX}
    known = {"type": "string", "maxLength": SUBJECT_BYTES_MAX}
    return {
        "schema": "skep.io-api/1",
        "node_name": node_name,
        "content_types": ["application/json"],
        "body_bytes_max": body_bytes_max,
        "headers": {"Authorization": "Bearer <api key>", "Idempotency-Key": "<= 128 printable characters"},
        "destinations": list(destinations),
        "body": {
            "type": "object",
            "required": ["message"],
            "properties": {
                "subject": {"properties": {"external_user_id": short, "ilk": text, **dict.fromkeys(SUBJECT, known)}},
                "message": {
                    "required": ["text"],
                    "properties": {"text": text, "external_message_id": short, "timestamp": text},
                },
                "options": {
                    "properties": {
                        "mode": {"enum": ["wait", "accept"]},
                        "wait_ms": {"type": "integer", "minimum": 1},
                        "metadata": {"properties": {"conversation_id": short}},
                        "routing": {"properties": {"dst_node": text}},
                    }
                },
            },
        },
    }


def _caller(entry: object, index: int) -> Caller:
    where = f"secrets: api_keys[{index}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be a mapping")
    token = entry.get("token")
    if not isinstance(token, str) or len(token) < TOKEN_CHARS_MIN:
        raise ValueError(f"{where}: token must have at least {TOKEN_CHARS_MIN} characters")
    texts = {name: str(entry.get(name) or "") for name in ("key_id", "tenant_id", "integration_id")}
    return Caller(
        key_id=texts["key_id"] or f"key{index}",
        token_digest=hashlib.sha256(token.encode()).digest(),
        tenant_id=texts["tenant_id"],
        integration_id=texts["integration_id"] or "default",
        identity=str(entry.get("caller_identity") or ""),
        ilks=tuple(str(ilk) for ilk in entry.get("ilks") or ()),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = strict_json.loads(body)  # two readers of one body must not read two different things
    except RemoteProtocolError as error:
        twice = error.code == ErrorCode.JSON_DUPLICATE_KEY
        raise ApiError(400, "duplicate_key" if twice else "invalid_json", error.detail[:200]) from error
    if not isinstance(document, dict):
        raise ApiError(422, "invalid_payload", "the body must be a JSON object")
    return document


def _member(parent: dict[str, Any], where: str) -> dict[str, Any]:
    value = parent.get(where.rpartition(".")[2])
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(422, "invalid_payload", f"{where} must be an object")
    return value


def _text(parent: dict[str, Any], where: str, bytes_max: int) -> str:
    value = parent.get(where.rpartition(".")[2])
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isprintable():
        raise ApiError(422, "invalid_payload", f"{where} must be printable text")
    if len(value.encode()) > bytes_max:
        raise ApiError(422, "invalid_payload", f"{where} may have {bytes_max} bytes")
    return value.strip()


def _content(message: dict[str, Any]) -> str:
    value = message.get("text")
    if not isinstance(value, str) or not value.strip():
        raise ApiError(422, "invalid_payload", "message.text must hold some text")
    if len(value.encode()) > CONTENT_BYTES_MAX:
        raise ApiError(413, "payload_too_large", f"message.text may have {CONTENT_BYTES_MAX} bytes")
    return value.strip()


def _ilk(subject: dict[str, Any], caller: Caller) -> str:
    ilk = _text(subject, "subject.ilk", 64)
    if ilk and not any(hmac.compare_digest(ilk.encode(), known.encode()) for known in caller.ilks):
        raise ApiError(404, "ilk_does_not_exist", "no such interlocutor for this key")
    return ilk


def _mode(options: dict[str, Any]) -> bool | None:
    mode = options.get("mode")
    if mode not in (None, "wait", "accept"):
        raise ApiError(422, "invalid_payload", "options.mode must be wait or accept")
    return None if mode is None else mode == "wait"


def _seconds(options: dict[str, Any]) -> float | None:
    value = options.get("wait_ms")
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ApiError(422, "invalid_payload", "options.wait_ms must be a whole number of milliseconds")
    return min(value, 3_600_000) / 1000
