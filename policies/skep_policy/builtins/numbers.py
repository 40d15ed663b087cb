"""Ranges, sizes with units, versions, UUIDs."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from skep_policy.builtins.values import LimitError, UndefinedError, Value, a_number, a_string

RANGE_MAX: Final = 100_000
_POWERS: Final = "kmgtpe"
_EXPONENT_DIGITS_MAX: Final = 6
_META: Final = re.compile(r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*")
_GREGORIAN_NS: Final = 0x01B21DD213814000 * 100


def range_step(start: Value, end: Value, step: Value) -> list[int]:
    """From `start` to `end`, both included, upwards or downwards."""
    first, last, by = (_whole(value) for value in (start, end, step))
    if by <= 0:
        raise UndefinedError("step must be positive")
    if abs(last - first) // by >= RANGE_MAX:
        raise LimitError(f"more than {RANGE_MAX} numbers")
    return list(range(first, last + 1, by)) if first <= last else list(range(first, last - 1, -by))


def _whole(value: Value) -> int:
    number = a_number(value)
    if number != int(number):
        raise UndefinedError("not an integer")
    return int(number)


def _amount(text: str) -> tuple[str, str]:
    """(number, unit), split as OPA splits."""
    at = 0
    while at < len(text):
        c = text[at]
        if c in "eE":
            following = text[at + 1 : at + 2]
            if not (following.isdigit() or following in ("+", "-")) or not following:
                break
            at += following in ("+", "-")
            digits = re.match(r"\d*", text[at + 1 :])
            if digits and len(digits[0]) > _EXPONENT_DIGITS_MAX:
                raise UndefinedError("exponent too large")
        elif not (c.isdigit() or c in ".+-"):
            break
        at += 1
    return text[:at], text[at:]


def _fraction(number: str) -> Fraction:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", number):
        raise UndefinedError("no number")
    if abs(int(re.split("[eE]", number)[1])) > 5000 if re.search("[eE]", number) else False:
        raise LimitError("exponent too large")
    return Fraction(Decimal(number))


def parse_bytes(text: Value) -> int:
    """Bytes: k is 1000, ki is 1024, a trailing b says nothing."""
    clean = a_string(text).lower().replace('"', "")
    if " " in clean:
        raise UndefinedError("spaces")
    number, unit = _amount(clean)
    factor = _factor(unit.removesuffix("b") if len(unit) > 1 else unit)
    return int(_fraction(number) * factor)


def parse_units(text: Value) -> int | Decimal:
    """Like Kubernetes: m is a thousandth, M a million."""
    clean = a_string(text).replace('"', "")
    if " " in clean:
        raise UndefinedError("spaces")
    number, unit = _amount(clean)
    unit = unit[:1] + unit[1:].lower()
    value = _fraction(number) * (Fraction(0.001) if unit == "m" else _factor(unit.lower()))
    if value.denominator == 1:
        return value.numerator
    scaled = round(abs(value) * 10**10 + Fraction(1, 10**12))
    digits = str(scaled).rjust(11, "0")
    return Decimal(f"{'-' if value < 0 else ''}{digits[:-10]}.{digits[-10:]}")


def _factor(unit: str) -> int:
    if not unit:
        return 1
    power = _POWERS.find(unit[0]) + 1
    if not power or unit[1:] not in ("", "i"):
        raise UndefinedError("unknown unit")
    factor: int = (1024 if unit.endswith("i") else 1000) ** power
    return factor


def semver_valid(text: Value) -> bool:
    try:
        _version(text)
    except UndefinedError:
        return False
    return True


def semver_compare(one: Value, other: Value) -> int:
    first, second = _version(one), _version(other)
    return -1 if first < second else int(first > second)


def _version(text: Value) -> tuple[Any, ...]:
    """A key that sorts as semver.org says."""
    rest, plus, metadata = a_string(text).removeprefix("v").partition("+")
    rest, dash, before = rest.partition("-")
    numbers = rest.split(".")
    good = len(numbers) == 3 and all(re.fullmatch(r"0|[1-9][0-9]*", n) and int(n) < 1 << 63 for n in numbers)
    good = good and not (plus and not _META.fullmatch(metadata))
    identifiers = before.split(".") if dash else []
    good = good and not (dash and not _META.fullmatch(before))
    if not good or any(re.fullmatch(r"0[0-9]+", part) for part in identifiers):
        raise UndefinedError("no version")
    keys = [(0, int(part), "") if re.fullmatch("[0-9]+", part) else (1, 0, part) for part in identifiers]
    return (*map(int, numbers), 0 if dash else 1, keys)


def uuid_parse(text: Value) -> dict[str, Any]:
    clean = a_string(text)
    if len(clean) == 38:
        clean = clean[1:-1]  # braces, or whatever stands in their place
    elif clean[:9].lower() == "urn:uuid:":
        clean = clean[9:]
    if not re.fullmatch(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", clean):
        raise UndefinedError("no UUID")
    uuid = UUID(clean)
    version = uuid.bytes[6] >> 4
    found: dict[str, Any] = {"version": version, "variant": _variant(uuid.bytes[8])}
    if version in (1, 2):
        found |= _time_fields(uuid)
    if version == 2:
        found |= {"id": uuid.time_low, "domain": _domain(uuid.bytes[9])}
    return found


def _variant(byte: int) -> str:
    if byte & 0xC0 == 0x80:
        return "RFC4122"
    return {0xC0: "Microsoft", 0xE0: "Future"}.get(byte & 0xE0, "Reserved")


def _domain(byte: int) -> str:
    return ("Person", "Group", "Org")[byte] if byte < 3 else f"Domain{byte}"


def _time_fields(uuid: UUID) -> dict[str, Any]:
    first = uuid.bytes[10]
    where = "local" if first & 2 else "global"
    return {
        "time": ((uuid.time * 100 - _GREGORIAN_NS) + (1 << 63)) % (1 << 64)
        - (1 << 63),  # as Go's int64 wraps
        "nodeid": "-".join(f"{byte:02x}" for byte in uuid.bytes[10:]),
        "macvariables": f"{where}:{'multicast' if first & 1 else 'unicast'}",
        "clocksequence": uuid.clock_seq,
    }


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "numbers.range_step": range_step,
    "semver.compare": semver_compare,
    "semver.is_valid": semver_valid,
    "units.parse": parse_units,
    "units.parse_bytes": parse_bytes,
    "uuid.parse": uuid_parse,
}
