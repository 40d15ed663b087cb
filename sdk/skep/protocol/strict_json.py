"""JSON in which every fact stands once: no duplicate keys, no number that changes, no depth that hurts.

orjson is the fastest parser there is for Python, and refuses bad UTF-8, lone surrogates, NaN, infinities and
trailing rubbish; but it takes the last of duplicate keys without a word and turns integers past 64 bits into
floats. The proof that neither happened is cheap for what well-behaved senders write: `dumps(loads(body)) ==
body`. Output never has duplicate keys, so equality excludes them, and costs one serialisation (0.3 µs for 256
B, against 5 µs for the standard library's parser with a hook on every object). Whoever sends spaces, escapes
or floats in another spelling (Python's and Go's default encoders do) pays for the second, slow reading, which
looks at every key and every number.

Depth is bounded before parsing: fewer opening brackets than the limit cannot nest deeper, and counting bytes
is a few nanoseconds a kilobyte; only a body with more brackets is scanned exactly.

Integers in [-2**63, 2**64) are kept, all others refused. Other numbers are IEEE doubles, as in every JSON
reader.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.limits import I64_MIN, JSON_DEPTH_MAX, U64_MAX

UUID_TEXT: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
# Possessive, and without need of a closing quote, so that hostile text is never scanned twice.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACES_TO_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


def check_text(what: str, text: str) -> None:
    """Texts of the header are shown in logs and terminals: control characters are refused."""
    if not text.isprintable() and _CONTROL.search(text):
        raise RemoteProtocolError(ErrorCode.TEXT_INVALID, f"{what} has a control character: {text[:80]!r}")


def loads(data: bytes, depth_max: int = JSON_DEPTH_MAX) -> Any:
    """The value. Raises RemoteProtocolError JSON_INVALID, JSON_TOO_DEEP, JSON_DUPLICATE_KEY or JSON_NUMBER."""
    if data.count(b"[") + data.count(b"{") > depth_max:
        check_depth(data, depth_max)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        raise RemoteProtocolError(ErrorCode.JSON_INVALID, str(problem)) from None
    if orjson.dumps(value) != data:
        _read_slowly(data)
    return value


def loads_canonical(data: bytes, depth_max: int = JSON_DEPTH_MAX) -> Any:
    """The value of canonical JSON: sorted keys, no spaces, shortest escapes. Raises also NOT_CANONICAL."""
    value = loads(data, depth_max)
    if orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != data:
        raise RemoteProtocolError(ErrorCode.NOT_CANONICAL, "keys must be sorted, without spaces")
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON. Raises LocalProtocolError PAYLOAD_INVALID for what JSON cannot say."""
    try:
        return orjson.dumps(value)
    except TypeError as problem:
        raise LocalProtocolError(ErrorCode.PAYLOAD_INVALID, f"cannot be written as JSON: {problem}") from None


def dumps_canonical(value: Any) -> bytes:
    """Canonical JSON: keys sorted by their UTF-8 bytes, no spaces."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as problem:
        raise LocalProtocolError(ErrorCode.PAYLOAD_INVALID, f"cannot be written as JSON: {problem}") from None


def check_depth(data: bytes, depth_max: int) -> None:
    """Exact nesting: take strings away, then one innermost layer of pairs after the other.

    Each step is one pass in C over what is left, and there are no more steps than the limit, so a bomb costs a
    millisecond. What does not pair up is no JSON, which the parser says, unless it opens too often for that too.
    """
    left = _STRING.sub(b"", data).translate(_BRACES_TO_BRACKETS, _NO_BRACKETS)
    too_many = b"[" * (depth_max + 1)
    for _ in range(depth_max):
        left, before = left.replace(b"[]", b""), len(left)
        if len(left) == before or too_many in left:
            break
    if left.count(b"[") > depth_max or b"[]" in left:
        raise RemoteProtocolError(ErrorCode.JSON_TOO_DEEP, "nested JSON", depth_max)


def _read_slowly(data: bytes) -> None:
    """Look at every key and number of JSON that is known to be well-formed. Where the two parsers should disagree
    about that, the stricter one is right."""
    try:
        json.loads(data, object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as problem:
        raise RemoteProtocolError(ErrorCode.JSON_INVALID, str(problem)) from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RemoteProtocolError(ErrorCode.JSON_DUPLICATE_KEY, f"key {twice[:80]!r} is there twice")


def _integer(digits: str) -> None:
    # The length is looked at first: converting a hundred thousand digits takes longer than a frame may.
    if len(digits) > 20 or not I64_MIN <= int(digits) <= U64_MAX:
        raise RemoteProtocolError(ErrorCode.JSON_NUMBER, f"integer outside 64 bits: {digits[:24]}")
