"""What the router itself says: refusals, confirmations, reports, farewells.

A refusal is a system message to the sender's uuid with the trace of the refused frame and `reply_to` = its message id.
It waits in the sender's own queue like any other frame: a sender that provokes refusals faster than it reads them stops
being read (`hold`), so that what it is owed stays bounded without anything being left unsaid.
"""
from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from skep.protocol import limits, system, translate
from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason, Reason
from skep.protocol.errors import ProtocolError
from skep.protocol.header import (
    ContentType,
    DstKind,
    Frame,
    MessageClass,
    Selector,
    Tag,
    pack_extensions,
    pack_frame,
    pack_key,
    parse_frame,
    unpack_extensions,
    unpack_key,
)
from skep_router.decide import Refusal

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.link import Link

# Why a RECEIPT may come too late, or to a peer that cannot read one: nobody waits to hear that.
_UNTOLD_RECEIPTS = frozenset({
    Reason.NODE_NOT_FOUND, Reason.QUEUE_FULL, Reason.LOST, Reason.UNTRANSLATABLE, Reason.VPN_BLOCKED,
    Reason.TENANT_BLOCKED, Reason.NOT_READY, Reason.SEAL_REQUIRED,
})

Fate = tuple[int, int, bytes]  # 1 LOST or 2 UNKNOWN, message id, trace id


def send(core: Core, link: Link, frame: bytes) -> None:
    """A native frame of the router's own to one link, translated if that is what it speaks."""
    if link.closed:
        return
    if not link.native:
        encoded = translate.native_to_json(parse_frame(frame, 0, len(frame)), "", link.frame_bytes_max)
        if isinstance(encoded, Reason):
            return
        frame = encoded
    _offer(core, link, frame)


def _offer(core: Core, link: Link, frame: bytes) -> None:
    """What a native socket takes at once is not kept until TAKEN: nobody is told the fate of our own words."""
    if link.native and not link.blocked:
        link.written_frames += 1
        link.port.write(frame)
        return
    link.offer(frame, 1, core.me, core.me.open_ticket(1), core.now)
    if not link.has_room(0, 0):
        hold(link)


def hold(link: Link) -> None:
    """Its socket is full and so is its queue: read nothing more from it until its socket takes bytes again."""
    if not link.held_back:
        link.held_back = True
        link.pause_reading()


def resume(link: Link) -> None:
    """Its socket takes bytes again."""
    if link.blocked:
        return
    if link.native:
        link.owe_confirmation()  # what `confirm` did not write while nobody read
    if link.held_back:  # not to wait for its TAKEN, which stands in the very socket that is not read
        link.held_back = False
        link.resume_reading()


def system_frame(core: Core, link: Link, verb: str, payload: object, like: Frame | None = None) -> bytes:
    """A system message from the router to one link; `like` gives the trace and what is answered."""
    key = _system_key(core.uuid, link.uuid, verb)
    body = orjson.dumps(payload)
    if like is None:
        return pack_frame(key, body)
    return pack_frame(
        key, body, reply_to=like.message_id, trace_id=like.trace_id, span_id=like.span_id, extensions=_trace_text(like),
    )


@lru_cache(maxsize=1024)
def _system_key(source: bytes, destination: bytes, verb: str) -> bytes:
    """Kept, because a flood of refusals goes to few nodes and packing a key costs four times as much as the rest."""
    selector = Selector(
        message_class=MessageClass.SYSTEM, dst_kind=DstKind.UUID, destination=destination, verb=verb,
        ttl=limits.TTL_DEFAULT,
    )
    return pack_key(source, selector)


def _trace_text(like: Frame) -> bytes:
    """A trace id that is no uuid travels as text beside its digest; its owner looks for the text."""
    if not like.extensions:
        return b""
    try:
        text = unpack_extensions(like.extensions).get(Tag.TRACE_TEXT)
    except ProtocolError:
        return b""
    return b"" if text is None else pack_extensions({Tag.TRACE_TEXT: text})


def refuse_frame(core: Core, link: Link, whole: bytes, refusal: Refusal) -> None:
    """Tell the sender why this native frame of its own does not go on."""
    frame = parse_frame(whole, 0, len(whole))
    core.counters.refused += 1
    selector = _selector_of(frame.key)
    if selector is not None and selector.flags:
        core.hooks.recorder.hop(4, whole, link.name, b"", "", refusal.reason)
    receipt_lost = selector is not None and selector.message_class == MessageClass.RECEIPT
    if link is core.me or (receipt_lost and refusal.reason in _UNTOLD_RECEIPTS):
        return
    payload = system.unreachable(
        original_dst(selector), refusal.reason, refusal.detail, retryable=refusal.reason.retryable
    )
    if refusal.decision_id:
        payload["decision_id"] = refusal.decision_id
    send(core, link, system_frame(core, link, "UNREACHABLE", payload, frame))


