"""Regular expressions of RE2's syntax, compiled to a small program.

A program is a list of instructions; `match` runs it without ever going back over a pair of (instruction, position), so
its time is at most the product of their numbers, whatever the pattern is. That is why neither back-references nor
look-around exist here: no machine of this kind can have them. (Python's own `re` was rejected: `(a+)+$` on a text of
forty letters takes it years.)

Semantics are those of RE2 and Go: leftmost match, preferring what the pattern prefers; classes such as \\w are ASCII.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from skep_policy.builtins.charsets import (
    DIGIT,
    LAST,
    POSIX,
    SPACE,
    WORD,
    Charset,
    Ranges,
    category,
    folded,
    joined,
    negated,
)
from skep_policy.builtins.values import LimitError, UndefinedError
from skep_policy.limits import NESTING_MAX, PATTERN_BYTES_MAX

REPEATS_MAX: Final = 1000
PROGRAM_MAX: Final = 4000

SET, SPLIT, JUMP, SAVE, ASSERT, MATCH = range(6)
_ESCAPED: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_CLASSES: Final = {"d": DIGIT, "w": WORD, "s": SPACE}
_FLAGS: Final = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAME: Final = re.compile(r"\?P?<(\w+)>")
_REPEAT: Final = re.compile(r"\{(\d+)(,(\d*))?\}")
_NO_BREAK: Final[Ranges] = ((0, 9), (11, LAST))

Node = tuple[Any, ...]


class Program:
    """Instructions: (SET, charset), (SPLIT, preferred, other), (JUMP, to), (SAVE, slot), (ASSERT, what), (MATCH,)."""

    def __init__(self, code: list[tuple[Any, ...]], groups: int, names: dict[str, int]) -> None:
        self.code = code
        self.groups = groups
        self.names = names


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Program:
    """Raises UndefinedError for what RE2 would not take, LimitError for what is too large."""
    if len(pattern) > PATTERN_BYTES_MAX:
        raise LimitError(f"a pattern of more than {PATTERN_BYTES_MAX} characters")
    parser, emitter = _Parser(pattern), _Emitter()
    try:
        emitter.emit(("group", 0, parser.whole()))
    except RecursionError:
        raise LimitError("a pattern is nested too deeply") from None
    emitter.add(MATCH)
    return Program(emitter.code, parser.groups, parser.names)


class _Parser:
    """Text to a tree: ("set", ranges), ("cat", [..]), ("or", [..]), ("repeat", node, least, most, lazy),
    ("group", number, node), ("assert", what), ("empty",)."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._flags = frozenset[str]()
        self.groups = 1
        self.names: dict[str, int] = {}

    def whole(self) -> Node:
        tree = self._either()
        if self._at < len(self._text):
            raise UndefinedError("unexpected )")
        return tree

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _either(self) -> Node:
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise LimitError("a pattern is nested too deeply")
        outside, branches = self._flags, [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        self._flags = outside
        self._depth -= 1
        return branches[0] if len(branches) == 1 else ("or", branches)

    def _sequence(self) -> Node:
        nodes: list[Node] = []
        while (c := self._peek()) and c not in "|)":
            found = self._one()
            nodes += found if isinstance(found, list) else [found]
            if nodes:
                nodes[-1] = self._repeated(nodes[-1])
            elif self._peek() and self._peek() in "*+?":
                raise UndefinedError("nothing to repeat")
        return nodes[0] if len(nodes) == 1 else ("cat", nodes) if nodes else ("empty",)

    def _repeated(self, node: Node) -> Node:
        """The node under the quantifiers that follow it; two in a row are no pattern."""
        times = self._quantifier()
        if times is None:
            return node
        lazy = self._peek() == "?"
        self._at += lazy
        if self._peek() and (
            self._peek() in "*+?" or (self._peek() == "{" and _REPEAT.match(self._text, self._at))
        ):
            raise UndefinedError("a quantifier of a quantifier")
        return ("repeat", node, *times, lazy != ("U" in self._flags))

    def _quantifier(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if (c := self._peek()) and c in simple:
            self._at += 1
            return simple[c]
        found = _REPEAT.match(self._text, self._at) if c == "{" else None
        if found is None:
            return None
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if least > REPEATS_MAX or (most is not None and not least <= most <= REPEATS_MAX):
            raise UndefinedError("bad repeat count")
        self._at = found.end()
        return least, most

    def _one(self) -> Node | list[Node]:
        c = self._peek()
        self._at += 1
        if c == "(":
            return self._group()
        if c == "[":
            return ("set", self._class())
        if c == ".":
            return ("set", ((0, LAST),) if "s" in self._flags else _NO_BREAK)
        if c == "^":
            return ("assert", "line_start" if "m" in self._flags else "start")
        if c == "$":
            return ("assert", "line_end" if "m" in self._flags else "end")
        if c == "\\":
            return self._escape()
        if c in "*+?":
            raise UndefinedError("nothing to repeat")
        return self._literal(ord(c))

    def _literal(self, code: int) -> Node:
        ranges: Ranges = ((code, code),)
        return ("set", folded(ranges) if "i" in self._flags else ranges)

    def _group(self) -> Node | list[Node]:
        outside = self._flags
        number = None
        if self._peek() != "?":
            number = self._numbered()
        elif named := _NAME.match(self._text, self._at):
            number = self._numbered()
            if named[1] in self.names:
                raise UndefinedError("a name twice")
            self.names[named[1]] = number
            self._at = named.end()
        elif flags := _FLAGS.match(self._text, self._at):
            self._at = flags.end()
            self._flags = (self._flags | set(flags[1])) - set(flags[2] or "")
            if flags[3] == ")":
                return []
        else:
            raise UndefinedError("neither look-around nor other extensions")
        inside = self._either()
        if self._peek() != ")":
            raise UndefinedError("missing )")
        self._at += 1
        self._flags = outside
        return inside if number is None else ("group", number, inside)

    def _numbered(self) -> int:
        self.groups += 1
        return self.groups - 1

    def _escape(self) -> Node | list[Node]:
        c = self._peek()
        asserts = {"A": "start", "z": "end", "b": "word", "B": "no_word"}
        if c in asserts and c:
            self._at += 1
            return ("assert", asserts[c])
        if c == "Q":
            end = self._text.find("\\E", self._at)
            quoted = self._text[self._at + 1 : end if end >= 0 else None]
            self._at = end + 2 if end >= 0 else len(self._text)
            return [self._literal(ord(q)) for q in quoted] or [("empty",)]
        ranges = self._escaped_class()
        if ranges is not None:
            return ("set", ranges)
        return self._literal(self._escaped_code())

    def _escaped_class(self) -> Ranges | None:
        """After a backslash: d, w, s, p and their opposites."""
        c = self._peek()
        if c and c.lower() in _CLASSES:
            self._at += 1
            ranges = _CLASSES[c.lower()]
            return ranges if c.islower() else negated(ranges)
        if not c or c not in "pP":
            return None
        name = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if name == "{":
            end = self._text.find("}", self._at)
            name = self._text[self._at : end] if end >= 0 else ""
            self._at = end + 1
        found = category(name.removeprefix("^"))
        if found is None:
            raise LimitError(f"\\p{{{name}}}: scripts of Unicode are not known here, only general categories")
        ranges = folded(found) if "i" in self._flags else found
        return ranges if (c == "p") != name.startswith("^") else negated(ranges)

    def _escaped_code(self) -> int:
        """After a backslash: one character."""
        c = self._peek()
        self._at += 1
        if c and c in _ESCAPED:
            return _ESCAPED[c]
        if c == "x":
            found = re.compile(r"\{([0-9A-Fa-f]{1,8})\}|([0-9A-Fa-f]{2})").match(self._text, self._at)
            code = int(found[1] or found[2], 16) if found else LAST + 1
            if found and code <= LAST:
                self._at = found.end()
                return code
        if c and c in "01234567":
            octal = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}").match(self._text, self._at - 1)
            if octal:
                self._at = octal.end()
                return int(octal[0], 8)
        if not c or c.isalnum() or ord(c) >= 0x80 or c == "_":
            raise UndefinedError("unknown escape")
        return ord(c)

    def _class(self) -> Ranges:
        negate = self._peek() == "^"
        self._at += negate
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            if not self._peek():
                raise UndefinedError("missing ]")
            ranges += self._class_item()
            first = False
        self._at += 1
        found = joined(ranges)
        found = folded(found) if "i" in self._flags else found
        return negated(found) if negate else found

    def _class_item(self) -> list[tuple[int, int]]:
        posix = re.compile(r"\[:(\^?)(\w+):\]").match(self._text, self._at)
        if posix:
            if posix[2] not in POSIX:
                raise UndefinedError("unknown class")
            self._at = posix.end()
            return list(negated(POSIX[posix[2]]) if posix[1] else POSIX[posix[2]])
        low = self._class_character()
        if isinstance(low, tuple):
            return list(low)
        if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
            self._at += 1
            high = self._class_character()
            if isinstance(high, tuple) or high < low:
                raise UndefinedError("bad range")
            return [(low, high)]
        return [(low, low)]

    def _class_character(self) -> int | Ranges:
        c = self._peek()
        self._at += 1
        if c != "\\":
            return ord(c)
        found = self._escaped_class()
        return self._escaped_code() if found is None else found


class _Emitter:
    """Tree to instructions."""

    def __init__(self) -> None:
        self.code: list[tuple[Any, ...]] = []

    def add(self, *instruction: Any) -> int:
        if len(self.code) >= PROGRAM_MAX:
            raise LimitError("a pattern is too large")
        self.code.append(instruction)
        return len(self.code) - 1

    def emit(self, node: Node) -> None:
        kind = node[0]
        if kind == "set":
            self.add(SET, Charset(node[1]))
        elif kind == "assert":
            self.add(ASSERT, node[1])
        elif kind == "cat":
            for part in node[1]:
                self.emit(part)
        elif kind == "group":
            self.add(SAVE, 2 * node[1])
            self.emit(node[2])
            self.add(SAVE, 2 * node[1] + 1)
        elif kind == "or":
            self._either(node[1])
        elif kind == "repeat":
            self._repeat(*node[1:])

    def _either(self, branches: list[Node]) -> None:
        ends: list[int] = []
        for branch in branches[:-1]:
            split = self.add(SPLIT)
            self.emit(branch)
            ends.append(self.add(JUMP))
            self.code[split] = (SPLIT, split + 1, len(self.code))
        self.emit(branches[-1])
        for end in ends:
            self.code[end] = (JUMP, len(self.code))

    def _repeat(self, node: Node, least: int, most: int | None, lazy: bool) -> None:
        for _ in range(least - (most is None and least > 0)):
            self.emit(node)
        if most is None:
            self._unbounded(node, least > 0, lazy)
            return
        splits = []
        for _ in range(most - least):
            splits.append(self.add(SPLIT))
            self.emit(node)
        for split in splits:
            self._fork(split, split + 1, len(self.code), lazy)

    def _unbounded(self, node: Node, once: bool, lazy: bool) -> None:
        """node+ when `once`, else node* as (node+)?, so that an empty pass ends it as in RE2."""
        outer = None if once else self.add(SPLIT)
        start = len(self.code)
        self.emit(node)
        split = self.add(SPLIT)
        self._fork(split, start, len(self.code), lazy)
        if outer is not None:
            self._fork(outer, start, len(self.code), lazy)

    def _fork(self, at: int, inside: int, after: int, lazy: bool) -> None:
        self.code[at] = (SPLIT, after, inside) if lazy else (SPLIT, inside, after)
