"""The slow path's question: may this frame go, and where to? Asked once per flow.

The order is the order of trust: is the hive ready, is the frame's source its connection's, may it speak for this
ILK, may it say this verb, does the frame still live; who the interlocutors are; then where it leads (the front desk for
strangers, thread binding, uuid, name, policy), whether the two ends may meet (VPN, tenant, seal), and last whether the
policy allows it. What identity and policy have to say is the `case`; a hive without them has none. Every refusal is a
value with a reason and a sentence; nothing here sends.
"""
from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from skep.protocol.codes import Reason
from skep.protocol.header import ZERO16, AckLevel, DstKind, MessageClass, Selector
from skep.protocol.names import is_system
from skep_router import fib
from skep_router.case import OPENING, Case, Refusal, answers_system
from skep_router.flow import Flow
from skep_router.grants import NO_ID

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.link import Link
    from skep_router.thread import Thread

_UNTAPPED = frozenset({
    MessageClass.SYSTEM, MessageClass.ADMIN, MessageClass.QUERY_RESPONSE, MessageClass.RECEIPT,
})
_ROUTER_ONLY = frozenset({"ANNOUNCE", "UNREACHABLE", "TTL_EXCEEDED", "CLOSING"})
Destinations = tuple["Link", ...] | Refusal | None  # None: a static route drops it

__all__ = ["Refusal", "by_name", "decide", "meetings", "permitted", "thread_key"]


def permitted(core: Core, link: Link, source: bytes, selector: Selector) -> Refusal | None:
    """Everything about the sender; None when it may go on."""
    if source != link.uuid:
        return Refusal(Reason.SOURCE_FORGED, "the frame's source is not the uuid this connection registered")
    if selector.hops:
        return Refusal(Reason.BAD_FRAME, "hops must be 0 in a node's own frame")
    if not core.ready and not is_system(link.name) and not answers_system(core, selector):
        return Refusal(Reason.NOT_READY, "the hive has no configuration yet; retry")
    if not core.grants.may_speak(link.ilk_rule, selector.src_ilk) and not _own_ilk(core, link, selector):
        return Refusal(Reason.ILK_FORBIDDEN, f"{link.name} holds no grant to speak for this ILK")
    if selector.ack_level == AckLevel.STORED:
        return Refusal(Reason.FORBIDDEN, "ack level 'stored' is reserved until the hive has durable storage")
    if core.overdrawn and link.native and link in core.overdrawn:
        held = link.account.held_bytes
        return Refusal(Reason.QUEUE_FULL, f"frames of uid {link.uid} hold {held} bytes here; send less, retry")
    return _verb_permitted(core, link, selector)


def _own_ilk(core: Core, link: Link, selector: Selector) -> bool:
    """Whose node it is, for that ILK it speaks: the name was granted to its uid, the ILK to the name."""
    record = core.identities.handler(link.name)
    return record is not None and record.ilk == selector.src_ilk


def _verb_permitted(core: Core, link: Link, selector: Selector) -> Refusal | None:
    kind = selector.message_class
    if kind == MessageClass.TAP:
        return Refusal(Reason.FORBIDDEN, "TAP frames are made by routers only")
    if kind == MessageClass.RECEIPT and selector.dst_kind != DstKind.UUID:
        return Refusal(Reason.FORBIDDEN, "a RECEIPT goes to the uuid it answers")
    if kind == MessageClass.SYSTEM:
        verb = selector.verb
        if verb in _ROUTER_ONLY or not core.grants.may_emit(link.name, verb):
            return Refusal(Reason.FORBIDDEN, f"{link.name} does not own the system verb {verb!r}")
    return None


def thread_key(selector: Selector) -> bytes:
    """32 bytes that name the thread everywhere: the digest itself, or the hash of an id that is free text."""
    return sha256(selector.thread).digest() if selector.thread_is_text else selector.thread


def decide(core: Core, link: Link, key: bytes, selector: Selector, trace: bytes = ZERO16) -> Flow | Refusal:
    """A new flow for this key, or why there is none. Broadcasts and the router's own queries never come here."""
    thread = core.threads.get(thread_key(selector)) if selector.thread else None
    case = Case(core, link, key, selector, trace) if core.governed else None
    refusal = case.admit() if case is not None else None
    if refusal is not None:
        return refusal
    where = _destinations(core, link, selector, thread, case)
    if isinstance(where, Refusal):
        return where
    if where is None:
        return _dropping(core, link, key, selector, thread)
    kept, refusal = _meetable(core, link, where, case)
    if refusal is None and case is not None:
        refusal = case.allowed(kept)
    if refusal is not None:
        return refusal
    return _flow(core, link, key, selector, kept, thread, case)


