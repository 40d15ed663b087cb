"""Frames that the hot path does not decide: misses, extension fields, LINK verbs, broadcasts, JSON in and out.

A native frame that cannot even be cut out of its stream ends the connection, because nothing after it can be
trusted. A frame that can be cut out and is wrong is refused by name, and the connection lives, up to a bound. JSON
is an encoding at the edge: a JSON frame becomes the native frame it means and takes the way of any other, so no
check exists twice.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep.protocol import limits, native_framing, translate
from skep.protocol.codes import CloseReason, Reason
from skep.protocol.errors import ProtocolError
from skep.protocol.header import (
    DEADLINE_AT,
    THREAD_SEQ_AT,
    AckLevel,
    ActionClass,
    DstKind,
    Frame,
    MessageClass,
    Selector,
    parse_frame,
    unpack_key,
)
from skep.protocol.json_framing import JsonFramer, decode_body
from skep.protocol.link import pack_bye
from skep_router import answers, control, forward
from skep_router.decide import Refusal, decide, meetings, permitted, thread_key
from skep_router.fib import broadcast_matches
from skep_router.flow import Flow

if TYPE_CHECKING:
    from skep.protocol.message import Message
    from skep_router.core import Core
    from skep_router.link import Link

_CLASS_AT = 89
_LOOP_MEMORY_NS = 30_000_000_000  # upstream remembers a broadcast's trace for 30 s
_NO_ACTION_CLASS = frozenset({MessageClass.SYSTEM, MessageClass.ADMIN, MessageClass.QUERY_RESPONSE})
HOP_OUT, HOP_QUEUED = 2, 3
DEFERRED = -1


def exceptional(core: Core, link: Link, data: bytes, pos: int, end: int, now: int) -> int:
    """One native frame without a usable flow. -> how many frames were accepted: 1, or 0 for a LINK frame, or
    DEFERRED: its uid is out of decisions, and the frame waits with all that follows it."""
    if forward.is_taken(data, pos):  # the long way costs a large fan-out a third of its rate
        control.taken(core, link, int.from_bytes(data[end - 8:end], "little"), now)
        return 0
    try:
        frame = parse_frame(data, pos, end)
    except ProtocolError as error:
        core.break_link(link, CloseReason.FRAME_INVALID, str(error), now)
        return 0
    if frame.frame_bytes > limits.FRAME_BYTES_MAX:
        core.break_link(link, CloseReason.FRAME_TOO_LARGE, f"a frame of {frame.frame_bytes} bytes", now)
        return 0
    if data[pos + _CLASS_AT] == MessageClass.LINK:
        control.receive(core, link, frame, now)
        return 0
    flow = link.flows.get(frame.key)
    if flow is None and not link.account.charge_miss(now):
        _defer(core, link)
        return DEFERRED
    whole = data[pos:end]
    try:
        native_framing.check_extensions(frame, from_node=True)
        if flow is None:
            flow = _miss(core, link, frame, whole, now)
    except ProtocolError as error:
        _bad_frame(core, link, whole, error, now)
        return 1
    if flow is not None:
        forward.special(core, flow, whole, 0, len(whole), now)
    return 1


def _defer(core: Core, link: Link) -> None:
    """Decisions are charged to the uid that needs them; the one that wants too many waits, and nobody with it."""
    link.pause_reading()
    core.deferred.append((link.account.may_miss_at_ns(), link))


def resume_deferred(core: Core, now: int) -> None:
    """Read on where decisions are allowed again. A link that is short once more simply comes back here."""
    due = [link for at, link in core.deferred if at <= now]
    if not due:
        return
    core.deferred = [(at, link) for at, link in core.deferred if at > now]
    for link in due:
        if not link.closed:
            link.resume_reading()
            forward.forward(core, link, b"", now)


def _bad_frame(core: Core, link: Link, whole: bytes, error: ProtocolError, now: int) -> None:
    core.counters.bad_frames += 1
    link.bad_frames += 1
    answers.refuse_frame(core, link, whole, Refusal(Reason.BAD_FRAME, str(error)))
    if link.bad_frames > limits.BAD_FRAMES_PER_LINK:
        core.break_link(link, CloseReason.TOO_MANY_BAD_FRAMES, f"{link.bad_frames} bad frames on one link", now)


def _miss(core: Core, link: Link, frame: Frame, whole: bytes, now: int) -> Flow | None:
    """Decide and install; None when the frame was answered here. Broadcasts and our own queries make no flow."""
    core.counters.misses += 1
    source, selector = unpack_key(frame.key)
    refusal = permitted(core, link, source, selector)
    if refusal is None and not selector.ttl:
        answers.ttl_exceeded(core, link, whole)
        return None
    if refusal is None:
        if selector.dst_kind == DstKind.BROADCAST:
            _broadcast(core, link, frame, selector, whole, now)
            return None
        if control.is_for_router(core, selector):
            control.query(core, link, frame, selector, whole, now)
            return None
        decided = decide(core, link, frame.key, selector, frame.trace_id)
        if isinstance(decided, Flow):
            if lasting(decided):
                core.install(decided)
            else:
                decided.seal()
            return decided
        refusal = decided
    answers.refuse_frame(core, link, whole, refusal)
    return None


def lasting(flow: Flow) -> bool:
    """Any join could change a pattern's answer, and some policies read the clock: those are asked each time."""
    return "*" not in flow.dst_name and (flow.rest is None or flow.rest.lasting)


