"""System messages that routers and clients make themselves: payloads, and whole JSON frames where a peer may not
have got as far as native framing. Upstream's clients read these; members beyond upstream's are additions.
"""

from __future__ import annotations

from typing import Any

import orjson

from skep.protocol.codes import CloseReason, Reason
from skep.protocol.json_framing import encode_body
from skep.protocol.limits import TTL_DEFAULT
from skep.protocol.message import Message, format_uuid

HELLO = "HELLO"
ANNOUNCE = "ANNOUNCE"
WITHDRAW = "WITHDRAW"
CLOSING = "CLOSING"
UNREACHABLE = "UNREACHABLE"
TTL_EXCEEDED = "TTL_EXCEEDED"


def unreachable(
    original_dst: str, reason: Reason, detail: str = "", *, retryable: bool | None = None
) -> dict[str, Any]:
    """Why a message was refused. `original_dst` is the destination as text, "broadcast" or "null"."""
    payload: dict[str, Any] = {
        "original_dst": original_dst,
        "reason": reason.value,
        "retryable": reason.retryable if retryable is None else retryable,
    }
    if detail:
        payload["detail"] = detail
    return payload


def ttl_exceeded(original_dst: str, last_hop: str) -> dict[str, Any]:
    """`last_hop` is `router:<uuid>`, as upstream's code writes it."""
    return {"original_dst": original_dst, "last_hop": last_hop}


def hello(
    uuid: bytes,
    name: str,
    version: str,
    *,
    framings: tuple[str, ...] = (),
    frame_bytes_max: int = 0,
    ticket: str = "",
) -> dict[str, Any]:
    payload: dict[str, Any] = {"uuid": format_uuid(uuid), "name": name, "version": version}
    if framings:
        payload["framing"] = list(framings)
    if frame_bytes_max:
        payload["frame_bytes_max"] = frame_bytes_max
    if ticket:
        payload["ticket"] = ticket
    return payload


def announce(
    uuid: bytes,
    name: str,
    vpn_id: int,
    router_name: str,
    *,
    framing: str = "",
    frame_bytes_max: int = 0,
    router_epoch: int = 0,
) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "uuid": format_uuid(uuid),
        "name": name,
        "status": "registered",
        "vpn_id": vpn_id,
        "router_name": router_name,
    }
    if framing:
        payload |= {"framing": framing, "frame_bytes_max": frame_bytes_max, "router_epoch": router_epoch}
    return payload


def closing(reason: CloseReason, detail: str = "") -> dict[str, Any]:
    """Why the connection ends. `reason` is for people, `code` for programs, `hint` says what to do next."""
    return {"code": reason.name, "reason": detail or reason.name, "hint": HINTS[reason]}


def system_frame(
    verb: str, payload: Any, *, source: bytes, destination: bytes | None, ttl: int, trace_id: str = ""
) -> bytes:
    """A whole JSON frame of class system."""
    message = Message(
        payload, destination, type="system", verb=verb, source=source, ttl=ttl, trace_id=trace_id
    )
    return encode_body(message, source_name="")


def closing_frame(
    reason: CloseReason, detail: str, *, source: bytes, destination: bytes | None = None, trace_id: str = ""
) -> bytes:
    payload = closing(reason, detail)
    return system_frame(CLOSING, payload, source=source, destination=destination, ttl=1, trace_id=trace_id)


def answer_to_body(body: bytes, verb: str, payload: Any, *, source: bytes, destination: bytes) -> bytes:
    """An answer to a JSON body that has no meaning; its trace and message id are quoted when they can be found."""
    trace_id, message_id = _quoted(body)
    message = Message(
        payload,
        destination,
        type="system",
        verb=verb,
        source=source,
        ttl=TTL_DEFAULT,
        trace_id=trace_id,
        reply_to=message_id,
    )
    return encode_body(message, source_name="")


def _quoted(body: bytes) -> tuple[str, int]:
    """Trace and message id of a body that was refused. orjson bounds the depth itself, at 1024."""
    try:
        envelope = orjson.loads(body)
        trace_id, message_id = envelope["routing"]["trace_id"], envelope["meta"].get("message_id", 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", 0
    usable = isinstance(trace_id, str) and len(trace_id) <= 64 and trace_id.isprintable()
    numbered = isinstance(message_id, int) and not isinstance(message_id, bool) and 0 <= message_id < 1 << 64
    return trace_id if usable else "", message_id if numbered else 0


HINTS: dict[CloseReason, str] = {
    CloseReason.WITHDRAWN: "connect again when you have something to say",
    CloseReason.PEER_CLOSED: "connect again",
    CloseReason.IO_ERROR: "connect again",
    CloseReason.DRAINED: "connect again; another router, or this one after its restart, takes you",
    CloseReason.REPLACED: "a newer connection uses this uuid; give each process a uuid of its own",
    CloseReason.LOCAL_CLOSED: "this end closed it; connect again when needed",
    CloseReason.HELLO_TIMEOUT: "send HELLO as soon as you are connected",
    CloseReason.HELLO_TOO_LARGE: "HELLO holds uuid, name, version, framing and ticket; nothing else belongs there",
    CloseReason.HELLO_INVALID: "compare your HELLO with docs/wire.md, section 1",
    CloseReason.HELLO_EXPECTED: "the first frame must be HELLO",
    CloseReason.UNAUTHENTICATED_LIMIT: "finish the handshakes that are open, then connect again",
    CloseReason.UID_NOT_GRANTED: "ask the operator to grant this account a name",
    CloseReason.NAME_INVALID: "a name is TYPE.field.field, letters, digits, '_' and '-'",
    CloseReason.NAME_NOT_GRANTED: "ask the operator to grant this name to this account",
    CloseReason.NAME_TAKEN: "choose another name, or wait until its owner has been gone for the grace time",
    CloseReason.UUID_TAKEN: "this uuid is in use by another account; remove the stored uuid to get a new one",
    CloseReason.TICKET_INVALID: "start the node through the hive, which hands out tickets",
    CloseReason.TABLE_FULL: "remove unused nodes, or raise the limit",
    CloseReason.DRAINING: "connect to another router, or to this one after its restart",
    CloseReason.HANDSHAKE_UNEXPECTED: "is this socket a Skep router?",
    CloseReason.FRAME_TOO_LARGE: "send large content by reference",
    CloseReason.FRAME_INVALID: "compare your header with docs/wire.md, section 2",
    CloseReason.LINK_INVALID: "compare your LINK frames with docs/wire.md",
    CloseReason.HELLO_REPEATED: "say HELLO once for each connection",
    CloseReason.TOO_MANY_BAD_FRAMES: "read the UNREACHABLE messages that came before",
    CloseReason.SLOW_CONSUMER: "read faster, or ask senders for less",
    CloseReason.QUOTA_EXCEEDED: "send less, or wait for confirmations",
    CloseReason.UNRESPONSIVE: "connect again; answer PING while you work",
    CloseReason.GRANT_REVOKED: "ask the operator",
    CloseReason.INTERNAL: "connect again; the router's log has the fault",
    CloseReason.DESCRIPTORS: "connect again later; the operator may raise the descriptor limit",
}
assert set(HINTS) == set(CloseReason)
