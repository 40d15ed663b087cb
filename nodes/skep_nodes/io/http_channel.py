"""IO.http: the HTTP door of a hive. JSON messages in; answers back in the same request, by webhook, or to be fetched.

`POST /messages` (or `/`) sends one message to the configured node. In mode `wait` the request is answered with the
reply, or with 504 when none came in time; in mode `accept` with 202, and the reply goes to the integration's webhook.
Replies nobody waited for (a person who answers an hour later) go to the webhook too, or to `GET /replies`.

Everything derived from a request begins with its caller's tenant and integration: thread, duplicate check,
idempotency key, mailbox. A caller reaches only the destinations this node is configured for; which node answers a
thread that was handed to a person is the router's business (bindings), not the caller's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets as random_secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skep.errors import DeliveryError, LinkClosed, RemoteError, RequestTimeout
from skep_nodes.io import api_wire
from skep_nodes.io.api_wire import ApiError, Ask, Caller
from skep_nodes.io.callbacks import Callbacks, Webhook
from skep_nodes.io.context import Inbound, io_context
from skep_nodes.io.counters import Counters
from skep_nodes.io.dedup import Dedup, Seen
from skep_nodes.io.hive_port import HivePort, Incoming, outcome_unknown, retryable
from skep_nodes.io.http_server import (
    Request,
    Response,
    Route,
    error_response,
    json_response,
)
from skep_nodes.io.idempotency import KEY_BYTES_MAX, Exchanges, KeyReused, StoreFull
from skep_nodes.io.mailbox import Mailbox
from skep_nodes.io.provision import Provision, thread_of
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused
from skep_nodes.io.provision_subject import Introductions, NotIntroduced
from skep_nodes.io.store import ChannelStore
from skep_nodes.io.text import text_payload, words_of

log = logging.getLogger("skep.nodes.http")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """IO.http's settings."""

    name: str = "IO.http"
    host: str = "127.0.0.1"
    """Address to listen on; a public one belongs behind a TLS proxy."""
    port: int = 8080
    """TCP port; 0 takes a free one."""
    to: str = "AI.desk"
    """The node that gets every message whose thread nobody has taken over, where the hive has no identity; where it
    has one, the policy decides."""
    identity: str = "auto"
    """`on`: each message is sent as the interlocutor that it is from; `off`: by names; `auto`: as the hive has it."""
    threads: str = "v3"
    """`v2` for clients of the system before, which compute thread ids themselves."""
    destinations: tuple[str, ...] = ()
    """Further nodes a caller may name in options.routing.dst_node."""
    secrets_file: Path | None = None
    """JSON {api_keys: [{key_id, token, tenant_id, integration_id}], webhook_secrets: {integration_id: text}}, 0600."""
    webhooks: tuple[Webhook, ...] = ()
    webhook_header_prefix: str = "X-Skep"
    """The first part of the webhook's header names; receivers written for another system may expect theirs."""
    default_wait: bool = True
    """Whether a body without options.mode waits for the reply."""
    wait_s: float = 25.0
    """Seconds a request waits for its reply; below the 30 s after which common proxies give up."""
    answer_s: float = 120.0
    """Seconds an exchange with an Idempotency-Key goes on after its first request gave up."""
    body_bytes_max: int = 256 << 10
    """Bytes of a request body; see HttpLimits."""
    requests_max: int = 64
    """Requests at once; waiting ones count, so this bounds unanswered questions too."""


UNDELIVERED = (403, 422, 502, 503)  # it certainly had no effect
COUNTERS = ("asked", "answered", "timed_out", "failed", "unclaimed", "unauthorized")


