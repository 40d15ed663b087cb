"""The rows that a group of requests needs, held together while they are decided: the core's only way to see and change.

A request says what it must see (`Ask`), the store reads exactly that, and only then is the request decided, without
waiting for anything. Asking for what was not loaded is a bug and raises at once, because "not loaded" must never pass
for "not there". What a request changed is undone when it is refused, so each is all or nothing; what it changed is seen
by those after it in the same group. When all are decided, `changes` is what the store has to write.

Rejected: a copy of the whole store in memory (a gigabyte for a million interlocutors, and a clone for each write to be
able to go back); deciding by SQL (two dialects, and no test without a server).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from skep_nodes.identity import tables
from skep_nodes.identity.counting import Counts
from skep_nodes.identity.ids import NONE
from skep_nodes.identity.records import Channel, Document, Fact, Graduation, Ilk, Tenant
from skep_nodes.identity.tables import Table

AFTER: Final = ">"
"""As an Ask's column: the first rows whose keys come after; its value is (key, how many)."""


_NOTHING: Final = frozenset({"", NONE})


class Ask(NamedTuple):
    """All rows of a table that have this value in this column."""

    table: Table
    column: str
    value: Any


class Shelf:
    """Rows of one table, by key and by each index. Nobody is looked up by an empty value, so those are in no index."""

    __slots__ = ("table", "rows", "_by", "_indexes")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: dict[Any, Any] = {}
        self._by: dict[str, dict[Any, set[Any]]] = {column: {} for column in table.indexes}
        self._indexes = tuple((table.columns.index(column), places) for column, places in self._by.items())

    def get(self, key: Any) -> Any:
        return self.rows.get(key)

    def find(self, column: str, value: Any) -> list[Any]:
        """Rows with this value, in the order of their keys."""
        places = self._by.get(column)
        if places is None:
            row = self.rows.get(value)
            return [] if row is None else [row]
        keys = places.get(value)
        return [self.rows[key] for key in sorted(keys)] if keys else []

    def put(self, record: Any) -> Any:
        """Set a row; returns the one it replaces."""
        key = record[0]
        old = self.remove(key)
        self.rows[key] = record
        for at, places in self._indexes:
            value = record[at]
            if value in _NOTHING:
                continue
            keys = places.get(value)
            if keys is None:
                places[value] = {key}
            else:
                keys.add(key)
        return old

    def remove(self, key: Any) -> Any:
        old = self.rows.pop(key, None)
        if old is not None:
            for at, places in self._indexes:
                if old[at] not in _NOTHING:
                    places[old[at]].discard(key)
        return old


class Change(NamedTuple):
    """A row to write, or to remove where `record` is None."""

    table: Table
    key: Any
    record: Any
    before: Any


