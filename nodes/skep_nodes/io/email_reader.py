"""A mailbox's reader: looks for unseen letters, gives them to the channel, marks them by what became of them.

One task and one connection a mailbox. A look takes the oldest unseen letters, a few at a time: they are read one after
another, worked on at once by sender (one person's letters stay in order), and marked together. A letter that must
wait is passed over until its time, so it holds up no other. A lost connection is made anew with doubling delays; a
letter that was taken but not marked comes again and is known then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from skep_nodes.io.counters import Counters
from skep_nodes.io.email_channel import EmailChannel, Fate
from skep_nodes.io.email_settings import Mailbox
from skep_nodes.io.http_client import Retry
from skep_nodes.io.mail_head import FAULTS, Head, address_in, split_head
from skep_nodes.io.mail_imap import Imap, ImapError
from skep_nodes.io.mail_letter import LETTER_BYTES_MAX
from skep_nodes.io.mail_place import Account

log = logging.getLogger("skep.nodes.email")

AT_ONCE: Final = 16  # letters of one look: 4 MiB
DEFERRED_MAX: Final = 4096
DEFER_S: Final = 30.0
RECONNECT_S_MAX: Final = 300.0
MARKS: Final = {Fate.TAKEN: "\\Seen", Fate.FLAGGED: "\\Seen \\Flagged"}
COUNTERS: Final = ("connections", "lost_connections", "read", "gone", "failed")


class Reader:
    """Start it once the channel is there, close it before the channel goes."""

    def __init__(
        self,
        box: Mailbox,
        account: Account,
        channel: EmailChannel,
        *,
        poll_s: float,
        reconnect_s: float,
        counters: Counters | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._box, self._account, self._channel, self._poll_s = box, account, channel, poll_s
        self.counters = counters if counters is not None else Counters(COUNTERS, log)
        self._retry = Retry(1, reconnect_s, RECONNECT_S_MAX)
        self._now = now or asyncio.get_running_loop().time
        self._deferred: dict[int, float] = {}
        self._validity = 0
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._connected()
            except (ImapError, OSError) as error:
                self._failures = min(self._failures + 1, 32)
                what = "the mailbox %s cannot be read: %s; trying again"
                self.counters.trouble("lost_connections", what, self._box.address, error)
            await asyncio.sleep(self._retry.delay_s(max(1, self._failures)))

    async def _connected(self) -> None:
        imap = await Imap.open(self._box.imap, self._account)
        try:
            self._begin(await imap.select(self._box.folder))
            self.counters["connections"] += 1
            while True:
                if not await self.look(imap):
                    await self._until_new(imap)
        finally:
            imap.abort()

    def _begin(self, validity: int) -> None:
        """UIDs mean nothing under another validity."""
        if validity != self._validity:
            self._deferred.clear()
        self._validity = validity

    async def _until_new(self, imap: Imap) -> None:
        self._failures = 0
        soonest = min(self._deferred.values(), default=None)
        seconds = self._poll_s if soonest is None else min(self._poll_s, max(1.0, soonest - self._now()))
        if "IDLE" in imap.capabilities:
            await imap.idle(seconds)
        else:
            await asyncio.sleep(seconds)

    async def look(self, imap: Imap) -> int:
        """Takes the next unseen letters; how many are dealt with for good."""
        uids = self._next(await imap.unseen())
        letters: dict[int, tuple[bytes, int]] = {}
        for uid in uids:
            found = await imap.fetch(uid, LETTER_BYTES_MAX)
            self.counters["gone" if found is None else "read"] += 1
            if found is not None:
                letters[uid] = found
        fates = dict.fromkeys(uids, Fate.LATER) | await self._work(letters)
        await self._mark(imap, fates)
        return sum(fate is not Fate.LATER for fate in fates.values())

    def _next(self, unseen: list[int]) -> list[int]:
        """The oldest ones that need not wait."""
        now, waiting = self._now(), set(unseen)
        self._deferred = {uid: at for uid, at in self._deferred.items() if uid in waiting and at > now}
        return [uid for uid in unseen if uid not in self._deferred][:AT_ONCE]

    async def _work(self, letters: dict[int, tuple[bytes, int]]) -> dict[int, Fate]:
        fates: dict[int, Fate] = {}
        lanes: dict[str, list[int]] = {}
        for uid, (data, _) in letters.items():
            lanes.setdefault(_sender(data), []).append(uid)
        await asyncio.gather(*(self._lane(uids, letters, fates) for uids in lanes.values()))
        return fates

    async def _lane(
        self, uids: list[int], letters: dict[int, tuple[bytes, int]], fates: dict[int, Fate]
    ) -> None:
        """One sender's letters in order; after one that waits, the later ones wait too."""
        for uid in uids:
            data, size = letters[uid]
            try:
                fates[uid] = await self._channel.take(self._box, data, cut=size > len(data))
            except Exception:
                self.counters["failed"] += 1
                log.exception("a letter to %s failed; left for a person", self._box.address)
                fates[uid] = Fate.FLAGGED
            if fates[uid] is Fate.LATER:
                break
        fates.update({uid: Fate.LATER for uid in uids if uid not in fates})

    async def _mark(self, imap: Imap, fates: dict[int, Fate]) -> None:
        for fate, flags in MARKS.items():
            await imap.mark([uid for uid, each in fates.items() if each is fate], flags)
        for uid, fate in fates.items():
            if fate is Fate.LATER and len(self._deferred) < DEFERRED_MAX:
                self._deferred[uid] = self._now() + DEFER_S


def _sender(data: bytes) -> str:
    """For the order only."""
    try:
        return address_in(Head.of(split_head(data)[0]).first("from"))
    except FAULTS:
        return ""
