"""The documents' sentences in SQLite FTS5, and the citations that lead back to them.

Owns: one database (a cache: deleting it costs one re-index) and never the documents, which are only read. A file is
read again when its time or size changed and indexed again when its SHA-256 did; files that went away leave.

A citation names document, character and byte range and the sentence's digest. `resolve` reads those bytes from the
file and compares: it gives the very sentence or says that the document has changed, and never something else. It
refuses names that lead out of the folder, also through a symbolic link.

Terms are made by our own lexicon and stored as such, so bm25 here and coverage in `answer` count the same words.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from skep_nodes.ai import sentences
from skep_nodes.ai.sentences import Sentence
from skep_nodes.ai.words import Lexicon

log = logging.getLogger("skep.nodes.desk")

DOCUMENTS_MAX = 10_000
DOCUMENT_BYTES_MAX = 4 << 20  # a book; larger files are data
SUFFIXES = (".md", ".markdown", ".txt")
HEADING_WEIGHT = 0.4  # bm25 weight of the words above a sentence against those in it

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, mtime_ns INTEGER, size INTEGER, sha256 TEXT);
CREATE TABLE IF NOT EXISTS sentences (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL, start INTEGER, "end" INTEGER, byte_start INTEGER,
    byte_end INTEGER, text TEXT, headings TEXT, digest TEXT);
CREATE INDEX IF NOT EXISTS sentences_document ON sentences (document);
CREATE VIRTUAL TABLE IF NOT EXISTS found USING fts5(body, headings);
CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab(found, row);
"""
TABLES = ("found", "sentences", "documents")


class CitationError(Exception):
    """The citation leads to no sentence (any more)."""


@dataclass(frozen=True, slots=True)
class Citation:
    """Where one sentence stands."""

    document: str
    start: int
    end: int
    byte_start: int
    byte_end: int
    digest: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Hit:
    """A sentence that shares terms with a question. `score` is bm25, larger is better."""

    sentence_id: int
    citation: Citation
    headings: str
    body_terms: frozenset[str]
    heading_terms: frozenset[str]
    score: float


@dataclass(frozen=True, slots=True)
class Refreshed:
    added: int
    changed: int
    removed: int
    skipped: int


