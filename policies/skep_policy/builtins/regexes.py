"""What OPA's WASM leaves to the host of regular expressions: find, replace, split, templates.

(Matching and capturing are in WASM itself, by RE2.) `patterns` compiles; here programs run, and Go's rules for many
matches, empty ones among them, are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from skep_policy.builtins.patterns import ASSERT, JUMP, MATCH, SAVE, SET, SPLIT, Program, compiled
from skep_policy.builtins.values import LimitError, UndefinedError, Value, a_string, an_integer
from skep_policy.limits import BUILTIN_BYTES_MAX, SUBJECT_BYTES_MAX

STEPS_MAX: Final = 40_000
"""Instructions of one call, some 20 ms: what they cost beyond a cheap call's share is paid with fuel."""

Slots = list[int]


class _Run:
    """One text under one program."""

    def __init__(self, program: Program, text: str) -> None:
        if len(text) > SUBJECT_BYTES_MAX:
            raise LimitError(f"a text of more than {SUBJECT_BYTES_MAX} characters")
        self._code = program.code
        self._slots = 2 * program.groups
        self._text = text
        self._steps = 0

    def matches(self, most: int = -1) -> Iterator[Slots]:
        """The slots of each match, left to right; an empty one never touches the one before it."""
        at, last = 0, -1
        while at <= len(self._text) and most and (found := self._search(at)) is not None:
            start, end = found[0], found[1]
            fresh = not (end == at and start == last)
            at = at + 1 if end == at else end
            last = end
            if fresh:
                most -= 1
                yield found

    def _search(self, begin: int) -> Slots | None:
        """The leftmost match from `begin` on. What failed once fails for every later start, so `seen` is kept."""
        seen: set[int] = set()
        for start in range(begin, len(self._text) + 1):
            if found := self._from(start, seen):
                return found
        return None

    def _from(self, start: int, seen: set[int]) -> Slots | None:
        code, text, size = self._code, self._text, len(self._text)
        slots = [-1] * self._slots
        waiting: list[tuple[int, int, int]] = [
            (0, start, -1)
        ]  # (instruction, position, -1), or (slot, old value, slot)
        width, steps = size + 1, 0
        while waiting:
            pc, at, restore = waiting.pop()
            if restore >= 0:
                slots[restore] = at
                continue
            while True:
                key = pc * width + at
                if key in seen:
                    break
                seen.add(key)
                steps += 1
                instruction = code[pc]
                kind = instruction[0]
                if kind == SET:
                    if at >= size or text[at] not in instruction[1]:
                        break
                    pc, at = pc + 1, at + 1
                elif kind == SPLIT:
                    waiting.append((instruction[2], at, -1))
                    pc = instruction[1]
                elif kind == JUMP:
                    pc = instruction[1]
                elif kind == SAVE:
                    waiting.append((0, slots[instruction[1]], instruction[1]))
                    slots[instruction[1]] = at
                    pc += 1
                elif kind == ASSERT:
                    if not _holds(instruction[1], text, at):
                        break
                    pc += 1
                elif kind == MATCH:
                    self._paid(steps)
                    return slots
            if steps > STEPS_MAX:
                break
        self._paid(steps)
        return None

    def _paid(self, steps: int) -> None:
        self._steps += steps
        if self._steps > STEPS_MAX:
            raise LimitError(
                f"matching takes more than {STEPS_MAX} steps; use a simpler pattern or a shorter text"
            )


def _holds(what: str, text: str, at: int) -> bool:
    if what == "start":
        return at == 0
    if what == "end":
        return at == len(text)
    if what == "line_start":
        return at == 0 or text[at - 1] == "\n"
    if what == "line_end":
        return at == len(text) or text[at] == "\n"
    before = at > 0 and _is_word(text[at - 1])
    after = at < len(text) and _is_word(text[at])
    return (before != after) == (what == "word")


def _is_word(character: str) -> bool:
    return character == "_" or (character.isascii() and character.isalnum())


def find_n(pattern: Value, text: Value, number: Value) -> list[str]:
    """The first `number` matches; -1: all."""
    run = _Run(compiled(a_string(pattern)), a_string(text))
    return [text[found[0] : found[1]] for found in run.matches(an_integer(number))]


def split(pattern: Value, text: Value) -> list[str]:
    """What stands between matches, as Go splits."""
    program = compiled(a_string(pattern))
    if pattern and not a_string(text):
        return [""]
    parts: list[str] = []
    begin = end = 0
    for found in _Run(program, a_string(text)).matches():
        end = found[0]
        if found[1]:
            parts.append(text[begin:end])
        begin = found[1]
    if end != len(text):
        parts.append(text[begin:])
    return parts


def replace(text: Value, pattern: Value, value: Value) -> str:
    """Every match replaced; $1, ${1} and ${name} stand for groups."""
    program = compiled(a_string(pattern))
    parts: list[str] = []
    at = size = 0
    for found in _Run(program, a_string(text)).matches():
        parts += (text[at : found[0]], _expanded(a_string(value), program, text, found))
        size += len(parts[-1])
        if size > BUILTIN_BYTES_MAX:
            raise LimitError("the text is too long")
        at = found[1]
    return "".join([*parts, text[at:]])


_TEMPLATE: Final = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")


def _expanded(template: str, program: Program, text: str, slots: Slots) -> str:
    def group(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name = found[2] or found[3]
        number = int(name) if name.isascii() and name.isdigit() else program.names.get(name, -1)
        if not 0 <= number < program.groups or slots[2 * number] < 0:
            return ""
        return text[slots[2 * number] : slots[2 * number + 1]]

    return _TEMPLATE.sub(group, template)


def template_match(template: Value, text: Value, start: Value, end: Value) -> bool:
    """A text with patterns between two delimiters."""
    if len(a_string(start).encode()) != 1 or len(a_string(end).encode()) != 1:
        raise UndefinedError("a delimiter is one character")
    pattern, raw, inner, depth = "^", "", "", 0
    for c in a_string(template):
        depth += (c == start) - (c == end and not (c == start and depth == 0))
        if depth < 0:
            raise UndefinedError("unbalanced delimiters")
        if c == start and depth == 1 and not inner:
            pattern, raw, inner = pattern + quoted(raw), "", "\0"
        elif c == end and depth == 0 and inner:
            compiled(f"^{inner[1:]}$")
            pattern, inner = f"{pattern}({inner[1:]})", ""
        elif inner:
            inner += c
        else:
            raw += c
    if depth:
        raise UndefinedError("unbalanced delimiters")
    run = _Run(compiled(f"{pattern}{quoted(raw)}$"), a_string(text))
    return next(run.matches(1), None) is not None


def quoted(text: str) -> str:
    """As Go's regexp.QuoteMeta."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "regex.find_n": find_n,
    "regex.replace": replace,
    "regex.split": split,
    "regex.template_match": template_match,
}
