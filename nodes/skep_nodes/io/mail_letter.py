"""One letter as a hive reads it: who, what, in answer to which, and whether a machine wrote it.

`read_letter` takes any bytes and gives a `Letter` or raises `BadLetter` with a stable code; nothing else comes out
of it. Whether the sender is who From says is not decided here but in `mail_trust`, from the fields in `results`.

A letter that a machine wrote (a bounce, an out-of-office notice, a list) is never answered: two machines that answer
each other do not stop. RFC 3834 names the fields; the others are what large providers send instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from skep_nodes.io.mail_body import Attachment, read_body
from skep_nodes.io.mail_head import RESULT_CHARS_MAX, BadLetter, Head, split_head

LETTER_BYTES_MAX: Final = 262_144  # that are read of one; words come first, attachments after
RESULTS_MAX: Final = 8
_MACHINES: Final = frozenset(
    (
        "mailer-daemon",
        "postmaster",
        "mail-daemon",
        "no-reply",
        "noreply",
        "do-not-reply",
        "donotreply",
        "bounces",
    )
)
_PRECEDENCE: Final = frozenset(("bulk", "junk", "list", "auto_reply", "auto-reply"))
_MARKS: Final = (
    "list-id", "list-post", "x-autoreply", "x-autorespond", "x-auto-response-suppress", "x-loop",
    "x-failed-recipients", "feedback-id",
)  # fmt: skip
_ANSWERS = re.compile(r"\s*(?:re|aw|sv|rv|fwd?|wg|tr|antw|resp?)\s*(?:\[\d{1,3}\])?\s*:\s*", re.I)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a letter that can be read."""

    sender: str
    """The address that From names, in lower case. It proves nothing."""
    subject: str
    message_id: str
    """Without angle brackets; a digest of the letter where it has none."""
    references: tuple[str, ...]
    """What it answers, oldest first."""
    date_ms: int
    text: str
    attachments: tuple[Attachment, ...]
    cut: bool
    """Whether it is longer than what was read."""
    automatic: str
    """Why it is a machine's; empty for a person's."""
    results: tuple[str, ...]
    """Its topmost Authentication-Results fields, as long as nothing stands between them."""

    @property
    def root_subject(self) -> str:
        """The subject without what answers and forwards put before it."""
        text = self.subject
        while (found := _ANSWERS.match(text)) is not None:
            text = text[found.end() :]
        return text.strip().casefold()


def read_letter(data: bytes, *, cut: bool = False) -> Letter:
    """Raises BadLetter: MAIL_TOO_LARGE, MAIL_HEAD_TOO_LARGE, MAIL_SENDER_INVALID, MAIL_TOO_DEEP,
    MAIL_TOO_MANY_PARTS."""
    if len(data) > LETTER_BYTES_MAX:
        raise BadLetter("MAIL_TOO_LARGE", f"of a letter at most {LETTER_BYTES_MAX} bytes are read")
    raw_head, body = split_head(data)
    head = Head.of(raw_head)
    sender = head.sender()
    text, attachments = read_body(head, body)
    own = head.ids("message-id")
    references = tuple(dict.fromkeys((*head.ids("references"), *head.ids("in-reply-to")[:1])))
    return Letter(
        sender, head.text("subject"), own[0] if own else _digest(data), references, head.date_ms(), text, attachments,
        cut, automatic(head, sender), results_of(head),
    )  # fmt: skip


def automatic(head: Head, sender: str) -> str:
    """Which sign of a machine the head has; empty for none."""
    submitted = head.first("auto-submitted").partition(";")[0].strip().lower()
    if submitted and submitted != "no":
        return "auto-submitted"
    if head.first("precedence").strip().lower() in _PRECEDENCE:
        return "precedence"
    if sender.partition("@")[0].partition("+")[0] in _MACHINES:
        return "sender"
    if head.has("return-path") and head.first("return-path").replace(" ", "") == "<>":
        return "return-path"
    if head.first("content-type").lower().replace(" ", "").startswith("multipart/report"):
        return "report"
    return next((mark for mark in _MARKS if head.has(mark)), "")


def results_of(head: Head) -> tuple[str, ...]:
    """A server puts its own fields on top, so what stands below something else came with the letter."""
    names = [name for name, _ in head.fields]
    if "authentication-results" not in names:
        return ()
    first = names.index("authentication-results")
    run: list[str] = []
    for name, value in head.fields[first : first + RESULTS_MAX]:
        if name != "authentication-results":
            break
        run.append(value[: RESULT_CHARS_MAX + 1])
    return tuple(run)


def _digest(data: bytes) -> str:
    return f"{blake2b(data, digest_size=16).hexdigest()}@no-message-id"