def _broadcast(
    core: Core, link: Link, frame: Frame, selector: Selector, whole: bytes, now: int
) -> None:
    """To every node here whose name the target matches and whom the sender may meet. Reach beyond this router is the
    TTL's: 2 for the hive's other routers, 3 for other hives."""
    if any(frame.trace_id) and not core.broadcasts.first_time(frame.trace_id, now):
        core.counters.loops_suppressed += 1
        return
    meets = meetings(core, link, frame.key, selector, frame.trace_id)
    if isinstance(meets, Refusal):
        answers.refuse_frame(core, link, whole, meets)
        return
    core.counters.broadcasts += 1
    if frame.thread_seq:
        whole = whole[:THREAD_SEQ_AT] + bytes(8) + whole[DEADLINE_AT:]  # a number that only a thread's home may give
    flow = Flow(link, b"", None)
    flow.sampled = bool(selector.flags)
    for dest in tuple(core.registry):
        if dest is link or not broadcast_matches(selector.target, dest.name) or not meets(dest):
            continue
        piece = whole if dest.native and not flow.sampled else decorate(core, flow, dest, whole, now)
        if piece is None:
            continue
        if not dest.batch:
            core.touched.append(dest)
        dest.batch.append(piece)


class LoopGuard:
    """Broadcast traces seen in the last 30 s, bounded: the oldest is forgotten first."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def first_time(self, trace: bytes, now: int) -> bool:
        seen = self._seen
        while seen:
            oldest = next(iter(seen))
            if now - seen[oldest] < _LOOP_MEMORY_NS and len(seen) < limits.LOOP_TRACES_MAX:
                break
            del seen[oldest]
        if trace in seen:
            return False
        seen[trace] = now
        return True


def receive_json(core: Core, link: Link, data: bytes, now: int) -> None:
    """One read of a JSON peer: each body becomes a native frame, and all of them take the ordinary way."""
    framer = link.framer
    assert isinstance(framer, JsonFramer)  # set when the link was made
    bodies = framer.receive_data(data)
    frames = []
    repeated = False
    for body in bodies:
        try:
            message = decode_body(body)
            if control.is_withdraw(message):
                frames.append(pack_bye(CloseReason.WITHDRAWN, "it said WITHDRAW"))  # in its place, behind what waits
                break
            if repeated := control.is_hello(message):
                break
            frames.append(translate.json_to_native(message, message.source))  # as claimed; `permitted` compares
        except ProtocolError as error:
            core.counters.bad_frames += 1
            link.bad_frames += 1
            answers.refuse_json(core, link, body, error)
            if link.bad_frames > limits.BAD_FRAMES_PER_LINK:
                break
    if frames:  # also what came before a farewell in the same read
        forward.forward(core, link, b"".join(frames), now)
    if repeated:
        core.break_link(link, CloseReason.HELLO_REPEATED, "HELLO on a link that is registered already", now)
    elif link.bad_frames > limits.BAD_FRAMES_PER_LINK:
        core.break_link(link, CloseReason.TOO_MANY_BAD_FRAMES, f"{link.bad_frames} bad frames", now)
    elif framer.error is not None:
        core.break_link(link, CloseReason.FRAME_TOO_LARGE, str(framer.error), now)


def decorate(core: Core, flow: Flow, hop: Link, frame: bytes, now: int) -> bytes | None:
    """What special flows may want: a hop record, a JSON encoding, the receipt that a JSON consumer cannot give.
    None: the frame was refused."""
    sender = flow.link
    if flow.sampled:
        core.hooks.recorder.hop(HOP_QUEUED if hop.blocked else HOP_OUT, frame, sender.name, hop.uuid, hop.name, "")
    if hop.native:
        return frame if _fits(core, sender, hop, frame) else None
    core.counters.translated += 1
    encoded = _to_json(core, sender, hop, frame)
    if isinstance(encoded, Refusal):
        answers.refuse_frame(core, sender, frame, encoded)
        return None
    if flow.ack >= AckLevel.DELIVERED:
        answers.receipt(core, sender, frame, AckLevel.ROUTED)
    return encoded


def _fits(core: Core, sender: Link, hop: Link, frame: bytes) -> bool:
    if len(frame) <= hop.frame_bytes_max:
        return True
    why = f"the frame has {len(frame)} bytes and {hop.name} takes {hop.frame_bytes_max}"
    answers.refuse_frame(core, sender, frame, Refusal(Reason.PAYLOAD_TOO_LARGE, why))
    return False


def _to_json(core: Core, sender: Link, hop: Link, frame: bytes) -> bytes | Refusal:
    parsed = parse_frame(frame, 0, len(frame))
    try:
        message = native_framing.message_without_payload(parsed)
        _enrich(core, parsed, message)
        encoded = translate.splice(message, parsed.payload, sender.name, hop.frame_bytes_max)
    except ProtocolError as error:
        return Refusal(Reason.BAD_FRAME, str(error))
    if isinstance(encoded, Reason):
        return Refusal(encoded, f"{hop.name} speaks JSON and takes {hop.frame_bytes_max} bytes")
    hop.batch_bytes += len(encoded)
    if not hop.has_room(hop.batch_bytes, len(hop.batch) + hop.batch_more + 1):
        hop.batch_bytes -= len(encoded)
        return Refusal(Reason.QUEUE_FULL, f"{hop.name} is owed {hop.held_bytes} bytes and reads too slowly")
    return encoded


def _enrich(core: Core, parsed: Frame, message: Message) -> None:
    """What upstream's router adds on local delivery: a default action class, the thread's memory package."""
    if not message.thread_id:
        message.thread_seq = 0  # a number without a thread is its sender's invention
    if message.message_class in _NO_ACTION_CLASS:
        return
    if message.action_class == ActionClass.NONE:
        message.action_class = ActionClass.SEND_MESSAGE
    if core.hooks.enricher is not None and message.thread_id:
        message.memory = core.hooks.enricher.memory(thread_key(unpack_key(parsed.key)[1]))
