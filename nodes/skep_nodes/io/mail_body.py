"""The words of a letter, and the names of what else it carries.

Parts are walked here, not by the standard library: depth, number and bytes are bounded before a part is looked at,
and every step is linear in what it reads. A part's own head goes through `mail_head`. Chosen are the plain texts;
only where there are none, the text of HTML ones. Everything else is named (name, type, bytes) and left where it is:
attachments stay in the mailbox. An attached letter is an attachment, so nobody's words are taken for the sender's.

Charsets are those that people write in. Python's others (`punycode`, `idna`, `unicode_escape`, `utf-7`) decode in more
than linear time, or to other words than a mail program shows.
"""

from __future__ import annotations

import binascii
import codecs
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from skep_nodes.io.mail_head import VALUE_CHARS_MAX, BadLetter, Head, interpreted, one_line, split_head

DEPTH_MAX: Final = 8  # a signed, forwarded letter with pictures has five
PARTS_MAX: Final = 64
HTML_CHARS_MAX: Final = 131_072  # twice what a message to the hive holds
TAGS_MAX: Final = 20_000  # of a page; what follows is left off. Letters of 256 KiB have some 5,000
NAME_CHARS_MAX: Final = 120
NAMED_MAX: Final = 16  # attachments that are named; the others are counted

