"""The sending side: from (destination, payload, options) to a frame on the link, or a reason to wait.

Owns the message ids (one counter for the life of the process, begun from the clock so that a persistent uuid never uses
one twice), the cache of packed flow keys, and what holds a sender back: no link, a transport that is full, too many
frames that the router has not read, one destination it has paused. `blocked` sums up all but the last, so that the
usual send tests one attribute. A paused destination holds back only those who send to it.

An automatic trace id is a keyed hash of the message id followed by the id: unique without a random number per message,
not guessable even by those who saw others, and never stored.
"""

from __future__ import annotations

import asyncio
import os
import time
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from skep.flows import OUT_FLOWS_MAX, Destination, OutFlow, make_out_flow
from skep.link import BATCH_BYTES
from skep.protocol import strict_json
from skep.protocol.codes import Reason
from skep.protocol.errors import DeliveryError
from skep.protocol.header import HEAD, KEY_START, Phase, Tag, pack_extensions
from skep.protocol.limits import FRAME_BYTES_MAX, U32_MAX, U64_MAX
from skep.protocol.message import format_uuid, trace_bytes

if TYPE_CHECKING:
    from skep.clock import Clock, Timer
    from skep.link import NativeLink

Waiters = dict["asyncio.Future[None]", None]  # woken in the order in which they came
WAIT_S: Final = 30.0  # how long a send waits for room when the caller states no deadline
_MESSAGE: Final = int(Phase.MESSAGE)
# The head with the trace as two integers and the message id as span: no bytes object is made for either.
_AUTO_HEAD: Final = Struct("<IHHQQQQQQIIII")
assert _AUTO_HEAD.size == HEAD.size == KEY_START
_auto_head = _AUTO_HEAD.pack
_given_head = HEAD.pack
_SPAN = Struct("<Q").pack


