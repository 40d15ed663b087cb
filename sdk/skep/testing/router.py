"""A router small enough to hold in the head: the conformance semantics over any byte pipe, without sockets or clocks.

It speaks the real protocol, byte for byte and in both framings, and forwards by uuid, name, `base@*`, group, broadcast
(target, scope) and thread binding; it stamps, translates, confirms, pauses, refuses and reports as docs/wire.md
says. It decides everything anew for every frame: no flow table, no FIB, no shared memory, no grants, no quotas per
uid. The production router is another program; one conformance suite runs on both, which is what keeps this one honest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Final
from uuid import uuid4

from skep.protocol import link, system
from skep.protocol.codes import CloseReason, Reason
from skep.protocol.errors import ProtocolError
from skep.protocol.handshake import NATIVE, Hello, Refused, ServerHandshake
from skep.protocol.header import (
    TTL_AT,
    DstKind,
    Frame,
    MessageClass,
    Phase,
    Selector,
    frame_length,
    pack_frame,
    pack_key,
    parse_frame,
    unpack_key,
)
from skep.protocol.json_framing import JsonFramer, decode_body
from skep.protocol.message import format_uuid
from skep.protocol.names import base_of, hive_of, is_system, matches_target
from skep.protocol.strict_json import dumps
from skep.protocol.translate import json_to_native, native_to_json
from skep.testing.threads import Bindings

PAUSE_FRAMES: Final = (
    256  # what a consumer may owe before its senders are paused; small, so that tests reach it
)
RESUME_FRAMES: Final = 64
REFUSE_FRAMES: Final = 1024
assert RESUME_FRAMES < PAUSE_FRAMES < REFUSE_FRAMES


class Peer:
    """One connection."""

    def __init__(
        self, router: MemoryRouter, write: Callable[[bytes], None], close: Callable[[], None]
    ) -> None:
        self.router = router
        self.write = write
        self.close = close
        self.handshake = ServerHandshake(router.hive_id, router.uuid)
        self.hello: Hello | None = None
        self.native = False
        self.framer = JsonFramer()
        self.tail = b""
        self.accepted = 0
        self.finished = 0
        self.settled: set[int] = set()  # ordinals finished out of order
        self.owed: deque[tuple[Peer, int, int]] = (
            deque()
        )  # (sender, ordinal, message id) not yet reported taken
        self.taken = 0
        self.pausing: dict[Peer, set[tuple[DstKind, bytes]]] = {}
        self.alive = True

    @property
    def name(self) -> str:
        return self.hello.name if self.hello else ""

    @property
    def uuid(self) -> bytes:
        return self.hello.uuid if self.hello else b""

    # ---- in ------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        if self.hello is None:
            self._greet(data)
        elif self.native:
            self._native(data)
        else:
            self._json(data)

    def _greet(self, data: bytes) -> None:
        for event in self.handshake.receive_data(data):
            if isinstance(event, Refused):
                self.say(self.handshake.data_to_send())
                self.close()
                return
            self.router.join(self, event)
        rest = self.handshake.take_leftover() if self.hello is not None else b""
        if rest:
            self.receive_data(rest)

    def _native(self, data: bytes) -> None:
        data = self.tail + data
        at = 0
        try:
            while len(data) - at >= 8 and len(data) - at >= (size := frame_length(data, at)):
                self._frame(data[at : at + size])
                at += size
        except ProtocolError as error:
            self.end(CloseReason.FRAME_INVALID, str(error))
            return
        self.tail = data[at:]
        self.confirm()

    def _frame(self, data: bytes) -> None:
        frame = parse_frame(data, 0, len(data))
        source, selector = unpack_key(frame.key)
        if selector.message_class is MessageClass.LINK:
            self._link(link.parse_link(frame.payload))
            return
        self.accepted += 1
        if source != self.uuid:
            self.router.refuse(self, self.accepted, frame, selector, Reason.SOURCE_FORGED)
            return
        self.router.forward(self, self.accepted, data, frame, selector)

    def _json(self, data: bytes) -> None:
        for body in self.framer.receive_data(data):
            message = decode_body(body)
            if message.type == "system" and message.verb == system.WITHDRAW:
                self.end(CloseReason.WITHDRAWN)
                return
            raw = json_to_native(message, self.uuid)
            self.accepted += 1
            frame = parse_frame(raw, 0, len(raw))
            self.router.forward(self, self.accepted, raw, frame, unpack_key(frame.key)[1])

    def _link(self, verb: Any) -> None:
        if isinstance(verb, link.Taken):
            self.settle(verb.frames)
        elif isinstance(verb, link.Ping):
            self.say(link.pack_pong(verb.nonce))
        elif isinstance(verb, link.Bye):
            self.end(verb.reason, said=False)

    # ---- out -----------------------------------------------------------------------------------------------------

    def say(self, data: bytes) -> None:
        if data and self.alive:
            self.write(data)

    def confirm(self) -> None:
        if self.native:
            self.say(link.pack_confirmed(self.accepted, self.finished))

    def finish(self, ordinal: int) -> None:
        """One of this sender's frames is settled; `finished` is cumulative, so gaps wait."""
        self.settled.add(ordinal)
        while self.finished + 1 in self.settled:
            self.finished += 1
            self.settled.discard(self.finished)

    def settle(self, frames: int) -> None:
        """The consumer took frames up to this count: their senders are told."""
        senders = set()
        while self.taken < frames and self.owed:
            sender, ordinal, _ = self.owed.popleft()
            self.taken += 1
            sender.finish(ordinal)
            senders.add(sender)
        for sender in senders:
            sender.confirm()
        if len(self.owed) <= RESUME_FRAMES:
            self.resume_senders()

    def resume_senders(self) -> None:
        for sender, destinations in self.pausing.items():
            for kind, destination in destinations:
                sender.say(link.pack_resume(kind, destination))
        self.pausing.clear()

    def deliver(
        self, sender: Peer, ordinal: int, data: bytes, frame: Frame, selector: Selector
    ) -> Reason | None:
        """Hands a frame to this consumer. Returns why not."""
        if not self.native:
            encoded = native_to_json(frame, sender.name, self.hello.frame_bytes_max if self.hello else 0)
            if isinstance(encoded, Reason):
                return encoded
            self.say(encoded)
            sender.finish(ordinal)
            return None
        if len(self.owed) >= REFUSE_FRAMES:
            return Reason.QUEUE_FULL
        self.owed.append((sender, ordinal, frame.message_id))
        self.say(data)
        wanted = (selector.dst_kind, selector.destination)
        if len(self.owed) > PAUSE_FRAMES and sender.native and wanted not in self.pausing.get(sender, ()):
            self.pausing.setdefault(sender, set()).add(wanted)
            sender.say(link.pack_pause(*wanted))
        return None

    def end(self, reason: CloseReason, detail: str = "", *, said: bool = True) -> None:
        if self.native and said and reason is not CloseReason.WITHDRAWN:
            self.say(link.pack_bye(reason, detail))
        self.lost()
        self.close()

    def lost(self) -> None:
        """The pipe is gone: what this consumer had not taken is reported to its senders."""
        self.alive = False
        if self.router.peers.pop(self.uuid, None) is not self:
            return
        for sender, ordinal, message_id in self.owed:
            sender.say(link.pack_report([(link.Outcome.UNKNOWN, message_id)]) if sender.native else b"")
            sender.finish(ordinal)
            sender.confirm()
        self.owed.clear()
        self.resume_senders()