class HttpChannel:
    """The node's behaviour, given a hive to speak to. Time is `time.monotonic` unless a test says otherwise."""

    def __init__(
        self,
        settings: HttpSettings,
        callers: tuple[Caller, ...],
        hive: HivePort,
        store: ChannelStore,
        callbacks: Callbacks,
        now: Callable[[], float] = time.monotonic,
        *,
        provision: Provision | None = None,
    ) -> None:
        self.settings = settings
        self._provision, self._introductions = provision, Introductions(hive)
        self.counters = Counters(COUNTERS, log)
        self.mailbox = Mailbox()
        self._callers, self._hive, self._store, self._callbacks, self._now = (
            callers,
            hive,
            store,
            callbacks,
            now,
        )
        self._dedup = Dedup()
        self._exchanges: Exchanges[Response] = Exchanges()
        self._allowed = frozenset((settings.to, *settings.destinations))

    def routes(self) -> dict[tuple[str, str], Route]:
        asks = Route(self._answering(self._post), self._guard_post)
        schema = Route(self._answering(self._schema), self._guard)
        return {
            ("POST", "/messages"): asks,
            ("POST", "/"): asks,
            ("GET", "/replies"): Route(self._answering(self._replies), self._guard),
            ("GET", "/schema"): schema,
            ("GET", "/"): schema,
            ("GET", "/healthz"): Route(self._health),
        }

    async def deliver(self, message: Incoming) -> None:
        """A message of the hive that no request waits for: to the webhook, else to the mailbox."""
        target = self._store.target(message.thread_id or "")
        text = words_of(message.payload)
        if target is None or text is None:
            what = "message from %s is for no conversation of this node"
            self.counters.trouble("unclaimed", what, message.source_name)
            return
        if self._callbacks.wanted(target["integration_id"]):
            self._queue_webhook(message, target, text)
            return
        answer = _answer_members(message, text)
        self.mailbox.add(message.thread_id or "", answer, len(text) + 512)

    # ---- requests ------------------------------------------------------------------------------------------------

    def _guard(self, request: Request) -> Response | None:
        if api_wire.authenticate(request.headers.get("authorization", ""), self._callers):
            return None
        self.counters.trouble("unauthorized", "a request came without a known API key")
        challenge = ("WWW-Authenticate", 'Bearer realm="skep"')
        return error_response(401, "unauthorized", "send Authorization: Bearer <api key>", challenge)

    def _guard_post(self, request: Request) -> Response | None:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        refused = self._guard(request)
        if refused is None and kind != "application/json":
            return error_response(415, "unsupported_media_type", "send Content-Type: application/json")
        return refused

    def _answering(
        self, handle: Callable[[Request, Caller], Awaitable[Response]]
    ) -> Callable[[Request], Any]:
        async def handler(request: Request) -> Response:
            caller = api_wire.authenticate(request.headers.get("authorization", ""), self._callers)
            assert caller is not None  # the guard let it in
            try:
                return await handle(request, caller)
            except ApiError as error:
                return error_response(error.status, error.code, error.detail)

        return handler

    async def _post(self, request: Request, caller: Caller) -> Response:
        ask = api_wire.parse_ask(request.body, caller)
        if (ask.destination or self.settings.to) not in self._allowed:
            raise ApiError(
                403, "destination_forbidden", "this door does not lead to that node; see GET /schema"
            )
        key = request.headers.get("idempotency-key", "")
        if not key:
            return await self._within(self._ask(ask, caller), self._wait_s(ask))
        if len(key) > KEY_BYTES_MAX or not key.isprintable():
            raise ApiError(400, "invalid_idempotency_key", f"at most {KEY_BYTES_MAX} printable characters")
        return await self._once(ask, caller, key, request.body)

    async def _once(self, ask: Ask, caller: Caller, key: str, body: bytes) -> Response:
        scope = (caller.tenant_id, caller.integration_id, caller.key_id, key)
        try:
            task = self._exchanges.join(scope, body, self._now(), lambda: self._ask(ask, caller))
        except KeyReused:
            raise ApiError(409, "idempotency_key_reused", "this key was used for another body") from None
        except StoreFull:
            raise ApiError(503, "busy", "too many exchanges are open; try again") from None
        response = await self._within(asyncio.shield(task), self._wait_s(ask))
        if task.done() and response.status in UNDELIVERED:
            self._exchanges.forget(scope)  # certainly not delivered: the next try is a fresh one
        return response

    async def _within(self, answer: Awaitable[Response], seconds: float) -> Response:
        try:
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            self.counters.trouble("timed_out", "a request had no reply within %g s", seconds)
            detail = (
                f"no reply within {seconds:g} s; ask again with the same Idempotency-Key, or GET /replies"
            )
            return error_response(504, "answer_timeout", detail)

    def _wait_s(self, ask: Ask) -> float:
        return min(ask.wait_s or self.settings.wait_s, self.settings.wait_s)

    # ---- exchanges -----------------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask, caller: Caller) -> Response:
        """One message into the hive, and its reply when the caller waits for it."""
        wait = self.settings.default_wait if ask.wait is None else ask.wait
        request_id = f"req_{random_secrets.token_hex(12)}"
        thread = self._thread(caller, ask.conversation_id)
        duplicate = (caller.tenant_id, caller.integration_id, ask.conversation_id, ask.message_id)
        if ask.message_id and self._dedup.begin(duplicate, self._now()) is not Seen.NEW:
            return self._accepted(request_id, thread, "", "duplicate_dropped")
        self.counters["asked"] += 1
        try:
            ask = await self._as_somebody(ask, caller)
            self._store.remember(thread, self._target(caller, ask, request_id), time.time_ns() // 1_000_000)
            response = await (self._request if wait else self._send)(ask, caller, request_id, thread)
        except (IdentityAway, IdentityRefused) as error:
            response = self._unknown(error)
        except NotIntroduced as error:
            response = error_response(error.status, error.code, error.detail)
        except BaseException:
            self._dedup.failed(duplicate)
            raise
        if response.status in UNDELIVERED:
            self._dedup.failed(duplicate)
        elif ask.message_id:
            self._dedup.done(duplicate, self._now())
        return response

    async def _request(self, ask: Ask, caller: Caller, request_id: str, thread: str) -> Response:
        options = self._options(ask, caller, request_id, thread)
        destination = self._destination(ask)
        try:
            reply = await self._hive.request(
                destination, text_payload(ask.text), timeout=self.settings.answer_s, **options
            )
        except RequestTimeout:
            return error_response(504, "answer_timeout", f"{destination or 'nobody'} gave no reply in time")
        except RemoteError as error:
            return error_response(502, "answerer_failed", f"{destination or 'the answerer'} failed: {error.code}")
        except (DeliveryError, LinkClosed) as error:
            return self._undelivered(error)
        self.counters["answered"] += 1
        text = words_of(reply.payload)
        body = {
            "status": "answered",
            "request_id": request_id,
            "conversation_id": ask.conversation_id,
            "thread_id": thread,
            **_answer_members(reply, text or ""),
        }
        return json_response(200, body if text else {**body, "payload": _json_safe(reply.payload)})

    async def _send(self, ask: Ask, caller: Caller, request_id: str, thread: str) -> Response:
        options = self._options(ask, caller, request_id, thread)
        try:
            receipt = await self._hive.send(
                self._destination(ask), text_payload(ask.text), ack="routed", **options
            )
        except (DeliveryError, LinkClosed) as error:
            return self._undelivered(error)
        return self._accepted(request_id, thread, getattr(receipt, "trace_id", ""), "flushed_immediately")

    async def _as_somebody(self, ask: Ask, caller: Caller) -> Ask:
        """The request with the interlocutor that it is from, in a hive that has identity."""
        if ask.ilk or self._provision is None or not self._provision.present:
            return ask
        address = f"{len(caller.integration_id)}:{caller.integration_id}:{ask.sender}"
        ilk = await self._provision.speaker("api", address, caller.tenant_id)
        await self._introductions.introduce(ilk, dict(ask.subject))
        return replace(ask, ilk=ilk)

    def _destination(self, ask: Ask) -> str | None:
        """The node that the caller names; else whoever the policy says, in a hive that knows who speaks."""
        governed = self._provision is not None and self._provision.present
        return ask.destination or (None if governed else self.settings.to)

    def _unknown(self, error: IdentityAway | IdentityRefused) -> Response:
        """Nobody knows who speaks, so nothing was sent."""
        if isinstance(error, IdentityRefused):
            code = "tenant_not_found" if error.code.startswith(("INVALID_TENANT", "TENANT_")) else "identity_refused"
            return error_response(403, code, str(error))
        code = "identity_timeout" if error.timed_out else "identity_unavailable"
        return error_response(503, code, str(error), ("Retry-After", "2"))

    def _undelivered(self, error: Exception) -> Response:
        self.counters.trouble("failed", "a message was not delivered: %s", error)
        if outcome_unknown(error):
            return error_response(504, "delivery_unknown", f"perhaps delivered: {error}")
        if retryable(error):
            return error_response(503, "router_unavailable", f"not delivered: {error}", ("Retry-After", "1"))
        return error_response(502, "undeliverable", f"not delivered: {error}")

    def _accepted(self, request_id: str, thread: str, trace_id: str, relay_status: str) -> Response:
        body = {
            "status": "accepted",
            "request_id": request_id,
            "trace_id": trace_id,
            "thread_id": thread,
            "relay_status": relay_status,
            "node_name": self.settings.name,
        }
        return json_response(202, body)

    def _options(self, ask: Ask, caller: Caller, request_id: str, thread: str) -> dict[str, Any]:
        inbound = Inbound(
            channel="api",
            entrypoint_kind="integration",
            entrypoint_id=caller.integration_id,
            sender=ask.sender,
            conversation_kind="api",
            conversation_id=ask.conversation_id,
            thread=thread,
            message_id=ask.message_id or request_id,
            timestamp=ask.timestamp,
            reply_kind="webhook_post" if self._callbacks.wanted(caller.integration_id) else "io_api_noop",
            reply_address=caller.integration_id,
        )
        options: dict[str, Any] = {"thread": thread, "context": io_context(inbound)}
        return {**options, "src_ilk": ask.ilk} if ask.ilk else options

    def _thread(self, caller: Caller, conversation_id: str) -> str:
        version = self.settings.threads
        return thread_of(version, caller.tenant_id, "api", caller.integration_id, conversation_id)

    def _target(self, caller: Caller, ask: Ask, request_id: str) -> dict[str, str]:
        return {
            "tenant_id": caller.tenant_id,
            "integration_id": caller.integration_id,
            "request_id": request_id,
            "ilk": ask.ilk,
        }

    def _queue_webhook(self, message: Incoming, target: Mapping[str, str], text: str) -> None:
        delivery_id = f"dly_{message.trace_id}_{message.message_id:x}"
        request = {
            "request_id": target["request_id"],
            "trace_id": message.trace_id,
            "ilk": target.get("ilk") or None,
        }
        body = api_wire.webhook_body(
            delivery_id=delivery_id,
            occurred_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            integration_id=target["integration_id"],
            tenant_id=target["tenant_id"],
            request=request,
            text=text,
            node_name=message.source_name,
            payload=message.payload,
        )
        self._callbacks.add(delivery_id, target["integration_id"], body)

    # ---- reading -------------------------------------------------------------------------------------------------

    async def _schema(self, _request: Request, _caller: Caller) -> Response:
        destinations = tuple(sorted(self._allowed))
        return json_response(
            200, api_wire.schema(self.settings.name, destinations, self.settings.body_bytes_max)
        )

    async def _replies(self, request: Request, caller: Caller) -> Response:
        """GET /replies?conversation_id=…&after=N&wait_ms=M"""
        conversation = request.query.get("conversation_id", "").strip()
        after, wait_ms = request.query.get("after", "0"), request.query.get("wait_ms", "0")
        digits = all(each.isascii() and each.isdigit() and len(each) < 16 for each in (after, wait_ms))
        if not conversation or not digits:
            raise ApiError(
                422, "invalid_payload", "give conversation_id, and after and wait_ms as whole numbers"
            )
        seconds = min(int(wait_ms) / 1000, self.settings.wait_s)
        replies = await self.mailbox.wait_after(self._thread(caller, conversation), int(after), seconds)
        return json_response(200, {"conversation_id": conversation, "replies": replies})

    async def _health(self, _request: Request) -> Response:
        return json_response(200, {"status": "ok", "node_name": self.settings.name})


def _answer_members(message: Incoming, text: str) -> dict[str, Any]:
    payload = message.payload if isinstance(message.payload, dict) else {}
    return {
        "message": {"text": text},
        "citations": payload.get("citations") or [],
        "confidence": payload.get("confidence"),
        "source": {"node_name": message.source_name},
        "trace_id": message.trace_id,
    }


def _json_safe(payload: object) -> object:
    return {"bytes": len(payload)} if isinstance(payload, bytes) else payload