class View:
    """Loaded rows, what was changed in them, and how to go back."""

    START: Final = (0, 0, 0)

    def __init__(
        self, resident: dict[str, Shelf], counts: Counts, now_ms: int, new_id: Callable[[], bytes]
    ) -> None:
        self.counts, self.now_ms, self.new_id = counts, now_ms, new_id
        self._shelves = {
            table.name: resident[table.name] if table.resident else Shelf(table) for table in tables.ALL
        }
        self._known: set[Ask] = set()
        self._undo: list[tuple[Shelf, Any, Any]] = []
        self._before: dict[tuple[str, Any], Any] = {}
        self.entries: list[tuple[str, str, bytes, bytes, str, dict[str, Any]]] = []
        self.arrivals: list[tuple[str, bytes]] = []

    # -- loading -----------------------------------------------------------------------------------------------

    def unknown(self, asks: Iterable[Ask]) -> set[Ask]:
        """What of these has to be read first."""
        return {ask for ask in asks if ask not in self._known and not ask.table.resident}

    def knows(self, asks: Iterable[Ask]) -> bool:
        """Whether all of these were read."""
        return self._known.issuperset(asks)

    def load(self, asks: Iterable[Ask], rows: Iterable[tuple[Table, Any]]) -> None:
        """Take in what was read; a row that was changed meanwhile keeps its change."""
        for table, record in rows:
            shelf = self._shelves[table.name]
            key = record[0]
            if (table.name, key) not in self._before and key not in shelf.rows:
                shelf.put(record)
        self._known.update(asks)

    # -- reading -----------------------------------------------------------------------------------------------

    def one(self, table: Table, key: Any) -> Any:
        """The row with this key, or None."""
        if not table.resident and (table, table.columns[0], key) not in self._known:
            self._changed(table, table.key, key)
        return self._shelves[table.name].rows.get(key)

    def find(self, table: Table, column: str, value: Any) -> list[Any]:
        """The rows with this value."""
        if not table.resident and (table, column, value) not in self._known:
            self._changed(table, column, value)
        return self._shelves[table.name].find(column, value)

    def page(self, ask: Ask) -> list[Any]:
        """The rows of an AFTER, in the order of their keys."""
        after, limit = ask.value
        assert ask in self._known, f"{ask.table.name} was not asked for"
        rows = self._shelves[ask.table.name].rows
        return [rows[key] for key in sorted(rows) if key > after][:limit]

    def all(self, table: Table) -> Iterator[Any]:
        """Every row of a resident table."""
        assert table.resident, table.name
        return iter(list(self._shelves[table.name].rows.values()))

    def _changed(self, table: Table, column: str, value: Any) -> None:
        """What was not loaded may be seen only when it was made here."""
        assert (table.name, value) in self._before, f"{table.name}.{column} was not asked for"

    def tenant(self, key: bytes) -> Tenant | None:
        found: Tenant | None = self.one(tables.TENANTS, key)
        return found

    def ilk(self, key: bytes) -> Ilk | None:
        found: Ilk | None = self.one(tables.ILKS, key)
        return found

    def channels_of(self, ilk: bytes) -> list[Channel]:
        return self.find(tables.CHANNELS, "ilk_id", ilk)

    def graduations_of(self, ilk: bytes) -> list[Graduation]:
        """All an agent ever had, oldest first."""
        return sorted(self.find(tables.GRADUATIONS, "ilk_id", ilk), key=_issued)

    def document(self, key: bytes) -> Document | None:
        found: Document | None = self.one(tables.DOCUMENTS, key)
        return found

    def fact(self, name: str) -> str:
        """A fact about the store; empty when nothing was said."""
        found: Fact | None = self.one(tables.FACTS, name)
        return found.value if found else ""

    # -- changing ----------------------------------------------------------------------------------------------

    def put(self, table: Table, record: Any) -> None:
        """Set a row."""
        self._note(table, record[0], record)

    def drop(self, table: Table, key: Any) -> None:
        """Remove a row."""
        self._note(table, key, None)

    def _note(self, table: Table, key: Any, record: Any) -> None:
        shelf = self._shelves[table.name]
        old = shelf.remove(key) if record is None else shelf.put(record)
        self.counts.moved(table, old, record)
        self._undo.append((shelf, key, old))
        self._before.setdefault((table.name, key), old)

    def note(self, actor: str, action: str, ilk: bytes, tenant: bytes, reason: str, **detail: Any) -> None:
        """One link for the audit chain."""
        self.entries.append((actor, action, ilk, tenant, reason, detail))

    def note_arrival(self, actor: str, ilk: bytes) -> None:
        """Somebody wrote for the first time. A group has one link for all: there are many, and little to say."""
        self.arrivals.append((actor, ilk))

    # -- all or nothing ----------------------------------------------------------------------------------------

    def mark(self) -> tuple[int, int, int]:
        """A place to go back to."""
        return len(self._undo), len(self.entries), len(self.arrivals)

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Undo everything since `mark`."""
        changes, entries, arrivals = mark
        while len(self._undo) > changes:
            shelf, key, old = self._undo.pop()
            self.counts.moved(shelf.table, shelf.get(key), old)
            if old is None:
                shelf.remove(key)
            else:
                shelf.put(old)
        del self.entries[entries:]
        del self.arrivals[arrivals:]

    def changes(self) -> list[Change]:
        """What differs from what was loaded, in the order in which it was touched."""
        found = []
        for (name, key), before in self._before.items():
            shelf = self._shelves[name]
            after = shelf.get(key)
            if after != before:
                found.append(Change(shelf.table, key, after, before))
        return found


def _issued(graduation: Graduation) -> tuple[int, bytes]:
    return graduation.issued_at_ms, graduation.graduation