@lru_cache(maxsize=1024)
def _selector_of(key: bytes) -> Selector | None:
    """A refused frame may be refused because its key cannot be read. Kept: refusals of one flow come in thousands."""
    try:
        return unpack_key(key)[1]
    except ProtocolError:
        return None


def original_dst(selector: Selector | None) -> str:
    """The destination as upstream writes it in UNREACHABLE and TTL_EXCEEDED: text, "broadcast" or "null"."""
    if selector is None or selector.dst_kind == DstKind.POLICY:
        return "null"
    if selector.dst_kind == DstKind.BROADCAST:
        return "broadcast"
    if selector.dst_kind == DstKind.UUID:
        return str(UUID(bytes=selector.destination))
    return selector.destination.decode()


def ttl_exceeded(core: Core, link: Link, whole: bytes) -> None:
    frame = parse_frame(whole, 0, len(whole))
    core.counters.refused += 1
    payload = system.ttl_exceeded(original_dst(_selector_of(frame.key)), f"router:{UUID(bytes=core.uuid)}")
    send(core, link, system_frame(core, link, "TTL_EXCEEDED", payload, frame))


def refuse_json(core: Core, link: Link, body: bytes, error: ProtocolError) -> None:
    """A JSON frame that has no meaning. Its trace is quoted when it can be read at all, so that the sender finds it."""
    core.counters.refused += 1
    payload = system.unreachable("null", Reason.BAD_FRAME, str(error), retryable=False)
    encoded = system.answer_to_body(body, "UNREACHABLE", payload, source=core.uuid, destination=link.uuid)
    _offer(core, link, encoded)


def receipt(core: Core, link: Link, whole: bytes, level: int) -> None:
    """Stand in for a consumer that cannot confirm: the level that was really reached."""
    frame = parse_frame(whole, 0, len(whole))
    selector = Selector(
        message_class=MessageClass.RECEIPT, content_type=ContentType.BYTES, dst_kind=DstKind.UUID,
        destination=link.uuid,
    )
    body = bytes((level,))
    send(core, link, pack_frame(
        pack_key(core.uuid, selector), body, reply_to=frame.message_id, trace_id=frame.trace_id,
    ))


def confirm(core: Core, link: Link) -> None:
    """CONFIRMED, when there is something new to confirm. Not to one that does not read: it counts up, so the next says
    all, and what piled up before it would lie in a buffer that nobody counts."""
    both = link.accepted + link.finished  # neither goes back, so a sum that is the same means that both are
    if link.native and not link.closed and not link.blocked and link.confirmed != both:
        link.confirmed = both
        core.control(link, link_verbs.pack_confirmed(link.accepted, link.finished))


def report(core: Core, sender: Link, hop: Link, told: list[Fate]) -> None:
    """What became of frames that a dead consumer took with it. A JSON sender hears UNREACHABLE instead."""
    if sender is core.me:
        return
    if sender.native:
        entries = [(outcome, message_id) for outcome, message_id, _ in told]
        for at in range(0, len(entries), limits.REPORT_ENTRIES_MAX):
            core.control(sender, link_verbs.pack_report(entries[at:at + limits.REPORT_ENTRIES_MAX]))
        if sender.blocked:
            hold(sender)  # it must hear this, and is owed no more of it while it does not read
        return
    for outcome, message_id, trace_id in told:
        refusal = Refusal(Reason.LOST if outcome == 1 else Reason.UNKNOWN, f"{hop.name} left")
        refuse_named(core, sender, hop.name, message_id, trace_id, refusal)


def refuse_named(
    core: Core, sender: Link, original: str, message_id: int, trace_id: bytes, refusal: Refusal
) -> None:
    """A refusal where the frame itself is gone, and only its message id and trace are left."""
    if sender is core.me:
        return
    core.counters.refused += 1
    payload = system.unreachable(original, refusal.reason, refusal.detail, retryable=refusal.reason.retryable)
    key = _system_key(core.uuid, sender.uuid, "UNREACHABLE")
    send(core, sender, pack_frame(key, orjson.dumps(payload), reply_to=message_id, trace_id=trace_id))


def goodbye(core: Core, link: Link, reason: CloseReason, detail: str) -> None:
    """Why the connection ends: BYE, or CLOSING for a JSON peer."""
    if link.native:
        core.control(link, link_verbs.pack_bye(reason, detail))
    else:
        core.control(link, system.closing_frame(reason, detail, source=core.uuid, destination=link.uuid))


def drain(core: Core, link: Link, grace_ms: int) -> None:
    core.control(link, link_verbs.pack_drain(grace_ms))
