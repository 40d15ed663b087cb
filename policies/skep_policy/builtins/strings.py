"""Strings: what OPA's WASM has no code for. Indices count code points, lengths of results are bounded by `instance`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from skep_policy.builtins.sprintf import sprintf
from skep_policy.builtins.values import UndefinedError, Value, a_collection, a_string, an_integer


def indexof_n(text: Value, search: Value) -> list[int]:
    text, search = a_string(text), a_string(search)
    if not search:
        raise UndefinedError("empty search text")
    found, at = [], text.find(search)
    while at >= 0:
        found.append(at)
        at = text.find(search, at + 1)
    return found


def any_prefix_match(search: Value, base: Value) -> bool:
    prefixes = tuple(_texts(base))
    return any(text.startswith(prefixes) for text in _texts(search))


def any_suffix_match(search: Value, base: Value) -> bool:
    suffixes = tuple(_texts(base))
    return any(text.endswith(suffixes) for text in _texts(search))


def _texts(value: Value) -> list[str]:
    """One string, or a collection of them."""
    return [value] if isinstance(value, str) else [a_string(text) for text in a_collection(value)]


def count(text: Value, search: Value) -> int:
    return a_string(text).count(a_string(search))


def split_n(text: Value, delimiter: Value, number: Value) -> list[str]:
    """The first `number` parts, or with a negative number the last ones; what is beyond them is dropped."""
    parts = _split(a_string(text), a_string(delimiter))
    kept = an_integer(number)
    return parts[:kept] if kept >= 0 else parts[max(len(parts) + kept, 0) :]


def _split(text: str, delimiter: str) -> list[str]:
    return text.split(delimiter) if delimiter else list(text)


def quote_meta(pattern: Value) -> str:
    """A glob that matches this text alone."""
    return "".join("\\" + c if c in "\\*?[]{}" else c for c in a_string(pattern))


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "glob.quote_meta": quote_meta,
    "indexof_n": indexof_n,
    "sprintf": sprintf,
    "strings.any_prefix_match": any_prefix_match,
    "strings.any_suffix_match": any_suffix_match,
    "strings.count": count,
    "strings.split_n": split_n,
}
