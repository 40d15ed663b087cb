"""Coming and going: from an accepted socket to a registered link, and out again.

A stranger is charged to its uid before it says a word: at most UNAUTHENTICATED_PER_UID of them, HELLO_BYTES_MAX
buffered for each, HELLO_TIMEOUT_S to finish. Only JSON is parsed, none of it deeper than the protocol allows;
nothing is decompressed, no policy is asked. What decides is the kernel's word on the uid, the grants, and the
registry; ANNOUNCE is written before anything else can be, so that no traffic can precede it.
"""
from __future__ import annotations

import hmac
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from skep.protocol import limits
from skep.protocol.codes import CloseReason
from skep.protocol.handshake import NATIVE, Hello, Refused, ServerHandshake
from skep.protocol.json_framing import JsonFramer
from skep.protocol.names import is_system
from skep_router.fib import affected
from skep_router.link import Link
from skep_router.registry import Outcome
from skep_router.tap import TAP_NAME

if TYPE_CHECKING:
    from skep_router.accounts import Account
    from skep_router.core import Core
    from skep_router.flow import Flow
    from skep_router.hop import Port
    from skep_shm import ConfigState

_HELLO_NS = int(limits.HELLO_TIMEOUT_S * 1e9)
_EVENT_JOINED, _EVENT_LEFT, _EVENT_CONFIG = 5, 6, 8
_OUTCOMES = {
    Outcome.UUID_TAKEN: (CloseReason.UUID_TAKEN, "this uuid is live and belongs to another account"),
    Outcome.NAME_HELD: (CloseReason.NAME_TAKEN, "the name belongs to another account, or did until a moment ago"),
    Outcome.NAME_SINGLE: (CloseReason.NAME_TAKEN, "system names have one holder, and it is live"),
    Outcome.NAME_FOREIGN: (CloseReason.NAME_INVALID, "the name belongs to another hive"),
}


class Pending:
    """A connection that has not been registered."""

    __slots__ = ("account", "closed", "deadline_ns", "handshake", "pid", "port", "uid")

    def __init__(self, core: Core, port: Port, uid: int, pid: int, account: Account, now: int) -> None:
        self.port = port
        self.uid = uid
        self.pid = pid
        self.account = account
        self.handshake = ServerHandshake(core.settings.hive, core.uuid)
        self.deadline_ns = now + _HELLO_NS
        self.closed = False


def greet(core: Core, port: Port, uid: int, pid: int, now: int) -> Pending | None:
    account = core.accounts.get(uid)
    if not account.open():
        return None
    pending = Pending(core, port, uid, pid, account, now)
    core.pending[pending] = None
    return pending


def introduce(core: Core, pending: Pending, data: bytes, now: int) -> Link | None:
    """-> the registered link, with whatever followed HELLO already forwarded; None while HELLO is not whole."""
    if pending.closed:
        return None
    core.now = now
    for event in pending.handshake.receive_data(data):
        if isinstance(event, Hello):
            return _admit(core, pending, event, now)
        _turn_away(core, pending, event)
    return None


def refuse(core: Core, pending: Pending, reason: CloseReason, detail: str) -> None:
    """Tell a stranger why not, and close."""
    for event in pending.handshake.refuse(reason, detail):
        if isinstance(event, Refused):
            _turn_away(core, pending, event)


def _turn_away(core: Core, pending: Pending, refused: Refused) -> None:
    core.counters.hello_refused += 1
    pending.port.write(pending.handshake.data_to_send())
    _forget(core, pending)
    pending.port.close(refused.reason, refused.detail)


def _forget(core: Core, pending: Pending) -> None:
    pending.closed = True
    core.pending.pop(pending, None)
    pending.account.close(registered=False)


def _admit(core: Core, pending: Pending, hello: Hello, now: int) -> Link | None:
    refusal = _refusal(core, pending, hello)
    if refusal is not None:
        refuse(core, pending, *refusal)
        return None
    link = _link(core, pending, hello)
    result = core.registry.join(link, now)
    if not result.joined:
        refuse(core, pending, *_OUTCOMES[result.outcome])
        return None
    pending.closed = True
    core.pending.pop(pending, None)
    pending.account.register()
    core.links_of_others += pending.uid != core.settings.own_uid
    if result.replaced is not None:
        core.counters.replaced += 1
        core.break_link(result.replaced, CloseReason.REPLACED, "a newer connection has this uuid", now)
    _joined(core, link)
    pending.handshake.accept(
        vpn_id=link.vpn_id, router_name=core.name, framing=NATIVE if link.native else "",
        frame_bytes_max=limits.FRAME_BYTES_MAX, router_epoch=core.epoch,
    )
    link.port.write(pending.handshake.data_to_send())
    leftover = pending.handshake.take_leftover()
    if leftover:
        core.receive(link, leftover, now)
    return link


def _refusal(core: Core, pending: Pending, hello: Hello) -> tuple[CloseReason, str] | None:
    """Everything that can be decided about a HELLO before the registry is asked."""
    if core.draining:
        return CloseReason.DRAINING, "this router is shutting down; try another"
    name = hello.name
    crowded = _crowded(core, pending)
    if crowded:
        return CloseReason.TABLE_FULL, crowded
    ticketed = _ticket_ok(core, name, hello.ticket)
    if hello.ticket and not ticketed:
        return CloseReason.TICKET_INVALID, f"this ticket is not one for {name}"
    if not core.grants.may_hold(pending.uid, name, ticketed):
        why = "system names belong to the hive's own account" if is_system(name) else "ask for a grant"
        return CloseReason.NAME_NOT_GRANTED, f"uid {pending.uid} may not be {name}; {why}"
    if hello.uuid == core.uuid:
        return CloseReason.UUID_TAKEN, "this uuid is the router's own: its frames would pass for the router's word"
    if name == core.name:
        return CloseReason.NAME_TAKEN, "this name is the router's own"
    return None


