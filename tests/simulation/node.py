"""A simulated node: the bytes of a real client, and the client's rule about what a cut leaves behind.

The rule (wire.md, section 6): when a link ends, frames that were never written are LOST; frames that were written and
lie after `finished` are UNKNOWN. A JSON client is confirmed nothing, so everything it wrote on that link and heard
nothing about is UNKNOWN. Nothing here sleeps or decides when: the world calls.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from router.models import FakeLink
from simulation.history import LOST, UNKNOWN, Violation
from skep.protocol import link as link_verbs
from skep.protocol.handshake import NATIVE, Announced, ClientHandshake
from skep.protocol.header import (
    ContentType,
    DstKind,
    MessageClass,
    Selector,
    pack_frame,
    pack_key,
    unpack_key,
)
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.message import Message, format_uuid
from skep.protocol.native_framing import NativeFramer, message_of_selector
from skep_router.frames import frames_of

if TYPE_CHECKING:
    from simulation.world import Conn, World

unpack = lru_cache(4096)(unpack_key)
pack = lru_cache(4096)(pack_key)
TRACE = "11111111-1111-4111-8111-111111111111"


@dataclass
class Item:
    """A frame on its way out: what the ledger calls it, and its bytes."""

    key: int  # 0: a frame that the ledger does not follow
    data: bytes
    selector: Selector
    claimed: bytes


@dataclass(eq=False)
class Node:
    """One node over all its links. `taking`: eager, lazy or never says TAKEN; `reading`: looks at its socket at all."""

    world: World
    name: str
    uuid: bytes
    uid: int
    native: bool
    taking: str = "eager"
    reading: bool = True
    conn: Conn | None = None
    shake: ClientHandshake | None = None
    next_id: int = 1
    outbox: list[Item] = field(default_factory=list)
    waiting: dict[int, int] = field(default_factory=dict)  # message id -> ledger key
    paused: set[tuple[int, bytes]] = field(default_factory=set)

    # ---- one link ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """What belongs to a link and not to the node."""
        self.framer: Any = NativeFramer() if self.native else JsonFramer()
        self.up = False
        self.received = self.taken = 0
        self.confirmed = (0, 0)
        self.written: list[int] = []  # ledger keys, by ordinal on this link
        self.paused.clear()

    def dial(self, conn: Conn) -> None:
        self.reset()
        self.conn = conn
        framings = (NATIVE,) if self.native else ()
        self.shake = ClientHandshake(self.uuid, self.name.partition("@")[0], "1", framings=framings, trace_id=TRACE)
        self.shake.start()
        conn.to_router += self.shake.data_to_send()

    def entry(self) -> FakeLink:
        return FakeLink(self.uuid, self.name, self.uid)

    def hang_up(self) -> None:
        """The link is gone: everything unfinished gets its fate, by the client's rule."""
        history = self.world.history
        finished = self.confirmed[1] if self.native else 0
        for key in self.written[finished:]:
            if key and not (history.entries[key].told or history.entries[key].reported):
                history.reported(key, UNKNOWN)
        for item in self.outbox:
            if item.key:
                history.reported(item.key, LOST)
        self.outbox.clear()
        self.conn = None
        self.shake = None
        self.reset()

    def flush(self, room: int) -> None:
        """Writes what the socket takes. A frame that is begun is written."""
        conn = self.conn
        while self.outbox and self.up and conn is not None and len(conn.to_router) < room:
            item = self.outbox.pop(0)
            self.written.append(item.key)
            conn.items.append(item)
            conn.to_router += item.data

    def say(self, frame: bytes) -> None:
        if self.conn is not None and self.native:
            self.conn.to_router += frame

    # ---- in ------------------------------------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        """Bytes from the router."""
        if not self.up:
            assert self.shake is not None
            for event in self.shake.receive_data(data):
                if not isinstance(event, Announced):
                    return
                self.up = True
                data = self.shake.take_leftover()
            if not self.up:
                return
        for piece in self.framer.receive_data(data):
            if self.native:
                self._frame(piece)
            else:
                self._body(piece)
        if self.taking == "eager":
            self.take()

    def take(self) -> None:
        if self.native and self.up and self.received > self.taken:
            self.taken = self.received
            self.say(link_verbs.pack_taken(self.taken))

    def _frame(self, frame: Any) -> None:
        source, selector = unpack(frame.key)
        kind = selector.message_class
        if kind == MessageClass.LINK:
            self._verb(link_verbs.parse_link(frame.payload))
            return
        self.received += 1
        if source == self.world.router_uuid:
            self._from_router(selector.message_class, selector.verb, frame.reply_to, frame.payload)
            return
        self._message(source, frame.payload, selector, frame.thread_seq, frame.deadline_ms, frame.message_id)

    def _body(self, body: bytes) -> None:
        message = decode_body(body)
        if message.source == self.world.router_uuid:
            verb = message.verb
            self._from_router(message.message_class, verb, message.reply_to, orjson.dumps(message.payload))
            return
        self.world.delivered(
            self, message.payload["k"], message.source, message.thread_seq, message.deadline_ms, message.source_name
        )

    def _message(
        self, source: bytes, payload: bytes, selector: Selector, seq: int, deadline_ms: int, message_id: int
    ) -> None:
        if selector.message_class == MessageClass.RECEIPT:
            return
        key = orjson.loads(payload)["k"]
        self.world.delivered(self, key, source, seq, deadline_ms, None)
        if selector.ack_level >= 2:
            self._receipt(source, message_id, selector.ack_level)

    def _receipt(self, source: bytes, message_id: int, level: int) -> None:
        selector = Selector(
            message_class=MessageClass.RECEIPT, content_type=ContentType.BYTES, dst_kind=DstKind.UUID,
            destination=source, ttl=16,
        )
        data = pack_frame(pack(self.uuid, selector), bytes((2,)), reply_to=message_id, message_id=self.next_id)
        self.next_id += 1
        self.outbox.append(Item(0, data, selector, self.uuid))

    def _from_router(self, kind: int, verb: str, reply_to: int, payload: bytes) -> None:
        if kind == MessageClass.TAP:
            self._tapped(payload)
        elif verb == "UNREACHABLE":
            self._told(reply_to, orjson.loads(payload)["reason"])
        elif verb == "TTL_EXCEEDED":
            self._told(reply_to, verb)

    def _told(self, reply_to: int, reason: str) -> None:
        key = self.waiting.get(reply_to)
        if key is None:
            raise Violation(f"{self.name} was told {reason} of message {reply_to}, which it never sent")
        if reason in (LOST, UNKNOWN):
            self.world.history.reported(key, reason)
        else:
            self.world.history.told(key, reason, self.world.now)

    def _tapped(self, payload: bytes) -> None:
        for pos, end in frames_of(payload[32:]):
            frame = payload[32 + pos:32 + end]
            key = orjson.loads(frame[int.from_bytes(frame[6:8], "little"):])["k"]
            if frame[72:88] != self.world.history.entries[key].source:
                raise Violation(f"message {key} was tapped under a false source")

    def _verb(self, verb: Any) -> None:
        if isinstance(verb, link_verbs.Confirmed):
            self._confirmed(verb.accepted, verb.finished)
        elif isinstance(verb, link_verbs.Pause):
            self.paused.add((verb.dst_kind, verb.destination))
        elif isinstance(verb, link_verbs.Resume):
            self.paused.discard((verb.dst_kind, verb.destination))
        elif isinstance(verb, link_verbs.Ping):
            self.say(link_verbs.pack_pong(verb.nonce))
        elif isinstance(verb, link_verbs.Report):
            for outcome, message_id in verb.entries:
                self.world.history.reported(self.waiting[message_id], outcome.name)

    def _confirmed(self, accepted: int, finished: int) -> None:
        before = self.confirmed
        if not (before[0] <= accepted <= len(self.written) and before[1] <= finished <= accepted):
            raise Violation(f"{self.name}: CONFIRMED {accepted} {finished} after {before}, {len(self.written)} written")
        self.confirmed = (accepted, finished)
        for key in self.written[before[1]:finished]:
            self.world.finished(key)

    # ---- out -----------------------------------------------------------------------------------------------------

    def post(self, key: int, selector: Selector, pad: int, rng: random.Random, **head: Any) -> None:
        """Queues a message; `claimed` other than ours is a forgery."""
        claimed = head.pop("claimed", self.uuid)
        message_id = self.next_id
        self.next_id += 1
        self.waiting[message_id] = key
        payload = {"k": key, "p": "x" * pad}
        seq = rng.randrange(1 << 40) if rng.random() < 0.2 else 0
        if self.native:
            body = orjson.dumps(payload)
            data = pack_frame(pack(claimed, selector), body, message_id=message_id, thread_seq=seq, **head)
        else:
            data = self._json(claimed, selector, payload, message_id, seq, head)
        self.outbox.append(Item(key, data, selector, claimed))

    def _json(
        self, claimed: bytes, selector: Selector, payload: object, message_id: int, seq: int, head: dict[str, Any]
    ) -> bytes:
        message: Message = message_of_selector(claimed, selector)
        message.payload = payload
        message.message_id, message.thread_seq, message.deadline_ms = message_id, seq, head.get("deadline_ms", 0)
        trace = head.get("trace_id", bytes(16))
        message.trace_id = format_uuid(trace) if any(trace) else ""
        return encode_body(message, source_name="")

