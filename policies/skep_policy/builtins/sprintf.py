"""`sprintf`, which is Go's: the verbs of package fmt for integers, floats and strings.

Everything that is neither a number nor a string comes to it as its Rego text. A verb that does not fit its argument is
no error: Go writes `%!d(string=abc)`, and so does this.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any, Final

import orjson

from skep_policy.builtins.values import LimitError, Pairs, Set, Value, a_string, an_array, items
from skep_policy.limits import BUILTIN_BYTES_MAX

_DIRECTIVE: Final = re.compile(
    r"%([-+# 0]*)(\[\d+\])?(\*|\d+)?(?:\.(\[\d+\])?(\*|\d+)?)?(\[\d+\])?(.)?", re.DOTALL
)
_BASES: Final = {
    "d": (10, ""),
    "b": (2, "0b"),
    "o": (8, "0"),
    "O": (8, "0o"),
    "x": (16, "0x"),
    "X": (16, "0X"),
}
_INT64: Final = 1 << 63


def sprintf(format: Value, arguments: Value) -> str:
    """`format` with `arguments` in it."""
    return _Printer(a_string(format), [_argument(value) for value in an_array(arguments)]).whole()


class BigInt(int):
    """An integer beyond 64 bits: Go's math/big prints it under verbs that an int64 refuses."""


