"""The Cloud API's formats: signatures, the challenge, webhooks of every shape, long texts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.cloud import text, webhook
from skep_nodes.io import whatsapp_wire as wire
from skep_nodes.io.whatsapp_wire import BadWebhook, Webhook, parse_webhook


def parsed(document: Any) -> Webhook:
    return parse_webhook(json.dumps(document).encode())


# Signatures


def test_a_known_signature() -> None:
    """HMAC-SHA256 test case 2 of RFC 4231, in the header's form."""
    expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert wire.signature_of(b"what do ya want for nothing?", "Jefe") == expected
    assert wire.signature_ok(b"what do ya want for nothing?", expected, "Jefe")


@pytest.mark.parametrize(
    "header", ["", "sha256=", "sha1=5bdcc146", "5bdcc146", "sha256=" + "0" * 64, "sha256=\u00e9", "x" * 9999]
)
def test_other_signatures_are_refused(header: str) -> None:
    assert not wire.signature_ok(b"body", header, "secret")


def test_a_signature_is_over_the_raw_bytes_and_needs_a_secret() -> None:
    signed = wire.signature_of(b'{"a": 1}', "secret")
    assert not wire.signature_ok(b'{"a":1}', signed, "secret")
    assert not wire.signature_ok(b"", wire.signature_of(b"", ""), "")


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(wire.hmac, "compare_digest", lambda a, b: calls.append(True) or a == b)
    wire.signature_ok(b"", "sha256=00", "secret")
    wire.challenge_answer({"hub.mode": "subscribe", "hub.verify_token": "x"}, "y")
    assert len(calls) == 2


# The verification challenge


@pytest.mark.parametrize(
    ("query", "token", "answer"),
    [
        (
            {"hub.mode": "subscribe", "hub.verify_token": "t", "hub.challenge": "1158201444"},
            "t",
            "1158201444",
        ),
        ({"hub.mode": "subscribe", "hub.verify_token": "u", "hub.challenge": "1"}, "t", None),
        ({"hub.mode": "unsubscribe", "hub.verify_token": "t", "hub.challenge": "1"}, "t", None),
        ({"hub.mode": "subscribe", "hub.verify_token": "", "hub.challenge": "1"}, "", None),
        ({}, "t", None),
    ],
)
def test_the_challenge(query: dict[str, str], token: str, answer: str | None) -> None:
    assert wire.challenge_answer(query, token) == answer


# Webhooks


def test_a_text_message() -> None:
    found = parsed(webhook(text("¿Llega mañana?"), statuses=[{"id": "x", "status": "read"}]))
    (message,) = found.messages
    assert (message.number_id, message.sender, message.text) == (
        "106540352242922",
        "34600111222",
        "¿Llega mañana?",
    )
    assert (message.kind, message.profile_name, message.timestamp) == ("text", "Ana", "1749416383")
    assert (found.statuses, found.ignored) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "part", "words"),
    [
        ("button", {"text": "Yes", "payload": "p"}, "Yes"),
        ("interactive", {"type": "button_reply", "button_reply": {"id": "1", "title": "Yes"}}, "Yes"),
        ("interactive", {"type": "list_reply", "list_reply": {"id": "1", "title": "Tea"}}, "Tea"),
        ("image", {"id": "1", "mime_type": "image/jpeg", "caption": "broken"}, "broken"),
        ("image", {"id": "1", "mime_type": "image/jpeg"}, None),
        ("location", {"latitude": 1, "longitude": 2}, None),
        ("reaction", {"message_id": "wamid.x", "emoji": "👍"}, None),
        ("something_new", {"a": 1}, None),
    ],
)
def test_other_kinds(kind: str, part: dict[str, Any], words: str | None) -> None:
    raw = {"from": "34600", "id": "wamid.1", "timestamp": "1", "type": kind, kind: part}
    (message,) = parsed(webhook(raw)).messages
    assert (message.kind, message.text) == (kind, words)


def test_a_quoted_message_is_named() -> None:
    raw = {**text("yes"), "context": {"from": "1", "id": "wamid.quoted"}}
    assert parsed(webhook(raw)).messages[0].answers == "wamid.quoted"


def test_statuses_alone_are_no_messages() -> None:
    found = parsed(webhook(statuses=[{"id": "1"}, {"id": "2"}, "junk"]))
    assert (found.messages, found.statuses) == ((), 2)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"from": "1"},
        {"from": 1, "id": "w"},
        {"from": "1", "id": "w" * 129},
        {"from": "1\n", "id": "w"},
        {"from": "", "id": "w"},
    ],
)
def test_a_malformed_message_is_passed_over_alone(raw: dict[str, Any]) -> None:
    found = parsed(webhook(raw, text("fine")))
    assert [each.text for each in found.messages] == ["fine"]
    assert found.ignored == 1


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"entry":{}}', b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_webhook_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(BadWebhook):
        parse_webhook(body)


def test_no_message_of_a_large_body_is_dropped_by_reading() -> None:
    many = [text("x", f"wamid.{number}") for number in range(wire.EVENTS_MAX + 5)]
    found = parsed(webhook(*many))
    assert (len(found.messages), found.ignored) == (wire.EVENTS_MAX + 5, 0)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["entry", "changes", "value", "messages", "statuses", "metadata", "contacts", "profile", "text",
                         "phone_number_id", "from", "id", "type", "body", "wa_id", "name", "context", "interactive"]),
        inner, max_size=4),
    max_leaves=25,
)  # fmt: skip


@pytest.mark.goal("G13")
@given(JUNK)
def test_any_json_is_parsed_or_refused(document: Any) -> None:
    body = json.dumps(document).encode()
    try:
        found = parse_webhook(body)
    except BadWebhook:
        return
    for message in found.messages:
        assert message.number_id
        assert message.sender
        assert message.message_id
        assert message.text is None or message.text.strip()


@pytest.mark.goal("G13")
@given(st.lists(JUNK, max_size=3), st.lists(JUNK, max_size=3))
def test_junk_beside_a_good_message_does_not_hide_it(before: list[Any], after: list[Any]) -> None:
    document = webhook(text("fine"))
    value = document["entry"][0]["changes"][0]["value"]
    value["messages"] = [*before, *value["messages"], *after]
    document["entry"] = [*before, *document["entry"], *after]
    value["contacts"] = before
    assert "fine" in [each.text for each in parsed(document).messages]


@pytest.mark.goal("G13")
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_quickly(body: bytes) -> None:
    begun = time.process_time()
    try:
        parse_webhook(body)
    except BadWebhook:
        pass
    assert time.process_time() - begun < 0.05


# Outbound


def test_a_text_message_out() -> None:
    assert wire.text_message("34600", "hi", "wamid.1") == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "34600",
        "type": "text",
        "text": {"preview_url": False, "body": "hi"},
        "context": {"message_id": "wamid.1"},
    }
    assert "context" not in wire.text_message("34600", "hi")


@given(st.text(alphabet="ab .\n", max_size=400), st.integers(5, 60))
def test_long_texts_are_split_without_loss(long: str, size: int) -> None:
    pieces = wire.split_text(long, size)
    assert all(0 < len(each) <= size for each in pieces)
    assert "".join("".join(pieces).split()) == "".join(long.split())


def test_texts_are_cut_where_a_reader_would() -> None:
    assert wire.split_text("One two. Three four five", 14) == ["One two.", "Three four", "five"]
    assert wire.split_text("a" * 10, 4) == ["aaaa", "aaaa", "aa"]
    assert wire.split_text("x" * wire.TEXT_CHARS_MAX) == ["x" * wire.TEXT_CHARS_MAX]
    assert wire.split_text("  ") == []