def _crowded(core: Core, pending: Pending) -> str:
    """Why this account gets no further connection; empty when it does. The hive's own is never crowded out."""
    if pending.uid == core.settings.own_uid:
        return ""
    if pending.account.connections >= limits.LINKS_PER_UID:
        return f"uid {pending.uid} has {pending.account.connections} connections, all that one account may have"
    if core.links_of_others >= core.settings.links_of_others:
        return f"{core.links_of_others} connections of other accounts are all that this router takes"
    return ""


def _ticket_ok(core: Core, name: str, ticket: str) -> bool:
    digest = sha256(ticket.encode()).hexdigest()
    return bool(ticket) and any(
        holder == name and hmac.compare_digest(digest, expected) for holder, expected in core.settings.tickets
    )


def _link(core: Core, pending: Pending, hello: Hello) -> Link:
    native = NATIVE in hello.framings
    link = Link(
        pending.port, native=native, frame_bytes_max=hello.frame_bytes_max, uuid=hello.uuid, name=hello.name,
        uid=pending.uid, pid=pending.pid, account=pending.account,
        due=core.confirm_due, ticketed=bool(hello.ticket),
    )
    if not native:
        link.framer = JsonFramer()
    _judge(core, link)
    return link


def _judge(core: Core, link: Link) -> None:
    """What configuration says about a link; asked again whenever it changes."""
    link.vpn_id = core.fib.vpn_of(link.name)
    link.tenant = core.grants.tenant_of(link.uid, link.name)
    link.ilk_rule = core.grants.ilk_rule(link.uid, link.name)


def _joined(core: Core, link: Link) -> None:
    core.counters.joined += 1
    first = core.registry.first(link.name)
    if first is not link and first is not None:
        core.drop_flows_into(first)  # the group has grown, and every flow that takes turns in it is known to its first
    link.heard_ns = core.now
    link.slot = core.hooks.directory.joined(link)
    core.hooks.recorder.event(_EVENT_JOINED, link.uuid, link.name, "NATIVE" if link.native else "JSON", "")
    if link.name == core.full_name(TAP_NAME):
        core.taps.attach(core, link)
        drop_everything(core)  # flows decided while nobody listened would never be tapped
    core.decisions.joined(core, link)
    core.drop_resting_on((link.name,))  # a better candidate of theirs is here, or nobody knows yet whose node it is


def leave(core: Core, link: Link, reason: CloseReason, now: int, detail: str) -> None:
    """Out of every table, in O(flows of this link). Called once per link."""
    core.counters.left += 1
    core.registry.leave(link, now)
    if link.slot >= 0:
        core.hooks.directory.left(link.slot)
        link.slot = -1
    for flow in tuple(link.flows.values()):
        core.drop_flow(flow)
    core.drop_flows_into(link)
    link.account.close(registered=True)
    core.links_of_others -= link.uid != core.settings.own_uid
    link.tail = b""
    if core.taps.link is link:
        core.taps.detach()
        drop_everything(core)
    core.decisions.left(link)
    core.hooks.recorder.event(_EVENT_LEFT, link.uuid, link.name, reason.name, detail)
    if not reason.orderly:
        core.hooks.log.closed(link, reason, detail)


def lost_pending(core: Core, pending: Pending) -> None:
    if not pending.closed:
        _forget(core, pending)


def expire(core: Core, now: int) -> None:
    """Strangers that took too long. Insertion order is order of deadline."""
    while core.pending:
        pending = next(iter(core.pending))
        if pending.deadline_ns > now:
            return
        for event in pending.handshake.handle_timeout():
            if isinstance(event, Refused):
                _turn_away(core, pending, event)


def drop_everything(core: Core) -> None:
    for link in core.registry:
        for flow in tuple(link.flows.values()):
            core.drop_flow(flow)


def configure(core: Core, state: ConfigState, now: int) -> None:
    """Rules first, then links whose standing changed, then exactly the flows that the change could lead elsewhere."""
    before = core.config
    core.config = state
    core.fib.configure(state.routes, state.vpns)
    core.grants.configure(state.grants)
    core.ready = True
    core.hooks.recorder.event(_EVENT_CONFIG, core.uuid, core.name, "CONFIG", f"version {state.version}")
    changed = _rejudge(core, now)
    if before is None:
        drop_everything(core)
        return
    core.drop_resting_on(link.name for link in changed)
    touched = affected(before, state)
    for link in tuple(core.registry):
        for flow in tuple(link.flows.values()):
            if link in changed or flow.hop in changed or any(map(touched, _names_of(core, flow))):
                core.drop_flow(flow)


def _names_of(core: Core, flow: Flow) -> Iterator[str]:
    """The names that a decision rested on: as it was written, where it led, and what its thread was bound to."""
    yield flow.dst_name
    if flow.hop is not None:
        yield flow.hop.name
    if flow.thread is not None and flow.thread.binding:
        yield core.full_name(flow.thread.binding)


def _rejudge(core: Core, now: int) -> set[Link]:
    """Links whose VPN, tenant or ILKs are others now. A name that is no longer granted ends its connection."""
    changed = set()
    for link in tuple(core.registry):
        if not core.grants.may_hold(link.uid, link.name, link.ticketed):
            core.break_link(link, CloseReason.GRANT_REVOKED, f"uid {link.uid} may no longer be {link.name}", now)
            continue
        standing = (link.vpn_id, link.tenant, link.ilk_rule)
        _judge(core, link)
        if standing != (link.vpn_id, link.tenant, link.ilk_rule):
            changed.add(link)
    return changed

