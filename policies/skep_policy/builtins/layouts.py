"""Go's time layouts: a layout is an example, the way 2006-01-02T15:04:05Z07:00 is one.

Owns the reading of layouts and of times by them. A time is nanoseconds since 1970 and an offset in seconds with the
zone's name; years from 1 to 9999.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from skep_policy.builtins.values import UndefinedError

NAMED: Final = {
    "ANSIC": "Mon Jan _2 15:04:05 2006", "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006", "RFC822": "02 Jan 06 15:04 MST", "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST", "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700", "RFC3339": "2006-01-02T15:04:05Z07:00",
    "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00",
}  # fmt: skip
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_NS: Final = 1_000_000_000

_ELEMENT: Final = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|2006|__2|002|01|02|03|04|05|06|15|_2(?!006)|PM|pm"
    r"|Z070000|Z07:00:00|Z0700|Z07:00|Z07|-070000|-07:00:00|-0700|-07:00|-07"
    r"|[.,]0+(?![0-9])|[.,]9+(?![0-9])|1|2|3|4|5"
)
_ZONE: Final = re.compile(r"([A-Z]{3,5})([+-]\d{1,2})?|[+-]\d{2}")


class Moment(NamedTuple):
    """A point in time, seen from somewhere."""

    ns: int
    offset: int = 0
    zone: str = "UTC"

    @property
    def local(self) -> datetime:
        try:
            return EPOCH + timedelta(seconds=self.ns // SECOND_NS + self.offset)
        except OverflowError:
            raise UndefinedError("the year is out of range") from None


def elements(layout: str) -> list[str]:
    """Elements and literal texts in turn; the texts begin with a NUL."""
    parts: list[str] = []
    at = 0
    for found in _ELEMENT.finditer(layout):
        if found.start() > at:
            parts.append("\0" + layout[at : found.start()])
        parts.append(found[0])
        at = found.end()
    if at < len(layout):
        parts.append("\0" + layout[at:])
    return parts


# -- writing -------------------------------------------------------------------------------------------------------


def formatted(moment: Moment, layout: str) -> str:
    local = moment.local
    return "".join(
        part[1:] if part[0] == "\0" else _written(part, local, moment) for part in elements(layout)
    )


def _written(part: str, local: datetime, moment: Moment) -> str:
    if part[0] in ".,":
        return _fraction(part, moment.ns % SECOND_NS)
    if part[0] == "Z" or part[0] == "-":
        return _offset(part, moment.offset)
    if part == "MST":
        return moment.zone or _offset("-07" if moment.offset % 3600 == 0 else "-0700", moment.offset)
    hour = local.hour % 12 or 12
    texts = {
        "January": MONTHS[local.month - 1], "Jan": MONTHS[local.month - 1][:3], "1": str(local.month),
        "01": f"{local.month:02d}", "Monday": DAYS[local.weekday()], "Mon": DAYS[local.weekday()][:3],
        "2": str(local.day), "_2": f"{local.day:2d}", "02": f"{local.day:02d}",
        "002": f"{local.timetuple().tm_yday:03d}", "__2": f"{local.timetuple().tm_yday:3d}",
        "15": f"{local.hour:02d}", "3": str(hour), "03": f"{hour:02d}", "4": str(local.minute),
        "04": f"{local.minute:02d}", "5": str(local.second), "05": f"{local.second:02d}",
        "2006": f"{local.year:04d}", "06": f"{local.year % 100:02d}",
        "PM": "PM" if local.hour >= 12 else "AM", "pm": "pm" if local.hour >= 12 else "am",
    }  # fmt: skip
    return texts[part]


def _fraction(part: str, ns: int) -> str:
    digits = f"{ns:09d}"[: len(part) - 1]
    if part[1] == "9":
        digits = digits.rstrip("0")
        return part[0] + digits if digits else ""
    return part[0] + digits


def _offset(part: str, offset: int) -> str:
    if part[0] == "Z" and not offset:
        return "Z"
    sign, total = ("-" if offset < 0 else "+"), abs(offset)
    fields = [f"{total // 3600:02d}", f"{total // 60 % 60:02d}", f"{total % 60:02d}"]
    count = 1 + (len(part.replace(":", "")) - 3) // 2
    return sign + (":" if ":" in part else "").join(fields[:count])


# -- reading -------------------------------------------------------------------------------------------------------


class _Fields:
    """What a text has said so far."""

    def __init__(self) -> None:
        self.year, self.month, self.day, self.yday = 0, 1, 1, 0
        self.hour = self.minute = self.second = self.ns = 0
        self.half = ""
        self.offset: int | None = None
        self.has_day = False
        self.has_month = False


def parsed(text: str, layout: str) -> int:
    """Nanoseconds since 1970. Raises UndefinedError."""
    fields = _Fields()
    parts = elements(layout)
    for number, part in enumerate(parts):
        text = _literal(text, part[1:]) if part[0] == "\0" else _taken(text, part, fields)
        after_seconds = part in ("05", "5") and not (number + 1 < len(parts) and parts[number + 1][0] in ".,")
        if after_seconds and (found := re.match(r"[.,]\d+", text)):
            fields.ns = int(found[0][1:10].ljust(9, "0"))
            text = text[found.end() :]
    if text:
        raise UndefinedError("extra text")
    return _moment(fields)


def _literal(text: str, wanted: str) -> str:
    """Skip what stands in the layout; a run of spaces there is one of any length here."""
    for character in wanted:
        if character == " ":
            if text and text[0] != " ":
                raise UndefinedError("a space is missing")
            text = text.lstrip(" ")
        elif text[:1] == character:
            text = text[1:]
        else:
            raise UndefinedError("the text does not follow the layout")
    return text


_DIGITS: Final = {
    "2006": r"\d{4}", "06": r"\d{2}", "01": r"\d{2}", "1": r"\d{1,2}", "02": r"\d{2}", "2": r"\d{1,2}",
    "_2": r" ?\d{1,2}", "002": r"\d{3}", "__2": r"[ ]{0,2}\d{1,3}", "15": r"\d{2}", "03": r"\d{2}", "3": r"\d{1,2}",
    "04": r"\d{2}", "4": r"\d{1,2}", "05": r"\d{2}", "5": r"\d{1,2}",
}  # fmt: skip
_RANGES: Final = {
    "01": ("month", 1, 12), "1": ("month", 1, 12), "02": ("day", 1, 31), "2": ("day", 1, 31), "_2": ("day", 1, 31),
    "002": ("yday", 1, 366), "__2": ("yday", 1, 366), "15": ("hour", 0, 23), "03": ("hour", 0, 12),
    "3": ("hour", 0, 12), "04": ("minute", 0, 59), "4": ("minute", 0, 59), "05": ("second", 0, 59),
    "5": ("second", 0, 59),
}  # fmt: skip


def _taken(text: str, part: str, fields: _Fields) -> str:
    """What the element takes of the text; the rest."""
    if part in _DIGITS:
        found = re.match(_DIGITS[part], text)
        if found is None:
            raise UndefinedError(f"no {part}")
        _number(part, int(found[0]), fields)
        return text[found.end() :]
    if part in ("PM", "pm"):
        fields.half = text[:2].upper() if text[:2] in ("AM", "PM", "am", "pm") else ""
        if text[:2] not in ((part, "AM") if part == "PM" else (part, "am")):
            raise UndefinedError("neither am nor pm")
        return text[2:]
    if part[0] in ".,":
        return _taken_fraction(text, part, fields)
    if part[0] in "Z-" or part == "MST":
        return _taken_zone(text, part, fields)
    return _taken_name(text, part, fields)


def _number(part: str, number: int, fields: _Fields) -> None:
    if part == "2006":
        fields.year = number
    elif part == "06":
        fields.year = number + (1900 if number >= 69 else 2000)
    else:
        name, least, most = _RANGES[part]
        if not least <= number <= most:
            raise UndefinedError(f"{name} out of range")
        setattr(fields, name, number)
        fields.has_day |= name == "day"
        fields.has_month |= name == "month"


def _taken_fraction(text: str, part: str, fields: _Fields) -> str:
    pattern = rf"[.,]\d{{{len(part) - 1}}}" if part[1] == "0" else r"[.,]\d+"
    found = re.match(pattern, text)
    if found is None:
        if part[1] == "9":
            return text
        raise UndefinedError("no fraction")
    fields.ns = int(found[0][1:10].ljust(9, "0"))
    return text[found.end() :]


def _taken_zone(text: str, part: str, fields: _Fields) -> str:
    if part == "MST":
        found = _ZONE.match(text)
        if found is None:
            raise UndefinedError("no zone")
        shift = int(found[2]) * 3600 if found[1] == "GMT" and found[2] else 0
        fields.offset = shift
        return text[found.end() :] if shift or not found[2] else text[found.end(1) :]
    if part[0] == "Z" and text[:1] == "Z":
        fields.offset = 0
        return text[1:]
    count = 1 + (len(part.replace(":", "")) - 3) // 2
    found = re.match(
        (":" if ":" in part else "").join([r"([+-]\d{2})", r"(\d{2})", r"(\d{2})"][:count]), text
    )
    if found is None:
        raise UndefinedError("no offset")
    hours, minutes, seconds = (*(abs(int(t)) for t in found.groups()), 0, 0)[:3]
    if hours > 24 or minutes > 60 or seconds > 60:
        raise UndefinedError("offset out of range")
    fields.offset = (hours * 3600 + minutes * 60 + seconds) * (-1 if text[0] == "-" else 1)
    return text[found.end() :]


def _taken_name(text: str, part: str, fields: _Fields) -> str:
    names = MONTHS if part in ("January", "Jan") else DAYS
    for number, name in enumerate(names):
        wanted = name if part in ("January", "Monday") else name[:3]
        if text[: len(wanted)].lower() == wanted.lower():
            if names is MONTHS:
                fields.month, fields.has_month = number + 1, True
            return text[len(wanted) :]
    raise UndefinedError("no such name")


def _moment(fields: _Fields) -> int:
    hour = fields.hour
    if fields.half == "PM" and hour < 12:
        hour += 12
    elif fields.half == "AM" and hour == 12:
        hour = 0
    year = fields.year
    try:
        # Years without a Gregorian calendar in Python, 0 above all, are counted from the next one with the same shape.
        base = datetime(year or 400, fields.month, fields.day, hour, fields.minute, fields.second, tzinfo=UTC)
        if fields.yday:
            base = _by_yday(base, fields)
    except ValueError as error:
        raise UndefinedError(str(error)) from None
    seconds = (base - EPOCH) // timedelta(seconds=1) - (0 if year else 146_097 * 86_400)
    return (seconds - (fields.offset or 0)) * SECOND_NS + fields.ns


def _by_yday(base: datetime, fields: _Fields) -> datetime:
    start = base.replace(month=1, day=1)
    day = start + timedelta(days=fields.yday - 1)
    told = (fields.has_month and day.month != fields.month) or (fields.has_day and day.day != fields.day)
    if day.year != start.year or told:
        raise UndefinedError("the day of the year is another one")
    return day
