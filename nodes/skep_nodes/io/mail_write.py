"""A letter that goes out, as bytes.

Written here and not by the library's generator, which folds long message ids into encoded words that no mail program
threads by. All that strangers chose (subject, ids) has passed `one_line` or the form of an id, so no field can hold a
line break. The words go as UTF-8 in quoted-printable: readable by everything, no line above 76 characters.

`Auto-Submitted` (RFC 3834) stands in everything that a machine wrote, so that no other machine answers it.
"""

from __future__ import annotations

import binascii
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime
from typing import Final

from skep_nodes.io.mail_head import domain_of, one_line

SUBJECT_CHARS_MAX: Final = 200
REFERENCES_MAX: Final = 20  # the first and the last ones; RFC 5322 lets the middle go


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is to be said, and in answer to what."""

    sender: str
    recipient: str
    subject: str
    text: str
    message_id: str
    references: tuple[str, ...] = ()
    """The conversation so far, oldest first; the last one is what this answers."""
    automatic: bool = True
    sender_name: str = ""


def new_message_id(address: str) -> str:
    """Nobody can guess it, so who cites it has seen it."""
    return f"{uuid.uuid4().hex}.skep@{domain_of(address)}"


def answer_subject(subject: str) -> str:
    return subject if subject.lower().startswith("re:") else f"Re: {subject}".strip()


def compose(letter: Outgoing, now_ms: int) -> bytes:
    """The whole letter, lines ending in CRLF."""
    fields = [
        ("From", _mailbox(letter.sender_name, letter.sender)),
        ("To", letter.recipient),
        ("Subject", _encoded(one_line(letter.subject)[:SUBJECT_CHARS_MAX])),
        ("Date", format_datetime(datetime.fromtimestamp(now_ms / 1000, UTC))),
        ("Message-ID", f"<{letter.message_id}>"),
    ]
    if letter.references:
        fields.append(("In-Reply-To", f"<{letter.references[-1]}>"))
        fields.append(("References", "\r\n ".join(f"<{each}>" for each in _shortened(letter.references))))
    if letter.automatic:
        fields.append(("Auto-Submitted", "auto-generated"))
    fields += [
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Transfer-Encoding", "quoted-printable"),
    ]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return head.encode("ascii") + b"\r\n" + _quoted_printable(letter.text)


def _shortened(ids: tuple[str, ...]) -> tuple[str, ...]:
    return ids if len(ids) <= REFERENCES_MAX else (ids[0], *ids[1 - REFERENCES_MAX :])


def _mailbox(name: str, address: str) -> str:
    """RFC 2047 lets a display name be encoded words; encoding each name spares the rules of quoting."""
    return f"{Header(one_line(name)[:80], 'utf-8').encode(linesep=_EOL)} <{address}>" if name else address


def _encoded(text: str) -> str:
    plain = text.isascii() and "=?" not in text and len(text) <= 60
    return text if plain else Header(text, "utf-8", maxlinelen=70).encode(linesep=_EOL)


def _quoted_printable(text: str) -> bytes:
    lines = text.encode("utf-8", "replace").splitlines() or [b""]
    coded = (binascii.b2a_qp(line, quotetabs=False).replace(b"=\n", b"=\r\n") for line in lines)
    return b"\r\n".join(coded) + b"\r\n"


_EOL: Final = "\r\n"
