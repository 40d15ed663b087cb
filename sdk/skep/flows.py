"""What repeats from message to message, worked out once: outgoing flow keys and incoming selectors.

A node sends to few destinations with few combinations of options, so the packed flow key is kept per (destination,
content type, phase, options) and a send is one dictionary look-up. The same holds for what arrives: the key's bytes
find the decoded Selector and the function that takes such frames. Both tables are bounded and simply emptied when full:
a node with more flows than that pays a decode now and then, and needs no eviction order kept on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypedDict

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError
from skep.protocol.header import (
    CLASS_TEXTS,
    KEY_START,
    PHASE_AT,
    AckLevel,
    ActionClass,
    ContentType,
    DstKind,
    MessageClass,
    Phase,
    Scope,
    Selector,
    pack_key,
    thread_digest,
)
from skep.protocol.limits import TTL_DEFAULT
from skep.protocol.message import BROADCAST, parse_uuid
from skep.protocol.names import parse_name

if TYPE_CHECKING:
    from skep.message import Message

OUT_FLOWS_MAX: Final = 4096
IN_FLOWS_MAX: Final = 8192
THREAD_DIGEST: Final = "thread:sha256:"
TYPE_OF_CLASS: Final[dict[MessageClass, str]] = {kind: text for text, kind in CLASS_TEXTS.items()}


class SendOptions(TypedDict, total=False):
    """What may be said about a message besides its destination and payload."""

    thread: str | bytes | None
    src_ilk: str | None
    dst_ilk: str | None
    ack: str | None  # routed, delivered or processed
    deadline: float | None  # seconds from now
    trace: str | bytes | None
    context: dict[str, Any] | None
    meta: dict[str, Any] | None  # members of meta that have no field of their own
    type: str
    verb: str
    sampled: bool
    scope: str | None
    target: str | None
    action: str | None
    action_class: str | None
    ttl: int


Destination = str | bytes | None  # a name or uuid text, a uuid, or None: the policy decides


class OutFlow:
    """One packed flow key and what a sender must know about it."""

    __slots__ = ("key", "key_end", "destination", "ack")

    def __init__(self, key: bytes, selector: Selector) -> None:
        self.key = key
        self.key_end = KEY_START + len(key)
        self.destination = bytes((selector.dst_kind,)) + selector.destination  # as PAUSE names it
        self.ack = int(selector.ack_level)


    def cancelling(self) -> OutFlow:
        """The flow that takes a request of this one back: same destination, thread and interlocutors, so that it goes
        wherever the request went. Phase CANCEL, JSON, no acknowledgement."""
        flow = OutFlow.__new__(OutFlow)
        at = PHASE_AT - KEY_START
        flow.key = self.key[:at] + bytes((Phase.CANCEL, ContentType.JSON, AckLevel.NONE)) + self.key[at + 3 :]
        flow.key_end, flow.destination, flow.ack = self.key_end, self.destination, 0
        return flow


class InFlow:
    """One decoded flow key and who takes its frames."""

    __slots__ = (
        "selector",
        "source",
        "accept",
        "replies",
        "thread",
        "ack",
        "key_end",
        "phase",
        "handler",
        "is_bytes",
    )

    def __init__(self, source: bytes, selector: Selector, key_end: int) -> None:
        self.source = source
        self.selector = selector
        self.key_end = key_end
        self.thread = selector.thread
        self.ack = int(selector.ack_level)
        self.phase = int(selector.phase)
        self.is_bytes = selector.content_type is ContentType.BYTES
        self.accept: Callable[[Message], object] = _nobody
        self.replies: dict[tuple[int, int], OutFlow] = {}  # by (phase, content type)
        self.handler: Any = None  # the application's, remembered by the node


def _nobody(message: Message) -> None:
    raise AssertionError("a flow was used before it was given an owner")


def make_out_flow(
    source: bytes, hive_id: str, dst: Destination, content_type: int, phase: int, options: dict[str, Any]
) -> OutFlow:
    """Packs the key for these options. Raises LocalProtocolError for what the protocol cannot say."""
    selector = make_selector(hive_id, dst, content_type, phase, options)
    return OutFlow(pack_key(source, selector), selector)


def make_selector(
    hive_id: str, dst: Destination, content_type: int, phase: int, options: dict[str, Any]
) -> Selector:
    dst_kind, destination = encode_destination(dst, hive_id)
    thread, thread_is_text = encode_thread(options.get("thread"))
    kind = options.get("type") or "user"
    message_class = CLASS_TEXTS.get(kind, MessageClass.OTHER)
    if "class" in options:
        message_class = options["class"]
    return Selector(
        message_class=message_class,
        flags=1 if options.get("sampled") else 0,
        ttl=options.get("ttl", TTL_DEFAULT),
        hops=0,
        phase=Phase(phase),
        content_type=ContentType(content_type),
        ack_level=_member(AckLevel, options.get("ack")),
        dst_kind=dst_kind,
        scope=_member(Scope, options.get("scope")),
        action_class=_member(ActionClass, options.get("action_class")),
        destination=destination,
        src_ilk=encode_ilk(options.get("src_ilk")),
        dst_ilk=encode_ilk(options.get("dst_ilk")),
        verb=options.get("verb") or "",
        action=options.get("action") or "",
        type=kind if message_class is MessageClass.OTHER else "",
        target=options.get("target") or "",
        context=_context(options.get("context")),
        thread=thread,
        thread_is_text=thread_is_text,
    )


def encode_destination(dst: Destination, hive_id: str) -> tuple[DstKind, bytes]:
    """None is left to the policy; a uuid as bytes or text is L1; everything else is a name."""
    if dst is None:
        return DstKind.POLICY, b""
    if dst == BROADCAST:
        return DstKind.BROADCAST, b""
    if isinstance(dst, bytes):
        if len(dst) != 16:
            raise LocalProtocolError(
                ErrorCode.FIELD_TYPE, "a destination in bytes is a uuid of 16", 16, len(dst)
            )
        return DstKind.UUID, dst
    uuid = parse_uuid(dst)
    if uuid is not None:
        return DstKind.UUID, uuid
    if dst.endswith("@*"):
        return DstKind.NAME, dst.encode()
    return DstKind.NAME, parse_name(dst, hive_id).encode()


def encode_thread(thread: str | bytes | None) -> tuple[bytes, bool]:
    """The thread's bytes and whether they are text."""
    if not thread:
        return b"", False
    if isinstance(thread, bytes):
        return thread, len(thread) != 32
    digest = thread_digest(thread)
    return (thread.encode(), True) if digest is None else (digest, False)


def encode_ilk(ilk: str | bytes | None) -> bytes | None:
    """`ilk:<uuid>` as 16 bytes."""
    if ilk is None or isinstance(ilk, bytes):
        return ilk
    data = parse_uuid(ilk.removeprefix("ilk:"))
    if data is None:
        raise LocalProtocolError(ErrorCode.FIELD_TYPE, f"{ilk!r} is no interlocutor: want ilk:<uuid>")
    return data


def _member(enum: Any, text: Any) -> Any:
    """The member of an IntEnum that is named by `text`; its zero member for None."""
    if text is None:
        return enum(0)
    try:
        return enum[text.upper()] if isinstance(text, str) else enum(text)
    except (KeyError, ValueError) as error:
        known = ", ".join(member.name.lower() for member in enum)
        raise LocalProtocolError(ErrorCode.ENUM_UNKNOWN, f"{text!r}: want one of {known}") from error


def _context(context: Any) -> bytes:
    if not context:
        return b""
    return context if isinstance(context, bytes) else strict_json.dumps_canonical(context)


def type_text(selector: Selector) -> str:
    """`meta.type` of a selector."""
    return TYPE_OF_CLASS.get(selector.message_class) or selector.type