class Outbox:
    """Everything a client needs to send."""

    def __init__(self, source: bytes, hive_id: str, clock: Clock) -> None:
        self.source = source
        self.hive_id = hive_id
        self.clock = clock
        self.link: NativeLink | None = None
        self.next_id = (
            time.time_ns() >> 10
        )  # about microseconds: below 2**53 for JSON peers, never caught up with
        self._secret = os.urandom(16)
        self.blocked = True
        self.closed: DeliveryError | None = None
        self.paused: dict[bytes, Waiters] = {}
        self._turn_due = False
        self._waiters: Waiters = {}
        self.flows: dict[Any, OutFlow] = {}
        self._loop = asyncio.get_running_loop()

    # ---- the fast path -------------------------------------------------------------------------------------------

    def flow_for(self, dst: Destination, content_type: int, phase: int, options: dict[str, Any]) -> OutFlow:
        """The packed key for these, from the cache if they were used before. Takes ownership of `options`."""
        context = options.get("context")
        if context.__class__ is dict:
            options["context"] = strict_json.dumps_canonical(context)
        wanted = (dst, content_type, phase, *options.items())
        flow = self.flows.get(wanted)
        if flow is None:
            flow = make_out_flow(self.source, self.hive_id, dst, content_type, phase, options)
            self.remember(wanted, flow)
            if not options and phase == _MESSAGE:
                self.remember((dst, content_type), flow)
        return flow

    def plain_flow(self, dst: Destination, content_type: int) -> OutFlow:
        """The flow of a message without options."""
        return self.flows.get((dst, content_type)) or self.flow_for(dst, content_type, _MESSAGE, {})

    def remember(self, wanted: Any, flow: OutFlow) -> None:
        if len(self.flows) >= OUT_FLOWS_MAX:
            self.flows.clear()
        self.flows[wanted] = flow

    def emit(
        self,
        flow: OutFlow,
        body: bytes,
        reply_to: int = 0,
        trace: bytes | None = None,
        deadline_ms: int = 0,
        part: int = 0,
        extensions: bytes = b"",
    ) -> int:
        """Queues one frame and returns its message id. The caller has looked at `blocked` and `paused`."""
        link = self.link
        assert link is not None
        key_end = flow.key_end
        body_start = key_end + len(extensions)
        size = body_start + len(body)
        if size > FRAME_BYTES_MAX:
            raise _too_large(size)
        message_id = self.next_id
        self.next_id = message_id + 1
        if trace is None:
            head = _auto_head(
                size, key_end, body_start, message_id, reply_to, self.trace_high(message_id), message_id, message_id,
                0, deadline_ms, 0, 0, part,
            )  # fmt: skip
        else:
            head = _given_head(
                size, key_end, body_start, message_id, reply_to, trace, _SPAN(message_id),
                0, deadline_ms, 0, 0, part,
            )  # fmt: skip
        link.out.append(head + flow.key + extensions + body if extensions else head + flow.key + body)
        link.out_bytes += size
        if link.out_bytes >= BATCH_BYTES:
            self._overfull(link)
        elif not link.flush_due:
            link.schedule_flush()
        return message_id

    def _overfull(self, link: NativeLink) -> None:
        """A batch is complete: write it, and let the next sender give the loop a turn."""
        link.flush()
        self._turn_due = True
        self.blocked = True

    def trace_high(self, message_id: int) -> int:
        """The half of an automatic trace that proves it ours. Whoever received one message knows its trace, and must
        not be able to work out the next: an answer is believed by its trace. The interpreter's hash of bytes is
        SipHash, keyed by the process and here by a secret as well: 0.1 us, where another keyed hash costs 1 us."""
        return hash(self._secret + _SPAN(message_id)) & U64_MAX or 1

    def trace_of(self, message_id: int) -> bytes:
        """The automatic trace id of a message of ours."""
        return _SPAN(self.trace_high(message_id)) + _SPAN(message_id)

    def id_of(self, trace: bytes) -> int:
        """The message id in an automatic trace of ours; 0 for any other trace."""
        message_id = int.from_bytes(trace[8:], "little")
        return message_id if trace == self.trace_of(message_id) else 0

    def trace_text(self, message_id: int) -> str:
        return format_uuid(self.trace_of(message_id))

    # ---- waiting -------------------------------------------------------------------------------------------------

    def update_blocked(self) -> None:
        """Looks again at what holds senders back; wakes them when nothing does."""
        link = self.link
        full = link is None or link.congested or link.window_full()
        self.blocked = full or self._turn_due
        if not full and self._waiters:
            for waiter in self._waiters:
                _wake(waiter)
            self._waiters.clear()

    async def wait_ready(self, seconds: float | None = None) -> None:
        """Returns when a frame may be sent. Raises DeliveryError QUEUE_FULL or NOT_READY after `seconds`."""
        if self._turn_due:
            self._turn_due = False
            self.update_blocked()
            await asyncio.sleep(0)
        give_up = self.clock.now() + (WAIT_S if seconds is None else seconds)
        while self.blocked:
            if self.closed is not None:
                raise self.closed
            reason = Reason.NOT_READY if self.link is None else Reason.QUEUE_FULL
            await self._wait_in(self._waiters, give_up, reason)
            self._turn_due = False
            self.update_blocked()

    async def wait_resumed(self, destination: bytes, seconds: float | None = None) -> None:
        """Returns when the router no longer pauses `destination`. Raises DeliveryError QUEUE_FULL."""
        give_up = self.clock.now() + (WAIT_S if seconds is None else seconds)
        while destination in self.paused:
            await self._wait_in(self.paused[destination], give_up, Reason.QUEUE_FULL)
        if self.blocked:
            await self.wait_ready(give_up - self.clock.now())

    async def _wait_in(self, waiters: Waiters, give_up: float, reason: Reason) -> None:
        left = give_up - self.clock.now()
        if left <= 0:
            raise DeliveryError(reason, detail="waited for room until the deadline")
        waiter = self._loop.create_future()
        waiters[waiter] = None
        timer: Timer = self.clock.call_later(left, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            waiters.pop(waiter, None)

    def check_now(self, flow: OutFlow | None = None) -> None:
        """For senders that do not wait. Raises DeliveryError when they would have to."""
        if self.blocked:
            self._turn_due = False
            self.update_blocked()
        if self.closed is not None:
            raise self.closed
        if self.link is None:
            raise DeliveryError(Reason.NOT_READY, detail="not connected to a router")
        if self.blocked or (flow is not None and flow.destination in self.paused):
            raise DeliveryError(Reason.QUEUE_FULL, detail="the router asks this sender to wait")

    # ---- told by the link ----------------------------------------------------------------------------------------

    def attach(self, link: NativeLink | None) -> None:
        """A new link, or none: everything paused was paused on the old one."""
        self.link = link
        for destination in list(self.paused):
            self.resume(destination)
        self.update_blocked()

    def pause(self, destination: bytes) -> None:
        self.paused.setdefault(destination, {})

    def resume(self, destination: bytes) -> None:
        for waiter in self.paused.pop(destination, ()):
            _wake(waiter)

    def close(self, error: DeliveryError) -> None:
        self.closed = error
        for waiter in self._waiters:
            _wake(waiter)


def split_options(options: dict[str, Any]) -> tuple[bytes | None, int, bytes]:
    """Takes out of `options` what differs from message to message: trace, deadline in ms, extension fields."""
    trace, extensions = None, b""
    given = options.pop("trace", None)
    fields: dict[int, bytes] = {}
    if given:
        trace = given
        if isinstance(given, str):
            trace, textual = trace_bytes(given)
            if textual:
                fields[Tag.TRACE_TEXT] = given.encode()
    meta = options.pop("meta", None)
    if meta:
        fields[Tag.META] = strict_json.dumps_canonical(meta)
    if fields:
        extensions = pack_extensions(fields)
    return trace, deadline_ms(options.pop("deadline", None)), extensions


def deadline_ms(seconds: float | None) -> int:
    """Whole milliseconds, at least one: 0 would mean none."""
    if seconds is None:
        return 0
    milliseconds = int(seconds * 1000)
    return milliseconds if 0 < milliseconds <= U32_MAX else min(max(1, milliseconds), U32_MAX)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _too_large(size: int) -> DeliveryError:
    return DeliveryError(
        Reason.PAYLOAD_TOO_LARGE, detail=f"the frame has {size} bytes, the limit is {FRAME_BYTES_MAX}"
    )