def meetings(
    core: Core, link: Link, key: bytes, selector: Selector, trace: bytes
) -> Callable[[Link], bool] | Refusal:
    """For a broadcast: whom it may reach, or why nobody. It makes no flow, so nothing that it rests on is kept."""
    if not core.governed:
        return lambda dest: core.may_meet(link, dest) is None
    case = Case(core, link, key, selector, trace)
    refusal = case.admit() or case.allowed(())
    return refusal if refusal is not None else lambda dest: case.obstacle(dest) is None


def _dropping(core: Core, link: Link, key: bytes, selector: Selector, thread: Thread | None) -> Flow:
    """A static DROP. One that was written for a pattern is asked each time, like every pattern. The thread's binding
    may have led here, so the thread must know the flow."""
    flow = Flow(link, key, None)
    flow.thread = thread
    flow.dst_name = core.full_name(selector.destination.decode()) if selector.dst_kind == DstKind.NAME else ""
    return flow


def _destinations(
    core: Core, link: Link, selector: Selector, thread: Thread | None, case: Case | None
) -> Destinations:
    kind = selector.dst_kind
    if kind == DstKind.UUID:
        found = core.registry.by_uuid(selector.destination)
        return (found,) if found else Refusal(Reason.NODE_NOT_FOUND, "no live node has this uuid")
    if case is not None and case.stranger:
        name = core.frontdesk if case.to_front_desk else selector.destination.decode()
        return by_name(core, link, name)
    if thread is not None and thread.binding and _may_be_bound(core, link, selector, thread):
        return _bound(core, link, thread)
    if kind == DstKind.NAME:
        return by_name(core, link, selector.destination.decode())
    if case is None:
        return Refusal(Reason.OPA_ERROR, "the frame names no destination and no policy is loaded")
    return case.candidates()


def _may_be_bound(core: Core, link: Link, selector: Selector, thread: Thread) -> bool:
    """A binding redirects what opens a turn of the conversation. Its own handler's frames, answers, and whatever
    was addressed to a uuid go where they say: otherwise a person's reply would come back to the person."""
    return (
        selector.message_class == MessageClass.USER
        and selector.phase in OPENING
        and core.full_name(thread.binding or "") != link.name
    )


def _bound(core: Core, link: Link, thread: Thread) -> Destinations:
    where = by_name(core, link, thread.binding or "")
    if isinstance(where, Refusal):
        return Refusal(where.reason, f"the thread is bound to {thread.binding}, which is not here: {where.detail}")
    return where


def by_name(core: Core, link: Link, name: str) -> Destinations:
    """L2: static routes, then live nodes. An answer that took a walk over names is charged for the walk."""
    found = core.fib.resolve(core.full_name(name))
    if found.work > 1:
        link.account.charge_miss(core.now, found.work - 1)
    if isinstance(found, fib.Local):
        return found.entries
    if isinstance(found, fib.Hive):
        return Refusal(Reason.GATEWAY_UNAVAILABLE, f"{name} is in hive {found.hive}, and this hive has no gateway")
    if isinstance(found, fib.Drop):
        return None
    return Refusal(Reason.NODE_NOT_FOUND, f"no live node is called {name}")


def _meetable(
    core: Core, link: Link, where: tuple[Link, ...], case: Case | None
) -> tuple[tuple[Link, ...], Refusal | None]:
    """The candidates that VPN, tenant and seal let this sender meet; a refusal only when nobody is left."""
    if case is not None:
        obstacles = [case.obstacle(dest) for dest in where]
        kept = tuple(dest for dest, why in zip(where, obstacles, strict=True) if why is None)
        return kept, None if kept else obstacles[0]
    kept = tuple(dest for dest in where if core.may_meet(link, dest) is None)
    if kept:
        return kept, None
    reason = core.may_meet(link, where[0])
    assert reason is not None  # otherwise it had been kept
    what = "VPN" if reason is Reason.VPN_BLOCKED else "tenant"
    return (), Refusal(reason, f"{link.name} and {where[0].name} are not in one {what}")


def _flow(
    core: Core, link: Link, key: bytes, selector: Selector, where: tuple[Link, ...], thread: Thread | None,
    case: Case | None,
) -> Flow:
    flow = Flow(link, key, where[0])
    if selector.dst_kind == DstKind.NAME:
        name = core.full_name(selector.destination.decode())
        flow.dst_name = where[0].name if where[0].name == name else name  # one text for all who write to a node
    if thread is not None and selector.dst_kind != DstKind.UUID:
        flow.hop = thread.pinned(where[0].name, where)
    elif len(where) > 1:
        flow.group = where
    flow.thread = thread
    flow.sampled = bool(selector.flags)
    flow.ack = int(selector.ack_level)
    speaker = case.src if case is not None else None
    if selector.message_class not in _UNTAPPED:
        ilk = selector.src_ilk if speaker is None else speaker.canonical
        flow.tap = core.tap_prefix(link, ilk, NO_ID if speaker is None else speaker.tenant)
    flow.rest = case.rest() if case is not None else None
    return flow
