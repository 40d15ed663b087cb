"""What a channel node must still know after a restart: who a thread belongs to, and what is still to be delivered.

One SQLite file a node, in the hive's state folder, mode 0600 (it holds addresses of people and their answers). One
process writes it. WAL with synchronous=NORMAL: a write costs tens of microseconds, so it may run on the loop; a
crash of the process loses nothing, a power cut at most the last writes, which at-most-once delivery allows.

Tables: `targets` (thread → where answers go; the id is a hash, so it cannot be recomputed) and `callbacks`
(webhooks not yet accepted). Both bounded: the oldest target is dropped for a new one, a callback past the bound is
refused to its caller, who counts it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TARGETS_MAX = 100_000  # conversations; about 30 MiB of file
CALLBACKS_MAX = 10_000  # x at most a frame each; a webhook that is down for long is its owner's alarm

SCHEMA = """
CREATE TABLE IF NOT EXISTS targets (
    thread TEXT PRIMARY KEY, address TEXT NOT NULL, used_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS targets_used ON targets (used_ms);
CREATE TABLE IF NOT EXISTS callbacks (
    delivery_id TEXT PRIMARY KEY, integration_id TEXT NOT NULL, body BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (due_ms);
"""


@dataclass(frozen=True, slots=True)
class Callback:
    """One webhook to deliver."""

    delivery_id: str
    integration_id: str
    body: bytes
    attempts: int
    due_ms: int


class ChannelStore:
    """`path` None keeps everything in memory (tests, and nodes told to)."""

    def __init__(
        self, path: Path | None, *, targets_max: int = TARGETS_MAX, callbacks_max: int = CALLBACKS_MAX
    ) -> None:
        self._targets_max, self._callbacks_max = targets_max, callbacks_max
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(
                os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            )  # SQLite gives its other files the same mode
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)
        self._targets_count: int = self._db.execute("SELECT count(*) FROM targets").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def remember(self, thread: str, address: Mapping[str, str], now_ms: int) -> None:
        """Answers on `thread` go to `address` from now on."""
        known = self._db.execute("SELECT 1 FROM targets WHERE thread = ?", (thread,)).fetchone()
        if known is None:
            self._targets_count += 1
        self._db.execute(
            "INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", (thread, json.dumps(dict(address)), now_ms)
        )
        if self._targets_count > self._targets_max:
            oldest = "SELECT thread FROM targets ORDER BY used_ms LIMIT 1"
            self._targets_count -= self._db.execute(f"DELETE FROM targets WHERE thread = ({oldest})").rowcount  # noqa: S608

    def target(self, thread: str) -> dict[str, str] | None:
        row = self._db.execute("SELECT address FROM targets WHERE thread = ?", (thread,)).fetchone()
        return None if row is None else json.loads(row[0])

    def add_callback(self, delivery_id: str, integration_id: str, body: bytes, due_ms: int) -> bool:
        """False when the table is full. A delivery id that is there already changes nothing."""
        if self.callbacks_count() >= self._callbacks_max:
            return False
        self._db.execute(
            "INSERT OR IGNORE INTO callbacks VALUES (?, ?, ?, 0, ?)",
            (delivery_id, integration_id, body, due_ms),
        )
        return True

    def due_callbacks(self, now_ms: int, count_max: int) -> list[Callback]:
        rows = self._db.execute(
            "SELECT delivery_id, integration_id, body, attempts, due_ms FROM callbacks"
            " WHERE due_ms <= ? ORDER BY due_ms LIMIT ?",
            (now_ms, count_max),
        )
        return [Callback(*row) for row in rows]

    def next_due_ms(self, after_ms: int) -> int | None:
        """When the first callback later than `after_ms` is due."""
        query = "SELECT min(due_ms) FROM callbacks WHERE due_ms > ?"
        found: int | None = self._db.execute(query, (after_ms,)).fetchone()[0]
        return found

    def postpone(self, delivery_id: str, due_ms: int) -> None:
        """One more attempt is behind; the next is due at `due_ms`."""
        self._db.execute(
            "UPDATE callbacks SET attempts = attempts + 1, due_ms = ? WHERE delivery_id = ?",
            (due_ms, delivery_id),
        )

    def drop_callback(self, delivery_id: str) -> None:
        """Accepted, or given up."""
        self._db.execute("DELETE FROM callbacks WHERE delivery_id = ?", (delivery_id,))

    def callbacks_count(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM callbacks").fetchone()[0]
        return count