class DocumentIndex:
    """Used by one thread at a time. `database` None keeps the index in memory."""

    def __init__(self, folder: Path, database: Path | None, lexicon: Lexicon) -> None:
        self.folder = folder.resolve()
        self._lexicon = lexicon
        if database is not None:
            database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))  # documents may be meant for few
        self._db = sqlite3.connect(database or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(SCHEMA)
        self._forget_if_made_otherwise()

    def close(self) -> None:
        self._db.close()

    def refresh(self) -> Refreshed:
        """Brings the index up to date with the folder, in one transaction."""
        known = {
            row[0]: row[1:]
            for row in self._db.execute("SELECT path, id, mtime_ns, size, sha256 FROM documents")
        }
        counts = {"added": 0, "changed": 0, "removed": 0, "skipped": 0}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            present = set()
            for path in self._files():
                name = path.relative_to(self.folder).as_posix()
                present.add(name)
                outcome = self._refresh_one(path, name, known.get(name))
                if outcome:
                    counts[outcome] += 1
            for name in known.keys() - present:
                self._remove(known[name][0])
                counts["removed"] += 1
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return Refreshed(**counts)

    def search(self, terms: list[str], count_max: int) -> list[Hit]:
        """The best sentences for any of `terms`, best first."""
        if not terms:
            return []
        query = " OR ".join(f'"{each}"' for each in terms)  # terms are alphanumeric: no quote can be in one
        rows = self._db.execute(
            "SELECT s.id, d.path, s.start, s.end, s.byte_start, s.byte_end, s.digest, s.text, s.headings,"
            " found.body, found.headings, -bm25(found, 1.0, ?) FROM found JOIN sentences s ON s.id = found.rowid"
            " JOIN documents d ON d.id = s.document WHERE found MATCH ? ORDER BY 12 DESC, s.id LIMIT ?",
            (HEADING_WEIGHT, query, count_max),
        )
        return [_hit(row) for row in rows]

    def sentences_count(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM sentences").fetchone()[0]
        return count

    def rarity(self, term: str) -> float:
        """Inverse document frequency: how much it means that a sentence has `term`. Unknown terms mean most."""
        row = self._db.execute("SELECT doc FROM vocabulary WHERE term = ?", (term,)).fetchone()
        return math.log(1.0 + (self.sentences_count() + 0.5) / ((row[0] if row else 0) + 0.5))

    def knows(self, term: str) -> bool:
        return self._db.execute("SELECT 1 FROM vocabulary WHERE term = ?", (term,)).fetchone() is not None

    def resolve(self, citation: Citation) -> str:
        """The cited sentence, read from its document. Raises CitationError when it is not there."""
        try:
            path = (self.folder / citation.document).resolve()
        except ValueError as error:  # a zero byte
            raise CitationError(f"{citation.document!r} is no name of a document") from error
        if not path.is_relative_to(self.folder) or path.suffix not in SUFFIXES:
            raise CitationError(f"{citation.document!r} is not one of the documents")
        try:
            data = path.read_bytes()[citation.byte_start : citation.byte_end]
            text = data.decode()
        except (OSError, ValueError) as error:
            raise CitationError(f"{citation.document}: {error}") from error
        if digest_of(text) != citation.digest:
            raise CitationError(f"{citation.document} has changed since it was cited")
        return text

    def _forget_if_made_otherwise(self) -> None:
        """An index of another folder, or made with another lexicon, is emptied."""
        made_by = f"{self.folder}|{self._lexicon.digest}"
        row = self._db.execute("SELECT value FROM facts WHERE name = 'made_by'").fetchone()
        if row is not None and row[0] != made_by:
            for table in TABLES:
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the tuple above
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('made_by', ?)", (made_by,))

    def _files(self) -> Iterator[Path]:
        count = 0
        for root, folders, names in os.walk(self.folder):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for name in sorted(names):
                leads_out = not Path(root, name).resolve().is_relative_to(self.folder)  # through a symbolic link
                if name.endswith(SUFFIXES) and not name.startswith(".") and not leads_out:
                    count += 1
                    if count > DOCUMENTS_MAX:
                        log.error("more than %d documents; the rest is not indexed", DOCUMENTS_MAX)
                        return
                    yield Path(root, name)

    def _refresh_one(self, path: Path, name: str, known: tuple[Any, ...] | None) -> str:
        """What happened: added, changed, skipped or nothing."""
        try:
            found = path.stat()
            if known is not None and (found.st_mtime_ns, found.st_size) == known[1:3]:
                return ""
            text, digest = _read(path, found.st_size)
        except (OSError, ValueError) as error:
            log.warning("document %s is not indexed: %s", name, error)
            if known is not None:
                self._remove(known[0])
            return "skipped"
        if known is not None and digest == known[3]:
            self._db.execute("UPDATE documents SET mtime_ns = ? WHERE id = ?", (found.st_mtime_ns, known[0]))
            return ""
        if known is not None:
            self._remove(known[0])
        self._add(name, found, digest, text)
        return "changed" if known is not None else "added"

    def _add(self, name: str, found: os.stat_result, digest: str, text: str) -> None:
        document = self._db.execute(
            "INSERT INTO documents (path, mtime_ns, size, sha256) VALUES (?, ?, ?, ?)",
            (name, found.st_mtime_ns, found.st_size, digest),
        ).lastrowid
        stem_terms = self._lexicon.terms(Path(name).stem.replace("_", " "))
        for each in sentences.split(text):
            self._add_sentence(document or 0, each, stem_terms)

    def _add_sentence(self, document: int, each: Sentence, stem_terms: list[str]) -> None:
        headings = " > ".join(each.headings)
        row = self._db.execute(
            'INSERT INTO sentences (document, start, "end", byte_start, byte_end, text, headings, digest)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                document,
                each.start,
                each.end,
                each.byte_start,
                each.byte_end,
                each.text,
                headings,
                digest_of(each.text),
            ),
        ).lastrowid
        above = [*self._lexicon.terms(headings), *stem_terms]
        body = " ".join(self._lexicon.terms(each.text))
        self._db.execute(
            "INSERT INTO found (rowid, body, headings) VALUES (?, ?, ?)", (row, body, " ".join(above))
        )

    def _remove(self, document: int) -> None:
        ids = "SELECT id FROM sentences WHERE document = ?"
        self._db.execute(f"DELETE FROM found WHERE rowid IN ({ids})", (document,))  # noqa: S608
        self._db.execute("DELETE FROM sentences WHERE document = ?", (document,))
        self._db.execute("DELETE FROM documents WHERE id = ?", (document,))


def digest_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def _read(path: Path, size: int) -> tuple[str, str]:
    """Text and digest; read as bytes so that offsets count what is in the file, line ends included."""
    if size > DOCUMENT_BYTES_MAX:
        raise ValueError(f"larger than {DOCUMENT_BYTES_MAX} bytes")
    data = path.read_bytes()
    return data.decode("utf-8"), sha256(data).hexdigest()


def _hit(row: tuple[Any, ...]) -> Hit:
    identifier, path, start, end, byte_start, byte_end, digest, text, headings, body, above, score = row
    citation = Citation(path, start, end, byte_start, byte_end, digest, text)
    return Hit(identifier, citation, headings, frozenset(body.split()), frozenset(above.split()), score)
