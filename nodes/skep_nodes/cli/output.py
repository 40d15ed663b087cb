"""What a command prints: data on stdout in one of four forms, talk on stderr.

A table fits the terminal: the columns marked flexible give way, from the widest, and end in `…`. Into a pipe
nothing is cut. JSON is one document with a `schema`; a followed stream is one object per line. Colour only on a
terminal and only without NO_COLOR. Own code instead of Rich: a table costs 50 ms less at every prompt.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

GAP = "  "
COLUMN_MIN = 6  # below this a cut text says nothing


class Format(StrEnum):
    """The forms of `-o`."""

    table = "table"
    json = "json"
    yaml = "yaml"
    name = "name"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: the row's key, its heading, and whether it may be cut, or goes to the right.

    On a terminal only the first `first` characters are shown: enough to tell ids apart.
    """

    key: str
    heading: str
    flexible: bool = False
    right: bool = False
    first: int = 0


class Output:
    """Prints what one command has to say."""

    def __init__(self, form: Format = Format.table, *, quiet: bool = False) -> None:
        self.form, self.quiet = form, quiet
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 0

    def rows(
        self, schema: str, noun: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]
    ) -> None:
        """Print a list; `name` prints the first column alone."""
        if self.form is Format.json or self.form is Format.yaml:
            self._document({"schema": schema, noun: list(rows)})
        elif self.form is Format.name:
            self._lines(str(row[columns[0].key]) for row in rows)
        elif rows:
            self._lines(table_lines(rows, columns, self.width, self.colour))
        else:
            self.say(f"no {noun}")

    def one(self, schema: str, facts: Mapping[str, Any], name: str = "") -> None:
        """Print one thing as `key  value` lines."""
        if self.form is Format.json or self.form is Format.yaml:
            self._document({"schema": schema, **facts})
        elif self.form is Format.name:
            self._lines([name])
        else:
            self._lines(fact_lines(facts))

    def event(self, schema: str, facts: Mapping[str, Any], text: str) -> None:
        """Print one item of a stream, at once."""
        self._lines([json.dumps({"schema": schema, **facts}) if self.form is Format.json else text])
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Print data that has only one form."""
        self._lines([text])

    def say(self, text: str) -> None:
        """Talk to the person."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def _document(self, document: Mapping[str, Any]) -> None:
        if self.form is Format.yaml:
            from ruamel.yaml import YAML

            yaml = YAML(typ="safe", pure=True)
            yaml.default_flow_style = False
            yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
            yaml.dump(json.loads(json.dumps(document)), sys.stdout)
        else:
            print(json.dumps(document, indent=2))

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(line)


def table_lines(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int = 0, colour: bool = False
) -> list[str]:
    """A table as lines; `width` 0 cuts nothing."""
    cells = [[_cell(row.get(column.key))[: column.first if width and column.first else None] for column in columns]
             for row in rows]  # fmt: skip
    wanted = [
        max(_width(text) for text in texts)
        for texts in zip(*cells, [c.heading for c in columns], strict=True)
    ]
    widths = fitted(wanted, [column.flexible for column in columns], width)
    heading = _line([column.heading for column in columns], columns, widths)
    return [
        f"\x1b[1m{heading}\x1b[0m" if colour else heading,
        *(_line(row, columns, widths) for row in cells),
    ]


def fitted(wanted: Sequence[int], flexible: Sequence[bool], width: int) -> list[int]:
    """Widths that fit: the widest flexible column gives way first, none below COLUMN_MIN."""
    widths = list(wanted)
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width if width else 0
    while over > 0:
        able = [index for index, may in enumerate(flexible) if may and widths[index] > COLUMN_MIN]
        if not able:
            break
        widest = max(able, key=widths.__getitem__)
        widths[widest] -= 1
        over -= 1
    return widths


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """`key  value` lines; a nested mapping is indented under its key."""
    pad = max((len(key) for key in facts), default=0)
    lines: list[str] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += [key, *("  " + line for line in fact_lines(value))]
        else:
            lines.append(f"{key.ljust(pad)}{GAP}{_cell(value)}".rstrip())
    return lines


def _cell(value: Any) -> str:
    """Text for a cell. Control characters, which names and payloads of strangers may hold, are made visible."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def printable(text: str) -> str:
    """The text with every control character escaped: a message must not drive the terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _line(texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    cells = [
        _fit(text, size, column.right) for text, size, column in zip(texts, widths, columns, strict=True)
    ]
    return GAP.join(cells).rstrip()


def _fit(text: str, size: int, right: bool) -> str:
    if _width(text) > size:
        while text and _width(text) >= size:
            text = text[:-1]
        text += "…"
    pad = " " * (size - _width(text))
    return pad + text if right else text + pad


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
               for each in text)  # fmt: skip
