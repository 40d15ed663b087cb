"""Times: nanoseconds since 1970, the calendar of a zone, durations. `time.now_ns` alone reads the clock, once for each
evaluation, and no answer made with it is kept.

Zones come from the machine's database; UTC needs none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from skep_policy.builtins.layouts import DAYS, EPOCH, NAMED, SECOND_NS, Moment, formatted, parsed
from skep_policy.builtins.values import UndefinedError, Value, a_number, a_string, an_integer

_UNITS: Final = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": SECOND_NS, "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS, "d": 86_400 * SECOND_NS, "w": 7 * 86_400 * SECOND_NS, "y": 365 * 86_400 * SECOND_NS,
}  # fmt: skip
_LENGTH: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w|y)")


def _moment(value: Value) -> tuple[Moment, str]:
    """(time, layout) of a number, [number], [number, zone] or [number, zone, layout]."""
    parts = value if isinstance(value, list) else [value]
    number = a_number(parts[0])
    ns = int(number)
    if ns != number or not -(1 << 63) <= ns < 1 << 63:
        raise UndefinedError("no time")
    zone = a_string(parts[1]) if len(parts) > 1 else ""
    layout = a_string(parts[2]) if len(parts) > 2 else ""
    if zone in ("", "UTC"):
        return Moment(ns), layout
    offset, name = _offset(zone, ns)
    return Moment(ns, offset, name), layout


def _offset(zone: str, ns: int) -> tuple[int, str]:
    there = (EPOCH + timedelta(seconds=ns // SECOND_NS)).astimezone(_zone(zone))
    shift = there.utcoffset() or timedelta(0)
    return int(shift.total_seconds()), there.tzname() or ""


def _zone(name: str) -> ZoneInfo:
    if name == "Local":
        name = "UTC"  # where a router stands is nothing that a policy may depend on
    try:
        return ZoneInfo(name)
    except (ValueError, OSError):
        raise UndefinedError(f"no zone {name}") from None


def _checked(ns: int) -> int:
    if not -(1 << 63) <= ns < 1 << 63:
        raise UndefinedError("the time is out of range")
    return ns


def now_ns(instance: Any) -> int:
    found: int = instance.now_ns()
    return found


now_ns.asks_instance = True  # type: ignore[attr-defined]


def clock(value: Value) -> list[int]:
    local = _moment(value)[0].local
    return [local.hour, local.minute, local.second]


def date(value: Value) -> list[int]:
    local = _moment(value)[0].local
    return [local.year, local.month, local.day]


def weekday(value: Value) -> str:
    return DAYS[_moment(value)[0].local.weekday()]


def format_time(value: Value) -> str:
    moment, layout = _moment(value)
    return formatted(moment, NAMED.get(layout, layout) or NAMED["RFC3339Nano"])


def parse_ns(layout: Value, text: Value) -> int:
    wanted = a_string(layout)
    return _checked(parsed(a_string(text), NAMED.get(wanted, wanted)))


def parse_rfc3339_ns(text: Value) -> int:
    return _checked(parsed(a_string(text), NAMED["RFC3339"]))


def parse_duration_ns(text: Value) -> int:
    """Go's durations, and d, w, y for days, weeks and years of 365 days."""
    rest = a_string(text)
    sign = -1 if rest[:1] == "-" else 1
    rest = rest[1:] if rest[:1] in ("-", "+") else rest
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest) and (found := _LENGTH.match(rest, at)):
        total += int(Decimal(found[1]) * _UNITS[found[2]])
        at = found.end()
    if not rest or at != len(rest):
        raise UndefinedError("no duration")
    return _checked(sign * total)


def add_date(value: Value, years: Value, months: Value, days: Value) -> int:
    """Calendar days; the 31st of a shorter month is in the next one."""
    moment = _moment(value)[0]
    local = moment.local
    month = local.year * 12 + local.month - 1 + an_integer(years) * 12 + an_integer(months)
    try:
        first = datetime(month // 12, month % 12 + 1, 1, local.hour, local.minute, local.second, tzinfo=UTC)
        there = first + timedelta(days=local.day - 1 + an_integer(days))
    except (ValueError, OverflowError):
        raise UndefinedError("the time is out of range") from None
    seconds = (there - EPOCH) // timedelta(seconds=1)
    zone = value[1] if isinstance(value, list) and len(value) > 1 else ""
    offset = _local_offset(zone, there) if zone not in ("", "UTC") else 0
    return _checked((seconds - offset) * SECOND_NS + moment.ns % SECOND_NS)


def _local_offset(zone: str, local: datetime) -> int:
    shift = local.replace(tzinfo=_zone(zone)).utcoffset() or timedelta(0)
    return int(shift.total_seconds())


def diff(one: Value, other: Value) -> list[int]:
    """Years, months, days, hours, minutes, seconds between two times, in the zone of the first."""
    zone = one[1:2] if isinstance(one, list) else []
    first, second = _moment(one)[0], _moment(other)[0]
    second = _moment([second.ns, *zone])[0]
    low, high = sorted((first, second), key=lambda moment: moment.ns)
    a, b = low.local, high.local
    found = [b.year - a.year, b.month - a.month, b.day - a.day, b.hour - a.hour]
    found += [b.minute - a.minute, b.second - a.second]
    following = (a.replace(day=1) + timedelta(days=32)).replace(day=1)
    days_in_month = (following - a.replace(day=1)).days
    for place, size in ((5, 60), (4, 60), (3, 24), (2, days_in_month), (1, 12)):
        if found[place] < 0:
            found[place] += size
            found[place - 1] -= 1
    return found


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "time.add_date": add_date,
    "time.clock": clock,
    "time.date": date,
    "time.diff": diff,
    "time.format": format_time,
    "time.now_ns": now_ns,
    "time.parse_duration_ns": parse_duration_ns,
    "time.parse_ns": parse_ns,
    "time.parse_rfc3339_ns": parse_rfc3339_ns,
    "time.weekday": weekday,
}
