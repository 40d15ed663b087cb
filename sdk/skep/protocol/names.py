"""Names (L2), patterns over them, and thread ids.

A name is `TYPE.f2.f3…@hive`: ASCII, at most 256 bytes and ten dotted fields. The rules here are stricter than
upstream's code, which checks only the length, because a name is what people trust: a look-alike (another
script, a space, `sy.` for `SY.`) must not be registered at all. Destinations are not held to these rules; one
that breaks them is simply not found.

A pattern is never turned into a regular expression: a GLOB with many stars would backtrack for seconds on a
hostile name. It is matched by searching its pieces from left to right, which is right for `*` alone and
linear in practice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from skep.protocol.codes import ErrorCode
from skep.protocol.errors import ProtocolError
from skep.protocol.limits import HIVE_BYTES_MAX, NAME_BYTES_MAX, NAME_FIELDS_MAX

EXACT: Final = 0
PREFIX: Final = 1
GLOB: Final = 2

SYSTEM_KINDS: Final = frozenset({"SY", "RT"})
"""Kinds that belong to the hive itself: immune to VPNs, single, granted only to its own account."""

KINDS: Final = frozenset({"AI", "IO", "WF", "SY", "RT"})
"""Kinds with a meaning. Others are allowed, except in another case (`sy`, `Ai`), which would only deceive."""

_FIELDS: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+", re.ASCII)
_HIVE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?=[A-Za-z0-9]))*", re.ASCII)

THREAD_PREFIX: Final = "thread:sha256:"


def _refuse(detail: str, text: str) -> ProtocolError:
    return ProtocolError(ErrorCode.NAME_INVALID, f"{detail}: {text[:80]!r}")


def parse_hive(text: str) -> str:
    """The hive id itself, if it is one."""
    if len(text) > HIVE_BYTES_MAX:
        raise ProtocolError(ErrorCode.NAME_INVALID, "hive id is too long", HIVE_BYTES_MAX, len(text))
    if _HIVE.fullmatch(text) is None:
        raise _refuse("a hive id has letters, digits, '_', '-' and single dots", text)
    return text


def parse_base(text: str) -> str:
    """A name without its hive, if it is one."""
    if _FIELDS.fullmatch(text) is None:
        raise _refuse("a name is two or more dotted fields of letters, digits, '_' and '-'", text)
    fields = text.split(".")
    if len(fields) > NAME_FIELDS_MAX:
        raise ProtocolError(ErrorCode.NAME_INVALID, "too many dotted fields", NAME_FIELDS_MAX, len(fields))
    kind = fields[0]
    if kind.upper() in KINDS and kind not in KINDS:
        raise _refuse(f"write the kind in capitals, {kind.upper()!r}", text)
    return text


def parse_name(text: str, hive: str) -> str:
    """The full name; `@hive` is added where it is missing. Raises ProtocolError NAME_INVALID."""
    if len(text) > NAME_BYTES_MAX:
        raise ProtocolError(ErrorCode.NAME_INVALID, "name is too long", NAME_BYTES_MAX, len(text))
    base, at, named_hive = text.partition("@")
    parse_base(base)
    full = f"{base}@{parse_hive(named_hive if at else hive)}"
    if len(full) > NAME_BYTES_MAX:
        raise ProtocolError(ErrorCode.NAME_INVALID, "name is too long", NAME_BYTES_MAX, len(full))
    return full


def is_name(text: str) -> bool:
    """Whether the text is a full name."""
    try:
        return "@" in text and parse_name(text, "") == text
    except ProtocolError:
        return False


def base_of(full: str) -> str:
    return full.partition("@")[0]


def hive_of(full: str) -> str:
    """What follows the first `@`; empty when there is none."""
    return full.partition("@")[2]


def kind_of(full: str) -> str:
    return full.partition(".")[0]


def is_system(full: str) -> bool:
    return full.startswith(("SY.", "RT."))


def split_wildcard(destination: str) -> str | None:
    """The base of a destination `base@*`, else None. Such a base may itself contain `*`."""
    return destination[:-2] if destination.endswith("@*") and destination.count("@") == 1 else None


def prefix_of(pattern: str) -> str:
    """What a PREFIX pattern compares: the pattern without a trailing `.*`."""
    return pattern.removesuffix(".*")


def glob_match(pattern: str, text: str) -> bool:
    """Whether `*` (any run, also empty) in the pattern can be filled so that it becomes the text."""
    head, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    tail = rest.pop()
    if len(text) < len(head) + len(tail) or not (text.startswith(head) and text.endswith(tail)):
        return False
    position, end = len(head), len(text) - len(tail)
    for piece in rest:
        position = text.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True


def compile_pattern(pattern: str, match_kind: int) -> Callable[[str], bool]:
    """A function that tells whether a full name matches. Raises PATTERN_INVALID for what could match nothing."""
    check_pattern(pattern, match_kind)
    if match_kind == EXACT:
        return pattern.__eq__
    if match_kind == PREFIX:
        prefix = prefix_of(pattern)
        return lambda name: name.startswith(prefix)
    return lambda name: glob_match(pattern, name)


def check_pattern(pattern: str, match_kind: int) -> None:
    if match_kind not in (EXACT, PREFIX, GLOB):
        raise ProtocolError(
            ErrorCode.PATTERN_INVALID, f"match kind {match_kind} is not EXACT, PREFIX or GLOB"
        )
    if not pattern or len(pattern.encode()) > NAME_BYTES_MAX:
        raise ProtocolError(
            ErrorCode.PATTERN_INVALID, "a pattern has 1 to 256 bytes", NAME_BYTES_MAX, len(pattern.encode())
        )
    if not pattern.isascii() or not pattern.isprintable() or " " in pattern:
        raise ProtocolError(ErrorCode.PATTERN_INVALID, f"a pattern is printable ASCII: {pattern[:80]!r}")


def matches(pattern: str, match_kind: int, full_name: str) -> bool:
    """Whether the full name matches; no validation, for patterns that were checked when they were stored."""
    if match_kind == EXACT:
        return pattern == full_name
    if match_kind == PREFIX:
        return full_name.startswith(prefix_of(pattern))
    return glob_match(pattern, full_name)


def matches_target(target: str, full_name: str) -> bool:
    """The filter of a broadcast: GLOB if it has a `*`, else equality."""
    return glob_match(target, full_name) if "*" in target else target == full_name


def pattern_rank(pattern: str, match_kind: int) -> int:
    """Length that counts for longest match: all of EXACT, PREFIX without `.*`, GLOB without its stars."""
    if match_kind == EXACT:
        return len(pattern)
    return len(prefix_of(pattern)) if match_kind == PREFIX else len(pattern) - pattern.count("*")


# Thread ids -------------------------------------------------------------------------------------------------------


def _part(name: str, value: str) -> str:
    trimmed = value.strip()
    if not trimmed:
        raise ProtocolError(ErrorCode.THREAD_INVALID, f"{name} of a thread id is blank")
    return f"{name}={trimmed}"


def _thread_v2(kind: str, channel_type: str, entrypoint_id: str | None, *parts: str) -> str:
    # ASCII only, as upstream does: str.lower() would fold other scripts too and give another digest.
    channel = _part("channel_type", channel_type).encode().lower().decode()
    entrypoint = f"entrypoint_id={(entrypoint_id or '').strip() or '-'}"
    joined = "|".join(("v2", f"kind={kind}", channel, entrypoint, *parts))
    return THREAD_PREFIX + sha256(joined.encode()).hexdigest()


def thread_id_native(
    channel_type: str, entrypoint_id: str | None, conversation_id: str, native_thread_id: str
) -> str:
    """v2 id of a thread that the channel itself has."""
    return _thread_v2(
        "native_thread",
        channel_type,
        entrypoint_id,
        _part("conversation_id", conversation_id),
        _part("native_thread_id", native_thread_id),
    )


def thread_id_channel(channel_type: str, entrypoint_id: str | None, conversation_id: str) -> str:
    """v2 id of a channel whose conversation never ends."""
    return _thread_v2(
        "persistent_channel", channel_type, entrypoint_id, _part("conversation_id", conversation_id)
    )


def thread_id_pair(channel_type: str, entrypoint_id: str | None, party_1: str, party_2: str) -> str:
    """v2 id of the talk between two parties, whoever of them began."""
    first, second = sorted((party_1.strip(), party_2.strip()), key=str.encode)
    return _thread_v2(
        "direct_pair", channel_type, entrypoint_id, _part("party_a", first), _part("party_b", second)
    )


def thread_id_v3(tenant: str, kind: str, *parts: str) -> str:
    """Our own id: every part carries its length, so no text inside a part can imitate a boundary (v2 joins with `|`,
    where `a|b`,`c` and `a`,`b|c` meet), and two tenants never share a thread."""
    digest = sha256(b"skep-thread-v3")
    for part in (tenant, kind, *parts):
        if not part.strip():
            raise ProtocolError(ErrorCode.THREAD_INVALID, "a part of a thread id is blank")
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return THREAD_PREFIX + digest.hexdigest()


def fnv1a64(data: bytes) -> int:
    """FNV-1a with 64 bits; picks the router among several and keys upstream's channel map."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
