"""Where rows are: what identity asks of a database, whichever it is.

A store has one writer, this process. `write` is one transaction: when it returns everything is on the disk, when it
raises nothing counts. `StoreBroken` is final: after a failed sync nobody knows what the disk holds, so no second try is
made and every later call is refused until the process has started anew and read what is there. A row that does not fit
its checksum is never returned; it is listed as damaged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from skep_nodes.identity.records import Entry
from skep_nodes.identity.tables import Damaged, Table
from skep_nodes.identity.view import Ask, Change


class StoreError(Exception):
    """The database said no, and nothing was changed: it may be asked again."""


class StoreUnready(StoreError):
    """The database cannot be reached now; nothing was changed."""


class Conflict(StoreError):
    """A unique index would be violated by this transaction."""


class StoreBroken(Exception):
    """Final: what the disk holds is unknown or wrong. What to do stands in the message."""


@dataclass(slots=True)
class Fetched:
    """Rows that were asked for, and those that must not be served."""

    rows: list[tuple[Table, Any]] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    def extend(self, other: Fetched) -> None:
        """Add what another reading found."""
        self.rows += other.rows
        self.damaged += other.damaged

    def take(self, table: Table, raw: Iterable[Iterable[Any]]) -> None:
        """Unpack rows as they come from a database."""
        for row in raw:
            try:
                self.rows.append((table, table.unpack(row)))
            except Damaged as damaged:
                self.damaged.append(damaged)


class Store(Protocol):
    """A database of identity."""

    kind: str

    async def open(self) -> None:
        """Make or bring up to date what is missing, and become the only writer. Raises StoreError, StoreBroken."""
        ...

    async def fetch(self, asks: Sequence[Ask]) -> Fetched:
        """All rows that fit any of these. Raises StoreError, StoreBroken."""
        ...

    async def write(self, changes: Sequence[Change], entries: Sequence[Entry]) -> None:
        """One synced transaction. Raises Conflict, StoreError, StoreBroken."""
        ...

    def scan_rows(self, table: Table, size: int = 5000, by: str = "") -> AsyncIterator[Sequence[Any]]:
        """A whole table in the order of its keys, or of the column `by` and its keys, in pieces, unchecked: ask
        `Table.sound` of each row first."""
        ...

    async def page(self, table: Table, after: Any, limit: int) -> Fetched:
        """Up to `limit` rows whose keys come after `after`."""
        ...

    async def due(self, now_ms: int, limit: int) -> list[bytes]:
        """Interlocutors whose alias or seal has ended and is not yet said to have."""
        ...

    async def counts(self) -> dict[str, dict[bytes, int]]:
        """Rows by table and, of interlocutors, by tenant (`live`) or all together (`gone`, `aliases`, `channels`)."""
        ...

    async def last_seq(self) -> int:
        """The number of the last link of the audit chain; 0 without one."""
        ...

    async def close(self) -> None: ...


async def scan(store: Store, table: Table) -> AsyncIterator[Fetched]:
    """A whole table as records, in the order of its keys, in pieces."""
    async for rows in store.scan_rows(table):
        found = Fetched()
        found.take(table, rows)
        yield found
