"""Cuts a Markdown document into sentences that know exactly where they stand.

A sentence is a span of the document, never a copy with changes: `document[start:end]` is what the reader is shown and
what a citation resolves to. So Markdown's marks are kept out by choosing spans that begin after a list mark and end
before a line break, not by editing text. A paragraph's lines that were wrapped belong to one span, line breaks
included; `Sentence.spoken` gives it without them.

Headings are not sentences (they claim nothing) but each sentence carries the path of headings above it, which often
holds the very word the question is about. Fenced code is passed over: it is for programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SENTENCE_CHARS_MAX = 1000  # a longer run without an end mark is cut at a space, so no citation is a page

_HEADING = re.compile(r"[ ]{0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?")
_QUOTE = re.compile(r"[ \t]*(?:>[ \t]?)+")
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"[ \t]*(?:[-*_][ \t]*){3,}$|[ \t]*\|?[ \t:|-]*-{3,}[ \t:|-]*$")
_END = re.compile(r"""[.!?\u2026]+["'\u201d\u2019)\]*_]*(?=\s|$)""")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|approx|no|nos|vs|Mr|Mrs|Ms|Dr|St|Sr|Sra|Dra|p\.ej|aprox|núm|tel|ext|max|min)\.$",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """`start` and `end` count characters of the document; `byte_start` and `byte_end` count its UTF-8 bytes."""

    start: int
    end: int
    byte_start: int
    byte_end: int
    text: str
    headings: tuple[str, ...]

    @property
    def spoken(self) -> str:
        """The text as one line, a table row's cells as `cell: cell`."""
        return " ".join(self.text.split()).replace(" | ", ": ")


def split(document: str) -> list[Sentence]:
    """The sentences of `document`, in its order; spans never overlap."""
    sentences: list[Sentence] = []
    position = byte_position = 0
    for start, end, headings in _spans(document):
        byte_start = byte_position + len(document[position:start].encode())
        text = document[start:end]
        byte_position = byte_start + len(text.encode())
        position = end
        sentences.append(Sentence(start, end, byte_start, byte_position, text, headings))
    return sentences


def _spans(document: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    for start, end, headings in _blocks(document):
        for from_, to in _sentence_spans(document, start, end):
            yield from_, to, headings


def _blocks(document: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Paragraphs, list items and table rows as spans, each with the headings above it."""
    headings: list[tuple[int, str]] = []
    fence = ""
    open_at: int | None = None
    open_end = 0
    for start, end in _lines(document):
        line = document[start:end]
        mark = _FENCE.match(line)
        heading = None if fence or mark else _HEADING.match(line)
        breaks = bool(fence or mark or heading) or not line.strip() or bool(_RULE.match(line))
        text_at = start if breaks else _text_start(document, start, end)
        begins = breaks or _ITEM.match(line) is not None or line.lstrip().startswith(("|", ">"))
        if open_at is not None and begins:
            yield open_at, open_end, _path(headings)
            open_at = None
        if mark:
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        elif heading:
            headings = [each for each in headings if each[0] < len(heading[1])]
            headings.append((len(heading[1]), heading[2]))
        elif not breaks:
            open_at = text_at if open_at is None else open_at
            open_end = end
    if open_at is not None:
        yield open_at, open_end, _path(headings)


def _lines(document: str) -> Iterator[tuple[int, int]]:
    start = 1 if document.startswith("\ufeff") else 0  # a byte order mark is no text
    while start < len(document):
        end = document.find("\n", start)
        end = len(document) if end < 0 else end
        yield start, end
        start = end + 1


def _text_start(document: str, start: int, end: int) -> int:
    for mark in (_QUOTE, _ITEM):
        found = mark.match(document, start, end)
        start = found.end() if found else start
    return start


def _path(headings: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(text for _, text in headings)


def _sentence_spans(document: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    for mark in _END.finditer(document, start, end):
        if _ABBREVIATION.search(document, max(at, mark.start() - 8), mark.start() + 1):
            continue
        yield from _trimmed(document, at, mark.end())
        at = mark.end()
    yield from _trimmed(document, at, end)


def _trimmed(document: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span, cut where it is over-long; each piece without white space and table bars at its ends."""
    while start < end:
        cut = end
        if end - start > SENTENCE_CHARS_MAX:
            space = document.rfind(" ", start + 1, start + SENTENCE_CHARS_MAX)
            cut = space if space > start else start + SENTENCE_CHARS_MAX
        yield from _bare(document, start, cut)
        start = cut


def _bare(document: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Nothing when no word is in the span."""
    while start < end and (document[start].isspace() or document[start] == "|"):
        start += 1
    while end > start and (document[end - 1].isspace() or document[end - 1] == "|"):
        end -= 1
    if any(each.isalnum() for each in document[start:end]):
        yield start, end
