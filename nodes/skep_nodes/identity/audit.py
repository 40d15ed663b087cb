"""The audit chain: who did what to whom, when and why; each link holds the digest of the one before.

A link that is altered, removed or put in between breaks every link after it, so `broken_at` finds it by reading once.
The history of an interlocutor is its links. The last link is also noted outside the database (`HeadFile`): a database
that comes back without changes that were acknowledged, because a bit flipped in its log or an old copy was put in its
place, is noticed at the start instead of being believed.

The note is not synced: it says "at least this much was acknowledged". A killed process leaves it exact; a power cut may
leave it behind the database, never before it, because it is written after the database is synced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from skep_nodes.identity.records import Entry
from skep_nodes.identity.tables import packed

START: Final = bytes(32)
_HEAD: Final = Struct("<Q32sI")


class Head(NamedTuple):
    """The last link."""

    seq: int
    chain: bytes


FIRST: Final = Head(0, START)


def link(head: Head, at_ms: int, what: tuple[str, str, bytes, bytes, str, dict[str, Any]]) -> Entry:
    """The link that follows `head`."""
    actor, action, ilk, tenant, reason, detail = what
    text = json.dumps(detail, ensure_ascii=False, separators=(",", ":"), sort_keys=True) if detail else "{}"
    facts = (head.seq + 1, at_ms, actor, action, ilk, tenant, reason, text)
    return Entry(*facts, _digest(head.chain, facts))


def digest(before: bytes, entry: Entry) -> bytes:
    """What `entry.chain` must be, after a link whose own is `before`."""
    return _digest(before, (
        entry.seq, entry.at_ms, entry.actor, entry.action, entry.ilk, entry.tenant, entry.reason, entry.detail,
    ))  # fmt: skip


def _digest(before: bytes, facts: tuple[int, int, str, str, bytes, bytes, str, str]) -> bytes:
    return blake2b(packed(facts), digest_size=32, key=before).digest()


def broken_at(entries: Iterable[Entry], head: Head = FIRST) -> int:
    """The number of the first link that does not follow from the one before; 0 when all do."""
    for entry in entries:
        if entry.seq != head.seq + 1 or digest(head.chain, entry) != entry.chain:
            return head.seq + 1
        head = Head(entry.seq, entry.chain)
    return 0


class HeadFile:
    """The note of the last acknowledged link, beside the database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def read(self) -> Head | None:
        """The note; None when there is none, or it was torn."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if len(data) != _HEAD.size:
            return None
        seq, chain, check = _HEAD.unpack(data)
        return Head(seq, chain) if crc32(data[:-4]) == check else None

    def write(self, head: Head) -> None:
        """Note `head`. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        body = _HEAD.pack(head.seq, head.chain, 0)[:-4]
        os.pwrite(self._fd, body + crc32(body).to_bytes(4, "little"), 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
