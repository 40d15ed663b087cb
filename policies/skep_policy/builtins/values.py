"""Values of Rego as Python ones, and back.

null, booleans, strings, arrays and objects are None, bool, str, list and dict; integers are int; other numbers are
Decimal, as `Real` with what was written. A set is a `Set`, in OPA's order. An object with a key that is no string is
`Pairs`, in the order of its keys.

The text that WASM writes (`opa_value_dump`) is JSON with two additions: `{1, 2}` and `set()` are sets, and keys may
be any value. What is JSON can be read in no other way, so the fast reader is tried first; numbers that it would round
go to the exact one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import cmp_to_key
from typing import Any, Final

import orjson

from skep_policy.limits import NESTING_MAX

Value = Any
Number = int | Decimal

_INEXACT: Final = re.compile(rb"[0-9][.eE]|[0-9]{18}")
_TOKEN: Final = re.compile(
    r'\s*(?:("(?:[^"\\]|\\.)*")|(-?[0-9.][0-9.eE+-]*)|(set\(\s*\)|null|true|false)|([][{},:]))', re.DOTALL
)
_WORDS: Final = {"null": None, "true": True, "false": False}


class UndefinedError(Exception):
    """There is no answer: the expression is undefined, as in `opa eval`."""


class LimitError(Exception):
    """An answer would cost more than a decision may: the evaluation ends, with this text."""


class Real(Decimal):
    """A number with a fraction or an exponent, and how it was written."""

    text: str

    def __new__(cls, text: str) -> Real:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class Set(list[Any]):
    """A set: sorted as OPA sorts, no two equal. From `set_of`."""

    __slots__ = ()


class Pairs(list[tuple[Any, Any]]):
    """An object with a key that is no string: (key, value), sorted by key."""

    __slots__ = ()


def read(text: bytes) -> Value:
    """What WASM wrote. LimitError for what is nested too deeply."""
    try:
        if not _INEXACT.search(text):
            return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text, parse_float=Real)
    except (RecursionError, ValueError):
        pass
    try:
        return _Reader(text.decode()).whole()
    except (RecursionError, ValueError) as error:
        raise LimitError(f"a value cannot be read: {error}") from None


def read_json(text: bytes) -> Value:
    """JSON that comes from a message. UndefinedError for what is none."""
    try:
        return json.loads(text, parse_float=Real)
    except (ValueError, RecursionError) as error:
        raise UndefinedError(f"no JSON: {error}") from None


def write(value: Value) -> bytes:
    """`value` as WASM reads it (`opa_value_parse`)."""
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except (orjson.JSONEncodeError, TypeError):
        try:
            return "".join(_written(value)).encode()
        except (RecursionError, UnicodeEncodeError) as error:
            raise LimitError(f"a result cannot be written: {error}") from None


class _Reader:
    """Texts with sets, or with keys that are no strings."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Value:
        value = self._value(self._next())
        if self._text[self._at :].strip():
            raise LimitError("a value cannot be read: it goes on")
        return value

    def _next(self) -> re.Match[str]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise LimitError("a value cannot be read")
        self._at = found.end()
        return found

    def _value(self, token: re.Match[str]) -> Value:
        string, number, word, mark = token.groups()
        if string is not None:
            return json.loads(string, strict=False)
        if number is not None:
            return Real(number) if re.search("[.eE]", number) else int(number)
        if word is not None:
            return _WORDS[word] if word in _WORDS else Set()
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise LimitError(f"a value is nested more than {NESTING_MAX} deep")
        value = self._array() if mark == "[" else self._braces()
        self._depth -= 1
        return value

    def _array(self) -> list[Value]:
        values: list[Value] = []
        token = self._next()
        while token[4] != "]":
            values.append(self._value(token))
            token = self._next()
            if token[4] == ",":
                token = self._next()
        return values

    def _braces(self) -> Value:
        token = self._next()
        if token[4] == "}":
            return {}
        pairs: list[tuple[Value, Value]] = []
        members: list[Value] = []
        while token[4] != "}":
            key = self._value(token)
            token = self._next()
            if token[4] not in (":", ",", "}"):
                raise LimitError("a value cannot be read: a comma is missing")
            if token[4] == ":":
                pairs.append((key, self._value(self._next())))
                token = self._next()
            else:
                members.append(key)
            if token[4] == ",":
                token = self._next()
        return object_of(pairs) if pairs else Set(members)


