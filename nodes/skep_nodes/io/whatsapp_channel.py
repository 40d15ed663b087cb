"""IO.whatsapp: WhatsApp's Cloud API on one side, the hive on the other.

In: Meta posts to `/webhook`. The signature over the raw body is checked before a byte of it is parsed; the answer is
200 as soon as every message of the body has a place in its conversation's lane, and 503 when one has none, so that
Meta brings it again (the lanes are in memory: what waits there when the process is killed was answered 200 and is
lost). A message is marked as seen only when the hive has it: one that could not be sent is forgotten,
and its next delivery is taken.

Out: whatever the hive says on a conversation's thread is posted to the customer who owns that thread, in order, in
pieces the API accepts, with bounded retries. Where a thread leads is this node's own record; no message of the hive can
name a phone number.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import orjson

from skep.errors import DeliveryError, LinkClosed
from skep_nodes.io import context, http_client, whatsapp_wire
from skep_nodes.io.counters import Counters
from skep_nodes.io.dedup import Dedup, Key, Seen
from skep_nodes.io.hive_port import HivePort, Incoming, outcome_unknown, retryable
from skep_nodes.io.http_client import HttpFailure, HttpReply, Post, Retry, Sleep
from skep_nodes.io.http_server import (
    Request,
    Response,
    Route,
    error_response,
    json_response,
)
from skep_nodes.io.lanes import Lanes
from skep_nodes.io.provision import Provision, thread_of
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused
from skep_nodes.io.store import ChannelStore
from skep_nodes.io.text import text_payload, words_of
from skep_nodes.io.whatsapp_wire import EVENTS_MAX, BadWebhook, Inbound

log = logging.getLogger("skep.nodes.whatsapp")

DEDUP_KEEP_S = 7 * 86_400.0  # Meta repeats an unacknowledged webhook for up to seven days
COUNTERS = (
    "relayed", "duplicates", "ignored", "unknown_number", "over_events_max", "statuses", "bad_signature", "not_sent",
    "answered", "lost", "unclaimed",
)  # fmt: skip
SECRETS = ("app_secret", "verify_token", "access_token")


class Taken(Enum):
    """What became of one message of a webhook."""

    NEW = auto()
    KNOWN = auto()
    """Nothing to do: it was taken before, or is not ours."""
    FULL = auto()
    """There is no room: the provider must bring it again."""


@dataclass(frozen=True, slots=True)
class Number:
    """One business number."""

    phone_number_id: str
    tenant_id: str = ""
    to: str = ""
    """The node that gets its messages where the hive has no identity; empty for the settings' `to`."""


@dataclass(frozen=True, slots=True)
class WhatsappSettings:
    """IO.whatsapp's settings."""

    name: str = "IO.whatsapp"
    host: str = "127.0.0.1"
    """Address to listen on; Meta needs HTTPS, so a TLS proxy stands before it."""
    port: int = 8081
    """TCP port; 0 takes a free one."""
    to: str = "AI.desk"
    """The node that gets every message whose thread nobody has taken over, where the hive has no identity; where it
    has one, the policy decides."""
    identity: str = "auto"
    """`on`: each message is sent as the interlocutor that it is from; `off`: by names; `auto`: as the hive has it."""
    threads: str = "v3"
    """`v2` for clients of the system before, which compute thread ids themselves."""
    numbers: tuple[Number, ...] = ()
    """The business numbers that are ours; messages to others are counted, warned of, and ignored."""
    secrets_file: Path | None = None
    """JSON {app_secret, verify_token, access_token}, mode 0600."""
    base_url: str = "https://graph.facebook.com"
    """Where messages are posted; a test or a proxy has its own."""
    api_version: str = "v23.0"
    timeout_s: float = 10.0
    """Seconds for one post to the API."""
    retries: int = 4
    """Posts after the first, on 429, 5xx and no answer; with doubling delays about 15 s in all."""
    retry_initial_s: float = 1.0
    send_retries: int = 5
    """Sends into the hive after the first, while the router is away; about 15 s in all."""
    quote: bool = False
    """Whether an answer quotes the customer's last message."""
    body_bytes_max: int = 1 << 20
    """Bytes of a webhook; Meta batches updates into bodies of up to 3 MB, seldom above 100 KB."""
    unreadable: str = "I can only read text messages at the moment."
    unreachable: str = "We cannot answer just now. Please try again in a few minutes."


