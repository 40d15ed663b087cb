"""Webhooks out: signed, tried a bounded number of times, still known after a restart.

A delivery is written to the store before anything is posted and leaves it when the receiver said 2xx, when it said
something that trying again cannot mend, or after the last attempt; the two latter are counted and logged with the
delivery's id. One loop works for all integrations and posts to several at once, few to each, so that a receiver that
hangs delays no other. Every webhook is signed: one without a secret is a configuration error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from skep_nodes.io import http_client
from skep_nodes.io.api_wire import webhook_signature
from skep_nodes.io.counters import Counters
from skep_nodes.io.http_client import HttpFailure, HttpReply, Post, Retry
from skep_nodes.io.store import Callback, ChannelStore

log = logging.getLogger("skep.nodes.callbacks")

AT_ONCE_MAX = 8  # posts in flight; each may take its whole timeout
AT_ONCE_EACH = 2  # of them to one integration
LOOK_MAX = 256  # due deliveries looked at to fill the slots


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where one integration wants its answers. The secret comes from the secrets file, not from here."""

    integration_id: str = "default"
    url: str = ""
    timeout_ms: int = 5000
    """Milliseconds for the receiver to answer; it should queue, not work."""
    max_retries: int = 5
    """Attempts after the first; with the backoff below they span about a minute."""
    initial_backoff_ms: int = 1000
    max_backoff_ms: int = 30_000

    def retry(self) -> Retry:
        return Retry(self.max_retries + 1, self.initial_backoff_ms / 1000, self.max_backoff_ms / 1000)


class Callbacks:
    """Owns the delivering task between `start` and `close`."""

    def __init__(
        self,
        store: ChannelStore,
        webhooks: Mapping[str, Webhook],
        secrets: Mapping[str, str],
        *,
        header_prefix: str = "X-Skep",
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        post: Post | None = None,
    ) -> None:
        self._store, self._webhooks, self._secrets = store, dict(webhooks), dict(secrets)
        self._prefix, self._now_ms, self._post = header_prefix, now_ms, post
        unsigned = [each for each in webhooks if not secrets.get(each)]
        if unsigned:
            raise ValueError(f"secrets: webhook_secrets has none for integration {unsigned[0]!r}")
        self._wake = asyncio.Event()
        self._posting: dict[str, asyncio.Task[None]] = {}
        self._posting_to: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self.counters = Counters(("queued", "refused", "delivered", "retried", "given_up"), log)

    def wanted(self, integration_id: str) -> bool:
        return integration_id in self._webhooks

    def add(self, delivery_id: str, integration_id: str, body: bytes) -> bool:
        """Queues a delivery; False (counted) when too many wait already."""
        kept = self._store.add_callback(delivery_id, integration_id, body, self._now_ms())
        self.counters["queued" if kept else "refused"] += 1
        if not kept:
            log.error("webhook %s refused: too many deliveries wait", delivery_id)
        self._wake.set()
        return kept

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="callbacks")

    async def close(self) -> None:
        """Stops; a delivery that is cut stays in the store and is tried again at the next start."""
        tasks = [*self._posting.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    def turn(self) -> int:
        """Fills free slots with what is due; returns how many posts it began."""
        before = len(self._posting)
        for each in self._store.due_callbacks(self._now_ms(), LOOK_MAX):
            if len(self._posting) >= AT_ONCE_MAX:
                break
            if each.delivery_id not in self._posting and self._posting_to[each.integration_id] < AT_ONCE_EACH:
                self._begin(each)
        return len(self._posting) - before

    def _begin(self, callback: Callback) -> None:
        self._posting_to[callback.integration_id] += 1
        task = asyncio.get_running_loop().create_task(self._try(callback))
        self._posting[callback.delivery_id] = task
        task.add_done_callback(lambda _done: self._ended(callback))

    def _ended(self, callback: Callback) -> None:
        del self._posting[callback.delivery_id]
        self._posting_to[callback.integration_id] -= 1
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            self.turn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._sleep_s())

    def _sleep_s(self) -> float | None:
        """Until the next delivery is due; None (until woken) when none is, or all that are have their slots."""
        next_ms = self._store.next_due_ms(after_ms=self._now_ms())
        return None if next_ms is None else (next_ms - self._now_ms()) / 1000

    async def _try(self, callback: Callback) -> None:
        webhook = self._webhooks.get(callback.integration_id)
        if webhook is None:  # its configuration went away since
            self._give_up(callback, "its integration has no webhook any more")
            return
        reply: HttpReply | None = None
        try:
            reply = await self._deliver(callback, webhook)
            outcome = f"status {reply.status}"
        except HttpFailure as failure:
            outcome = str(failure)
        if reply is not None and reply.ok:
            self.counters["delivered"] += 1
            self._store.drop_callback(callback.delivery_id)
        elif reply is not None and reply.status not in http_client.RETRYABLE_STATUS:
            self._give_up(callback, outcome)
        else:
            self._again(callback, webhook.retry(), reply, outcome)

    async def _deliver(self, callback: Callback, webhook: Webhook) -> HttpReply:
        timestamp = str(self._now_ms() // 1000)
        headers = {
            "Content-Type": "application/json",
            f"{self._prefix}-Delivery-Id": callback.delivery_id,
            f"{self._prefix}-Timestamp": timestamp,
        }
        signature = webhook_signature(self._secrets[callback.integration_id], timestamp, callback.body)
        headers[f"{self._prefix}-Signature"] = signature
        if self._post is not None:
            return await self._post(webhook.url, callback.body, headers)
        timeout_s = webhook.timeout_ms / 1000
        return await http_client.post(webhook.url, callback.body, headers, timeout_s=timeout_s)

    def _again(self, callback: Callback, retry: Retry, reply: HttpReply | None, outcome: str) -> None:
        attempts = callback.attempts + 1
        if attempts >= retry.attempts:
            self._give_up(callback, f"{outcome}, after {attempts} attempts")
            return
        self.counters["retried"] += 1
        self._store.postpone(
            callback.delivery_id, self._now_ms() + int(retry.delay_s(attempts, reply) * 1000)
        )

    def _give_up(self, callback: Callback, why: str) -> None:
        self.counters["given_up"] += 1
        log.error("webhook %s given up: %s", callback.delivery_id, why)
        self._store.drop_callback(callback.delivery_id)
