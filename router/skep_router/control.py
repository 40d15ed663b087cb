"""Words that are meant for the router: LINK verbs of native peers, WITHDRAW of JSON peers, questions about itself."""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason, ErrorCode, Reason
from skep.protocol.errors import ProtocolError, RemoteProtocolError
from skep.protocol.header import DstKind, Frame, MessageClass, Selector
from skep.protocol.names import is_system
from skep_router import answers, delivery
from skep_router.decide import Refusal

if TYPE_CHECKING:
    from skep.protocol.message import Message
    from skep_router.core import Core
    from skep_router.link import Link


def receive(core: Core, link: Link, frame: Frame, now: int) -> None:
    """A LINK frame. One that cannot be read, or says what cannot be, ends the connection."""
    try:
        if frame.key != link_verbs.LINK_KEY or frame.extensions:
            raise RemoteProtocolError(ErrorCode.LINK_INVALID, "LINK frames have one key, and no extension fields")
        verb = link_verbs.parse_link(frame.payload)
    except ProtocolError as error:
        core.break_link(link, CloseReason.LINK_INVALID, str(error), now)
        return
    if isinstance(verb, link_verbs.Taken):
        taken(core, link, verb.frames, now)
    elif isinstance(verb, link_verbs.Ping):
        core.control(link, link_verbs.pack_pong(verb.nonce))
        if link.blocked:
            answers.hold(link)  # one that asks and does not read would fill a buffer that nobody counts
    elif isinstance(verb, link_verbs.Pong):
        return  # it lives: any read counts as a sign of that
    elif isinstance(verb, link_verbs.Bye):
        core.lost(link, CloseReason.WITHDRAWN, now, verb.detail)
        link.port.close(CloseReason.WITHDRAWN, "it said BYE")
    elif isinstance(verb, link_verbs.Doorbell) and is_system(link.name):
        core.hooks.doorbell(verb.region_kind)
    else:
        why = f"{type(verb).__name__} is not a word for {link.name} to say"
        core.break_link(link, CloseReason.LINK_INVALID, why, now)


def taken(core: Core, link: Link, ordinal: int, now: int) -> None:
    if not link.taken(ordinal):
        why = f"TAKEN {ordinal}, but {link.written_frames} frames were sent"
        core.break_link(link, CloseReason.LINK_INVALID, why, now)
        return
    if link.over:
        delivery.relieve(core, link)
    if link.held_back:
        answers.resume(link)


def is_withdraw(message: Message) -> bool:
    """The farewell of a JSON peer: nothing behind it is read."""
    return message.message_class == MessageClass.SYSTEM and message.verb == "WITHDRAW"


def is_hello(message: Message) -> bool:
    """From a registered JSON peer, an attempt to be somebody else."""
    return message.message_class == MessageClass.SYSTEM and message.verb == "HELLO"


def is_for_router(core: Core, selector: Selector) -> bool:
    if selector.dst_kind == DstKind.UUID:
        return selector.destination == core.uuid
    return selector.dst_kind == DstKind.NAME and core.full_name(selector.destination.decode()) == core.name


def query(core: Core, link: Link, frame: Frame, selector: Selector, whole: bytes, now: int) -> None:
    """The router as a node: its status and its numbers. Everything else it is asked is refused."""
    verb = selector.verb
    if selector.message_class != MessageClass.SYSTEM or verb not in _QUERIES:
        known = ", ".join(_QUERIES)
        answers.refuse_frame(core, link, whole, Refusal(Reason.FORBIDDEN, f"a router answers {known}"))
        return
    answers.send(core, link, answers.system_frame(core, link, f"{verb}_RESPONSE", _QUERIES[verb](core), frame))


def _status(core: Core) -> dict[str, object]:
    health = "HEALTHY" if core.ready and not core.draining else "DEGRADED"
    return {"status": "ok", "health_state": health, "ready": core.ready, "draining": core.draining}


def statistics(core: Core) -> dict[str, object]:
    """Everything that is counted. Accounts hold their own counters; they are added up here, when somebody asks."""
    flows = held = 0
    for link in core.registry:
        flows += len(link.flows)
        held += link.held_bytes
    past = core.accounts.statistics()
    frames = sum(account.frames for account in past)
    return {
        "schema": "skep.router-stats/1", "name": core.name, "epoch": core.epoch, "ready": core.ready,
        "draining": core.draining, "nodes": len(core.registry), "flows": flows, "frames": frames,
        "held_bytes": held, "threads": len(core.threads), "pending": len(core.pending),
        "config_version": core.config.version if core.config else 0,
        "counters": core.counters.statistics(), "accounts": past, "policy": core.policies.statistics(),
        "identity": core.identities.statistics(),
    }


_QUERIES = {"NODE_STATUS_GET": _status, "ROUTER_STATS": statistics}
