"""text/v1 payloads, the error family, references to blobs."""

from __future__ import annotations

from typing import Any

import pytest

from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.limits import FRAME_BYTES_MAX, TEXT_ENVELOPE_BYTES, TEXT_PAYLOAD_BYTES_MAX
from skep.protocol.payload import (
    BlobRef,
    BlobStore,
    build_error,
    build_text,
    is_error,
    offload,
    read_blob_ref,
    read_text,
    text_content,
)
from skep.protocol.strict_json import dumps

REF = BlobRef("report_0123456789abcdef.pdf", 12, "application/pdf", "report.pdf", "2026-11-20")


class Store:
    """A blob store in a dictionary."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes, filename: str, mime: str) -> BlobRef:
        name = f"content_{len(self.blobs):016x}.txt"
        self.blobs[name] = data
        return BlobRef(name, len(data), mime, filename, "2026-11-20")

    def resolve(self, ref: BlobRef) -> bytes:
        return self.blobs[ref.blob_name]


def test_a_text_payload_reads_back() -> None:
    payload = build_text("hi", (REF,))
    assert payload == {"type": "text", "content": "hi", "attachments": [REF.to_payload()]}
    assert read_text(payload) == ("hi", None, (REF,))
    assert text_content(payload) == "hi"


def content_of(size: int) -> str:
    """Content with which the serialised payload and the allowance are this large."""
    return "x" * (size - TEXT_ENVELOPE_BYTES - len(dumps({"type": "text", "content": ""})))


def test_the_offload_rule_is_upstreams() -> None:
    store = Store()
    assert isinstance(store, BlobStore)
    assert "content" in build_text(content_of(TEXT_PAYLOAD_BYTES_MAX), store=store)
    payload = build_text(content_of(TEXT_PAYLOAD_BYTES_MAX + 1), store=store)
    assert "content" not in payload
    assert payload["content_ref"]["mime"] == "text/plain"
    assert text_content(payload, store) == content_of(TEXT_PAYLOAD_BYTES_MAX + 1)


def test_members_nobody_knows_survive_the_offload() -> None:
    system = {"hops": [1], "trace": {"a": None}}
    payload = {"type": "text", "content": "x" * 70_000, "_system": system, "z": 1}
    sent = offload(payload, Store())
    assert (sent["_system"], sent["z"]) == (system, 1)
    assert list(sent) == ["type", "content_ref", "_system", "z"]
    assert "content" in payload, "the caller's payload is not changed"


def test_large_text_without_a_store_is_sent_inline_or_refused() -> None:
    assert "content" in build_text(content_of(TEXT_PAYLOAD_BYTES_MAX + 1))
    assert "content" in build_text(content_of(FRAME_BYTES_MAX))
    with pytest.raises(LocalProtocolError) as caught:
        build_text(content_of(FRAME_BYTES_MAX + 1))
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE


def test_other_payloads_are_left_alone() -> None:
    for payload in ({"type": "form", "content": "x" * 70_000}, {"type": "text", "content_ref": {}}, {}):
        assert offload(payload, Store()) is payload


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {"type": "form"},
        {"type": "text"},
        {"type": "text", "content": "x", "content_ref": REF.to_payload()},
        {"type": "text", "content": 1},
        {"type": "text", "content": "x", "attachments": {}},
        {"type": "text", "content": "x", "attachments": [1]},
    ],
)
def test_text_payloads_that_are_refused(payload: Any) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_text(payload)
    assert caught.value.code is ErrorCode.PAYLOAD_INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"type": "ref"},
        {"blob_name": "../../etc/passwd"},
        {"blob_name": "a..b_0123456789abcdef.txt"},
        {"blob_name": "a/b_0123456789abcdef.txt"},
        {"blob_name": "a_0123.txt"},
        {"blob_name": "a_0123456789abcdef.txt\n"},
        {"size": -1},
        {"size": True},
        {"size": "1"},
        {"mime": None},
        {"filename_original": 1},
        {"spool_day": "today"},
    ],
)
def test_blob_references_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_blob_ref({**REF.to_payload(), **change})
    assert caught.value.code is ErrorCode.PAYLOAD_INVALID


def test_a_reference_needs_a_store_and_utf8() -> None:
    payload = {"type": "text", "content_ref": REF.to_payload()}
    store = Store()
    store.blobs[REF.blob_name] = b"\xff"
    for chosen in (None, store):
        with pytest.raises(RemoteProtocolError):
            text_content(payload, chosen)


def test_the_error_family() -> None:
    error = build_error("NO_STOCK", "no fish", retryable=True, details={"left": 0})
    assert error == {
        "type": "error",
        "code": "NO_STOCK",
        "message": "no fish",
        "retryable": True,
        "details": {"left": 0},
    }
    assert is_error(error)
    assert "details" not in build_error("X", "y", retryable=False)
    assert not is_error({"type": "error", "code": 1, "message": ""})
    assert not is_error("error")
