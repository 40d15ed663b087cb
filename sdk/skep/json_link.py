"""A connection in JSON framing, with the same insides: frames become native at the edge and are handled alike.

Upstream's framing has no LINK frames, so nothing is confirmed: what the kernel took counts as finished, no ack can be
asked for, and TAKEN is not sent. A frame that JSON cannot say (a payload of bytes) is reported as refused by this end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skep.link import NativeLink
from skep.protocol.codes import CloseReason, ErrorCode, Reason
from skep.protocol.errors import ProtocolError
from skep.protocol.header import parse_frame
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.message import Message as WireMessage
from skep.protocol.message import format_uuid
from skep.protocol.translate import json_to_native, native_to_json
from skep.reports import Outcome, Report

if TYPE_CHECKING:
    from skep.client import Client


class JsonLink(NativeLink):
    """The protocol of a connection whose ANNOUNCE chose no framing."""

    framing = "json"

    def __init__(self, client: Client, transport: asyncio.Transport, frame_bytes_max: int) -> None:
        super().__init__(client, transport, frame_bytes_max)
        self._framer = JsonFramer(frame_bytes_max)
        self.bad_frames = 0

    def data_received(self, data: bytes) -> None:
        try:
            bodies = self._framer.receive_data(data)
        except ProtocolError as error:
            self.end(CloseReason.FRAME_TOO_LARGE, str(error))
            return
        frames = [frame for body in bodies if (frame := self._to_native(body))]
        self._walk(b"".join(frames))

    def _to_native(self, body: bytes) -> bytes:
        """The native form of one body; empty for a frame that is broken or ends the session."""
        try:
            message = decode_body(body)
            if message.verb in ("CLOSING", "WITHDRAW") and message.type == "system":
                self._on_closing(message)
                return b""
            if message.source_name:
                self.client.directory.tell(message.source, message.source_name)
            return json_to_native(message, message.source)
        except ProtocolError:
            self.bad_frames += 1  # the stream is still readable; the sender's router would have refused it
            return b""

    def _on_closing(self, message: WireMessage) -> None:
        payload = message.payload if isinstance(message.payload, dict) else {}
        try:
            reason = CloseReason[str(payload.get("reason", ""))]
        except KeyError:
            reason = CloseReason.PEER_CLOSED
        self.end(reason, str(payload.get("hint", "")))

    def report_taken(self) -> None:
        self.reported = self.received

    def send_taken(self) -> None:
        """JSON framing has no TAKEN."""

    def write_link(self, frame: bytes) -> None:
        """JSON framing has no LINK frames."""

    def encode(self, frames: list[bytes]) -> bytes:
        return b"".join(self._to_json(frame) for frame in frames)

    def _to_json(self, data: bytes) -> bytes:
        frame = parse_frame(data, 0, len(data))
        encoded = native_to_json(frame, "", self.frame_bytes_max)
        if isinstance(encoded, bytes):
            return encoded
        self._refuse(frame.message_id, encoded)
        return b""

    def _refuse(self, message_id: int, reason: Reason) -> None:
        from skep.protocol.errors import DeliveryError

        trace = self.client.outbox.trace_of(message_id)
        if not self.client.calls.refuse(message_id, trace, DeliveryError(reason, message_id)):
            self.client.inbox.report([Report(Outcome.REFUSED, message_id, reason, format_uuid(trace))])

    def flush(self) -> None:
        super().flush()
        self.accepted = self.finished = self.flushed_id - self.first_id

    def say_bye(self, reason: CloseReason, detail: str = "") -> None:
        uuid = format_uuid(self.client.uuid)
        message = WireMessage(
            payload={"uuid": uuid},
            type="system",
            verb="WITHDRAW",
            source=self.client.uuid,
            ttl=1,
            trace_id=uuid,
        )
        self.transport.write(self._packed(message))

    def _packed(self, message: WireMessage) -> bytes:
        try:
            return encode_body(message, source_name="")
        except ProtocolError as error:  # our own text could only be too long
            raise AssertionError(ErrorCode.FIELD_RANGE) from error