def _written(value: Value) -> list[str]:
    if isinstance(value, Set):
        return ["{", *_joined(value, _written), "}"] if value else ["set()"]
    if isinstance(value, Pairs):
        return ["{", *_joined(value, lambda p: [*_written(p[0]), ":", *_written(p[1])]), "}"]
    if isinstance(value, dict):
        return ["{", *_joined(value.items(), lambda p: [json.dumps(p[0]), ":", *_written(p[1])]), "}"]
    if isinstance(value, list | tuple):
        return ["[", *_joined(value, _written), "]"]
    if isinstance(value, Decimal):
        return [number_text(value)]
    if isinstance(value, str):
        return [orjson.dumps(value).decode()]
    return [json.dumps(value)]


def _joined(values: Any, write_one: Callable[[Any], list[str]]) -> list[str]:
    parts: list[str] = []
    for value in values:
        parts += write_one(value)
        parts.append(",")
    return parts[:-1]


def number_text(value: int | Decimal) -> str:
    """The shortest JSON text of a number: as Go writes big floats, without an exponent where it is short."""
    if isinstance(value, int):
        return str(value)
    if value == value.to_integral_value() and value.adjusted() < 21:
        return str(int(value))
    sign, digits, exponent = value.normalize().as_tuple()
    if not isinstance(exponent, int):
        raise UndefinedError(f"{value} is no number")
    if -7 < value.adjusted() < 21:
        return format(value.normalize(), "f")
    head = "".join(map(str, digits))
    mantissa = f"{head[0]}.{head[1:]}" if len(head) > 1 else head
    power = len(head) - 1 + exponent
    return f"{'-' if sign else ''}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"


def object_of(pairs: list[tuple[Value, Value]]) -> Value:
    """A dict where all keys are strings."""
    if all(type(key) is str for key, _ in pairs):
        return dict(pairs)
    return Pairs(sorted(pairs, key=lambda pair: _ORDER(pair[0])))


def set_of(values: list[Value]) -> Set:
    """Sorted, each once."""
    unique = Set()
    for value in sorted(values, key=_ORDER):
        if not unique or compare(unique[-1], value):
            unique.append(value)
    return unique


def rank(value: Value) -> int:
    """OPA's order of types: null, boolean, number, string, array, object, set."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return 1
    if isinstance(value, int | float | Decimal):
        return 2
    if isinstance(value, str):
        return 3
    if isinstance(value, Set):
        return 6
    return 5 if isinstance(value, dict | Pairs) else 4


def compare(a: Value, b: Value) -> int:
    """Below, at or above zero, as OPA orders."""
    ranks = rank(a), rank(b)
    if ranks[0] != ranks[1]:
        return -1 if ranks[0] < ranks[1] else 1
    if ranks[0] in (4, 6):
        return _compare_lists(a, b)
    if ranks[0] == 5:
        return _compare_objects(a, b)
    if ranks[0] == 3:
        a, b = a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass")
    return 0 if a == b else -1 if ranks[0] and a < b else 1


def _compare_lists(a: list[Value], b: list[Value]) -> int:
    for left, right in zip(a, b, strict=False):
        if found := compare(left, right):
            return found
    return len(a) - len(b)


def _compare_objects(a: Value, b: Value) -> int:
    """By their sorted keys and the values of each, in turn."""
    left, right = items(a), items(b)
    for (key, value), (other_key, other) in zip(left, right, strict=False):
        if found := compare(key, other_key) or compare(value, other):
            return found
    return len(left) - len(right)


_ORDER: Final = cmp_to_key(compare)


def items(value: dict[str, Value] | Pairs) -> list[tuple[Value, Value]]:
    """(key, value) in OPA's order."""
    return (
        list(value) if isinstance(value, Pairs) else sorted(value.items(), key=lambda pair: pair[0].encode())
    )


def equal(a: Value, b: Value) -> bool:
    """Do OPA's rules call them equal? (For Python, 1 == True.)"""
    return compare(a, b) == 0


def a_string(value: Value) -> str:
    if type(value) is not str:
        raise UndefinedError("not a string")
    return value


def a_number(value: Value) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UndefinedError("not a number")
    return value


def an_integer(value: Value) -> int:
    """An integer, also one that was written 1.0 or 1e3."""
    number = a_number(value)
    try:
        if number != int(number) or not -(1 << 63) <= int(number) < 1 << 63:
            raise UndefinedError("not an integer")
    except (InvalidOperation, OverflowError):
        raise UndefinedError("not an integer") from None
    return int(number)


def an_array(value: Value) -> list[Value]:
    if not isinstance(value, list) or isinstance(value, Set | Pairs):
        raise UndefinedError("not an array")
    return value


def a_collection(value: Value) -> list[Value]:
    """An array or a set."""
    if not isinstance(value, list) or isinstance(value, Pairs):
        raise UndefinedError("neither array nor set")
    return value


def an_object(value: Value) -> dict[str, Value]:
    """An object whose keys are all strings."""
    if not isinstance(value, dict):
        raise UndefinedError("not an object")
    return value
