"""The SQLite store: one file, one writer, WAL with a sync for each transaction.

Everything runs on the caller's thread: a commit costs as long as the disk needs to sync, and while it does, nobody
could be told anything true about what waits. A thread for it would add its two hand-overs (60 us, a third of the sync
itself) to every change.

The page is 2 KiB because a provision touches six pages, each of them written whole to the log. Foreign keys are on.
A full disk fails one transaction and leaves the store usable; any other input/output error, and every sign of damage,
ends it (`StoreBroken`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from skep_nodes.identity.migrating import missing
from skep_nodes.identity.records import Entry
from skep_nodes.identity.store import Conflict, Fetched, StoreBroken, StoreError
from skep_nodes.identity.tables import AUDIT, CHANNELS, ILKS, Table
from skep_nodes.identity.view import AFTER, Ask, Change

FILE_NAME: Final = "identity.db"
PAGE_BYTES: Final = 2048
HISTORY_MAX: Final = 500  # newest links of one interlocutor that one question reads
_SIZES: Final = (1, 4, 16, 64)  # of lists of values: few texts, so that each is prepared once
_VALUES_MAX: Final = _SIZES[-1]
_LOG_PAGES_MAX: Final = 8192  # 16 MiB of log, then it is copied into the file
_TEXT: Final = partial(
    str, encoding="utf-8", errors="surrogateescape"
)  # the row check finds what was no text
_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)  # the second for a message that quotes damaged bytes
_FATAL: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SETTINGS: Final = (
    f"PRAGMA page_size={PAGE_BYTES}",
    "PRAGMA locking_mode=EXCLUSIVE",  # no second writer, and no shared-memory file beside the log
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA wal_autocheckpoint={_LOG_PAGES_MAX}",
    "PRAGMA cache_size=-65536",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
)
_MIGRATIONS: Final = """CREATE TABLE IF NOT EXISTS identity_migrations (
    number INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, applied_at INTEGER NOT NULL)"""


class SqliteStore:
    """The rows in one file."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = ""
        self._connection: sqlite3.Connection | None = None
        self._texts: dict[tuple[str, str, int], str] = {}

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open, check and migrate the file. Raises StoreError (another process has it), StoreBroken."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = not self.path.exists()
        self.path.touch(mode=0o600)
        try:
            self._connect()
            if not new:
                self._check()
            self._migrate()
        except _ERRORS as error:
            await self.close()
            raise self._error(error) from error

    def _connect(self) -> None:
        self._connection = sqlite3.connect(
            self.path, isolation_level=None, cached_statements=256, timeout=2.0, check_same_thread=False
        )
        for setting in _SETTINGS:
            self._connection.execute(setting)

    def _check(self) -> None:
        """Read the structure once: a flipped bit in it would make rows disappear without an error."""
        found = [row[0] for row in self._db.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise StoreBroken(f"{self.path} is damaged ({'; '.join(found)[:300]}); restore it from a backup")

    def _migrate(self) -> None:
        self._db.execute(_MIGRATIONS)
        applied = dict(self._db.execute("SELECT number, digest FROM identity_migrations").fetchall())
        for step in missing(self.kind, applied):
            self._db.execute("BEGIN IMMEDIATE")
            for statement in statements(step.sql):
                self._db.execute(statement)
            row = (step.number, step.name, step.digest, time.time_ns() // 1_000_000)
            self._db.execute("INSERT INTO identity_migrations VALUES (?, ?, ?, ?)", row)
            self._db.execute("COMMIT")

    async def close(self) -> None:
        """Let go of the file; what is in the log is copied into it."""
        if self._connection is not None:
            with suppress(*_ERRORS):
                self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._broken:
            raise StoreBroken(self._broken)
        if self._connection is None:
            raise StoreError("the database is not open")
        return self._connection

    def _error(self, error: sqlite3.Error | UnicodeDecodeError) -> Exception:
        """What an error of SQLite means to us."""
        if isinstance(error, UnicodeDecodeError):
            self._broken = f"{self.path} is damaged: its own messages are no text; restore it from a backup"
            return StoreBroken(self._broken)
        code = getattr(error, "sqlite_errorcode", 0)
        if isinstance(error, sqlite3.IntegrityError):
            return Conflict(str(error))
        if code & 0xFF in _FATAL:
            self._broken = f"{self.path}: {error} ({code}); check the disk, then start SY.identity again"
            return StoreBroken(self._broken)
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            return StoreError(f"{self.path} is in use by another process")
        return StoreError(f"{self.path}: {error}")

    # -- reading -----------------------------------------------------------------------------------------------

    async def fetch(self, asks: Sequence[Ask]) -> Fetched:
        """See `Store.fetch`."""
        found = Fetched()
        groups: dict[tuple[Table, str], list[Any]] = {}
        for table, column, value in asks:
            groups.setdefault((table, column), []).append(value)
        try:
            for (table, column), values in groups.items():
                if column == AFTER:
                    for value in values:
                        found.extend(await self.page(table, *value))
                else:
                    self._take(found, table, column, values)
        except _ERRORS as error:
            raise self._error(error) from error
        return found

    def _take(self, found: Fetched, table: Table, column: str, values: list[Any]) -> None:
        """The rows with any of these values. Of a history each value has its own newest, so those come one by one."""
        most = 1 if table.append_only else _VALUES_MAX
        for at in range(0, len(values), most):
            some = values[at : at + most]
            size = next(each for each in _SIZES if each >= len(some))
            some += some[-1:] * (size - len(some))
            found.take(table, self._rows(self._select(table, column, size), some))

    def _rows(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query. Text that is none is read as well as it goes: its row check tells of it."""
        try:
            return self._db.execute(text, values).fetchall()
        except sqlite3.OperationalError as error:
            if "decode to UTF-8" not in str(error) or self._db.text_factory is _TEXT:
                raise
        self._db.text_factory = _TEXT  # slower, and from now on for every row: there is damage
        return self._db.execute(text, values).fetchall()

    def _select(self, table: Table, column: str, values: int) -> str:
        text = self._texts.get((table.name, column, values))
        if text is None:
            marks = ", ".join("?" * values)
            text = f"SELECT {', '.join(table.all_columns)} FROM {table.name} WHERE {column} IN ({marks})"  # noqa: S608
            text += table.condition(column)
            if table.append_only:
                text += f" ORDER BY {table.key} DESC LIMIT {HISTORY_MAX}"
            self._texts[table.name, column, values] = text
        return text

    async def page(self, table: Table, after: Any, limit: int) -> Fetched:
        """See `Store.page`."""
        found = Fetched()
        while len(found.rows) < limit:  # a damaged row must not look like the end
            wanted = limit - len(found.rows)
            rows = self._page_rows(table, after, wanted)
            found.take(table, rows)
            if len(rows) < wanted:
                break
            after = rows[-1][0]
        return found

    def _page_rows(self, table: Table, after: Any, limit: int, by: str = "") -> list[Any]:
        order = f"{by}, {table.key}" if by else table.key
        values: tuple[Any, ...] = () if after is None else after if by else (after,)
        where = f" WHERE ({order}) > ({', '.join('?' * len(values))})" if values else ""
        text = f"SELECT {', '.join(table.all_columns)} FROM {table.name}{where} ORDER BY {order} LIMIT ?"  # noqa: S608
        try:
            return self._rows(text, (*values, limit))
        except _ERRORS as error:
            raise self._error(error) from error

    async def scan_rows(self, table: Table, size: int = 5000, by: str = "") -> AsyncIterator[list[Any]]:
        """See `Store.scan_rows`."""
        after: Any = None
        while rows := self._page_rows(table, after, size, by):
            yield rows
            after = table.place(rows[-1], by)

    async def due(self, now_ms: int, limit: int) -> list[bytes]:
        """See `Store.due`."""
        alias = "alias_expires_at > 0 AND deleted_at = 0 AND alias_expires_at <= ?"
        seal = "seal_expires_at > 0 AND seal_status = 1 AND seal_expires_at <= ?"
        text = " UNION ".join(f"SELECT ilk_id FROM identity_ilks WHERE {each}" for each in (alias, seal))  # noqa: S608
        try:
            return [row[0] for row in self._db.execute(f"{text} LIMIT ?", (now_ms, now_ms, limit))]
        except _ERRORS as error:
            raise self._error(error) from error

    async def counts(self) -> dict[str, dict[bytes, int]]:
        """See `Store.counts`."""
        try:
            return {name: dict(self._db.execute(text).fetchall()) for name, text in COUNTS.items()}
        except _ERRORS as error:
            raise self._error(error) from error

    async def last_seq(self) -> int:
        """See `Store.last_seq`."""
        try:
            found: int = self._db.execute("SELECT coalesce(max(seq), 0) FROM identity_audit").fetchone()[0]
        except _ERRORS as error:
            raise self._error(error) from error
        return found

    # -- writing -----------------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        """See `Store.write`."""
        database = self._db
        try:
            database.execute("BEGIN IMMEDIATE")
            for table, new, changed, gone in by_table(changes):
                if gone:
                    database.executemany(f"DELETE FROM {table.name} WHERE {table.key} = ?", zip(gone))  # noqa: S608
                if changed:
                    database.executemany(self._upsert(table), changed)
                self._insert(database, table, new)
            self._insert(database, AUDIT, [AUDIT.pack(entry) for entry in entries])
            database.execute("COMMIT")
        except _ERRORS as error:
            known = self._error(error)
            self._roll_back(database)
            raise known from error

    def _insert(self, database: sqlite3.Connection, table: Table, rows: list[list[Any]]) -> None:
        """New rows, many a statement: an upsert for each costs half as much again."""
        at = 0
        while at < len(rows):
            size = next(each for each in reversed(_SIZES) if each <= len(rows) - at)
            database.execute(self._insert_text(table, size), list(chain.from_iterable(rows[at : at + size])))
            at += size

    def _insert_text(self, table: Table, rows: int) -> str:
        text = self._texts.get((table.name, "+", rows))
        if text is None:
            row = f"({', '.join('?' * len(table.all_columns))})"
            text = insert_text(table, f"VALUES {', '.join([row] * rows)}")
            self._texts[table.name, "+", rows] = text
        return text

    def _upsert(self, table: Table) -> str:
        text = self._texts.get((table.name, "", 0))
        if text is None:
            text = upsert_text(table, f"VALUES ({', '.join('?' * len(table.all_columns))})")
            self._texts[table.name, "", 0] = text
        return text

    def _roll_back(self, database: sqlite3.Connection) -> None:
        if database.in_transaction:
            try:
                database.execute("ROLLBACK")
            except _ERRORS as error:
                self._broken = (
                    f"{self.path}: a transaction could not be taken back ({error}); start SY.identity again"
                )


class Parts(NamedTuple):
    """What to do in one table: rows that are new, rows that changed, keys to remove."""

    table: Table
    new: list[list[Any]]
    changed: list[list[Any]]
    gone: list[Any]


def by_table(changes: Sequence[Change]) -> list[Parts]:
    """The changes of each table."""
    found: dict[Table, Parts] = {}
    for table, key, record, before in changes:
        parts = found.get(table)
        if parts is None:
            parts = found[table] = Parts(table, [], [], [])
        if record is None:
            parts.gone.append(key)
        else:
            (parts.new if before is None else parts.changed).append(table.pack(record))
    return list(found.values())


COUNTS: Final = {
    "live": f"SELECT tenant_id, count(*) FROM {ILKS.name} WHERE live = 1 GROUP BY tenant_id",  # noqa: S608
    "gone": f"SELECT tenant_id, count(*) FROM {ILKS.name} WHERE deleted_at > 0 GROUP BY tenant_id",  # noqa: S608
    "aliases": f"SELECT tenant_id, count(*) FROM {ILKS.name} WHERE live = 0 AND deleted_at = 0"  # noqa: S608
               " GROUP BY tenant_id",
    "channels": f"SELECT tenant_id, count(*) FROM {CHANNELS.name} GROUP BY tenant_id",  # noqa: S608
}  # fmt: skip


def insert_text(table: Table, values: str) -> str:
    """An insert of rows that nobody has."""
    return f"INSERT INTO {table.name} ({', '.join(table.all_columns)}) {values}"


def upsert_text(table: Table, values: str) -> str:
    """An insert that replaces rows with the same keys; the audit chain is only ever added to."""
    text = insert_text(table, values)
    if table.append_only:
        return text
    sets = ", ".join(f"{column} = excluded.{column}" for column in table.all_columns[1:])
    return f"{text} ON CONFLICT ({table.key}) DO UPDATE SET {sets}"


def statements(sql: str) -> list[str]:
    """The statements of a script. `executescript` would commit the transaction that they belong to."""
    found, text = [], ""
    for line in sql.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found
