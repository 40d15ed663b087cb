"""The outbox's worker: hands letters over to the mail server, one at a time, until each is taken or given up.

Delays double from `retry_initial_s` to an hour, the number of attempts and each letter's time are bounded; what is
given up is counted and stands in the log. A process that dies after the server took a letter and before the outbox
heard of it sends it again under the same Message-ID, by which mail programs show it once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from skep_nodes.io.counters import Counters
from skep_nodes.io.email_settings import EmailSettings
from skep_nodes.io.http_client import Retry
from skep_nodes.io.mail_place import Account
from skep_nodes.io.mail_smtp import NotSent, hand_over
from skep_nodes.io.mail_store import MailStore, Waiting

log = logging.getLogger("skep.nodes.email")

AT_ONCE: Final = 16  # read from the store before it is asked again
IDLE_S: Final = 60.0  # an empty outbox is looked at anyway
DELAY_S_MAX: Final = 3600.0
CLOSE_S: Final = 5.0  # a letter that was taken but is not crossed off goes out twice
KEEP_MS: Final = 2 * 86_400_000  # an answer that is older helps nobody
COUNTERS: Final = ("queued", "sent", "retried", "given_up", "refused")

HandOver = Callable[[Waiting], None]
"""Blocks until the server has a letter. Raises NotSent."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Post:
    """Start it, put letters in, close it."""

    def __init__(
        self,
        settings: EmailSettings,
        store: MailStore,
        hand_over: HandOver,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.counters = Counters(COUNTERS, log)
        self._store, self._hand_over, self._now_ms = store, hand_over, now_ms
        self._retry = Retry(settings.send_attempts, settings.retry_initial_s, DELAY_S_MAX)
        self._fresh = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """The letter that is being handed over has CLOSE_S to be done with; the rest stays in the outbox."""
        self._closing = True
        self._fresh.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=CLOSE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def put(self, mailbox: str, recipient: str, message_id: str, data: bytes, keep_ms: int = KEEP_MS) -> bool:
        """Keeps a letter; False when there is no room."""
        now = self._now_ms()
        if not self._store.add(Waiting(message_id, mailbox, recipient, data, 0, now, now + keep_ms)):
            self.counters.trouble("refused", "the outbox is full; is the mail server away?")
            return False
        self.counters["queued"] += 1
        self._fresh.set()
        return True

    async def work_once(self) -> None:
        """Every letter that is due, once."""
        for letter in self._store.due(self._now_ms(), AT_ONCE):
            if self._closing:
                return
            await self._one(letter)

    async def _work(self) -> None:
        while not self._closing:
            self._fresh.clear()
            try:
                await self.work_once()
            except Exception:
                log.exception("the outbox failed; it is tried again")
            if not self._closing:
                await self._wait()

    async def _wait(self) -> None:
        due = self._store.next_due_ms()
        seconds = IDLE_S if due is None else min(IDLE_S, max(0.05, (due - self._now_ms()) / 1000))
        try:
            async with asyncio.timeout(seconds):
                await self._fresh.wait()
        except TimeoutError:
            return

    async def _one(self, letter: Waiting) -> None:
        if self._now_ms() >= letter.until_ms:
            self._give_up(letter, "its time is over")
            return
        try:
            await asyncio.to_thread(self._hand_over, letter)
        except NotSent as error:
            self._failed(letter, error)
            return
        self._store.drop(letter.message_id)
        self.counters["sent"] += 1

    def _failed(self, letter: Waiting, error: NotSent) -> None:
        if error.final or letter.attempts + 1 >= self._retry.attempts:
            self._give_up(letter, str(error))
            return
        self.counters.trouble("retried", "a letter could not be handed over: %s", error)
        delay_ms = int(self._retry.delay_s(letter.attempts + 1) * 1000)
        self._store.postpone(letter.message_id, self._now_ms() + delay_ms)

    def _give_up(self, letter: Waiting, why: str) -> None:
        self._store.drop(letter.message_id)
        self.counters["given_up"] += 1
        log.error("letter <%s> from %s is given up: %s", letter.message_id, letter.mailbox, why)


def by_smtp(settings: EmailSettings, accounts: Mapping[str, tuple[Account, Account]]) -> HandOver:
    """Hands over to each mailbox's own server."""
    boxes = {box.address: box for box in settings.mailboxes}

    def send(letter: Waiting) -> None:
        box = boxes.get(letter.mailbox)
        if box is None:
            raise NotSent(f"{letter.mailbox} is no mailbox of the settings any more", final=True)
        account = accounts[box.address][1]
        hand_over(box.smtp, account, box.address, letter.recipient, letter.data)

    return send
