"""The flow key: source and selector, all that decides about a frame.

A router looks a key up as one slice of bytes and validates it once, in `unpack_key`, when it first sees it. So
everything that two readers could understand differently (lengths that do not add up, unknown enums, padding, a
name that reads as a uuid, a context that is not canonical) is refused here and never reaches a flow table. What
`unpack_key` accepts, `pack_key` writes again byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error
from typing import Final

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.kinds import (
    CLASS_TEXTS,
    AckLevel,
    ActionClass,
    ContentType,
    DstKind,
    Flags,
    MessageClass,
    Phase,
    Scope,
)
from skep.protocol.limits import CONTEXT_BYTES_MAX, CONTEXT_DEPTH_MAX, NAME_BYTES_MAX, TARGET_BYTES_MAX
from skep.protocol.strict_json import UUID_TEXT, check_text

VERSION: Final = 1
KEY_BYTES_MIN: Final = 40
ZERO16: Final = bytes(16)
DIGEST_BYTES: Final = 32

_KEY_HEAD: Final = Struct("<16s16B4H")
assert _KEY_HEAD.size == KEY_BYTES_MIN

PRESENT_SRC_ILK: Final = 1
PRESENT_DST_ILK: Final = 2
PRESENT_THREAD_TEXT: Final = 4


_CLASSES: Final = {int(member): member for member in MessageClass}
_PHASES: Final = {int(member): member for member in Phase}
_CONTENT_TYPES: Final = {int(member): member for member in ContentType}
_ACK_LEVELS: Final = {int(member): member for member in AckLevel}
_DST_KINDS: Final = {int(member): member for member in DstKind}
_SCOPES: Final = {int(member): member for member in Scope}
_ACTION_CLASSES: Final = {int(member): member for member in ActionClass}


@dataclass(frozen=True, slots=True)
class Selector:
    """All that decides about a frame, besides its source. Texts are empty and ILKs None where absent."""

    message_class: MessageClass = MessageClass.USER
    flags: int = 0
    ttl: int = 16
    hops: int = 0
    phase: Phase = Phase.MESSAGE
    content_type: ContentType = ContentType.JSON
    ack_level: AckLevel = AckLevel.NONE
    dst_kind: DstKind = DstKind.POLICY
    scope: Scope = Scope.NONE
    action_class: ActionClass = ActionClass.NONE
    destination: bytes = b""
    src_ilk: bytes | None = None
    dst_ilk: bytes | None = None
    verb: str = ""
    action: str = ""
    type: str = ""
    target: str = ""
    context: bytes = b""
    thread: bytes = b""
    thread_is_text: bool = False

    @property
    def destination_name(self) -> str:
        """The name, where dst_kind is NAME."""
        return self.destination.decode() if self.dst_kind is DstKind.NAME else ""


LINK_SELECTOR: Final = Selector(message_class=MessageClass.LINK, ttl=0, content_type=ContentType.BYTES)
"""The one selector of LINK frames; their source is zero, because the link itself speaks."""


def pack_key(source: bytes, selector: Selector) -> bytes:
    """The flow key. Raises LocalProtocolError for a selector that `unpack_key` would refuse."""
    s = selector
    _check_widths(source, s)
    try:
        texts = (s.verb.encode(), s.action.encode(), s.type.encode(), s.target.encode())
    except UnicodeEncodeError as problem:
        raise LocalProtocolError(ErrorCode.TEXT_INVALID, f"a text is not UTF-8: {problem}") from None
    verb, action, type_, target = texts
    present = (
        (PRESENT_SRC_ILK if s.src_ilk is not None else 0)
        | (PRESENT_DST_ILK if s.dst_ilk is not None else 0)
        | (PRESENT_THREAD_TEXT if s.thread_is_text else 0)
    )
    try:
        head = _KEY_HEAD.pack(
            source, VERSION, s.message_class, s.flags, s.ttl, s.hops, s.phase, s.content_type, s.ack_level,
            s.dst_kind, s.scope, s.action_class, present, len(verb), len(action), len(type_), len(s.thread),
            len(s.destination), len(target), len(s.context), 0,
        )  # fmt: skip
    except error as problem:
        raise LocalProtocolError(ErrorCode.FIELD_RANGE, f"a selector field does not fit: {problem}") from None
    fields = (s.destination, s.src_ilk or b"", s.dst_ilk or b"", *texts, s.context, s.thread)
    key = head + b"".join(fields)
    try:
        _check_meaning(s)
    except RemoteProtocolError as problem:
        raise LocalProtocolError(problem.code, problem.detail, problem.limit, problem.value) from None
    return key


def _check_widths(source: bytes, s: Selector) -> None:
    """What a struct would cut or pad without a word."""
    for what, value in (("source", source), ("src_ilk", s.src_ilk), ("dst_ilk", s.dst_ilk)):
        if value is not None and len(value) != 16:
            raise LocalProtocolError(ErrorCode.FIELD_RANGE, f"{what} in bytes", 16, len(value))


def unpack_key(key: bytes) -> tuple[bytes, Selector]:
    """Source and selector of a key, fully validated: what it accepts has exactly one reading and one encoding.

    Raises RemoteProtocolError. Costs some microseconds; a router calls it once per flow.
    """
    if len(key) < KEY_BYTES_MIN:
        raise RemoteProtocolError(ErrorCode.FRAME_LENGTHS, "flow key", KEY_BYTES_MIN, len(key))
    (
        source, version, class_, flags, ttl, hops, phase, content_type, ack, dst_kind, scope, action_class, present,
        verb_bytes, action_bytes, type_bytes, thread_bytes, dst_bytes, target_bytes, context_bytes, zero,
    ) = _KEY_HEAD.unpack_from(key)  # fmt: skip
    if version != VERSION:
        raise RemoteProtocolError(ErrorCode.VERSION_UNKNOWN, "header version", VERSION, version)
    if zero:
        raise RemoteProtocolError(ErrorCode.PADDING_NOT_ZERO, "bytes 110 and 111 of a frame are zero")
    if flags > Flags.SAMPLED or present > 7:
        raise RemoteProtocolError(ErrorCode.FLAGS_UNKNOWN, f"flags {flags:#x}, present {present:#x}")
    at = KEY_BYTES_MIN
    cuts = []
    src_ilk_bytes = 16 if present & PRESENT_SRC_ILK else 0
    dst_ilk_bytes = 16 if present & PRESENT_DST_ILK else 0
    for length in (
        dst_bytes, src_ilk_bytes, dst_ilk_bytes, verb_bytes, action_bytes, type_bytes, target_bytes,
        context_bytes, thread_bytes,
    ):  # fmt: skip
        cuts.append(key[at : at + length])
        at += length
    if at != len(key):
        raise RemoteProtocolError(ErrorCode.FRAME_LENGTHS, "lengths of the key's fields", len(key), at)
    destination, src_ilk, dst_ilk, verb, action, type_, target, context, thread = cuts
    try:
        selector = Selector(
            _CLASSES[class_], flags, ttl, hops, _PHASES[phase], _CONTENT_TYPES[content_type], _ACK_LEVELS[ack],
            _DST_KINDS[dst_kind], _SCOPES[scope], _ACTION_CLASSES[action_class], destination,
            src_ilk if src_ilk_bytes else None, dst_ilk if dst_ilk_bytes else None,
            verb.decode(), action.decode(), type_.decode(), target.decode(), context, thread,
            bool(present & PRESENT_THREAD_TEXT),
        )  # fmt: skip
    except KeyError as problem:
        raise RemoteProtocolError(
            ErrorCode.ENUM_UNKNOWN, f"unknown value {problem} in an enum of the key"
        ) from None
    except UnicodeDecodeError as problem:
        raise RemoteProtocolError(
            ErrorCode.TEXT_INVALID, f"a text of the key is not UTF-8: {problem}"
        ) from None
    _check_meaning(selector)
    if selector.message_class is MessageClass.LINK and (source != ZERO16 or selector != LINK_SELECTOR):
        raise RemoteProtocolError(ErrorCode.NOT_CANONICAL, "all LINK frames have the same key")
    return source, selector


def _check_meaning(s: Selector) -> None:
    """Rules beyond the lengths, the same for both directions. Raises RemoteProtocolError."""
    for what, text in (("verb", s.verb), ("action", s.action), ("type", s.type), ("target", s.target)):
        if text:
            check_text(what, text)
    target_bytes = len(s.target.encode())
    if target_bytes > TARGET_BYTES_MAX:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "target", TARGET_BYTES_MAX, target_bytes)
    _check_type(s.message_class, s.type)
    _check_destination(s.dst_kind, s.destination)
    _check_thread(s.thread, s.thread_is_text)
    if s.context:
        check_context(s.context)


def _check_type(message_class: MessageClass, type_: str) -> None:
    if (message_class is MessageClass.OTHER) != bool(type_):
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, "a type text belongs to class 15, and only to it")
    if type_ in CLASS_TEXTS:
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, f"type {type_!r} has a class of its own")


def _check_destination(kind: DstKind, destination: bytes) -> None:
    length = len(destination)
    if kind is DstKind.UUID:
        right = length == 16
    elif kind is DstKind.NAME:
        right = 0 < length <= NAME_BYTES_MAX
    else:
        right = not length
    if not right:
        raise RemoteProtocolError(
            ErrorCode.FRAME_LENGTHS, f"{length} bytes of destination for kind {kind.name}"
        )
    if kind is DstKind.NAME:
        check_destination_name(destination)


def check_destination_name(destination: bytes) -> None:
    """A name in a destination may be unknown, but it must not read as one of the other kinds."""
    text = _decode("destination", destination)
    check_text("destination", text)
    if text == "broadcast" or UUID_TEXT.fullmatch(text):
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, f"{text!r} is no name: use its own destination kind")


def _check_thread(thread: bytes, is_text: bool) -> None:
    if not is_text:
        if thread and len(thread) != DIGEST_BYTES:
            raise RemoteProtocolError(ErrorCode.FRAME_LENGTHS, "thread digest", DIGEST_BYTES, len(thread))
        return
    if not thread:
        raise RemoteProtocolError(ErrorCode.FRAME_LENGTHS, "a thread that is text is not empty")
    text = _decode("thread", thread)
    check_text("thread", text)
    if thread_digest(text) is not None:
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, "this thread id has the 32-byte form")


def thread_digest(text: str) -> bytes | None:
    """The 32 bytes of `thread:sha256:<64 lower-case hex>`, or None when the text has another form."""
    digits = text[14:]
    if not text.startswith("thread:sha256:") or len(digits) != 64 or digits.strip("0123456789abcdef"):
        return None
    return bytes.fromhex(digits)


def check_context(context: bytes) -> None:
    if len(context) > CONTEXT_BYTES_MAX:
        raise RemoteProtocolError(ErrorCode.FIELD_RANGE, "context", CONTEXT_BYTES_MAX, len(context))
    if strict_json.loads_canonical(context, CONTEXT_DEPTH_MAX) is None:
        raise RemoteProtocolError(ErrorCode.FACT_TWICE, "a context of null is no context")


def _decode(what: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        raise RemoteProtocolError(ErrorCode.TEXT_INVALID, f"{what} is not UTF-8: {problem}") from None