def _argument(value: Value) -> int | float | str:
    """What Go's Sprintf is given."""
    if isinstance(value, bool) or value is None or not isinstance(value, int | Decimal | str):
        return text_of(value)
    if isinstance(value, Decimal):
        number = float(value)
        return number if abs(number) != float("inf") else str(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return BigInt(value)
    return value


def text_of(value: Value) -> str:
    """A value as Rego writes it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Set):
        return "{" + ", ".join(map(text_of, value)) + "}" if value else "set()"
    if isinstance(value, dict | Pairs):
        return "{" + ", ".join(f"{text_of(k)}: {text_of(v)}" for k, v in items(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    return (
        orjson.dumps(value).decode() if not isinstance(value, int) or isinstance(value, bool) else str(value)
    )


def quoted(text: str) -> str:
    """As Go's strconv.Quote."""
    named = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    named |= {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(named.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text) + '"'


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Printer:
    """One run over a format."""

    def __init__(self, format: str, arguments: list[Any]) -> None:
        self._format = format
        self._arguments = arguments
        self._next = 0
        self._reordered = False
        self._bad_index = False
        self._size = 0

    def whole(self) -> str:
        parts: list[str] = []
        at = 0
        for found in _DIRECTIVE.finditer(self._format):
            parts += (self._format[at : found.start()], self._directive(found))
            at = found.end()
            self._size += len(parts[-1])
            if self._size > BUILTIN_BYTES_MAX:
                raise LimitError("the text is too long")
        parts.append(self._format[at:])
        if not self._reordered and self._next < len(self._arguments):
            parts.append(self._extra())
        return "".join(parts)

    def _extra(self) -> str:
        shown = (f"{_go_type(value)}={_plain(value)}" for value in self._arguments[self._next :])
        return f"%!(EXTRA {', '.join(shown)})"

    def _index(self, text: str | None) -> None:
        if text is None:
            return
        self._reordered = True
        number = int(text[1:-1]) - 1
        if 0 <= number < len(self._arguments):
            self._next = number
        else:
            self._bad_index = True

    def _directive(self, found: re.Match[str]) -> str:
        flags, first, width, second, precision, third, verb = found.groups()
        self._bad_index = False
        self._index(first)
        wide, bad = self._star(width, "%!(BADWIDTH)")
        if wide is not None and wide < 0:
            flags, wide = flags + "-", -wide
        self._index(second)
        dotted = "." in found[0][: -1 if verb else None]
        exact, worse = self._star(precision, "%!(BADPREC)")
        exact = None if exact is not None and exact < 0 else exact if exact is not None or not dotted else 0
        self._index(third)
        return bad + worse + self._verb(verb, flags, wide, exact)

    def _star(self, text: str | None, complaint: str) -> tuple[int | None, str]:
        """A width or precision, from the format or from an argument."""
        if text is None:
            return None, ""
        if text != "*":
            number = int(text)
        elif self._next < len(self._arguments):
            value = self._arguments[self._next]
            self._next += 1
            if type(value) is not int:
                return None, complaint
            number = value
        else:
            return None, complaint
        return (number, "") if abs(number) <= 1_000_000 else (None, complaint)

    def _verb(self, verb: str | None, flags: str, width: int | None, precision: int | None) -> str:
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if self._bad_index:
            return f"%!{verb}(BADINDEX)"
        if self._next >= len(self._arguments):
            return f"%!{verb}(MISSING)"
        value = self._arguments[self._next]
        self._next += 1
        return printed(value, verb, flags, width, precision)


def _go_type(value: Any) -> str:
    if isinstance(value, BigInt):
        return "*big.Int"
    return "string" if isinstance(value, str) else "float64" if isinstance(value, float) else "int64"


def _plain(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else _general(value, "", None)
        if isinstance(value, float)
        else str(value)
    )


def printed(value: Any, verb: str, flags: str, width: int | None, precision: int | None) -> str:
    """One argument under one verb."""
    text: str | None = None
    if verb == "T":
        text = _padded(_go_type(value), flags.replace("0", ""), width)
    elif isinstance(value, str):
        text = _string(value, verb, flags, width, precision)
    elif isinstance(value, float):
        text = _float(value, verb, flags, width, precision)
    else:
        text = _integer(value, verb, flags, width, precision)
    if text is not None:
        return text
    return f"%!{verb}({_go_type(value)}={printed(value, 'v', flags, width, precision)})"


def _padded(text: str, flags: str, width: int | None, zeros: bool = False) -> str:
    if width is None or len(text) >= width:
        return text
    if "-" in flags:
        return text.ljust(width)
    if zeros and "0" in flags:
        sign = text[:1] if text[:1] in ("+", "-", " ") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _string(text: str, verb: str, flags: str, width: int | None, precision: int | None) -> str | None:
    if precision is not None:
        text = text[:precision]
    if verb in ("s", "v"):
        text = quoted(text) if verb == "v" and "#" in flags else text
    elif verb == "q":
        text = quoted(text)
    elif verb in ("x", "X"):
        joint = (" 0x" if "#" in flags else " ") if " " in flags else ""
        text = ("0x" if "#" in flags and text else "") + joint.join(f"{byte:02x}" for byte in text.encode())
        text = text.upper() if verb == "X" else text
    else:
        return None
    if "0" in flags and "-" not in flags:
        return text.rjust(width or 0, "0")
    return _padded(text, flags, width)


def _integer(value: int, verb: str, flags: str, width: int | None, precision: int | None) -> str | None:
    big = isinstance(value, BigInt)
    if verb == "v" or (big and verb == "s"):
        verb = "d"
    if verb in _BASES:
        return _digits(value, verb, flags, width, precision)
    if big:
        return None
    if verb == "c":
        return _padded(_rune(value), flags, width)
    if verb == "q":
        named = {"'": "\\'", '"': '"'}
        inner = named.get(_rune(value)) or quoted(_rune(value))[1:-1]
        return _padded(f"'{inner}'", flags, width)
    if verb == "U":
        shown = f" '{_rune(value)}'" if "#" in flags else ""
        return _padded(f"U+{value & (1 << 64) - 1:04X}{shown}", flags.replace("0", ""), width)
    return None


def _rune(code: int) -> str:
    return chr(code) if 0 <= code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


def _digits(value: int, verb: str, flags: str, width: int | None, precision: int | None) -> str:
    base, prefix = _BASES[verb]
    digits = {10: "d", 2: "b", 8: "o", 16: "X" if verb == "X" else "x"}[base]
    text = format(abs(int(value)), digits)
    if precision is not None:
        text = "" if precision == 0 and not value else text.rjust(precision, "0")
    sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
    marked = prefix if verb == "O" or ("#" in flags and base != 10) else ""
    if "0" in flags and "-" not in flags and precision is None and width is not None:
        text = text.rjust(width - len(sign) - (len(marked) if isinstance(value, BigInt) else 0), "0")
    if base == 8 and marked == "0" and text.startswith("0"):
        marked = ""
    return _padded(sign + marked + text, flags, width)


def _float(value: float, verb: str, flags: str, width: int | None, precision: int | None) -> str | None:
    if verb in ("f", "F"):
        text = format(value, f".{6 if precision is None else precision}f")
    elif verb in ("e", "E"):
        text = format(value, f".{6 if precision is None else precision}{verb}")
    elif verb in ("g", "G", "v"):
        text = _general(value, verb, precision)
    elif verb == "b":
        mantissa, power = math.frexp(value)
        text = f"{int(mantissa * (1 << 53))}p{power - 53:+d}" if value else "0p-1074"
    elif verb in ("x", "X") and precision is None:
        head, _, power_text = re.sub(r"\.?0*p", "p", value.hex()).partition("p")
        text = f"{head}p{power_text[0]}{power_text[1:].rjust(2, '0')}"
        text = text.upper() if verb == "X" else text
    else:
        return None
    if "+" in flags and not text.startswith("-"):
        text = "+" + text
    elif " " in flags and not text.startswith("-"):
        text = " " + text
    return _padded(text, flags, width, zeros=True)


def _general(value: float, verb: str, precision: int | None) -> str:
    """%g and %v: the shortest text that is this number, or `precision` digits. An exponent from 21 digits on."""
    text = repr(value) if precision is None else format(value, f".{max(precision, 1) - 1}e")
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        return text
    shown = "".join(map(str, digits)).lstrip("0").rstrip("0") or "0"
    power = Decimal(text).adjusted() if value else 0
    limit = 21 if precision is None else max(precision, 1) if len(shown) <= precision else len(shown)
    if power < -4 or power >= limit:
        mantissa = shown[0] + ("." + shown[1:] if len(shown) > 1 else "")
        body = f"{mantissa}{'E' if verb == 'G' else 'e'}{'-' if power < 0 else '+'}{abs(power):02d}"
    elif power < 0:
        body = "0." + "0" * (-power - 1) + shown
    elif len(shown) <= power + 1:
        body = shown + "0" * (power + 1 - len(shown))
    else:
        body = shown[: power + 1] + "." + shown[power + 1 :]
    return ("-" if sign else "") + body
