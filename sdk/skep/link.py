"""One registered native connection: frames in, frames out, and what both ends have counted.

Owns the socket's transport, the unfinished tail of a read, the frames not yet written and the cumulative counters
of docs/wire.md. Invariants: message ids on a link are consecutive, so ordinal n is `first_id + n - 1` and
"unconfirmed" is a range, never a table; TAKEN is not sent while the application's queue is above its high mark, which
is what gives the router end-to-end backpressure; nothing is handed to the transport while it is paused, so what it
holds is bounded and a frame that stayed here is known to be LOST rather than UNKNOWN.

Frames sent in one turn of the loop become one write. Rejected: one transport.write per message (0.4 µs each on uvloop,
a system call each on plain asyncio).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from skep.flows import IN_FLOWS_MAX, InFlow
from skep.message import Message
from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason
from skep.protocol.errors import ProtocolError
from skep.protocol.header import FIELDS_START, KEY_START, PREFIX, MessageClass, frame_length, unpack_key
from skep.protocol.limits import TAKEN_BYTES, TAKEN_DELAY_S, TAKEN_FRAMES

if TYPE_CHECKING:
    from skep.client import Client
    from skep.clock import Timer

log = logging.getLogger("skep")
BATCH_BYTES: Final = (
    64 << 10
)  # a full write; past it the sender lets the loop turn, so that replies are read too
UNACCEPTED_MAX: Final = 65536  # frames sent and not read by the router; its socket buffer is far smaller


class NativeLink(asyncio.Protocol):
    """The protocol of a connection after ANNOUNCE chose native framing."""

    framing = "native"

    def __init__(self, client: Client, transport: asyncio.Transport, frame_bytes_max: int) -> None:
        self.client = client
        self.transport = transport
        self.frame_bytes_max = frame_bytes_max
        self.close_reason: CloseReason | None = None
        self.close_detail = ""
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.first_id = client.outbox.next_id
        self.flushed_id = client.outbox.next_id  # ids below it were handed to the transport
        self.accepted = 0
        self.finished = 0
        self.received = 0
        self.reported = 0
        self.unreported_bytes = 0
        self.congested = False
        self.draining = False
        self._tail = b""
        self._flows: dict[bytes, InFlow] = {}
        self.flush_due = False
        self._taken_timer: Timer | None = None
        self._moved: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    # ---- in ------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.flush_due = (
            True  # at the end of the read: another callback for it would cost the loop another turn
        )
        try:
            self._walk(self._tail + data if self._tail else data)
        except ProtocolError as error:
            self.abort(CloseReason.FRAME_INVALID, str(error))
        finally:
            self.flush_due = False

    def _walk(self, data: bytes) -> None:
        """Hands each whole frame to its flow's owner. The hot loop: one unpack, two slices, one look-up a frame."""
        flows, client, prefix = self._flows, self.client, PREFIX.unpack_from
        now = client.clock.now()
        pos, end, count = 0, len(data), 0
        while end - pos >= KEY_START:
            size, key_end, _ = prefix(data, pos)
            stop = pos + size
            if stop > end or size < FIELDS_START:
                frame_length(data, pos, self.frame_bytes_max)  # raises for words no frame can have
                break
            frame = data[pos:stop]
            flow = flows.get(frame[KEY_START:key_end])
            if flow is None:
                flow = self._learn(frame, key_end)
            try:
                flow.accept(Message(flow, frame, client, now))
            except Exception:  # one frame's taker failed: the others must not suffer for it
                log.exception("%s: a frame could not be handled", client.name)
            count += 1
            pos = stop
        self._tail = data[pos:] if pos < end else b""
        self.received += count
        self.unreported_bytes += pos
        client.after_read(self)

    def _learn(self, frame: bytes, key_end: int) -> InFlow:
        frame_length(frame, 0, self.frame_bytes_max)
        source, selector = unpack_key(frame[KEY_START:key_end])
        flow = InFlow(source, selector, key_end)
        if selector.message_class is MessageClass.LINK:
            flow.accept = self._on_link_frame
        else:
            self.client.adopt(flow, frame)
        if len(self._flows) >= IN_FLOWS_MAX:
            self._flows.clear()
        self._flows[frame[KEY_START:key_end]] = flow
        return flow

    def _on_link_frame(self, message: Message) -> None:
        self.received -= 1  # LINK frames are not counted
        try:
            verb = link_verbs.parse_link(message.payload_bytes)
        except ProtocolError as error:
            self.abort(CloseReason.LINK_INVALID, str(error))
            return
        _LINK_HANDLERS[type(verb)](self, verb)

    # ---- LINK verbs ----------------------------------------------------------------------------------------------

    def _on_confirmed(self, verb: Any) -> None:
        self.accepted, self.finished = verb.accepted, verb.finished
        self._wake()
        self.client.on_confirmed(self)

    def _wake(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    def _on_pause(self, verb: Any) -> None:
        self.client.outbox.pause(bytes((verb.dst_kind,)) + verb.destination)

    def _on_resume(self, verb: Any) -> None:
        self.client.outbox.resume(bytes((verb.dst_kind,)) + verb.destination)

    def _on_ping(self, verb: Any) -> None:
        self.write_link(link_verbs.pack_pong(verb.nonce))

    def _on_drain(self, verb: Any) -> None:
        self.client.on_drain(self, verb.milliseconds / 1000)

    def _on_bye(self, verb: Any) -> None:
        self.end(verb.reason, verb.detail)

    def _on_report(self, verb: Any) -> None:
        self.client.on_router_report(verb.entries)

    def _on_nothing(self, verb: Any) -> None:
        """PONG has done its work by arriving; TAKEN and DOORBELL are not for an application node."""

    # ---- counters ------------------------------------------------------------------------------------------------

    def report_taken(self) -> None:
        """Says what the application took; now when enough has come together, else soon. The client asks after reads."""
        pending = self.received - self.reported
        if pending >= TAKEN_FRAMES or self.unreported_bytes >= TAKEN_BYTES:
            self.send_taken()
        elif pending and self._taken_timer is None:
            self._taken_timer = self.client.clock.call_later(TAKEN_DELAY_S, self._taken_due)

    def _taken_due(self) -> None:
        self._taken_timer = None
        if self.received > self.reported and self.client.may_take():
            self.send_taken()

    def send_taken(self) -> None:
        self.reported = self.received
        self.unreported_bytes = 0
        self.write_link(link_verbs.pack_taken(self.received))

    # ---- out -----------------------------------------------------------------------------------------------------

    def write_link(self, frame: bytes) -> None:
        """Queues a LINK frame: uncounted, without a message id."""
        self.out.append(frame)
        self.out_bytes += len(frame)
        self.schedule_flush()

    def schedule_flush(self) -> None:
        if not self.flush_due:
            self.flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hands everything queued to the transport in one write, unless the transport asked to wait."""
        self.flush_due = False
        if self.congested or not self.out:
            return
        out = self.out
        self.transport.write(self.encode(out))
        out.clear()
        self.out_bytes = 0
        self.flushed_id = self.client.outbox.next_id

    def encode(self, frames: list[bytes]) -> bytes:
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def wait_accepted(self) -> None:
        """Returns when the router has read everything that was sent, or when the link is closing."""
        while self.accepted < self.client.outbox.next_id - self.first_id and self.close_reason is None:
            self._moved = self._loop.create_future()
            await self._moved

    def window_full(self) -> bool:
        return self.client.outbox.next_id - self.first_id - self.accepted > UNACCEPTED_MAX

    def pause_writing(self) -> None:
        self.congested = True
        self.client.outbox.update_blocked()

    def resume_writing(self) -> None:
        self.congested = False
        self.flush()
        self.client.outbox.update_blocked()

    # ---- end -----------------------------------------------------------------------------------------------------

    def end(self, reason: CloseReason, detail: str = "") -> None:
        """Closes after what is queued was written; the first reason given stays."""
        if self.close_reason is None:
            self.close_reason, self.close_detail = reason, detail
        self.flush()
        self.transport.close()

    def abort(self, reason: CloseReason, detail: str) -> None:
        """Tells the router why and closes: the stream cannot be read on."""
        self.say_bye(reason, detail)
        self.end(reason, detail)

    def say_bye(self, reason: CloseReason, detail: str = "") -> None:
        self.write_link(link_verbs.pack_bye(reason, detail))

    def connection_lost(self, error: Exception | None) -> None:
        if self._taken_timer is not None:
            self._taken_timer.cancel()
        if self.close_reason is None:
            self.close_reason = CloseReason.IO_ERROR if error else CloseReason.PEER_CLOSED
            self.close_detail = str(error or "")
        self._wake()
        self.client.on_link_lost(self)


_LINK_HANDLERS: dict[type, Any] = {
    link_verbs.Confirmed: NativeLink._on_confirmed,
    link_verbs.Pause: NativeLink._on_pause,
    link_verbs.Resume: NativeLink._on_resume,
    link_verbs.Ping: NativeLink._on_ping,
    link_verbs.Pong: NativeLink._on_nothing,
    link_verbs.Drain: NativeLink._on_drain,
    link_verbs.Bye: NativeLink._on_bye,
    link_verbs.Report: NativeLink._on_report,
    link_verbs.Taken: NativeLink._on_nothing,
    link_verbs.Doorbell: NativeLink._on_nothing,
}
