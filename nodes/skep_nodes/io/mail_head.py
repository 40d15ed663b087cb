"""The head of a letter or of one of its parts: fields, bounded before anything interprets them.

The standard library's parser reads header values with a recursive grammar whose time grows faster than its input, and
finds parts by reading all of a letter. Here a head is cut into fields first, each field is bounded, and only then a
value is given to the library's `email.policy.default`. What it trips over is shown as it came. A sender's address is
not left to it: a field that two readers may understand differently is how forged senders get in, so the form that
counts here is one address and no other `@` or angle bracket around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import errors, policy
from email.utils import parsedate_to_datetime
from typing import Any, Final

HEAD_BYTES_MAX: Final = 65_536  # of one head; long chains of Received and ARC fields have some 20 KiB
FIELDS_MAX: Final = 300
VALUE_CHARS_MAX: Final = 1_000  # of a value that is interpreted; RFC 5322 bounds a line by 998
RESULT_CHARS_MAX: Final = 8_000  # of one Authentication-Results field; many signatures make it long
IDS_MAX: Final = 64  # of References; a longer conversation is told by its first and its last ones
ADDRESS_CHARS_MAX: Final = 254  # RFC 5321

# What the library's header parser is known to raise for values that it should refuse.
FAULTS: Final = (
    ValueError, TypeError, IndexError, KeyError, LookupError, AttributeError, AssertionError, RecursionError,
    errors.MessageError,
)  # fmt: skip

ADDRESS: Final = (
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{1,63}"
)
_ADDRESS = re.compile(ADDRESS)
_FROM = re.compile(rf'\s*(?:(?:"(?:[^"\\]|\\.)*"|[^<>@"]*)\s*<\s*({ADDRESS})\s*>|({ADDRESS}))\s*')
_ID = re.compile(r"<([^<>\s]{1,250})>")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")


class BadLetter(Exception):
    """A letter that is refused; `code` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Head:
    """Fields in their order, names in lower case, values unfolded."""

    fields: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, data: bytes) -> Head:
        """Raises BadLetter MAIL_HEAD_TOO_LARGE."""
        if len(data) > HEAD_BYTES_MAX:
            raise BadLetter("MAIL_HEAD_TOO_LARGE", f"a head has at most {HEAD_BYTES_MAX} bytes")
        lines = _FOLD.sub(b"", data).split(b"\n", FIELDS_MAX)
        if len(lines) > FIELDS_MAX:
            raise BadLetter("MAIL_HEAD_TOO_LARGE", f"a head has at most {FIELDS_MAX} fields")
        return cls(tuple(filter(None, map(_field, lines))))

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(value for each, value in self.fields if each == name)

    def first(self, name: str) -> str:
        return next((value for each, value in self.fields if each == name), "")

    def has(self, name: str) -> bool:
        return any(each == name for each, _ in self.fields)

    def text(self, name: str) -> str:
        """The field as people read it: decoded, one line, no control characters."""
        value = self.first(name)[:VALUE_CHARS_MAX]
        return one_line(str(interpreted(name, value) or value))

    def sender(self) -> str:
        """The address in From, in lower case. Raises BadLetter MAIL_SENDER_INVALID."""
        found = self.all("from")
        if len(found) != 1:
            raise BadLetter("MAIL_SENDER_INVALID", f"a letter has one From field, not {len(found)}")
        address = address_in(found[0])
        if not address:
            raise BadLetter("MAIL_SENDER_INVALID", "From is not one plain address")
        return address

    def ids(self, name: str) -> tuple[str, ...]:
        """The message ids of a field, oldest first; of too many the first and the last ones."""
        found = _ID.findall(self.first(name)[:HEAD_BYTES_MAX])
        return tuple(found) if len(found) <= IDS_MAX else (found[0], *found[1 - IDS_MAX :])

    def date_ms(self) -> int:
        """Date as Unix ms; 0 when it is none."""
        try:
            return int(parsedate_to_datetime(self.first("date")[:64]).timestamp() * 1000)
        except (*FAULTS, OverflowError, OSError):
            return 0


def split_head(data: bytes) -> tuple[bytes, bytes]:
    """Head and body of a letter or a part; lines end in CRLF or LF."""
    if data.startswith((b"\n", b"\r\n")):
        return b"", data.lstrip(b"\r").removeprefix(b"\n")
    ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := data.find(mark)) >= 0]
    if not ends:
        return data, b""
    at, length = min(ends)
    return data[:at], data[at + length :]


def interpreted(name: str, value: str) -> Any:
    """The value as `email.policy.default` reads it; None when it cannot. The caller has bounded it."""
    try:
        return policy.default.header_factory(name, value)
    except FAULTS:
        return None


def address_in(value: str) -> str:
    """The address of a From field that has one and nothing else that could be one; else empty."""
    found = _FROM.fullmatch(value) if len(value) <= VALUE_CHARS_MAX else None
    address = (found[1] or found[2]).lower() if found else ""
    return address if len(address) <= ADDRESS_CHARS_MAX else ""


def is_address(text: str) -> bool:
    return len(text) <= ADDRESS_CHARS_MAX and _ADDRESS.fullmatch(text) is not None


def domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower()


def one_line(text: str) -> str:
    """Without control characters, direction marks and halves of characters."""
    whole = text.encode("utf-8", "replace").decode("utf-8", "replace")
    return " ".join(_CONTROLS.sub(" ", whole).split())


def _field(line: bytes) -> tuple[str, str] | None:
    name, colon, value = line.partition(b":")
    name = name.strip()
    if not colon or not name or len(name) > 76 or not name.isascii():
        return None
    return name.decode("ascii").lower(), value.strip().decode("utf-8", "replace")
