"""IO.whatsapp over real HTTP: webhooks in, the messages endpoint out, with a stand-in hive between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from nodes.cloud import text, webhook
from nodes.web import Came, Recorder, Reply, StandInHive, ask, serving
from skep.errors import DeliveryError
from skep.protocol.codes import Reason
from skep_nodes.io.provision import Provision
from skep_nodes.io.store import ChannelStore
from skep_nodes.io.whatsapp_channel import Number, WhatsappChannel, WhatsappSettings
from skep_nodes.io.whatsapp_wire import EVENTS_MAX, signature_of
from support.wait import eventually_async

NUMBER, CUSTOMER = "106540352242922", "34600111222"
SECRETS = {"app_secret": "app-secret", "verify_token": "verify-token", "access_token": "access-token"}
OUT = f"/v23.0/{NUMBER}/messages"


@dataclass
class Line:
    """The channel between a customer's phone and the hive."""

    port: int
    hive: StandInHive
    channel: WhatsappChannel
    cloud: Recorder

    async def webhook(self, document: Any, secret: str = "app-secret") -> Reply:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": signature_of(body, secret)}
        return await ask(self.port, "POST", "/webhook", body, headers)

    def told(self) -> list[str]:
        """What the customer was sent."""
        return [json.loads(each.body)["text"]["body"] for each in self.cloud.requests]


async def no_sleep(_seconds: float) -> None:
    return None


@asynccontextmanager
async def line(
    hive: StandInHive | None = None,
    cloud: Recorder | None = None,
    secrets: Any = None,
    store: ChannelStore | None = None,
    provision: Provision | None = None,
    tenants: tuple[str, str] = ("t1", "t2"),
    **changes: Any,
) -> AsyncIterator[Line]:
    hive, cloud, store = hive or StandInHive(), cloud or Recorder(), store or ChannelStore(None)
    async with cloud.at(OUT) as base:
        numbers = (Number(NUMBER, tenants[0]), Number("222", tenants[1], "AI.other"))
        settings = WhatsappSettings(base_url=base, numbers=numbers, **changes)
        given = SECRETS if secrets is None else secrets
        channel = WhatsappChannel(settings, given, hive, store, provision=provision, sleep=no_sleep)
        async with serving(channel.routes()) as (port, _):
            yield Line(port, hive, channel, cloud)
        await channel.close()


async def test_the_verification_challenge() -> None:
    async with line() as a:
        query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
        reply = await ask(a.port, "GET", f"/webhook?{query}verify-token")
        assert (reply.status, reply.body) == (200, b"1158201444")
        assert reply.headers["content-type"] == "text/plain"
        assert (await ask(a.port, "GET", f"/webhook?{query}wrong")).code == "verification_failed"


async def test_a_message_reaches_the_hive_and_its_answer_the_customer() -> None:
    async with line() as a:
        assert (await a.webhook(webhook(text("hello")))).status == 200
        await eventually_async(lambda: len(a.hive.sent) == 1)
        to, payload, options = a.hive.sent[0]
        assert (to, payload["content"], options["ack"]) == ("AI.desk", "hello", "routed")
        io = options["context"]["io"]
        assert (io["channel"], io["entrypoint"]["id"], io["sender"]) == ("whatsapp", NUMBER, CUSTOMER)
        assert io["message"]["id"].startswith("wamid.")
        await a.channel.deliver(Came({"type": "text", "content": "hi!"}, options["thread"]))
        await eventually_async(lambda: len(a.cloud.requests) == 1)
        posted = a.cloud.requests[0]
        assert (posted.path, posted.headers["authorization"]) == (OUT, "Bearer access-token")
        assert json.loads(posted.body)["to"] == CUSTOMER


async def test_answers_survive_a_restart_and_go_to_no_number_of_the_hives_choice() -> None:
    store = ChannelStore(None)
    async with line(store=store) as a:
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: len(a.hive.sent) == 1)
        thread = a.hive.sent[0][2]["thread"]
    async with line(store=store) as b:
        await b.channel.deliver(Came("late", thread))
        await eventually_async(lambda: b.told() == ["late"])
        await b.channel.deliver(
            Came({"content": "x", "to": "34666", "reply_target": {"address": "34666"}}, "thread:other")
        )
        assert b.channel.counters["unclaimed"] == 1
        assert len(b.cloud.requests) == 1


