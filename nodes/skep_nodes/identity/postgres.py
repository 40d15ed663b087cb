"""The PostgreSQL store: the same rows on a server, one round trip for a whole group.

All changes of a group and its links of the audit chain are one statement of data-modifying CTEs, so the group is one
round trip and one commit, whatever its size; rows travel as one array a column. Only a group that also removes rows
takes an explicit transaction, because the parts of one statement do not see each other.

A connection that breaks during a commit leaves open whether it counted. The audit chain knows: after connecting again
the last link is compared with the one that was sent, and the answer is true in both cases. Only a server that does not
come back within `RECONNECT_S` ends the store. A server with `fsync = off` is refused: what it says is not on the disk.

The connection that holds the advisory lock is the only writer. The URL never leaves this object.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from skep_nodes.identity.migrating import missing
from skep_nodes.identity.records import Entry
from skep_nodes.identity.sqlite import COUNTS, HISTORY_MAX, Parts, by_table, insert_text, upsert_text
from skep_nodes.identity.store import Conflict, Fetched, StoreBroken, StoreError, StoreUnready
from skep_nodes.identity.tables import AUDIT, Form, Table
from skep_nodes.identity.view import AFTER, Ask, Change

T = TypeVar("T")
DATABASE: Final = "skep_identity"
RECONNECT_S: Final = (
    15.0  # a server that was killed is back within a second; one that recovers a lot takes longer
)
RETRY_S: Final = 0.05
TIMEOUT_S: Final = 30.0
LOCK: Final = 0x536B6570  # "Skep": whoever holds it in this database writes
_ARRAYS: Final = {
    Form.BYTES: "bytea",
    Form.TEXT: "text",
    Form.INT: "bigint",
    Form.ENUM: "bigint",
    Form.WORDS: "text",
    Form.OBJECT: "text",
}
_LOST: Final = (
    asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError, OSError, TimeoutError,
)  # fmt: skip
_MIGRATIONS: Final = """CREATE TABLE IF NOT EXISTS identity_migrations (
    number bigint PRIMARY KEY, name text NOT NULL, digest text NOT NULL, applied_at bigint NOT NULL)"""


class Rows(NamedTuple):
    """Rows of one table that are written alike."""

    table: Table
    is_new: bool
    rows: list[list[Any]]


class PostgresStore:
    """The rows on a server."""

    kind = "postgres"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("postgres", "postgresql"):
            raise ValueError("postgres_url must be postgresql://user@host/database")
        self.database = parts.path.strip("/") or DATABASE
        self._url = urlunsplit(parts._replace(path=f"/{self.database}"))
        self._admin_url = urlunsplit(parts._replace(path="/postgres"))
        self._connection: Any = None
        self._broken = ""
        self._texts: dict[object, str] = {}

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, make the database if it is missing, migrate, become the only writer."""
        try:
            try:
                await self._connect()
            except asyncpg.InvalidCatalogNameError:
                await self._make_database()
                await self._connect()
            await self._migrate()
        except _LOST as error:
            raise StoreUnready(f"the PostgreSQL server does not answer: {error}") from error
        except asyncpg.PostgresError as error:
            raise StoreError(f"PostgreSQL: {error}") from error

    async def _connect(self) -> None:
        settings = {"synchronous_commit": "on", "application_name": "SY.identity", "jit": "off"}
        connection = await asyncpg.connect(
            self._url, server_settings=settings, timeout=5, command_timeout=TIMEOUT_S
        )
        try:
            if await connection.fetchval("SHOW fsync") != "on":
                raise StoreBroken(
                    "the PostgreSQL server runs with fsync off: what it acknowledges may be lost; turn it on"
                )
            await self._lock(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    @staticmethod
    async def _lock(connection: Any) -> None:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
            raise StoreError("another SY.identity writes to this database")

    async def _make_database(self) -> None:
        admin = await asyncpg.connect(self._admin_url, timeout=5)
        try:
            quoted = self.database.replace('"', '""')
            await admin.execute(f"CREATE DATABASE \"{quoted}\" ENCODING 'UTF8' TEMPLATE template0")
        finally:
            await admin.close()

    async def _migrate(self) -> None:
        await self._connection.execute(_MIGRATIONS)
        rows = await self._connection.fetch("SELECT number, digest FROM identity_migrations")
        for step in missing(self.kind, {row[0]: row[1] for row in rows}):
            async with self._connection.transaction():
                await self._connection.execute(step.sql)
                values = (step.number, step.name, step.digest, time.time_ns() // 1_000_000)
                await self._connection.execute(
                    "INSERT INTO identity_migrations VALUES ($1, $2, $3, $4)", *values
                )

    async def close(self) -> None:
        """Give the lock back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_LOST, asyncpg.PostgresError):
                await connection.close(timeout=2)

    # -- a connection that may break ---------------------------------------------------------------------------

    async def _ask(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """A question, asked again on a new connection when this one broke."""
        self._check()
        try:
            return await work(self._connection)
        except _LOST:
            await self._reconnect()
        except asyncpg.PostgresError as error:
            raise StoreError(f"PostgreSQL: {error}") from error
        try:
            return await work(self._connection)
        except (*_LOST, asyncpg.PostgresError) as error:
            raise StoreUnready(f"PostgreSQL: {error}") from error

    def _check(self) -> None:
        if self._broken:
            raise StoreBroken(self._broken)
        if self._connection is None:
            raise StoreUnready("the database is not open")

    async def _reconnect(self) -> None:
        """A new connection, or the end of this store. Raises StoreBroken."""
        self._connection.terminate()
        deadline_s, problem = time.monotonic() + RECONNECT_S, "no answer"
        while time.monotonic() < deadline_s:
            try:
                return await self._connect()
            except (
                *_LOST,
                asyncpg.PostgresError,
                StoreError,
            ) as error:  # the old connection's lock may linger
                problem = str(error)
            await asyncio.sleep(RETRY_S)
        self._broken = (
            f"the PostgreSQL server has been away for {RECONNECT_S:g} s ({problem}); start SY.identity again"
        )
        raise StoreBroken(self._broken)

    # -- reading -----------------------------------------------------------------------------------------------

    async def fetch(self, asks: Sequence[Ask]) -> Fetched:
        """See `Store.fetch`: one query a table."""
        found = Fetched()
        by_table: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        known: dict[str, Table] = {}
        for table, column, value in asks:
            known[table.name] = table
            if column == AFTER:
                found.extend(await self.page(table, *value))
            elif table.append_only:
                found.take(table, await self._newest(table, column, value))
            else:
                by_table[table.name][column].append(value)
        for name, columns in by_table.items():
            text = self._select(known[name], tuple(columns))
            found.take(known[name], await self._rows(text, *columns.values()))
        return found

    async def _rows(self, text: str, *values: Any) -> list[Any]:
        async def rows(connection: Any) -> list[Any]:
            found: list[Any] = await connection.fetch(text, *values)
            return found

        return await self._ask(rows)

    def _select(self, table: Table, columns: tuple[str, ...]) -> str:
        text = self._texts.get((table.name, columns))
        if text is None:
            forms = dict(zip(table.columns, table.forms, strict=True))
            terms = [
                f"({column} = ANY(${number}::{_ARRAYS[forms[column]]}[]){table.condition(column)})"
                for number, column in enumerate(columns, 1)
            ]
            text = f"{_listed(table)} WHERE {' OR '.join(terms)}"
            self._texts[table.name, columns] = text
        return text

    async def _newest(self, table: Table, column: str, value: Any) -> list[Any]:
        return await self._rows(
            f"{_listed(table)} WHERE {column} = $1 ORDER BY {table.key} DESC LIMIT {HISTORY_MAX}", value
        )

    async def page(self, table: Table, after: Any, limit: int) -> Fetched:
        """See `Store.page`."""
        found = Fetched()
        while len(found.rows) < limit:  # a damaged row must not look like the end
            wanted = limit - len(found.rows)
            rows = await self._page_rows(table, after, wanted)
            found.take(table, rows)
            if len(rows) < wanted:
                break
            after = rows[-1][0]
        return found

    async def _page_rows(self, table: Table, after: Any, limit: int, by: str = "") -> list[Any]:
        order = f"{by}, {table.key}" if by else table.key
        values: tuple[Any, ...] = () if after is None else after if by else (after,)
        marks = ", ".join(f"${at}" for at in range(2, 2 + len(values)))
        where = f" WHERE ({order}) > ({marks})" if values else ""
        return await self._rows(f"{_listed(table)}{where} ORDER BY {order} LIMIT $1", limit, *values)

    async def scan_rows(self, table: Table, size: int = 5000, by: str = "") -> AsyncIterator[list[Any]]:
        """See `Store.scan_rows`."""
        after: Any = None
        while rows := await self._page_rows(table, after, size, by):
            yield rows
            after = table.place(rows[-1], by)

    async def due(self, now_ms: int, limit: int) -> list[bytes]:
        """See `Store.due`."""
        alias = "alias_expires_at > 0 AND deleted_at = 0 AND alias_expires_at <= $1"
        seal = "seal_expires_at > 0 AND seal_status = 1 AND seal_expires_at <= $1"
        text = " UNION ".join(f"SELECT ilk_id FROM identity_ilks WHERE {each}" for each in (alias, seal))  # noqa: S608
        return [row[0] for row in await self._rows(f"{text} LIMIT $2", now_ms, limit)]

    async def counts(self) -> dict[str, dict[bytes, int]]:
        """See `Store.counts`."""
        return {name: {row[0]: row[1] for row in await self._rows(text)} for name, text in COUNTS.items()}

    async def last_seq(self) -> int:
        """See `Store.last_seq`."""
        rows = await self._rows("SELECT coalesce(max(seq), 0) FROM identity_audit")
        return int(rows[0][0])

    # -- writing -----------------------------------------------------------------------------------------------

    async def write(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        """See `Store.write`."""
        self._check()
        try:
            await self._write(changes, entries)
        except asyncpg.IntegrityConstraintViolationError as error:
            raise Conflict(str(error)) from error
        except _LOST as error:
            await self._reconnect()
            if not await self._counted(entries):
                raise StoreUnready(f"the connection broke before the commit: {error}") from error
        except asyncpg.PostgresError as error:
            raise StoreError(f"PostgreSQL: {error}") from error

    async def _write(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        parts = by_table(changes)
        if entries:
            parts.append(Parts(AUDIT, [AUDIT.pack(entry) for entry in entries], [], []))
        sets = [
            Rows(table, is_new, rows)
            for table, new, changed, _ in parts
            for is_new, rows in ((False, changed), (True, new))
            if rows
        ]
        if any(each.gone for each in parts):
            await self._write_in_steps(parts, sets)
        elif sets:
            await self._put(self._connection, sets)

    async def _write_in_steps(self, parts: Sequence[Parts], sets: Sequence[Rows]) -> None:
        async with self._connection.transaction():
            for table, _, _, gone in parts:
                if gone:
                    text = f"DELETE FROM {table.name} WHERE {table.key} = ANY($1)"  # noqa: S608 our own names
                    await self._connection.execute(text, gone)
            for each in sets:
                await self._put(self._connection, [each])

    async def _put(self, connection: Any, sets: Sequence[Rows]) -> None:
        arrays = [list(array) for each in sets for array in zip(*each.rows, strict=True)]
        await connection.execute(self._statement(sets), *arrays)

    def _statement(self, sets: Sequence[Rows]) -> str:
        """All inserts and upserts as one statement: one CTE each, one array a column."""
        names = tuple((table.name, is_new) for table, is_new, _ in sets)
        text = self._texts.get(names)
        if text is None:
            parts, number = [], 1
            for table, is_new, _ in sets:
                parts.append(_written(table, number, is_new))
                number += len(table.all_columns)
            ctes = ", ".join(f"put_{at} AS ({part})" for at, part in enumerate(parts[:-1]))
            text = f"WITH {ctes} {parts[-1]}" if ctes else parts[-1]
            self._texts[names] = text
        return text

    async def _counted(self, entries: Sequence[Entry]) -> bool:
        """Whether the transaction that ended with the last of these was committed."""
        if not entries:
            return False
        rows = await self._rows("SELECT chain FROM identity_audit WHERE seq = $1", entries[-1].seq)
        return bool(rows) and rows[0][0] == entries[-1].chain


def _listed(table: Table) -> str:
    return f"SELECT {', '.join(table.all_columns)} FROM {table.name}"  # noqa: S608 our own names


def _written(table: Table, number: int, is_new: bool) -> str:
    """An insert or upsert whose rows come from arrays, the first of them parameter `number`."""
    forms = (*table.forms, Form.INT)
    arrays = ", ".join(f"${number + at}::{_ARRAYS[form]}[]" for at, form in enumerate(forms))
    names = ", ".join(f"c{at}" for at in range(len(forms)))
    shown = ", ".join(f"c{at}::json" if form is Form.OBJECT else f"c{at}" for at, form in enumerate(forms))
    text = insert_text if is_new else upsert_text
    return text(table, f"SELECT {shown} FROM unnest({arrays}) AS rows ({names})")  # noqa: S608 our names
