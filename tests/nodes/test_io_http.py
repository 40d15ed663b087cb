"""IO.http over real HTTP on loopback, with a stand-in hive: every status, every code, and what reaches the hive."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from nodes.web import Came, Recorder, Reply, StandInHive, ask, serving
from skep.errors import DeliveryError, LinkClosed, RemoteError, RequestTimeout
from skep.protocol.codes import CloseReason, Reason
from skep_nodes.io import api_wire
from skep_nodes.io.callbacks import Callbacks, Webhook
from skep_nodes.io.http_channel import HttpChannel, HttpSettings
from skep_nodes.io.http_server import HttpLimits
from skep_nodes.io.provision import Provision
from skep_nodes.io.store import ChannelStore
from support.wait import eventually_async

KEY_A, KEY_B = "key-of-tenant-a-000", "key-of-tenant-b-000"
SECRETS = {
    "api_keys": [
        {
            "key_id": "a",
            "token": KEY_A,
            "tenant_id": "ta",
            "ilks": ["ilk:11111111-1111-4111-8111-111111111111"],
        },
        {"key_id": "b", "token": KEY_B, "tenant_id": "tb", "integration_id": "hooked"},
    ]
}
JSON = {"Content-Type": "application/json"}


def desk(_to: str, payload: Any, _options: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "text",
        "content": f"echo {payload['content']}",
        "citations": [{"document": "a.md"}],
        "confidence": 0.9,
    }


@dataclass
class Door:
    port: int
    hive: StandInHive
    channel: HttpChannel
    callbacks: Callbacks

    async def post(self, body: Any, key: str = KEY_A, path: str = "/messages", **headers: str) -> Reply:
        fields = {**JSON, "Authorization": f"Bearer {key}"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await ask(self.port, "POST", path, body, fields)

    async def get(self, path: str, key: str = KEY_A) -> Reply:
        return await ask(self.port, "GET", path, headers={"Authorization": f"Bearer {key}"})


@asynccontextmanager
async def door(
    hive: StandInHive | None = None, hook: str = "", provision: Provision | None = None,
    tenants: dict[str, str] | None = None, **changes: Any,
) -> AsyncIterator[Door]:  # fmt: skip
    settings = HttpSettings(**changes)
    hive = hive or StandInHive(desk)
    store = ChannelStore(None)
    webhooks = {"hooked": Webhook("hooked", hook, initial_backoff_ms=1, max_backoff_ms=2)} if hook else {}
    callbacks = Callbacks(store, webhooks, dict.fromkeys(webhooks, "hook-secret"))
    callbacks.start()
    callers = api_wire.callers_from(SECRETS)
    if tenants:
        callers = tuple(replace(each, tenant_id=tenants[each.tenant_id]) for each in callers)
    channel = HttpChannel(settings, callers, hive, store, callbacks, provision=provision)
    limits = HttpLimits(requests_max=settings.requests_max, body_bytes_max=settings.body_bytes_max)
    async with serving(channel.routes(), limits) as (port, _):
        yield Door(port, hive, channel, callbacks)
    await callbacks.close()
    store.close()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"message": {"text": text}, **more}


# Answers


@pytest.mark.parametrize("path", ["/messages", "/"])
async def test_a_message_is_answered_in_the_same_request(path: str) -> None:
    async with door() as d:
        reply = await d.post(said("hi", subject={"external_user_id": "u1"}), path=path)
        assert reply.status == 200
        body = reply.json
        assert (body["status"], body["message"], body["confidence"]) == ("answered", {"text": "echo hi"}, 0.9)
        assert body["citations"] == [{"document": "a.md"}]
        assert body["source"] == {"node_name": "AI.desk@test"}
        to, payload, options = d.hive.sent[0]
        assert (to, payload["type"], payload["content"]) == ("AI.desk", "text", "hi")
        assert options["thread"] == body["thread_id"]
        io = options["context"]["io"]
        assert (io["channel"], io["sender"], io["conversation"]["id"]) == ("api", "u1", "u1")
        assert io["reply_target"]["kind"] == "io_api_noop"


async def test_conversations_and_tenants_have_threads_of_their_own() -> None:
    async with door() as d:
        same = said("hi", subject={"external_user_id": "u1"})
        other = said(
            "hi", subject={"external_user_id": "u1"}, options={"metadata": {"conversation_id": "c2"}}
        )
        threads = [(await d.post(body, key)).json["thread_id"] for body, key in
                   ((same, KEY_A), (same, KEY_A), (other, KEY_A), (same, KEY_B))]  # fmt: skip
        assert threads[0] == threads[1]
        assert len(set(threads)) == 3


async def test_accept_mode_says_where_the_message_is() -> None:
    async with door(default_wait=False) as d:
        reply = await d.post(said("hi"))
        assert reply.status == 202
        assert reply.json["relay_status"] == "flushed_immediately"
        assert reply.json["request_id"].startswith("req_")
        assert d.hive.sent[0][2]["ack"] == "routed"
        assert (await d.post(said("hi", options={"mode": "wait"}))).status == 200


async def test_a_reply_without_words_is_given_as_it_is() -> None:
    async with door(StandInHive(lambda *_: {"total": 3})) as d:
        assert (await d.post(said("hi"))).json["payload"] == {"total": 3}
    async with door(StandInHive(lambda *_: b"abc")) as d:
        assert (await d.post(said("hi"))).json["payload"] == {"bytes": 3}


async def test_a_duplicate_message_id_is_not_sent_twice_and_a_failed_one_is() -> None:
    hive = StandInHive(desk, errors=[DeliveryError(Reason.NOT_READY, 1)])
    async with door(hive) as d:
        body = {"message": {"text": "hi", "external_message_id": "m1"}}
        assert (await d.post(body)).status == 503  # not marked: the send failed
        assert (await d.post(body)).status == 200
        again = await d.post(body)
        assert (again.status, again.json["relay_status"]) == (202, "duplicate_dropped")
        assert (await d.post(body, KEY_B)).status == 200  # another tenant's m1 is another message
        assert len(hive.sent) == 2


# Idempotency


async def test_one_key_is_one_question() -> None:
    async with door() as d:
        first, second = [await d.post(said("hi"), Idempotency_Key="k1") for _ in range(2)]
        assert first.body == second.body
        assert len(d.hive.sent) == 1
        other = await d.post(said("ho"), Idempotency_Key="k1")
        assert (other.status, other.code) == (409, "idempotency_key_reused")
        assert (await d.post(said("ho"), KEY_B, Idempotency_Key="k1")).status == 200
        long = await d.post(said("hi"), Idempotency_Key="k" * 129)
        assert (long.status, long.code) == (400, "invalid_idempotency_key")


async def test_two_requests_at_once_share_one_question() -> None:
    hive = StandInHive(desk, gate=asyncio.Event())
    async with door(hive) as d:
        both = [asyncio.create_task(d.post(said("hi"), Idempotency_Key="k")) for _ in range(2)]
        await eventually_async(lambda: len(hive.sent) == 1)
        assert hive.gate is not None
        hive.gate.set()
        assert {(await each).body for each in both} == {(await both[0]).body}
        assert len(hive.sent) == 1


async def test_after_a_timeout_the_same_key_fetches_the_same_answer() -> None:
    hive = StandInHive(desk, gate=asyncio.Event())
    async with door(hive, wait_s=0.05) as d:
        late = await d.post(said("hi"), Idempotency_Key="k")
        assert (late.status, late.code) == (504, "answer_timeout")
        assert hive.cancelled == 0
        assert hive.gate is not None
        hive.gate.set()
        assert (await d.post(said("hi"), Idempotency_Key="k")).json["message"]["text"] == "echo hi"
        assert len(hive.sent) == 1


async def test_an_exchange_that_certainly_failed_is_tried_afresh() -> None:
    hive = StandInHive(desk, errors=[DeliveryError(Reason.NOT_READY, 1)])
    async with door(hive) as d:
        assert (await d.post(said("hi"), Idempotency_Key="k")).status == 503
        assert (await d.post(said("hi"), Idempotency_Key="k")).status == 200


async def test_an_exchange_with_unknown_outcome_is_not_repeated() -> None:
    hive = StandInHive(desk, errors=[DeliveryError(Reason.UNKNOWN, 1)])
    async with door(hive) as d:
        for _ in range(2):
            reply = await d.post(said("hi"), Idempotency_Key="k")
            assert (reply.status, reply.code) == (504, "delivery_unknown")
        assert hive.sent == []


# Refusals


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong-key-wrong-key", 401),
        (f"Basic {KEY_A}", 401),
        (f"bearer {KEY_A}", 200),
    ],
)
@pytest.mark.parametrize("path", ["/messages", "/schema", "/replies?conversation_id=a"])
async def test_who_asks_must_hold_a_key(header: str, status: int, path: str) -> None:
    async with door() as d:
        method, body = ("POST", said("x")) if path == "/messages" else ("GET", b"")
        reply = await ask(d.port, method, path, body, {**JSON, "Authorization": header})
        assert reply.status == status
        if status == 401:
            assert reply.code == "unauthorized"
            assert "bearer" in reply.headers["www-authenticate"]
            assert d.hive.sent == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'{"message":{"text":NaN}}', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"message":{"text":"a"},"message":{"text":"b"}}', 400, "duplicate_key"),
        (b'{"message":{"text":"a", "te\\u0078t":"b"}}', 400, "duplicate_key"),
        (b"[]", 422, "invalid_payload"),
        (b"{}", 422, "invalid_payload"),
        (said(""), 422, "invalid_payload"),
        (said(5), 422, "invalid_payload"),
        (b'{"message":{"text":"\\ud800"}}', 400, "invalid_json"),
        (said("x", subject="me"), 422, "invalid_payload"),
        (said("x", subject={"external_user_id": "a" * 129}), 422, "invalid_payload"),
        (said("x", subject={"external_user_id": "a\nb"}), 422, "invalid_payload"),
        (said("x", options={"mode": "maybe"}), 422, "invalid_payload"),
        (said("x", options={"wait_ms": 0}), 422, "invalid_payload"),
        (said("x", options={"wait_ms": True}), 422, "invalid_payload"),
        (said("x", options={"routing": {"dst_node": "SY.threads"}}), 403, "destination_forbidden"),
        (said("x", subject={"ilk": "ilk:22222222-2222-4222-8222-222222222222"}), 404, "ilk_does_not_exist"),
        (said("a" * 64_000), 413, "payload_too_large"),
        (said("a" * 300_000), 413, "payload_too_large"),
    ],
)
async def test_bad_bodies_are_named(body: Any, status: int, code: str) -> None:
    async with door() as d:
        reply = await d.post(body)
        assert (reply.status, reply.code) == (status, code)
        assert d.hive.sent == []


async def test_other_content_types_are_refused() -> None:
    async with door() as d:
        for kind in ("text/plain", "", "multipart/form-data; boundary=x", "application/jsonx"):
            reply = await ask(
                d.port,
                "POST",
                "/messages",
                said("x"),
                {"Content-Type": kind, "Authorization": f"Bearer {KEY_A}"},
            )
            assert (reply.status, reply.code) == (415, "unsupported_media_type")
        fields = {"Content-Type": "application/json; charset=utf-8", "Authorization": f"Bearer {KEY_A}"}
        assert (await ask(d.port, "POST", "/messages", said("x"), fields)).status == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DeliveryError(Reason.NODE_NOT_FOUND, 1), 503, "router_unavailable"),
        (DeliveryError(Reason.QUEUE_FULL, 1), 503, "router_unavailable"),
        (LinkClosed(CloseReason.DRAINED), 503, "router_unavailable"),
        (DeliveryError(Reason.TENANT_BLOCKED, 1), 502, "undeliverable"),
        (DeliveryError(Reason.UNKNOWN, 1), 504, "delivery_unknown"),
        (RequestTimeout(1.0), 504, "answer_timeout"),
        (RemoteError("handler_failed", "secret inner detail"), 502, "answerer_failed"),
    ],
)
async def test_what_the_hive_says_becomes_a_status(error: Exception, status: int, code: str) -> None:
    async with door(StandInHive(desk, errors=[error])) as d:
        reply = await d.post(said("hi"))
        assert (reply.status, reply.code) == (status, code)
        assert reply.json["error"]["retryable"] is (status in (503, 504))
        assert b"secret" not in reply.body


async def test_a_request_that_gives_up_cancels_its_question() -> None:
    hive = StandInHive(desk, gate=asyncio.Event())
    async with door(hive) as d:
        reply = await d.post(said("hi", options={"wait_ms": 50}))
        assert (reply.status, reply.code) == (504, "answer_timeout")
        assert hive.cancelled == 1


@pytest.mark.goal("G11")
async def test_too_many_requests_at_once_are_told_so() -> None:
    hive = StandInHive(desk, gate=asyncio.Event())
    async with door(hive, requests_max=1) as d:
        first = asyncio.create_task(d.post(said("hi")))
        await eventually_async(lambda: len(hive.sent) == 1)
        assert (await d.post(said("hi"))).code == "busy"
        assert hive.gate is not None
        hive.gate.set()
        assert (await first).status == 200


async def test_schema_and_health() -> None:
    async with door(destinations=("AI.other",)) as d:
        schema = (await d.get("/schema")).json
        assert schema["destinations"] == ["AI.desk", "AI.other"]
        assert (await d.get("/")).json == schema
        assert (await ask(d.port, "GET", "/healthz")).json["status"] == "ok"
        assert (await d.post(said("x", options={"routing": {"dst_node": "AI.other"}}))).status == 200
        assert d.hive.sent[0][0] == "AI.other"


async def test_a_listed_ilk_speaks_for_itself() -> None:
    async with door() as d:
        ilk = SECRETS["api_keys"][0]["ilks"][0]
        assert (await d.post(said("x", subject={"ilk": ilk}))).status == 200
        assert d.hive.sent[0][2]["src_ilk"] == ilk


# Replies nobody waits for


async def test_late_replies_wait_to_be_fetched_by_their_caller_only() -> None:
    async with door() as d:
        thread = (await d.post(said("hi", subject={"external_user_id": "u"}))).json["thread_id"]
        await d.channel.deliver(
            Came({"type": "text", "content": "later"}, thread, source_name="IO.terminal@test")
        )
        replies = (await d.get("/replies?conversation_id=u&after=0")).json["replies"]
        assert [(each["number"], each["message"]["text"]) for each in replies] == [(1, "later")]
        assert (await d.get("/replies?conversation_id=u&after=1&wait_ms=10")).json["replies"] == []
        assert (await d.get("/replies?conversation_id=u", KEY_B)).json["replies"] == []
        for query in ("", "?conversation_id=u&after=-1", "?conversation_id=u&wait_ms=x"):
            assert (await d.get(f"/replies{query}")).code == "invalid_payload"
        await d.channel.deliver(Came("x", "thread:unknown"))
        assert d.channel.counters["unclaimed"] == 1


async def test_a_webhook_is_signed_and_tried_again() -> None:
    hook = Recorder(statuses=[500, 503])
    async with hook.at("/hook") as base, door(hook=f"{base}/hook") as d:
        thread = (await d.post(said("hi", subject={"external_user_id": "u"}), KEY_B)).json["thread_id"]
        assert d.hive.sent[0][2]["context"]["io"]["reply_target"]["kind"] == "webhook_post"
        await d.channel.deliver(
            Came({"type": "text", "content": "later"}, thread, source_name="IO.terminal@test")
        )
        await eventually_async(lambda: d.callbacks.counters["delivered"] == 1)
        assert len(hook.requests) == 3
        request = hook.requests[-1]
        signed = request.headers["x-skep-timestamp"].encode() + b"." + request.body
        expected = "v1=" + hmac.new(b"hook-secret", signed, hashlib.sha256).hexdigest()
        assert request.headers["x-skep-signature"] == expected
        assert request.headers["x-skep-delivery-id"].startswith("dly_")
        body = json.loads(request.body)
        assert (body["event_type"], body["tenant_id"], body["result"]["message"]["text"]) == (
            "io.api.final",
            "tb",
            "later",
        )


async def test_a_webhook_that_refuses_or_never_answers_is_given_up() -> None:
    hook = Recorder(statuses=[410, *[500] * 20])
    async with hook.at("/hook") as base, door(hook=f"{base}/hook") as d:
        assert d.callbacks.add("d1", "hooked", b"{}")
        await eventually_async(lambda: d.callbacks.counters["given_up"] == 1)
        assert d.callbacks.add("d2", "hooked", b"{}")
        await eventually_async(lambda: d.callbacks.counters["given_up"] == 2)
        assert len(hook.requests) == 1 + 6


async def test_a_webhook_outlives_its_process() -> None:
    hook, store = Recorder(), ChannelStore(None)
    async with hook.at("/hook") as base:
        webhooks = {"hooked": Webhook("hooked", f"{base}/hook")}
        before = Callbacks(store, webhooks, {"hooked": "s"})
        before.add("d1", "hooked", b"{}")  # and the process ends before it was started
        after = Callbacks(store, webhooks, {"hooked": "s"})
        after.start()
        await eventually_async(lambda: after.counters["delivered"] == 1)
        await after.close()
    assert store.callbacks_count() == 0


async def test_a_webhook_without_a_secret_is_a_configuration_error() -> None:
    with pytest.raises(ValueError, match="webhook_secrets"):
        Callbacks(ChannelStore(None), {"a": Webhook("a", "http://x")}, {})


# Keys


def test_a_known_signature() -> None:
    expected = hmac.new(b"s", b'12.{"a":1}', hashlib.sha256).hexdigest()
    assert api_wire.webhook_signature("s", "12", b'{"a":1}') == f"v1={expected}"


@pytest.mark.parametrize(
    "secrets",
    [
        {},
        {"api_keys": []},
        {"api_keys": ["x"]},
        {"api_keys": [{"token": "short"}]},
        {"api_keys": [{"token": 5}]},
    ],
)
def test_keys_that_are_none_are_refused(secrets: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="secrets: "):
        api_wire.callers_from(secrets)


@pytest.mark.goal("G21")
def test_a_caller_keeps_no_token() -> None:
    caller = api_wire.callers_from(SECRETS)[0]
    assert KEY_A not in repr(caller)


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry is compared by hmac.compare_digest, also after one fits."""
    seen: list[bytes] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append(b) or real(a, b))
    callers = api_wire.callers_from(SECRETS)
    found = api_wire.authenticate(f"Bearer {KEY_A}", callers)
    assert found is callers[0]
    assert seen == [each.token_digest for each in callers]