@pytest.mark.goal("G14")
async def test_a_webhook_without_the_right_signature_changes_nothing() -> None:
    async with line() as a:
        body = json.dumps(webhook(text("hello"))).encode()
        for headers in (
            {},
            {"X-Hub-Signature-256": ""},
            {"X-Hub-Signature-256": signature_of(body + b" ", "app-secret")},
        ):
            reply = await ask(a.port, "POST", "/webhook", body, headers)
            assert (reply.status, reply.code) == (401, "invalid_signature")
        assert (await a.webhook(body, "other-secret")).status == 401
        assert a.channel.counters["bad_signature"] == 4
        assert a.hive.sent == []


async def test_bad_webhooks() -> None:
    async with line() as a:
        reply = await a.webhook(b"[1]")
        assert (reply.status, reply.code) == (400, "invalid_json")
        assert (await a.webhook(webhook(statuses=[{"id": "1", "status": "read"}]))).status == 200
        assert (await a.webhook(webhook(text("for another"), number="999"))).status == 200
        assert (a.channel.counters["statuses"], a.channel.counters["unknown_number"]) == (1, 1)
        assert a.hive.sent == []
        assert (await ask(a.port, "GET", "/healthz")).status == 200


async def test_an_unconfigured_node_says_so() -> None:
    async with line(secrets={}) as a:
        assert (await a.webhook(webhook(text("x")))).code == "node_not_configured"
        assert (await ask(a.port, "GET", "/webhook?hub.mode=subscribe&hub.verify_token=")).status == 403


async def test_a_repeated_webhook_is_taken_once() -> None:
    async with line() as a:
        for _ in range(3):
            assert (await a.webhook(webhook(text("hello")))).status == 200
        await eventually_async(lambda: a.channel.counters["relayed"] == 1)
        assert len(a.hive.sent) == 1
        assert a.channel.counters["duplicates"] == 2


async def test_numbers_have_conversations_and_duplicates_of_their_own() -> None:
    async with line() as a:
        await a.webhook(webhook(text("hello")))
        await a.webhook(webhook(text("hello"), number="222"))
        await eventually_async(lambda: len(a.hive.sent) == 2)
        assert [each[0] for each in a.hive.sent] == ["AI.desk", "AI.other"]
        assert len({each[2]["thread"] for each in a.hive.sent}) == 2


async def test_a_message_counts_as_seen_only_when_it_was_sent() -> None:
    hive = StandInHive(errors=[DeliveryError(Reason.TENANT_BLOCKED, 1)])
    async with line(hive) as a:
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: a.told() == [a.channel.settings.unreachable])
        await a.webhook(webhook(text("hello")))  # the provider brings it again
        await eventually_async(lambda: len(hive.sent) == 1)
        assert a.channel.counters["not_sent"] == 1


async def test_a_router_that_is_away_is_waited_for() -> None:
    hive = StandInHive(errors=[DeliveryError(Reason.NOT_READY, 1)] * 4)
    async with line(hive) as a:
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: len(hive.sent) == 1)
        assert a.told() == []


async def test_a_message_of_unknown_fate_is_not_sent_twice() -> None:
    hive = StandInHive(errors=[DeliveryError(Reason.UNKNOWN, 1)])
    async with line(hive) as a:
        await a.webhook(webhook(text("hello")))
        await eventually_async(lambda: a.channel.counters["relayed"] == 1)
        assert hive.sent == []


async def test_pictures_are_answered_with_a_word() -> None:
    async with line() as a:
        await a.webhook(webhook({"from": CUSTOMER, "id": "wamid.1", "type": "image", "image": {"id": "1"}}))
        await eventually_async(lambda: a.told() == [a.channel.settings.unreadable])
        assert a.hive.sent == []


