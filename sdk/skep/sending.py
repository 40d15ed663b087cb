"""The sending half of a client: send, request, stream, answer, acknowledge.

The usual send is one look-up and one append; a request adds one table entry. What makes a sender wait is the outbox's
business, what it waits for afterwards is the calls'. Answers go to the source of a message, in its thread and trace, or
to whom the message was handed over for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Unpack

from skep.calls import Calls, Pending, StreamPending
from skep.eagerness import Eagerness
from skep.flows import Destination, InFlow, OutFlow, SendOptions, type_text
from skep.outbox import WAIT_S, Outbox, deadline_ms, split_options
from skep.payload import BYTES, encode
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError
from skep.protocol.header import AckLevel, MessageClass, Phase, Tag, pack_extensions
from skep.protocol.message import BROADCAST
from skep.receipts import Receipt

if TYPE_CHECKING:
    from skep.clock import Clock
    from skep.link import NativeLink
    from skep.message import Message

_MESSAGE: Final = int(Phase.MESSAGE)
_REQUEST: Final = int(Phase.REQUEST)
_REPLY: Final = int(Phase.REPLY)
_U64 = Struct("<Q").unpack_from
_RESPONSE_VERBS: Final = {
    "CONFIG_GET": "CONFIG_RESPONSE",
    "CONFIG_SET": "CONFIG_RESPONSE",
    "CONFIG_CHANGED": "CONFIG_RESPONSE",
    "PING": "PONG",
    "ECHO": "ECHO_REPLY",
}
_RESPONSE_TYPES: Final = {"query": "query_response", "command": "command_response"}


class Sending:
    """What `Client` can say to others. Not used alone."""

    link: NativeLink | None

    def __init__(self, source: bytes, hive_id: str, clock: Clock) -> None:
        self.clock = clock
        self.outbox = Outbox(source, hive_id, clock)
        self.calls = Calls(self.outbox, clock, self._request_timed_out)
        self._stream_parts = 0
        self._loop = asyncio.get_running_loop()
        self._eagerness = Eagerness(self._loop, self.calls.pending)

    def drained(self) -> None:
        """The application has caught up; the receiving half says so to the router."""
        raise NotImplementedError

    # ---- sending -------------------------------------------------------------------------------------------------

    async def send(self, dst: Destination, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
        """Sends one message; returns when it is queued, or with `ack` when that level is reached.

        Waits while the router asks to (at most `deadline`, else 30 s). Raises DeliveryError.
        """
        outbox = self.outbox
        if outbox.blocked:
            await outbox.wait_ready(options.get("deadline"))
        if options:
            return await self._send_with(dst, payload, options)  # type: ignore[arg-type]
        body, content_type = (payload, BYTES) if type(payload) is bytes else encode(payload)
        flow = outbox.flows.get((dst, content_type)) or outbox.plain_flow(dst, content_type)
        if outbox.paused and flow.destination in outbox.paused:
            await outbox.wait_resumed(flow.destination)
        message_id = outbox.emit(flow, body)
        return Receipt(message_id, outbox)

    async def _send_with(self, dst: Destination, payload: Any, options: dict[str, Any]) -> Receipt:
        outbox = self.outbox
        seconds = options.get("deadline")
        trace, left_ms, extensions = split_options(options)
        body, content_type = encode(payload)
        flow = outbox.flow_for(dst, content_type, _MESSAGE, options)
        if outbox.paused and flow.destination in outbox.paused:
            await outbox.wait_resumed(flow.destination, seconds)
        if flow.ack:
            self._check_ack()
        message_id = outbox.emit(flow, body, 0, trace, left_ms, 0, extensions)
        receipt = Receipt(message_id, outbox, trace)
        if flow.ack:
            await self.calls.receipts.expect(
                receipt, AckLevel(flow.ack), WAIT_S if seconds is None else seconds
            )
        return receipt

    def _check_ack(self) -> None:
        link = self.link
        if link is not None and link.framing != "native":
            raise LocalProtocolError(
                ErrorCode.FIELD_RANGE, "a JSON link confirms nothing: use framing='native' to ask for an ack"
            )

    def send_nowait(self, dst: Destination, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
        """Sends one message now. Raises DeliveryError QUEUE_FULL or NOT_READY where `send` would wait."""
        outbox = self.outbox
        given: dict[str, Any] = dict(options)
        if given.get("ack"):
            raise LocalProtocolError(ErrorCode.FIELD_RANGE, "an acknowledgement takes time: use send()")
        trace, left_ms, extensions = split_options(given)
        body, content_type = encode(payload)
        flow = outbox.flow_for(dst, content_type, _MESSAGE, given)
        outbox.check_now(flow)
        return Receipt(outbox.emit(flow, body, 0, trace, left_ms, 0, extensions), outbox, trace)

    async def broadcast(self, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
        """Sends to every node, or with `target` to those whose full name matches it."""
        return await self.send(BROADCAST, payload, **options)

    # ---- asking --------------------------------------------------------------------------------------------------

    async def request(
        self,
        dst: Destination,
        payload: Any,
        timeout: float = WAIT_S,
        on_progress: Callable[[Message], object] | None = None,
        **options: Unpack[SendOptions],
    ) -> Message:
        """Sends a request and returns the answer. `on_progress` sees progress and parts before it.

        Raises RequestTimeout, RemoteError (the handler failed) or DeliveryError (it did not arrive). Cancelling the
        caller cancels the handler at the other end.
        """
        outbox = self.outbox
        if outbox.blocked:
            await outbox.wait_ready(timeout)
        asked = self._prepare(dst, payload, timeout, options)  # type: ignore[arg-type]
        if outbox.paused and asked[0].destination in outbox.paused:
            await outbox.wait_resumed(asked[0].destination, timeout)
        pending = Pending(self._loop.create_future(), timeout, on_progress)
        self._begin(pending, *asked)
        try:
            answer: Message = await pending.future
            return answer
        except asyncio.CancelledError:
            self._cancel(pending)
            raise

    async def stream(
        self, dst: Destination, payload: Any, timeout: float = WAIT_S, **options: Unpack[SendOptions]
    ) -> AsyncIterator[Message]:
        """Sends a request and yields the parts of its answer as they come. Leaving the loop early cancels the rest."""
        outbox = self.outbox
        if outbox.blocked:
            await outbox.wait_ready(timeout)
        asked = self._prepare(dst, payload, timeout, options)  # type: ignore[arg-type]
        if outbox.paused and asked[0].destination in outbox.paused:
            await outbox.wait_resumed(asked[0].destination, timeout)
        pending = StreamPending(self._loop, timeout, self._hold_parts)
        self._begin(pending, *asked)
        finished = False
        try:
            while (message := await pending.next()) is not None:
                yield message
            finished = True
        finally:
            pending.drop_parts()
            if not finished:
                self._cancel(pending)

    def _prepare(
        self, dst: Destination, payload: Any, seconds: float, options: dict[str, Any]
    ) -> tuple[OutFlow, bytes, bytes | None, int, bytes]:
        """Flow, body, trace, milliseconds left and extension fields of a request."""
        body, content_type = encode(payload)
        if not options:
            flow = self.outbox.flows.get((dst, content_type, _REQUEST))
            if flow is not None:
                return flow, body, None, deadline_ms(seconds), b""
        seconds = options.pop("deadline", None) or seconds
        trace, _, extensions = split_options(options)
        flow = self.outbox.flow_for(dst, content_type, _REQUEST, options)
        return flow, body, trace, deadline_ms(seconds), extensions

    def _begin(
        self,
        pending: Pending,
        flow: OutFlow,
        body: bytes,
        trace: bytes | None,
        left_ms: int,
        extensions: bytes,
    ) -> None:
        outbox, calls, link = self.outbox, self.calls, self.outbox.link
        assert link is not None
        # One caller that waits for one answer: nothing else is coming to share the write.
        alone = not calls.pending and not link.flush_due
        if alone:
            link.flush_due = True
        try:
            message_id = outbox.emit(flow, body, 0, trace, left_ms, 0, extensions)
            pending.asked = flow
        finally:
            if alone:
                link.flush()
        calls.add(pending, message_id, trace)
        if alone:
            self._eagerness.begin()

    def _cancel(self, pending: Pending) -> None:
        """Tells the other end that nobody waits any more; best effort, when there is a link."""
        if pending.message_id not in self.calls.pending or self.outbox.link is None:
            return
        self.calls.remove(pending)
        self._emit_cancel(pending)

    def _emit_cancel(self, pending: Pending) -> None:
        self.outbox.emit(pending.asked.cancelling(), b"null", pending.message_id, self.calls.trace_of(pending))

    def _request_timed_out(self, pending: Pending) -> None:
        if self.outbox.link is not None:
            self._emit_cancel(pending)

    def _hold_parts(self, change: int) -> None:
        self._stream_parts += change
        if change < 0:
            self.drained()

    # ---- answering -----------------------------------------------------------------------------------------------

    async def answer(self, message: Message, payload: Any, phase: Phase = Phase.REPLY, part: int = 0) -> None:
        """Sends an answer to `message`: to its source (or whom it was handed over for), in its thread and trace."""
        outbox = self.outbox
        if outbox.blocked:
            await outbox.wait_ready()
        body, content_type = encode(payload)
        reply_to, extensions, origin = message.message_id, b"", None
        if not message.plain:
            origin, extensions = message.origin, _trace_extension(message)
        if origin is None:
            flow = self._reply_flow(message.flow, phase, content_type)
        else:
            reply_to = origin[1]
            flow = self._make_reply_flow(message.flow, origin[0], phase, content_type)
        if outbox.paused and flow.destination in outbox.paused:
            await outbox.wait_resumed(flow.destination)
        outbox.emit(flow, body, reply_to, message.trace, 0, part, extensions)

    def answer_nowait(self, message: Message, payload: Any) -> bool:
        """The same for the usual reply, where nothing has to be waited for; False when `answer` has to do it."""
        outbox, frame, flow = self.outbox, message.frame, message.flow
        if outbox.blocked or outbox.paused or frame[4:6] != frame[6:8]:
            return False
        body, content_type = encode(payload)
        reply = flow.replies.get((_REPLY, content_type)) or self._reply_flow(flow, Phase.REPLY, content_type)
        outbox.emit(reply, body, _U64(frame, 8)[0], frame[24:40])
        return True

    def _reply_flow(self, flow: InFlow, phase: Phase, content_type: int) -> OutFlow:
        """The flow of answers to messages of `flow`, made once."""
        reply = flow.replies.get((phase, content_type))
        if reply is None:
            reply = self._make_reply_flow(flow, flow.source, phase, content_type)
            flow.replies[phase, content_type] = reply
        return reply

    def _make_reply_flow(self, flow: InFlow, to: bytes, phase: Phase, content_type: int) -> OutFlow:
        asked = flow.selector
        options: dict[str, Any] = {"thread": asked.thread, "dst_ilk": asked.src_ilk}
        if asked.thread_is_text:
            options["thread"] = asked.thread.decode()
        kind = type_text(asked)
        options["type"] = _RESPONSE_TYPES.get(kind, kind)
        if asked.message_class is MessageClass.SYSTEM:
            options["verb"] = _RESPONSE_VERBS.get(asked.verb) or f"{asked.verb}_RESPONSE"
            options["context"] = asked.context
            options["scope"] = int(asked.scope)
        return self.outbox.flow_for(to, content_type, int(phase), options)

    def acknowledge(self, message: Message, level: AckLevel) -> None:
        """Sends a RECEIPT. Without a link there is nobody to tell: the sender learns of the cut itself."""
        if self.outbox.link is None:
            return
        key = (-1, int(level))
        flow = message.flow.replies.get(key)
        if flow is None:
            options = {"class": MessageClass.RECEIPT}
            flow = self.outbox.flow_for(message.flow.source, BYTES, _MESSAGE, options)
            message.flow.replies[key] = flow
        self.outbox.emit(flow, bytes((level,)), message.message_id, message.trace)


def _trace_extension(message: Message) -> bytes:
    """A trace id that is no uuid travels back as the text it came as."""
    text = message.extension(Tag.TRACE_TEXT)
    return pack_extensions({Tag.TRACE_TEXT: text}) if text else b""
