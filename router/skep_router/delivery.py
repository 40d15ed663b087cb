"""Between a decision and a socket: full queues, paused senders, deadlines, and what a dead consumer took with it.

Backpressure isolates: PAUSE and RESUME name a destination as its sender wrote it, so a native sender stops only
that flow; a JSON sender cannot be told, so its socket waits. Past the hard limit each frame is refused one by one,
and the refusal names it. When a consumer dies, everything that it held is reported to the senders: LOST if its
socket never got it, UNKNOWN if it did and nobody said TAKEN.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson

from skep.protocol import limits
from skep.protocol import link as link_verbs
from skep.protocol.codes import Reason
from skep.protocol.header import HEAD_BYTES, MessageClass, unpack_key
from skep.protocol.json_framing import LENGTH_BYTES
from skep.protocol.message import trace_bytes
from skep_router import answers
from skep_router.decide import Refusal
from skep_router.frames import frames_of
from skep_router.hop import Held

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.flow import Flow
    from skep_router.hop import Hop
    from skep_router.link import Link

_DEADLINE_AT = 56
_DEADLINE_WORD = b'"deadline_ms"'
_NS_PER_MS = 1_000_000
LOST, UNKNOWN = 1, 2


def overflow(core: Core, hop: Link, held: Held) -> None:
    """A piece that does not fit as a whole: frames go on while there is room, the others are refused by name.

    Queued JSON cannot be cut back into frames that could be refused one by one, so for a JSON consumer the caller's
    `decorate` has refused already what would not fit."""
    piece, _, sender, ticket, at_ns, _ = held
    if not hop.native or hop.closed:
        _refuse_all(core, hop, held, Reason.NODE_NOT_FOUND if hop.closed else Reason.QUEUE_FULL)
        return
    for pos, end in frames_of(piece):
        frame = piece[pos:end]
        if hop.has_room(end - pos, 1):
            hop.offer(frame, 1, sender, ticket, at_ns)
        else:
            sender.settle(ticket, 1)
            answers.refuse_frame(core, sender, frame, _full(hop))


def _full(hop: Link) -> Refusal:
    return Refusal(
        Reason.QUEUE_FULL,
        f"{hop.name} is owed {hop.held_bytes} of at most {limits.QUEUE_BYTES_MAX} bytes; wait for RESUME, send again",
    )


def _refuse_all(core: Core, hop: Link, held: Held, reason: Reason) -> None:
    piece, frames, sender, ticket, _, _ = held
    sender.settle(ticket, frames)
    core.counters.refused += frames
    if hop.native:
        for pos, end in frames_of(piece):
            answers.refuse_frame(core, sender, piece[pos:end], Refusal(reason, f"{hop.name} left"))


def pause(core: Core, hop: Link, sender: Link) -> None:
    """The hop holds more than its high mark: stop this sender, for this destination only. Asked at each of its reads
    while that lasts, so a sender that was stopped before is found by one look-up."""
    if hop.paused is None:
        hop.paused = {}
    elif sender in hop.paused:
        return
    flows = {flow for flow in sender.flows.values() if flow.hop is hop or (flow.group and hop in flow.group)}
    if flows:
        hop.paused[sender] = flows
    for flow in flows:
        if not flow.paused:
            flow.paused = True
            _tell(core, flow, paused=True)


def pause_too(core: Core, hop: Link, flow: Flow) -> None:
    """A new flow of a sender that was stopped for this hop already."""
    assert hop.paused is not None  # its sender is in it
    flow.paused = True
    hop.paused[flow.link].add(flow)
    _tell(core, flow, paused=True)


def overdraw(core: Core, link: Link) -> None:
    """Its uid holds more than its whole quota. A JSON peer is not read; a native one hears QUEUE_FULL (`decide`) for
    each frame, because it must be read: the TAKEN that would release the quota may stand behind its messages."""
    if link in core.overdrawn:
        return
    core.overdrawn[link] = None
    if not link.native:
        link.pause_reading()
        return
    for flow in tuple(link.flows.values()):
        core.drop_flow(flow)


def resume_overdrawn(core: Core) -> None:
    """Half the quota again, so that a connection does not stop and go with every piece."""
    if not core.overdrawn:
        return
    waiting, core.overdrawn = core.overdrawn, {}
    for link in waiting:
        if link.account.held_bytes > limits.UID_BYTES_MAX // 2 and not link.closed:
            core.overdrawn[link] = None
        elif not link.native:
            link.resume_reading()


def unpause(core: Core, flow: Flow) -> None:
    """A paused flow is forgotten: whatever comes next for this destination is decided anew."""
    flow.paused = False
    if not flow.link.closed:
        _tell(core, flow, paused=False)


def _tell(core: Core, flow: Flow, *, paused: bool) -> None:
    sender = flow.link
    if not sender.native:
        (sender.pause_reading if paused else sender.resume_reading)()
        return
    _, selector = unpack_key(flow.key)
    pack = link_verbs.pack_pause if paused else link_verbs.pack_resume
    core.control(sender, pack(selector.dst_kind, selector.destination))


def relieve(core: Core, hop: Hop) -> None:
    """After something was taken: below the low mark every paused sender may go on."""
    if not hop.over or hop.held_bytes > limits.QUEUE_BYTES_LOW:
        return
    hop.over = False
    paused, hop.paused = hop.paused, None
    for flows in (paused or {}).values():
        for flow in flows:
            unpause(core, flow)


def writable(core: Core, hop: Link, now: int) -> None:
    """The socket takes bytes again: send what waited, without what has expired meanwhile."""
    hop.unblock()
    while not hop.blocked:
        held = hop.next_queued()
        if held is None:
            break
        piece, frames, sender, ticket, at_ns, _ = held
        expired: list[bytes] = []
        waited_ms = (now - at_ns) // _NS_PER_MS
        alive = _still_alive if hop.native else _still_alive_json
        kept, left = alive(piece, frames, waited_ms, expired)
        if expired:
            sender.settle(ticket, len(expired))
        if left:
            hop.offer(kept, left, sender, ticket, at_ns)
        # Told only now: to a node that sends to itself the refusal could fill the socket that `kept` was taken out for.
        for frame in expired:
            why = Refusal(Reason.DEADLINE_EXCEEDED, f"it waited {waited_ms} ms in the queue of its consumer")
            if hop.native:
                answers.refuse_frame(core, sender, frame, why)
            else:
                answers.refuse_named(core, sender, hop.name, *next(_named_json(frame)), why)
    relieve(core, hop)


def _still_alive(piece: bytes, frames: int, waited_ms: int, expired: list[bytes]) -> tuple[bytes, int]:
    """The frames of a queued piece whose deadline has not passed, with what remains of it written into each."""
    if not waited_ms:
        return piece, frames
    kept: list[bytes] = []
    for pos, end in frames_of(piece):
        frame = piece[pos:end]
        deadline_ms = int.from_bytes(frame[_DEADLINE_AT:_DEADLINE_AT + 4], "little")
        if not deadline_ms:
            kept.append(frame)
        elif deadline_ms > waited_ms:
            left = (deadline_ms - waited_ms).to_bytes(4, "little")
            kept.append(frame[:_DEADLINE_AT] + left + frame[_DEADLINE_AT + 4:])
        else:
            expired.append(frame)
    return b"".join(kept), len(kept)


def _still_alive_json(piece: bytes, frames: int, waited_ms: int, expired: list[bytes]) -> tuple[bytes, int]:
    """The same for queued JSON of ours. What has no deadline, nearly all of it, is only searched for the word."""
    if not waited_ms or _DEADLINE_WORD not in piece:
        return piece, frames
    kept: list[bytes] = []
    for whole in _bodies_of(piece):
        body = orjson.loads(whole[LENGTH_BYTES:])
        deadline_ms = body["meta"].get("deadline_ms", 0)
        if deadline_ms > waited_ms:
            body["meta"]["deadline_ms"] = deadline_ms - waited_ms
            written = orjson.dumps(body)
            kept.append(len(written).to_bytes(LENGTH_BYTES, "big") + written)
        else:
            (expired if deadline_ms else kept).append(whole)
    return b"".join(kept), len(kept)


def _bodies_of(piece: bytes) -> Iterator[bytes]:
    """Each JSON frame of a queued piece, with its length word."""
    pos = 0
    while pos < len(piece):
        end = pos + LENGTH_BYTES + int.from_bytes(piece[pos:pos + LENGTH_BYTES], "big")
        yield piece[pos:end]
        pos = end


def report_abandoned(core: Core, hop: Link) -> None:
    """Tell every sender which of its frames a dead consumer took with it."""
    written, queued = hop.abandon()
    fates: dict[Link, list[answers.Fate]] = {}
    for outcome, entries in ((UNKNOWN, written), (LOST, queued)):
        for piece, frames, sender, _, _, _ in entries:
            core.counters.abandoned += frames
            if not sender.closed and sender is not core.me:
                named = _named(piece) if hop.native else _named_json(piece)
                fates.setdefault(sender, []).extend((outcome, message_id, trace) for message_id, trace in named)
    for sender, told in fates.items():
        answers.report(core, sender, hop, told)


def _named(piece: bytes) -> Iterator[tuple[int, bytes]]:
    """Receipts are confirmations themselves; nobody waits to hear that one was lost."""
    for pos, _ in frames_of(piece):
        if piece[pos + HEAD_BYTES + 17] != MessageClass.RECEIPT:
            yield int.from_bytes(piece[pos + 8:pos + 16], "little"), piece[pos + 24:pos + 40]


def _named_json(piece: bytes) -> Iterator[tuple[int, bytes]]:
    """The same for queued JSON of ours: read only at a death, so that the living keep nothing for it."""
    for whole in _bodies_of(piece):
        body = orjson.loads(whole[LENGTH_BYTES:])
        yield body["meta"].get("message_id", 0), trace_bytes(body["routing"]["trace_id"])[0]
