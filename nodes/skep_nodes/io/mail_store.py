"""What IO.email keeps across restarts: letters it knows, answers it gave, and letters that wait to go out.

One SQLite file beside the channel's own, mode 0600. `known` is a digest of (what, tenant, mailbox, trust, sender,
message id) and the conversation it belongs to: it tells a repeated letter from a new one and finds the thread of one
that cites it. The sender is part of the digest, so nobody can make another's letter look repeated, or write into
another's conversation by citing it. `outbox` is synced before its writer goes on: a letter that was taken is sent or
given up with a line in the log, whatever dies in between. Both bounded: the oldest known letters are forgotten, a
letter past the outbox's bound is refused to its writer.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

KNOWN_MAX: Final = 200_000  # about 30 MiB; at 1,000 letters a day more than three months
OUTBOX_MAX: Final = 2_000  # x 64 KiB of words, 3 x that in quoted-printable at the very worst

SCHEMA = """
CREATE TABLE IF NOT EXISTS known (key BLOB PRIMARY KEY, root TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS known_at ON known (at_ms);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL UNIQUE, mailbox TEXT NOT NULL,
    recipient TEXT NOT NULL, data BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due_ms);
"""

COLUMNS: Final = "message_id, mailbox, recipient, data, attempts, due_ms, until_ms"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A letter in the outbox."""

    message_id: str
    mailbox: str
    recipient: str
    data: bytes
    attempts: int
    due_ms: int
    until_ms: int


def key_of(*parts: str) -> bytes:
    """A digest in which no part can imitate a boundary."""
    digest = blake2b(digest_size=16, person=b"skep.mail")
    for part in parts:
        encoded = part.encode("utf-8", "replace")
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.digest()


class MailStore:
    """`path` None keeps everything in memory (tests)."""

    def __init__(
        self, path: Path | None, *, known_max: int = KNOWN_MAX, outbox_max: int = OUTBOX_MAX
    ) -> None:
        self._known_max, self._outbox_max = known_max, outbox_max
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)
        self._count: int = self._db.execute("SELECT count(*) FROM known").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def root(self, key: bytes) -> str | None:
        """The conversation of a known letter; None for an unknown one."""
        row = self._db.execute("SELECT root FROM known WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def learn(self, key: bytes, root: str, now_ms: int) -> None:
        self._count += self._db.execute(
            "INSERT OR IGNORE INTO known VALUES (?, ?, ?)", (key, root, now_ms)
        ).rowcount
        if self._count > self._known_max:
            oldest = "SELECT key FROM known ORDER BY at_ms LIMIT 1"
            self._count -= self._db.execute(f"DELETE FROM known WHERE key = ({oldest})").rowcount  # noqa: S608

    def add(self, letter: Waiting) -> bool:
        """False when the outbox is full."""
        if self.waiting() >= self._outbox_max:
            return False
        row = (
            letter.message_id, letter.mailbox, letter.recipient, letter.data, letter.attempts, letter.due_ms,
            letter.until_ms,
        )  # fmt: skip
        query = f"INSERT OR IGNORE INTO outbox ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        self._db.execute(query, row)
        return True

    def due(self, now_ms: int, count_max: int) -> list[Waiting]:
        query = f"SELECT {COLUMNS} FROM outbox WHERE due_ms <= ? ORDER BY due_ms, number LIMIT ?"  # noqa: S608
        rows = self._db.execute(query, (now_ms, count_max))
        return [Waiting(*row) for row in rows]

    def next_due_ms(self) -> int | None:
        found: int | None = self._db.execute("SELECT min(due_ms) FROM outbox").fetchone()[0]
        return found

    def postpone(self, message_id: str, due_ms: int) -> None:
        self._db.execute(
            "UPDATE outbox SET attempts = attempts + 1, due_ms = ? WHERE message_id = ?", (due_ms, message_id)
        )

    def drop(self, message_id: str) -> None:
        """Handed over, or given up."""
        self._db.execute("DELETE FROM outbox WHERE message_id = ?", (message_id,))

    def waiting(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM outbox").fetchone()[0]
        return count