async def test_a_customers_messages_keep_their_order_and_others_do_not_wait() -> None:
    """One conversation that waits (its answer is slow to post) holds up no other."""
    async with line() as a:
        messages = [text(f"m{number}", f"wamid.{number}") for number in range(10)]
        await a.webhook(webhook(*messages, text("other", "wamid.x", "34999")))
        await eventually_async(lambda: len(a.hive.sent) == 11)
        mine = [each[1]["content"] for each in a.hive.sent if each[2]["context"]["io"]["sender"] == CUSTOMER]
        assert mine == [f"m{number}" for number in range(10)]


@pytest.mark.goal("G8")
async def test_more_than_there_is_room_for_is_left_with_the_provider() -> None:
    async with line() as a:
        stopped = asyncio.Event()
        a.hive.send = lambda *_, **__: stopped.wait()  # type: ignore[method-assign,assignment,return-value]
        messages = [text("x", f"wamid.{number}") for number in range(100)]
        reply = await a.webhook(webhook(*messages))
        assert (reply.status, reply.code) == (503, "busy")
        before = a.channel.lanes_in.counters["refused"]
        assert before > 0
        stopped.set()
        await eventually_async(lambda: a.channel.lanes_in.waiting == 0)
        assert (
            await a.webhook(webhook(*messages))
        ).status == 200  # those not taken are taken now, the others known
        await eventually_async(lambda: a.channel.counters["relayed"] == 100)


@pytest.mark.goal("G15")
async def test_more_messages_than_one_webhook_may_hold_are_left_with_the_provider_until_taken() -> None:
    async with line() as a:
        over = 5
        messages = [
            text("x", f"wamid.{number}", str(34_000_000 + number)) for number in range(EVENTS_MAX + over)
        ]
        reply = await a.webhook(webhook(*messages))
        assert (reply.status, reply.code, a.channel.counters["over_events_max"]) == (503, "busy", 1)
        await eventually_async(lambda: a.channel.counters["relayed"] == EVENTS_MAX)
        assert (await a.webhook(webhook(*messages))).status == 200
        await eventually_async(lambda: a.channel.counters["relayed"] == EVENTS_MAX + over)
        assert len(a.hive.sent) == EVENTS_MAX + over


async def test_a_number_that_is_not_configured_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with line() as a:
        for each in ("one", "two"):
            assert (await a.webhook(webhook(text(each, f"wamid.{each}"), number="999"))).status == 200
        assert a.channel.counters["unknown_number"] == 2
    assert [each for each in caplog.messages if "'999'" in each and "numbers" in each] == [caplog.messages[0]]


async def _thread(a: Line) -> str:
    await a.webhook(webhook(text("hello")))
    await eventually_async(lambda: len(a.hive.sent) == 1)
    return str(a.hive.sent[0][2]["thread"])


async def test_long_answers_are_split_and_stay_in_order() -> None:
    async with line() as a:
        thread = await _thread(a)
        await a.channel.deliver(Came("word " * 1500, thread))
        await a.channel.deliver(Came("second", thread))
        await eventually_async(lambda: len(a.cloud.requests) == 3)
        assert all(len(each) <= 4096 for each in a.told())
        assert a.told()[2] == "second"


@pytest.mark.parametrize(
    ("statuses", "posts", "lost"), [([429, 500, 200], 3, 0), ([400], 1, 1), ([500] * 5, 5, 1)]
)
async def test_posts_are_tried_again_within_bounds(statuses: list[int], posts: int, lost: int) -> None:
    async with line(cloud=Recorder(statuses=statuses)) as a:
        thread = await _thread(a)
        await a.channel.deliver(Came("hi", thread))
        await eventually_async(lambda: a.channel.counters["lost"] + a.channel.counters["answered"] == 1)
        assert (len(a.cloud.requests), a.channel.counters["lost"]) == (posts, lost)


async def test_an_answer_may_quote() -> None:
    async with line(quote=True) as a:
        await a.channel.deliver(Came("hi", await _thread(a)))
        await eventually_async(lambda: len(a.cloud.requests) == 1)
        assert json.loads(a.cloud.requests[0].body)["context"]["message_id"].startswith("wamid.")
