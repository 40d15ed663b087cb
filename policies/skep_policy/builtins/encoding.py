"""Encodings: base64url without padding, hex, query strings, JSON with layout, URIs."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote_plus, unquote_to_bytes

from skep_policy.builtins.values import (
    Pairs,
    Set,
    UndefinedError,
    Value,
    a_string,
    an_object,
    items,
    write,
)

_ESCAPES: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BARE: Final = "-_.~"


def base64url_nopad(text: Value) -> str:
    return base64.urlsafe_b64encode(a_string(text).encode()).rstrip(b"=").decode()


def base64url_bytes(text: str) -> bytes:
    """Decode as Go does, with or without padding."""
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    clean = padded.replace("\r", "").replace("\n", "")
    if len(text) % 4 == 1 and not text.endswith("="):
        raise UndefinedError("illegal base64url")
    if not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", clean):
        raise UndefinedError("illegal base64url")
    return base64.urlsafe_b64decode(clean)


def text_of(raw: bytes) -> str:
    """Bytes as a Rego string."""
    return raw.decode(errors="replace")


def hex_encode(text: Value) -> str:
    return a_string(text).encode().hex()


def hex_decode(text: Value) -> str:
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", a_string(text)):
        raise UndefinedError("illegal hex")
    return text_of(bytes.fromhex(text))


def query_encode(text: Value) -> str:
    return quote_plus(a_string(text), safe=_BARE)


def query_decode(text: Value) -> str:
    if _ESCAPES.search(a_string(text)):
        raise UndefinedError("illegal escape")
    return text_of(unquote_to_bytes(text.replace("+", " ")))


def query_encode_object(value: Value) -> str:
    parts: list[str] = []
    for key, texts in items(an_object(value)):
        many = texts if isinstance(texts, list) and not isinstance(texts, Pairs) else [texts]
        parts += [f"{query_encode(key)}={query_encode(text)}" for text in many]
    return "&".join(parts)


def query_decode_object(text: Value) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in a_string(text).split("&"):
        if ";" in part:
            raise UndefinedError("a semicolon separates nothing")
        if part:
            key, _, value = part.partition("=")
            found.setdefault(query_decode(key), []).append(query_decode(value))
    return found


def json_marshal(value: Value, options: Value) -> str:
    """JSON on many lines, if the options ask for it."""
    known = {"pretty", "indent", "prefix"}
    wanted = an_object(options)
    if set(wanted) - known or not isinstance(wanted.get("pretty", True), bool):
        raise UndefinedError("unknown option")
    indent, prefix = a_string(wanted.get("indent", "\t")), a_string(wanted.get("prefix", ""))
    if not wanted.get("pretty", bool({"indent", "prefix"} & set(wanted))):
        return _go_json(value)
    return prefix + _indented(value, prefix, indent, 0)


def _go_json(value: Value) -> str:
    """As Go's json.Marshal: sorted keys, HTML's characters escaped."""
    if isinstance(value, Set | list) and not isinstance(value, Pairs):
        return "[" + ",".join(map(_go_json, value)) + "]"
    if isinstance(value, dict | Pairs):
        return "{" + ",".join(f"{_go_json(_key(k))}:{_go_json(v)}" for k, v in items(value)) + "}"
    if isinstance(value, str):
        return escape_html(write(value).decode())
    return str(value) if isinstance(value, Decimal) else write(value).decode()


def escape_html(text: str) -> str:
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _key(key: Value) -> str:
    return key if isinstance(key, str) else _go_json(key)


def _indented(value: Value, prefix: str, indent: str, depth: int) -> str:
    if isinstance(value, dict | Pairs):
        inner = [f"{_go_json(_key(k))}: {_indented(v, prefix, indent, depth + 1)}" for k, v in items(value)]
        marks = "{}"
    elif isinstance(value, list):
        inner, marks = [_indented(v, prefix, indent, depth + 1) for v in value], "[]"
    else:
        return _go_json(value)
    if not inner:
        return marks
    line = "\n" + prefix + indent * (depth + 1)
    return marks[0] + line + ("," + line).join(inner) + "\n" + prefix + indent * depth + marks[1]


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "base64url.encode_no_pad": base64url_nopad,
    "hex.decode": hex_decode,
    "hex.encode": hex_encode,
    "json.marshal_with_options": json_marshal,
    "urlquery.decode": query_decode,
    "urlquery.decode_object": query_decode_object,
    "urlquery.encode": query_encode,
    "urlquery.encode_object": query_encode_object,
}
