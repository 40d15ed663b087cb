"""Registrations under way, in one SQLite file of mode 0600: a restart goes on where it was.

Bounded: past APPLICANTS_MAX the one that was silent for longest goes, and one that was silent for KEEP_MS goes by
itself, because strangers who never came back are nobody's business. WAL with synchronous=NORMAL: a killed process
loses nothing, a power cut at most the last turns of a conversation, whose author then answers once more; who is
registered stands in SY.identity, which syncs.

`codes` counts the codes sent to one address, by a hash, so that nobody has the desk flood a stranger's mailbox from
many numbers.
"""

from __future__ import annotations

import os
import sqlite3
from hashlib import blake2b
from pathlib import Path
from typing import Final

import orjson

from skep_nodes.gov.applicant import CODES_MAX, CODES_MS, Applicant, Step

APPLICANTS_MAX: Final = 10_000  # x at most some 6 KiB
CODES_ROWS_MAX: Final = 50_000
KEEP_MS: Final = 30 * 86_400_000

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS applicants (ilk TEXT PRIMARY KEY, step TEXT NOT NULL, document BLOB NOT NULL,
    used_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS applicants_used ON applicants (used_ms);
CREATE TABLE IF NOT EXISTS codes (address BLOB NOT NULL, sent_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS codes_address ON codes (address, sent_ms);
"""


class ApplicantStore:
    """One process writes it. `path` None: in memory."""

    def __init__(self, path: Path | None, applicants_max: int = APPLICANTS_MAX) -> None:
        self._applicants_max = applicants_max
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def get(self, ilk: str) -> Applicant | None:
        row = self._db.execute("SELECT document FROM applicants WHERE ilk = ?", (ilk,)).fetchone()
        return None if row is None else Applicant.from_document(orjson.loads(row[0]))

    def put(self, applicant: Applicant, now_ms: int) -> None:
        document = orjson.dumps(applicant.document())
        self._db.execute(
            "INSERT OR REPLACE INTO applicants VALUES (?, ?, ?, ?)", (applicant.ilk, applicant.step, document, now_ms)
        )
        self._db.execute("DELETE FROM applicants WHERE used_ms < ?", (now_ms - KEEP_MS,))
        over = self.count() - self._applicants_max
        if over > 0:
            oldest = "SELECT ilk FROM applicants ORDER BY used_ms LIMIT ?"
            self._db.execute(f"DELETE FROM applicants WHERE ilk IN ({oldest})", (over,))  # noqa: S608  a constant

    def drop(self, ilk: str) -> None:
        self._db.execute("DELETE FROM applicants WHERE ilk = ?", (ilk,))

    def unfinished(self) -> list[Applicant]:
        """Those whose registration was asked for, and perhaps answered, before the process ended."""
        steps = (Step.REGISTERING.value, Step.REGISTERED.value)
        rows = self._db.execute(
            "SELECT document FROM applicants WHERE step IN (?, ?) ORDER BY used_ms LIMIT 1000", steps
        )
        return [Applicant.from_document(orjson.loads(row[0])) for row in rows.fetchall()]

    def count(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM applicants").fetchone()[0]
        return count

    # ---- codes ---------------------------------------------------------------------------------------------------

    def may_mail(self, tenant: str, email: str, now_ms: int) -> bool:
        """Whether this address may get one more code just now."""
        self._db.execute("DELETE FROM codes WHERE sent_ms < ?", (now_ms - CODES_MS,))
        found = self._db.execute("SELECT count(*) FROM codes WHERE address = ?", (_hash(tenant, email),))
        total = self._db.execute("SELECT count(*) FROM codes")
        return bool(found.fetchone()[0] < CODES_MAX and total.fetchone()[0] < CODES_ROWS_MAX)

    def mailed(self, tenant: str, email: str, now_ms: int) -> None:
        self._db.execute("INSERT INTO codes VALUES (?, ?)", (_hash(tenant, email), now_ms))


def _hash(tenant: str, email: str) -> bytes:
    return blake2b(f"{tenant}|{email}".encode(), digest_size=16).digest()
