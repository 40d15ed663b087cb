"""How far a message has come: routed, delivered, processed.

CONFIRMED from the router says what it has read and what is settled; RECEIPT frames from the consumer's SDK say what was
taken and what its handler finished. A consumer in JSON framing sends none, which shows when the router has settled a
message and nothing came for a moment: then routed is all there will be, and waiting longer would be pointless.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from skep.deadlines import Deadlines
from skep.errors import RequestTimeout
from skep.protocol.header import AckLevel
from skep.protocol.message import format_uuid

if TYPE_CHECKING:
    from skep.clock import Clock
    from skep.message import Message
    from skep.outbox import Outbox

RECEIPT_GRACE_S: Final = 0.1  # from "the consumer took it" to "it sends no receipts": a JSON consumer
_LEVELS: Final = {int(level): level for level in (AckLevel.DELIVERED, AckLevel.PROCESSED)}


class Receipt:
    """What is known about a sent message. `level` tells how far it is confirmed to have come."""

    __slots__ = ("message_id", "level", "wanted", "future", "seconds", "tick", "_outbox", "_trace")

    def __init__(self, message_id: int, outbox: Outbox, trace: bytes | None = None) -> None:
        self.message_id = message_id
        self.level = AckLevel.NONE
        self.wanted: AckLevel  # this and the next three only where somebody waits
        self.future: asyncio.Future[Receipt]
        self.seconds: float
        self.tick: int
        self._outbox = outbox
        self._trace = trace

    @property
    def trace(self) -> bytes:
        return self._trace or self._outbox.trace_of(self.message_id)

    @property
    def trace_id(self) -> str:
        return format_uuid(self.trace)

    def __repr__(self) -> str:
        return f"<Receipt {self.message_id} {self.level.name.lower()}>"


class Receipts:
    """The acknowledgements that one client waits for."""

    def __init__(self, clock: Clock) -> None:
        self.waiting: dict[int, Receipt] = {}
        self._unrouted: deque[int] = deque()
        self._untaken: deque[int] = deque()
        self._clock = clock
        self._deadlines = Deadlines(clock, self._expire)

    def expect(self, receipt: Receipt, wanted: AckLevel, seconds: float) -> asyncio.Future[Receipt]:
        """Waits for `wanted`, or for the highest level that the consumer can give."""
        receipt.wanted = wanted
        receipt.future = asyncio.get_running_loop().create_future()
        self.waiting[receipt.message_id] = receipt
        self._unrouted.append(receipt.message_id)
        self._untaken.append(receipt.message_id)
        receipt.seconds = seconds
        receipt.tick = self._deadlines.add(receipt.message_id, seconds)
        return receipt.future

    def confirmed(self, first_id: int, accepted: int, finished: int) -> None:
        """CONFIRMED moved: messages up to `accepted` are routed, those up to `finished` were taken."""
        while self._unrouted and self._unrouted[0] < first_id + accepted:
            self._reached(self._unrouted.popleft(), AckLevel.ROUTED)
        taken = []
        while self._untaken and self._untaken[0] < first_id + finished:
            message_id = self._untaken.popleft()
            if message_id in self.waiting:
                taken.append(message_id)
        if taken:
            self._clock.call_later(RECEIPT_GRACE_S, self._settle_silent, taken)

    def on_receipt(self, message: Message) -> None:
        """A RECEIPT frame from the consumer."""
        receipt = self.waiting.get(message.reply_to)
        body = message.payload_bytes
        level = _LEVELS.get(body[0]) if len(body) == 1 else None
        if receipt is not None and level is not None and receipt.trace == message.trace:
            self._reached(receipt.message_id, level)

    def _reached(self, message_id: int, level: AckLevel) -> None:
        receipt = self.waiting.get(message_id)
        if receipt is None:
            return
        receipt.level = max(receipt.level, level)
        if receipt.level >= receipt.wanted:
            self._settle(receipt)

    def _settle_silent(self, message_ids: list[int]) -> None:
        """Taken, and no receipt since: the consumer speaks JSON, so routed is all there will be."""
        for message_id in message_ids:
            receipt = self.waiting.get(message_id)
            if receipt is not None and receipt.level < AckLevel.DELIVERED:
                receipt.level = AckLevel.ROUTED
                self._settle(receipt)

    def _settle(self, receipt: Receipt) -> None:
        self._remove(receipt)
        if not receipt.future.done():
            receipt.future.set_result(receipt)

    def fail(self, message_id: int, trace: bytes | None, error: BaseException) -> bool:
        """Ends the wait about one message; `trace` None when we know ourselves. False when nobody waits for it."""
        receipt = self.waiting.get(message_id)
        if receipt is None or (trace is not None and receipt.trace != trace):
            return False
        self._remove(receipt)
        if not receipt.future.done():
            receipt.future.set_exception(error)
        return True

    def _remove(self, receipt: Receipt) -> None:
        del self.waiting[receipt.message_id]
        self._deadlines.remove(receipt.tick, receipt.message_id)

    def _expire(self, message_id: int) -> None:
        receipt = self.waiting.get(message_id)
        if receipt is not None:
            self.fail(message_id, None, RequestTimeout(receipt.seconds, message_id, receipt.trace_id))

    def close(self, error: BaseException) -> None:
        self._deadlines.close()
        for message_id in list(self.waiting):
            self.fail(message_id, None, error)