class WhatsappChannel:
    """The node's behaviour, given a hive to speak to and a way to post."""

    def __init__(
        self,
        settings: WhatsappSettings,
        secrets: Mapping[str, Any],
        hive: HivePort,
        store: ChannelStore,
        *,
        provision: Provision | None = None,
        post: Post | None = None,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._provision = provision
        self.counters = Counters(COUNTERS, log)
        self.lanes_in, self.lanes_out = Lanes(), Lanes()
        self._app_secret, self._verify_token, self._access_token = (
            str(secrets.get(each) or "") for each in SECRETS
        )
        self._numbers = {each.phone_number_id: each for each in settings.numbers}
        self._hive, self._store, self._sleep, self._now = hive, store, sleep, now
        self._post = post or self._post_over_http
        self._dedup = Dedup(keep_s=DEDUP_KEEP_S)
        self._retry_in = Retry(settings.send_retries + 1, 0.5, 8.0)
        self._retry_out = Retry(settings.retries + 1, settings.retry_initial_s, 30.0)

    def routes(self) -> dict[tuple[str, str], Route]:
        return {
            ("GET", "/webhook"): Route(self._verify),
            ("POST", "/webhook"): Route(self._receive, self._guard),
            ("GET", "/healthz"): Route(self._health),
        }

    async def close(self) -> None:
        await self.lanes_in.close()
        await self.lanes_out.close()

    async def deliver(self, message: Incoming) -> None:
        """A message of the hive: to the customer who owns its thread."""
        target = self._store.target(message.thread_id or "")
        text = words_of(message.payload)
        if target is None or text is None:
            what = "message from %s is for no conversation of this node"
            self.counters.trouble("unclaimed", what, message.source_name)
            return
        if not self.lanes_out.put(message.thread_id or "", lambda: self._tell(target, text)):
            self.counters["lost"] += 1
            log.error("answer from %s dropped: too many wait for this customer", message.source_name)

    # ---- webhook -------------------------------------------------------------------------------------------------

    async def _verify(self, request: Request) -> Response:
        challenge = whatsapp_wire.challenge_answer(request.query, self._verify_token)
        if challenge is None:
            return error_response(403, "verification_failed", "hub.verify_token is not ours")
        return Response(200, challenge.encode(), "text/plain")

    def _guard(self, request: Request) -> Response | None:
        if not self._app_secret or not self._numbers:
            return error_response(503, "node_not_configured", "app_secret and numbers are not set")
        if not request.headers.get("x-hub-signature-256"):
            self.counters.trouble("bad_signature", "a webhook came without a signature")
            return error_response(401, "invalid_signature", "X-Hub-Signature-256 is missing")
        return None

    async def _receive(self, request: Request) -> Response:
        header = request.headers["x-hub-signature-256"]
        if not whatsapp_wire.signature_ok(request.body, header, self._app_secret):
            self.counters.trouble("bad_signature", "a webhook's signature is wrong; compare app_secret")
            return error_response(401, "invalid_signature", "X-Hub-Signature-256 does not fit the body")
        try:
            webhook = whatsapp_wire.parse_webhook(request.body)
        except BadWebhook as error:
            return error_response(400, "invalid_json", str(error))
        self.counters["statuses"] += webhook.statuses
        self.counters["ignored"] += webhook.ignored
        if not self._take_all(webhook.messages):
            return error_response(503, "busy", "not every message could be taken", ("Retry-After", "5"))
        return json_response(200, {"status": "ok"})

    def _take_all(self, messages: tuple[Inbound, ...]) -> bool:
        """Whether every message has its place. Of more than EVENTS_MAX new ones the rest stays with the provider, who
        brings the body again: those taken now are known then, so each time the next are reached."""
        left, whole = EVENTS_MAX, True
        for each in messages:
            if left == 0:
                what = "a webhook held more than %d new messages; the rest is left with the provider"
                self.counters.trouble("over_events_max", what, EVENTS_MAX)
                return False
            taken = self._take(each)
            left -= taken is not Taken.KNOWN
            whole = whole and taken is not Taken.FULL
        return whole

    def _take(self, inbound: Inbound) -> Taken:
        number = self._numbers.get(inbound.number_id)
        if number is None:
            what = "message for phone_number_id %r ignored: it is not in the settings' numbers; add it there"
            self.counters.trouble("unknown_number", what, inbound.number_id)
            return Taken.KNOWN
        key = (number.tenant_id, inbound.number_id, inbound.sender, inbound.message_id)
        if self._dedup.begin(key, self._now()) is not Seen.NEW:
            self.counters["duplicates"] += 1
            return Taken.KNOWN
        version = self.settings.threads
        thread = thread_of(version, number.tenant_id, "whatsapp", inbound.number_id, inbound.sender)
        if self.lanes_in.put(thread, lambda: self._relay(inbound, number, thread, key)):
            return Taken.NEW
        self._dedup.failed(key)
        return Taken.FULL

    async def _relay(self, inbound: Inbound, number: Number, thread: str, key: Key) -> None:
        """One message into the hive; ends its dedup entry on every path."""
        target = {"number_id": inbound.number_id, "to": inbound.sender, "message_id": inbound.message_id}
        sent = False
        try:
            self._store.remember(thread, target, time.time_ns() // 1_000_000)
            if inbound.text is None:
                await self._tell(target, self.settings.unreadable)
                sent = True
            else:
                sent = await self._send(inbound, number, thread)
        finally:
            if sent:
                self._dedup.done(key, self._now())
                self.counters["relayed"] += 1
            else:
                self._dedup.failed(key)
                what = "message %s reached no node; the customer is told"
                self.counters.trouble("not_sent", what, inbound.message_id)
        if not sent:
            await self._tell(target, self.settings.unreachable)

    async def _send(self, inbound: Inbound, number: Number, thread: str) -> bool:
        try:
            speaks = await self._speaker(inbound, number)
        except (IdentityAway, IdentityRefused) as error:
            log.warning("message %s not sent, for nobody knows who wrote it: %s", inbound.message_id, error)
            return False
        options = {"thread": thread, "context": context.io_context(_context_of(inbound, thread)), "ack": "routed"}
        destination = None if speaks else number.to or self.settings.to
        return await self._send_retrying(destination, inbound, options | speaks)

    async def _speaker(self, inbound: Inbound, number: Number) -> dict[str, str]:
        """Who wrote it, as an option of the send; empty in a hive without identity."""
        if self._provision is None or not self._provision.present:
            return {}
        address = f"+{inbound.sender}" if inbound.sender.isdigit() else inbound.sender
        return {"src_ilk": await self._provision.speaker("whatsapp", address, number.tenant_id)}

    async def _send_retrying(self, to: str | None, inbound: Inbound, options: dict[str, Any]) -> bool:
        payload = text_payload(inbound.text or "")
        for attempt in range(1, self._retry_in.attempts + 1):
            try:
                await self._hive.send(to, payload, **options)
                return True
            except (DeliveryError, LinkClosed) as error:
                log.warning("message %s not sent (attempt %d): %s", inbound.message_id, attempt, error)
                if outcome_unknown(error):
                    return True  # perhaps delivered: sending it again could ask twice
                if not retryable(error) or attempt == self._retry_in.attempts:
                    return False
            await self._sleep(self._retry_in.delay_s(attempt))
        return False

    # ---- the API -------------------------------------------------------------------------------------------------

    async def _tell(self, target: Mapping[str, str], text: str) -> None:
        answers = target["message_id"] if self.settings.quote else ""
        for piece in whatsapp_wire.split_text(text):
            if not await self._post_text(target, whatsapp_wire.text_message(target["to"], piece, answers)):
                self.counters["lost"] += 1
                return
        self.counters["answered"] += 1

    async def _post_text(self, target: Mapping[str, str], body: dict[str, Any]) -> bool:
        url = (
            f"{self.settings.base_url.rstrip('/')}/{self.settings.api_version}/{target['number_id']}/messages"
        )
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._access_token}"}
        send: Callable[[], Awaitable[HttpReply]] = lambda: self._post(url, orjson.dumps(body), headers)  # noqa: E731
        try:
            reply = await http_client.post_until_accepted(send, self._retry_out, self._sleep)
        except HttpFailure as failure:
            log.error("answer to a customer of %s is lost: %s", target["number_id"], failure)
            return False
        if not reply.ok:
            detail = reply.body[:300].decode("utf-8", "replace")
            log.error(
                "answer to a customer of %s is refused: %d %s", target["number_id"], reply.status, detail
            )
        return reply.ok

    async def _post_over_http(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpReply:
        return await http_client.post(url, body, headers, timeout_s=self.settings.timeout_s)

    async def _health(self, _request: Request) -> Response:
        return json_response(200, {"status": "ok", "node_name": self.settings.name})


def _context_of(inbound: Inbound, thread: str) -> context.Inbound:
    return context.Inbound(
        channel="whatsapp",
        entrypoint_kind="phone_number",
        entrypoint_id=inbound.number_id,
        sender=inbound.sender,
        conversation_kind="direct",
        conversation_id=inbound.sender,
        thread=thread,
        message_id=inbound.message_id,
        timestamp=inbound.timestamp,
        reply_kind="whatsapp_text",
        reply_address=inbound.sender,
    )
