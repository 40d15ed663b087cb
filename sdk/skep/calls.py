"""What this side waits for: answers to requests, parts of streams, acknowledgements.

Every wait is found by the message id it is about, and an answer is believed only if it also carries that message's
trace: ids can be guessed, traces cannot. JSON peers that know nothing of ids answer with the same trace alone, so
waiting requests are found by trace too. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from skep.deadlines import Deadlines
from skep.errors import RemoteError, RequestTimeout
from skep.protocol.codes import Reason
from skep.protocol.errors import DeliveryError, ProtocolError
from skep.protocol.header import Phase
from skep.protocol.message import format_uuid
from skep.receipts import Receipts

if TYPE_CHECKING:
    from skep.clock import Clock
    from skep.flows import OutFlow
    from skep.message import Message
    from skep.outbox import Outbox

_REPLY: Final = int(Phase.REPLY)
_TRACE: Final = Struct("<QQ").unpack_from  # an automatic one: the process's prefix and the message id
ENDED_MAX: Final = 1024  # finished requests remembered, so that late answers are not taken for messages
PARTS_MAX: Final = 65536  # parts of one stream that wait to be read; TAKEN holds the sender back long before


class Pending:
    """One request that waits for its answer."""

    __slots__ = ("message_id", "given_trace", "future", "seconds", "on_progress", "asked", "tick")

    def __init__(self, future: asyncio.Future[Any], seconds: float, on_progress: Any) -> None:
        self.future = future
        self.seconds = seconds
        self.on_progress = on_progress
        self.asked: OutFlow  # this and the rest are set by `Calls.add`, once the frame has gone out
        self.message_id: int
        self.given_trace: bytes | None
        self.tick: int

    def take(self, message: Message, phase: int) -> bool:
        """Handles one answer frame; True when it was the last."""
        if phase == _REPLY:
            if not self.future.done():
                self.future.set_result(message)
            return True
        if phase in (Phase.PROGRESS, Phase.PART):
            if self.on_progress is not None:
                self.on_progress(message)
            return False
        if phase == Phase.ERROR:
            self.fail(_remote_error(message))
        elif not self.future.done():
            self.future.set_result(message)
        return True

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class StreamPending(Pending):
    """A request whose answer comes in parts."""

    __slots__ = ("parts", "ended", "_held")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        held: Callable[[int], None],
    ) -> None:
        super().__init__(loop.create_future(), seconds, None)
        self.parts: deque[Message] = deque()
        self.ended: BaseException | bool = False
        self._held = held

    def take(self, message: Message, phase: int) -> bool:
        if phase == Phase.ERROR:
            self.fail(_remote_error(message))
            return True
        if len(self.parts) >= PARTS_MAX:
            self.fail(DeliveryError(Reason.QUEUE_FULL, message.reply_to, message.trace_id))
            return True
        last = phase in (Phase.END, Phase.REPLY, Phase.MESSAGE)
        if phase != Phase.END or message.payload_bytes not in (b"", b"null"):
            self.parts.append(message)
            self._held(1)
        if last:
            self.ended = self.ended or True
        self._wake()
        return last

    def fail(self, error: BaseException) -> None:
        self.ended = error
        self._wake()

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def next(self) -> Message | None:
        """The next part, None after the last. Raises what ended the stream early."""
        while not self.parts:
            if isinstance(self.ended, BaseException):
                raise self.ended
            if self.ended:
                return None
            self.future = asyncio.get_running_loop().create_future()
            await self.future
        self._held(-1)
        return self.parts.popleft()

    def drop_parts(self) -> None:
        self._held(-len(self.parts))
        self.parts.clear()


class Calls:
    """All waits of one client, by message id and by trace."""

    def __init__(self, outbox: Outbox, clock: Clock, on_timeout: Callable[[Pending], None]) -> None:
        self._outbox = outbox
        self.pending: dict[int, Pending] = {}
        self.by_trace: dict[bytes, int] = {}  # of requests in a trace that the caller gave
        self.receipts = Receipts(clock)
        self._ended: deque[int] = deque(maxlen=ENDED_MAX)
        self._ended_ids: set[int] = set()
        self._on_timeout = on_timeout
        self.deadlines = Deadlines(clock, self._expire)

    # ---- requests ------------------------------------------------------------------------------------------------

    def add(self, pending: Pending, message_id: int, trace: bytes | None) -> None:
        """Begins a wait; `trace` None is the automatic one, which can be told from the message id."""
        pending.message_id = message_id
        self.pending[message_id] = pending
        pending.tick = self.deadlines.add(message_id, pending.seconds)
        pending.given_trace = trace
        if trace is not None:
            self.by_trace[trace] = message_id

    def trace_of(self, pending: Pending) -> bytes:
        return pending.given_trace or self._outbox.trace_of(pending.message_id)

    def remove(self, pending: Pending) -> None:
        """Ends the wait; what still comes for it is dropped and not taken for a message."""
        message_id = pending.message_id
        if self.pending.pop(message_id, None) is None:
            return
        self.deadlines.remove(pending.tick, message_id)
        trace = pending.given_trace
        if trace is not None and self.by_trace.get(trace) == message_id:
            del self.by_trace[trace]
        if len(self._ended) == ENDED_MAX:
            self._ended_ids.discard(self._ended[0])
        self._ended.append(message_id)
        self._ended_ids.add(message_id)

    def _find(self, message_id: int, trace: bytes) -> Pending | None:
        """The request that a frame is about: by the id it names, else by its trace; None when the trace is wrong."""
        if not message_id:
            message_id = self.by_trace.get(trace) or self._outbox.id_of(trace)
        pending = self.pending.get(message_id)
        return pending if pending is not None and self.trace_of(pending) == trace else None

    def answer(self, message: Message) -> bool:
        """Gives an answer frame to the request it names; False when nobody asked and it is an ordinary message."""
        reply_to = message.reply_to
        pending = self.pending.get(reply_to)
        if pending is None:
            phase = message.flow.phase
            if reply_to in self._ended_ids or (phase == Phase.ERROR and self._not_processed(message)):
                return True
            return phase not in (Phase.REPLY, Phase.ERROR)
        trace = pending.given_trace
        if trace is None:
            true = _TRACE(message.frame, 24) == (self._outbox.trace_high(reply_to), reply_to)
        else:
            true = message.frame[24:40] == trace
        if true and pending.take(message, message.flow.phase):
            self.remove(pending)
        return True

    def answer_by_trace(self, message: Message) -> bool:
        """The same for a peer that knows no phases: its answer is a plain message with the request's trace.

        With a message id of its own it must also name the request; a message in the same trace is no answer.
        """
        pending = self._find(message.reply_to, message.trace)
        if pending is None or (message.message_id and not message.reply_to):
            return False
        if pending.take(message, Phase.REPLY):
            self.remove(pending)
        return True

    def _expire(self, message_id: int) -> None:
        pending = self.pending.get(message_id)
        if pending is not None:
            self.remove(pending)
            pending.fail(RequestTimeout(pending.seconds, message_id, format_uuid(self.trace_of(pending))))
            self._on_timeout(pending)

    def refuse(self, message_id: int, trace: bytes, error: DeliveryError) -> bool:
        """A refusal came back: tells whoever waits for that message; False when nobody does."""
        pending = self._find(message_id, trace)
        if pending is not None:
            self.remove(pending)
            pending.fail(error)
            return True
        return self.receipts.fail(message_id, trace, error) or message_id in self._ended_ids

    def _not_processed(self, message: Message) -> bool:
        """An ERROR about a message that was to be acknowledged as processed."""
        return self.receipts.fail(message.reply_to, message.trace, _remote_error(message))

    def fail_unconfirmed(self, lost: range, unknown: range) -> set[int]:
        """After a cut: fails every wait about these messages; returns the ids that somebody was waiting for."""
        told: set[int] = set()
        for message_id in [*self.pending, *self.receipts.waiting]:
            known = Reason.LOST if message_id in lost else Reason.UNKNOWN
            pending = self.pending.get(message_id)
            trace = self.trace_of(pending) if pending else self.receipts.waiting[message_id].trace
            error = DeliveryError(known, message_id, format_uuid(trace))
            if pending is not None:
                self.remove(pending)
                pending.fail(error)
            self.receipts.fail(message_id, None, error)
            told.add(message_id)
        return told

    def close(self, error: DeliveryError) -> None:
        """The client ends: nobody waits for ever."""
        self.deadlines.close()
        for pending in list(self.pending.values()):
            self.remove(pending)
            pending.fail(error)
        self.receipts.close(error)


def _remote_error(message: Message) -> RemoteError:
    """What an ERROR frame says; a payload that is no error object is shown as it is."""
    where: dict[str, Any] = {"message_id": message.reply_to, "trace_id": message.trace_id}
    try:
        payload = message.payload
    except ProtocolError as error:
        return RemoteError("error", f"the error itself could not be read: {error}", **where)
    if isinstance(payload, dict):
        return RemoteError(str(payload.get("code", "error")), str(payload.get("message", "")), **where)
    return RemoteError("error", str(payload), **where)