class MemoryRouter:
    """All connections and where frames go."""

    def __init__(self, hive_id: str = "test", name: str = "RT.memory") -> None:
        self.hive_id = hive_id
        self.name = f"{name}@{hive_id}"
        self.uuid = uuid4().bytes
        self.peers: dict[bytes, Peer] = {}  # by uuid, in order of joining
        self.bindings = Bindings()
        self.refused: list[tuple[str, Reason]] = []  # (sender's name, reason), for tests to look at
        self._turn = count()
        self._thread_homes: dict[bytes, bytes] = {}
        self._ids = count(1)

    def connected(self, write: Callable[[bytes], None], close: Callable[[], None]) -> Peer:
        return Peer(self, write, close)

    def join(self, peer: Peer, hello: Hello) -> None:
        refusal = self._refusal(hello)
        if refusal is not None:
            peer.handshake.refuse(refusal, hello.name)
            peer.say(peer.handshake.data_to_send())
            peer.close()
            return
        old = self.peers.get(hello.uuid)
        if old is not None:
            old.end(CloseReason.REPLACED, "a newer connection has this uuid")
        framing = NATIVE if NATIVE in hello.framings else ""
        peer.handshake.accept(vpn_id=0, router_name=self.name, framing=framing, router_epoch=1)
        peer.hello, peer.native = hello, bool(framing)
        self.peers[hello.uuid] = peer
        peer.say(peer.handshake.data_to_send())

    def _refusal(self, hello: Hello) -> CloseReason | None:
        """SY and RT names are single."""
        if not is_system(hello.name):
            return None
        taken = any(peer.name == hello.name and peer.uuid != hello.uuid for peer in self.peers.values())
        return CloseReason.NAME_TAKEN if taken or hello.name == self.name else None

    # ---- forwarding ----------------------------------------------------------------------------------------------

    def forward(self, sender: Peer, ordinal: int, data: bytes, frame: Frame, selector: Selector) -> None:
        if data[TTL_AT] == 0:
            self.refuse(sender, ordinal, frame, selector, Reason.TTL_EXCEEDED)
        elif selector.dst_kind is DstKind.BROADCAST:
            self._broadcast(sender, ordinal, data, frame, selector)
        elif self._is_threads(selector):
            sender.finish(ordinal)
            self._answer_threads(sender, frame, selector)
        else:
            self._unicast(sender, ordinal, data, frame, selector)

    def _unicast(self, sender: Peer, ordinal: int, data: bytes, frame: Frame, selector: Selector) -> None:
        found = self._resolve(sender, selector)
        reason = found if isinstance(found, Reason) else found.deliver(sender, ordinal, data, frame, selector)
        if reason is not None:
            self.refuse(sender, ordinal, frame, selector, reason)

    def _broadcast(self, sender: Peer, ordinal: int, data: bytes, frame: Frame, selector: Selector) -> None:
        for peer in list(self.peers.values()):
            if peer is not sender and (not selector.target or matches_target(selector.target, peer.name)):
                peer.deliver(_Nobody(sender), 0, data, frame, selector)
        sender.finish(ordinal)

    def _resolve(self, sender: Peer, selector: Selector) -> Peer | Reason:
        bound = self.bindings.handler_of(selector) if selector.message_class is MessageClass.USER else None
        if bound is not None and selector.dst_kind is not DstKind.UUID and bound != sender.name:
            found = self._group(bound, selector)
            if found is not None:
                return found
        if selector.dst_kind is DstKind.POLICY:
            return Reason.OPA_NO_TARGET
        if selector.dst_kind is DstKind.UUID:
            return self.peers.get(selector.destination) or Reason.NODE_NOT_FOUND
        return self._by_name(sender, selector) or Reason.NODE_NOT_FOUND

    def _by_name(self, sender: Peer, selector: Selector) -> Peer | None:
        name = selector.destination.decode()
        if not name.endswith("@*"):
            return self._group(name, selector)
        base = name[:-2]
        found = self._group(f"{base}@{hive_of(sender.name)}", selector)
        if found is not None:
            return found
        return next((peer for peer in self.peers.values() if base_of(peer.name) == base), None)

    def _group(self, name: str, selector: Selector) -> Peer | None:
        """One member of the nodes that share a name: a thread's own one, else in turn."""
        members = [peer for peer in self.peers.values() if peer.name == name]
        if not members:
            return None
        if selector.thread:
            home = self.peers.get(self._thread_homes.get(selector.thread, b""))
            if home in members:
                return home
        chosen = members[next(self._turn) % len(members)]
        if selector.thread:
            self._thread_homes[selector.thread] = chosen.uuid
        return chosen

    # ---- answers of its own --------------------------------------------------------------------------------------

    def refuse(self, sender: Peer, ordinal: int, frame: Frame, selector: Selector, reason: Reason) -> None:
        """Tells the sender why; refusals and receipts are never refused in turn."""
        sender.finish(ordinal)
        self.refused.append((sender.name, reason))
        if selector.verb in (system.UNREACHABLE, system.TTL_EXCEEDED):
            return
        original = _destination_text(selector)
        if reason is Reason.TTL_EXCEEDED:
            verb, payload = (
                system.TTL_EXCEEDED,
                system.ttl_exceeded(original, f"router:{format_uuid(self.uuid)}"),
            )
        else:
            verb, payload = system.UNREACHABLE, system.unreachable(original, reason)
        self.tell(sender, verb, payload, frame)

    def tell(self, peer: Peer, verb: str, payload: dict[str, Any], about: Frame) -> None:
        """A system frame of the router's own, in the trace of `about`."""
        selector = Selector(
            message_class=MessageClass.SYSTEM, verb=verb, dst_kind=DstKind.UUID, destination=peer.uuid
        )
        data = pack_frame(
            pack_key(self.uuid, selector),
            dumps(payload),
            message_id=next(self._ids),
            reply_to=about.message_id,
            trace_id=about.trace_id,
        )
        peer.deliver(_Nobody(peer), 0, data, parse_frame(data, 0, len(data)), selector)

    def _is_threads(self, selector: Selector) -> bool:
        """Whether this is for SY.threads and no node of that name is here: then the bindings below answer."""
        name = f"SY.threads@{self.hive_id}"
        if selector.dst_kind is not DstKind.NAME or selector.destination.decode() != name:
            return False
        return all(peer.name != name for peer in self.peers.values())

    def _answer_threads(self, sender: Peer, frame: Frame, selector: Selector) -> None:
        if selector.phase is not Phase.CANCEL:  # it was answered already
            answer = self.bindings.answer(selector.verb, frame.payload)
            self.tell(sender, f"{selector.verb}_RESPONSE", answer, frame)


class _Nobody(Peer):
    """Stands for the sender where nobody waits for the frame's end; keeps the name that is stamped."""

    def __init__(self, sender: Peer) -> None:
        super().__init__(sender.router, _drop, _nothing)
        self.hello = sender.hello

    def finish(self, ordinal: int) -> None:
        """Nobody counts."""


def _drop(data: bytes) -> None:
    """A frame to nobody."""


def _nothing() -> None:
    """Nothing to close."""


def _destination_text(selector: Selector) -> str:
    if selector.dst_kind is DstKind.UUID:
        return format_uuid(selector.destination)
    return {DstKind.POLICY: "null", DstKind.BROADCAST: "broadcast"}.get(
        selector.dst_kind, selector.destination.decode()
    )
