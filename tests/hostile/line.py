"""A connection that says whatever a test wants, in the words of docs/wire.md, to a real router.

Owns one socket each, and nothing of the SDK. What the router says comes back as messages, whatever the framing; LINK
verbs are kept aside. `settled` asks the router something and reads up to its answer: whatever it wrote before is then
here, so that "nothing came" is a fact and not a timeout.

A connection of another uid is made by changing the effective uid for the one call that the kernel looks at,
connect(2). Hence these tests need root, and run in one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason
from skep.protocol.header import DstKind, MessageClass, Selector, pack_frame, pack_key
from skep.protocol.json_framing import decode_body
from skep.protocol.message import Message
from skep.protocol.native_framing import destination_of, frame_to_message, parse_frame

TIMEOUT_S = 10.0
TRACE = "22222222-2222-4222-8222-222222222222"
HEAD_FIELDS = {
    "message_id", "reply_to", "trace_id", "span_id", "thread_seq", "deadline_ms", "label_set", "budget", "part",
    "extensions",
}  # fmt: skip


class EndedError(Exception):
    """The router closed the connection; `reason` is what it said before."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """The effective uid of this process, for the moment in which the kernel takes it down."""
    if uid == os.geteuid():
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def json_frame(body: Any) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return len(raw).to_bytes(4, "big") + raw


def unhyphened(text: str) -> bytes:
    return UUID(text).bytes


class Line:
    """One connection. Before `hello` it is a stranger's."""

    def __init__(self, path: Path, uid: int = 0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        with acting_as(uid):
            self.socket.connect(str(path))
        self.uid = uid
        self.uuid = uuid4()
        self.name = ""
        self.router_uuid = b""
        self.native = False
        self.taking = True  # a native line reports what it reads
        self.verbs: list[Any] = []
        self.inbox: list[Message] = []
        self.taken = 0
        self.buffer = bytearray()
        self._said = ""
        self._nonce = 0
        self._next_id = 1

    # -- saying

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # why it ended is still to be read
            self.socket.sendall(data)

    def hello_body(self, name: str, **payload: Any) -> dict[str, Any]:
        payload = {"uuid": str(self.uuid), "name": name, "version": "1", **payload}
        routing = {"src": str(self.uuid), "dst": None, "ttl": 1, "trace_id": TRACE}
        return {"routing": routing, "meta": {"type": "system", "msg": "HELLO"}, "payload": payload}

    def hello(self, name: str, *, native: bool = True, **payload: Any) -> Line:
        """Register. Raises EndedError with the code of CLOSING."""
        if native:
            payload.setdefault("framing", ["native/1"])
        self.write(json_frame(self.hello_body(name, **payload)))
        return self.welcomed()

    def welcomed(self) -> Line:
        answer = self.read()
        assert answer.verb == "ANNOUNCE", answer
        self.native = "framing" in answer.payload
        self.name = answer.payload["name"]
        self.router_uuid = answer.source
        return self

    def refused(self, name: str, **payload: Any) -> str:
        """The code with which this HELLO is refused, or "registered"."""
        try:
            self.hello(name, **payload)
        except EndedError as end:
            return end.reason
        return "registered"

    def frame(self, dst: Any = None, payload: bytes = b"{}", *, source: bytes = b"", **facts: Any) -> bytes:
        """A native frame; facts of the selector and of the head by their names."""
        head = {name: facts.pop(name) for name in tuple(facts) if name in HEAD_FIELDS}
        kind, destination = destination_of(dst)
        facts = {"dst_kind": kind, "destination": destination, **facts}
        head.setdefault("message_id", self._next_id)
        self._next_id += 1
        return pack_frame(pack_key(source or self.uuid.bytes, Selector(**facts)), payload, **head)

    def body(self, dst: Any = None, payload: Any = None, **meta: Any) -> dict[str, Any]:
        """An envelope; members of routing are those that `ROUTING` names."""
        routing = {"src": str(self.uuid), "dst": dst, "ttl": 16, "trace_id": TRACE}
        routing |= {name: meta.pop(name) for name in ("src", "ttl", "trace_id", "src_l2_name") if name in meta}
        return {"routing": routing, "meta": {"type": "user", **meta}, "payload": payload}

    def say(self, dst: Any = None, payload: Any = None, **facts: Any) -> None:
        """One ordinary message in the line's framing. Only what both framings spell alike may be in `facts`."""
        if self.native:
            self.write(self.frame(dst, json.dumps(payload).encode(), **facts))
        else:
            self.write(json_frame(self.body(str(UUID(bytes=dst)) if isinstance(dst, bytes) else dst, payload, **facts)))

    # -- hearing

    def read(self) -> Message:
        """The next message. Raises EndedError at the end of the connection."""
        while True:
            message = self._native() if self.native else decode_body(self._json())
            if message is None:
                continue
            if message.verb == "CLOSING":
                self._said = str(message.payload["code"])
                continue
            return message

    def _json(self) -> bytes:
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _native(self) -> Message | None:
        head = self._exactly(4)
        raw = head + self._exactly(int.from_bytes(head, "little") - 4)
        frame = parse_frame(raw, 0, len(raw))
        if frame.key[17] != MessageClass.LINK:
            self.taken += 1
            if self.taking and self.taken % 64 == 0:
                self.take()
            return frame_to_message(frame)
        verb = link_verbs.parse_link(frame.payload)
        if isinstance(verb, link_verbs.Bye):
            self._said = verb.reason.name
        self.verbs.append(verb)
        return None

    def take(self) -> None:
        """Report what was read."""
        self.write(link_verbs.pack_taken(self.taken))

    def _exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            try:
                piece = self.socket.recv(262144)
            except ConnectionError:  # it closed while words of ours were under way
                piece = b""
            if not piece:
                raise EndedError(self._said)
            self.buffer += piece
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def settled(self) -> list[Message]:
        """Everything that the router has for this line by now."""
        fresh: list[Message] = []
        answered = self._ask()
        while not answered(message := self.read_any()):
            if message is not None:
                fresh.append(message)
        self.inbox += fresh
        if self.native and self.taking and fresh:
            self.take()
        return fresh

    def read_any(self) -> Message | None:
        return self._native() if self.native else self.read()

    def _ask(self) -> Any:
        self._nonce += 1
        nonce = self._nonce
        if self.native:
            self.write(link_verbs.pack_ping(nonce))
            return lambda _: bool(self.verbs) and self.verbs[-1] == link_verbs.Pong(nonce)
        self.write(json_frame(self.body("RT.main", None, type="system", msg="NODE_STATUS_GET", message_id=nonce)))
        return lambda message: message.verb == "NODE_STATUS_GET_RESPONSE" and message.reply_to == nonce

    def told(self) -> str:
        """Why its one message was refused: a reason, and for BAD_FRAME the code."""
        (only,) = self.settled()
        return reason_of(only)

    def ended(self) -> str:
        """How the router ends this connection."""
        try:
            while True:
                self.read()
        except EndedError as end:
            return end.reason

    def half_closed(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()


def reason_of(message: Message) -> str:
    assert message.verb in ("UNREACHABLE", "TTL_EXCEEDED"), message
    reason: str = message.payload.get("reason", message.verb)
    if reason != "BAD_FRAME":
        return reason
    return f"BAD_FRAME {str(message.payload.get('detail', '')).partition(':')[0]}"


__all__ = [
    "TRACE",
    "CloseReason",
    "DstKind",
    "EndedError",
    "Line",
    "acting_as",
    "json_frame",
    "reason_of",
    "unhyphened",
]
