"""Payloads that upstream's nodes understand: text/v1 and the error family.

A text payload has `content` or `content_ref`, never both. Content past upstream's message maximum travels as
a blob when a store is configured; without one, a payload that still fits a frame is sent inline, and a larger
one is refused with PAYLOAD_TOO_LARGE: upstream forwards it unchanged and dies at the socket. Members this
module does not know, `_system` among them, stay as they are: the payload is edited, never rebuilt.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.limits import FRAME_BYTES_MAX, TEXT_ENVELOPE_BYTES, TEXT_PAYLOAD_BYTES_MAX, U64_MAX

CONTENT_NAME: Final = "content.txt"
CONTENT_MIME: Final = "text/plain"
_BLOB_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}_[0-9a-f]{16}\.[a-z0-9]{1,10}", re.ASCII)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class BlobRef(NamedTuple):
    """A reference to bytes in the blob store."""

    blob_name: str
    size: int
    mime: str
    filename_original: str
    spool_day: str

    def to_payload(self) -> dict[str, Any]:
        return {"type": "blob_ref", **self._asdict()}


@runtime_checkable
class BlobStore(Protocol):
    """Where large content goes. `put` publishes before it returns, so that a reference never precedes its bytes."""

    def put(self, data: bytes, filename: str, mime: str) -> BlobRef: ...

    def resolve(self, ref: BlobRef) -> bytes: ...


class Text(NamedTuple):
    """A text payload that was read. Exactly one of content and content_ref is there."""

    content: str | None
    content_ref: BlobRef | None
    attachments: tuple[BlobRef, ...]


def build_text(
    content: str, attachments: tuple[BlobRef, ...] = (), *, store: BlobStore | None = None, **members: Any
) -> dict[str, Any]:
    """A text payload, its content offloaded when it is large and a store is there.

    Raises LocalProtocolError PAYLOAD_TOO_LARGE when it fits no frame and there is no store.
    """
    payload: dict[str, Any] = {"type": "text", "content": content, **members}
    if attachments:
        payload["attachments"] = [ref.to_payload() for ref in attachments]
    return offload(payload, store)


def offload(payload: dict[str, Any], store: BlobStore | None) -> dict[str, Any]:
    """The payload as it is sent: unchanged, or with content_ref for content. Other members are untouched."""
    content = payload.get("content")
    size = len(strict_json.dumps(payload)) + TEXT_ENVELOPE_BYTES
    if payload.get("type") != "text" or not isinstance(content, str) or size <= TEXT_PAYLOAD_BYTES_MAX:
        return payload
    if store is None:
        if size > FRAME_BYTES_MAX:
            raise LocalProtocolError(
                ErrorCode.PAYLOAD_TOO_LARGE,
                "text needs a blob store, none is configured",
                FRAME_BYTES_MAX,
                size,
            )
        return payload
    ref = store.put(content.encode(), CONTENT_NAME, CONTENT_MIME)
    return {
        ("content_ref" if name == "content" else name): (ref.to_payload() if name == "content" else value)
        for name, value in payload.items()
    }


def read_text(payload: Any) -> Text:
    """The parts of a text payload. Raises RemoteProtocolError PAYLOAD_INVALID (upstream: invalid_text_payload)."""
    if not isinstance(payload, dict) or payload.get("type") != "text":
        raise _invalid("not a text payload")
    content, ref = payload.get("content"), payload.get("content_ref")
    if (content is None) == (ref is None):
        raise _invalid("exactly one of content and content_ref is needed")
    if content is not None and not isinstance(content, str):
        raise _invalid("content must be a string")
    attachments = payload.get("attachments", [])
    if not isinstance(attachments, list):
        raise _invalid("attachments must be a list")
    return Text(
        content,
        None if ref is None else read_blob_ref(ref),
        tuple(read_blob_ref(item) for item in attachments),
    )


def text_content(payload: Any, store: BlobStore | None = None) -> str:
    """The text itself, resolved where it is a reference."""
    text = read_text(payload)
    if text.content is not None:
        return text.content
    assert text.content_ref is not None
    if store is None:
        raise _invalid("content_ref needs a blob store, none is configured")
    try:
        return store.resolve(text.content_ref).decode()
    except UnicodeDecodeError as problem:
        raise _invalid(f"the referenced content is not UTF-8: {problem}") from None


def read_blob_ref(value: Any) -> BlobRef:
    """A reference whose name cannot lead out of the store. Raises RemoteProtocolError PAYLOAD_INVALID."""
    if not isinstance(value, dict) or value.get("type") != "blob_ref":
        raise _invalid("a blob reference has type blob_ref")
    name, size, day = value.get("blob_name"), value.get("size"), value.get("spool_day")
    if not isinstance(name, str) or _BLOB_NAME.fullmatch(name) is None or ".." in name:
        raise _invalid("blob_name is <stem>_<16 hexadecimal digits>.<extension>")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= U64_MAX:
        raise _invalid("size is a number of bytes")
    if not isinstance(day, str) or _DAY.fullmatch(day) is None:
        raise _invalid("spool_day is YYYY-MM-DD")
    mime, original = value.get("mime"), value.get("filename_original")
    if not isinstance(mime, str) or not isinstance(original, str):
        raise _invalid("mime and filename_original are strings")
    return BlobRef(name, size, mime, original, day)


def build_error(code: str, message: str, *, retryable: bool, details: Any = None) -> dict[str, Any]:
    """A payload of the error family: what a handler answers when it cannot answer."""
    payload = {"type": "error", "code": code, "message": message, "retryable": retryable}
    return payload if details is None else {**payload, "details": details}


def is_error(payload: Any) -> bool:
    """Whether the payload belongs to the error family."""
    return (
        isinstance(payload, dict)
        and payload.get("type") == "error"
        and isinstance(payload.get("code"), str)
        and isinstance(payload.get("message"), str)
    )


def _invalid(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.PAYLOAD_INVALID, detail)