_CHARSET_NAMES = (
    "utf-8 ascii utf-16 utf-16-le utf-16-be iso8859-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7"
    " iso8859-8 iso8859-9 iso8859-10 iso8859-13 iso8859-14 iso8859-15 iso8859-16 cp1250 cp1251 cp1252 cp1253 cp1254"
    " cp1255 cp1256 cp1257 cp1258 koi8-r koi8-u gb2312 gbk gb18030 big5 euc_jp shift_jis iso2022_jp euc_kr cp949"
    " mac-roman cp437 cp850 tis-620"
)
_CHARSETS: Final = frozenset(_CHARSET_NAMES.split())
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]{0,15})")
_HIDDEN: Final = frozenset(("script", "style", "head", "title", "template"))
_BLOCKS: Final = frozenset(
    (
        "p",
        "br",
        "div",
        "tr",
        "li",
        "ul",
        "ol",
        "table",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "blockquote",
        "hr",
    )
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_SAID_BEFORE = re.compile(
    r"(?:On|El|Am|Le|Il|Em)\b.{5,200}\b"
    r"(?:wrote|escribi[oó]|schrieb(?: .{1,80})?|a écrit|ha scritto|escreveu)\s?:"
)
_FORWARDED = re.compile(
    r"-{2,}\s?(?:Original Message|Mensaje original|Ursprüngliche Nachricht)\s?-{2,}", re.I
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a letter carries besides words."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    type: str
    body: bytes
    charset: str
    encoding: str
    name: str
    attached: bool


def read_body(head: Head, body: bytes) -> tuple[str, tuple[Attachment, ...]]:
    """The words, and what else is there. Raises BadLetter MAIL_TOO_DEEP, MAIL_TOO_MANY_PARTS."""
    parts = list(_leaves(head, body, 0, [0]))
    plain = [_text(part) for part in parts if part.type == "text/plain" and not part.attached]
    if not any(map(str.strip, plain)):
        plain = [
            text_of_html(_text(part)) for part in parts if part.type == "text/html" and not part.attached
        ]
    others = [part for part in parts if part.attached or part.type not in ("text/plain", "text/html")]
    named = tuple(Attachment(part.name, part.type, _size(part)) for part in others[:NAMED_MAX])
    return new_words(_tidy("\n".join(plain))), named


def text_of_html(source: str) -> str:
    """The text of HTML, line by line as it would stand; reads each character once."""
    source = source[:HTML_CHARS_MAX]
    out: list[str] = []
    lowered, at = source.lower(), 0
    if len(lowered) != len(source):
        lowered = source  # a few letters change their length; then only tags in lower case hide their text
    for _ in range(TAGS_MAX):
        start = source.find("<", at)
        if start < 0:
            break
        out.append(source[at:start])
        text, at = _after_tag(source, lowered, start)
        out.append(text)
    else:
        return html.unescape("".join(out))
    out.append(source[at:])
    return html.unescape("".join(out))


def new_words(text: str) -> str:
    """`text` without what it quotes of the conversation before, unless nothing else is there."""
    lines = text.split("\n")
    kept: list[str] = []
    for number, line in enumerate(lines):
        if _FORWARDED.match(line) or _SAID_BEFORE.match(" ".join(lines[number : number + 2])[:400]):
            break
        if line == "-- ":
            break
        if not line.startswith(">"):
            kept.append(line.rstrip())
    return "\n".join(kept).strip() or text.strip()


# ---- parts ---------------------------------------------------------------------------------------------------------


def _leaves(head: Head, body: bytes, depth: int, seen: list[int]) -> Iterator[_Part]:
    """Everything that is no multipart, in order; `seen` counts across all levels."""
    seen[0] += 1
    if seen[0] > PARTS_MAX:
        raise BadLetter("MAIL_TOO_MANY_PARTS", f"a letter has at most {PARTS_MAX} parts")
    content, params = _type_of(head)
    if not content.startswith("multipart/"):
        yield _leaf(head, content, params, body)
        return
    if depth >= DEPTH_MAX:
        raise BadLetter("MAIL_TOO_DEEP", f"parts lie at most {DEPTH_MAX} deep")
    for data in _split(body, params.get("boundary", "")):
        inner, rest = split_head(data)
        yield from _leaves(Head.of(inner), rest, depth + 1, seen)


def _split(body: bytes, boundary: str) -> Iterator[bytes]:
    """The parts between the lines `--boundary`; one that has no end goes to the end."""
    mark = boundary.encode("ascii", "replace")
    if not mark or len(mark) > 70:  # RFC 2046
        return
    line = re.compile(rb"(?:\A|\n)--" + re.escape(mark) + rb"(--)?[ \t]{0,80}(?:\r?\n|\Z)")
    start = -1
    at = 0
    while (found := line.search(body, at)) is not None:
        if start >= 0:
            yield body[start : found.start()].removesuffix(b"\r")
        start, at = found.end(), max(found.end() - 1, found.start() + 1)
        if found[1]:
            return
    if start >= 0:
        yield body[start:]


def _type_of(head: Head) -> tuple[str, dict[str, str]]:
    value = head.first("content-type")
    if not value:
        return "text/plain", {}
    read: Any = interpreted("content-type", value) if len(value) <= VALUE_CHARS_MAX else None
    if read is None:
        return "application/octet-stream", {}
    params = {str(name).lower(): str(text) for name, text in read.params.items()}
    return str(read.content_type).lower(), params


def _leaf(head: Head, content: str, params: dict[str, str], body: bytes) -> _Part:
    value = head.first("content-disposition")
    read: Any = interpreted("content-disposition", value) if 0 < len(value) <= VALUE_CHARS_MAX else None
    name = read.params.get("filename", "") if read is not None else ""
    attached = value.lower().startswith("attachment") or bool(name)
    encoding = head.first("content-transfer-encoding").strip().lower()
    shown = one_line(str(name or params.get("name", "")))[:NAME_CHARS_MAX]
    return _Part(content[:NAME_CHARS_MAX], body, params.get("charset", ""), encoding, shown, attached)


def _size(part: _Part) -> int:
    return len(part.body) * 3 // 4 if part.encoding == "base64" else len(part.body)


def _text(part: _Part) -> str:
    data = part.body
    if part.encoding == "base64":
        data = _base64(data)
    elif part.encoding == "quoted-printable":
        data = binascii.a2b_qp(data)
    return _decoded(data, part.charset)


def _base64(data: bytes) -> bytes:
    """What can be read of it: letters of other alphabets are passed over, a cut end is left off."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", data)
    whole = clean[:-1] if len(clean) % 4 == 1 else clean
    try:
        return binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))
    except binascii.Error:
        return b""


def _decoded(data: bytes, charset: str) -> str:
    try:
        name = codecs.lookup(charset[:40]).name if charset else "utf-8"
    except (LookupError, ValueError):
        name = "utf-8"
    if name in _CHARSETS and name != "utf-8":
        return data.decode(name, "replace").encode("utf-8", "replace").decode()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8" if charset else "cp1252", "replace")


# ---- text ----------------------------------------------------------------------------------------------------------


def _after_tag(source: str, lowered: str, start: int) -> tuple[str, int]:
    """What stands for the tag at `start`, and where the text goes on."""
    if source.startswith("<!--", start):
        end = source.find("-->", start)
        return "", end + 3 if end >= 0 else len(source)
    tag = _TAG.match(source, start)
    if tag is None and not source.startswith(("<!", "<?"), start):
        return "<", start + 1
    end = source.find(">", start)
    if end < 0:
        return "", len(source)
    name = tag[1].lower() if tag else ""
    if name in _HIDDEN and source[start + 1] != "/":
        closing = lowered.find(f"</{name}", end)
        return "", closing if closing >= 0 else len(source)
    return ("\n" if name in _BLOCKS else ""), end + 1


def _tidy(text: str) -> str:
    """Lines without control characters, at most one empty line in a row."""
    lines: list[str] = []
    for line in _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n"):
        line = line.replace("\u00a0", " ")
        shown = line if line == "-- " else line.rstrip()
        if shown or (lines and lines[-1]):
            lines.append(shown)
    return "\n".join(lines)
