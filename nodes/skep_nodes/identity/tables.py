"""Records as rows: one declared table each, from which both databases' SQL and every check are made.

A table has one key column; `indexes` are the columns besides it by which rows are looked up. The last column of every
row is `row_check`, a CRC-32 of all others: a database that changed a bit by itself cannot make us serve the row
(`Damaged`). The columns stand in the order of the record's fields, so packing is a walk over them.

Rejected: an object mapper (a row costs 40 us there and 4 here), and JSONB (it rewrites what it is given, so the check
would never fit; `json` keeps the text and can be queried as well).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any
from zlib import crc32

from msgpack import Packer

from skep_nodes.identity import records

CHECK = "row_check"


class Form(Enum):
    """How a column is kept."""

    BYTES = auto()
    TEXT = auto()
    INT = auto()
    ENUM = auto()
    """A whole number that has a name here."""
    WORDS = auto()
    """A tuple of words that hold no space: one text."""
    OBJECT = auto()
    """A JSON object."""


class Damaged(Exception):
    """A row whose check does not fit its content; it must not be served."""

    def __init__(self, table: str, key: object) -> None:
        shown = key.hex() if isinstance(key, bytes) else key
        super().__init__(f"{table} {shown}: the row does not fit its checksum")
        self.table, self.key = table, key


@dataclass(frozen=True, eq=False)  # compared, and hashed some thousand times a second, by what it is
class Table:
    """One kind of row."""

    name: str
    record: type[Any]
    forms: tuple[Form, ...]
    columns: tuple[str, ...]
    indexes: tuple[str, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()  # index column → what else its partial index covers
    resident: bool = False  # few rows, all of them kept in memory
    append_only: bool = False

    @property
    def key(self) -> str:
        return self.columns[0]

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The record's field for each column."""
        return tuple(self.record._fields)

    @cached_property
    def all_columns(self) -> tuple[str, ...]:
        return (*self.columns, CHECK)

    @cached_property
    def field_of(self) -> dict[str, str]:
        """Column → field."""
        return dict(zip(self.columns, self.fields, strict=True))

    @cached_property
    def _written(self) -> tuple[tuple[int, Callable[[Any], Any]], ...]:
        makers: dict[Form, Callable[[Any], Any]] = {
            Form.WORDS: " ".join,
            Form.OBJECT: _object_text,
            Form.ENUM: int,
        }
        return tuple((at, makers[form]) for at, form in enumerate(self.forms) if form in makers)

    @cached_property
    def _read(self) -> tuple[tuple[int, Callable[[str], Any]], ...]:
        readers: dict[Form, Callable[[str], Any]] = {Form.WORDS: words, Form.OBJECT: json.loads}
        return tuple((at, readers[form]) for at, form in enumerate(self.forms) if form in readers)

    def place(self, row: Sequence[Any], by: str = "") -> Any:
        """Where a row stands in the order of the keys, or of a column and the keys."""
        return (row[self.columns.index(by)], row[0]) if by else row[0]

    def condition(self, column: str) -> str:
        """What a query by this column has to say besides, so that a partial index serves it."""
        return f" AND {dict(self.terms)[column]}" if column in dict(self.terms) else ""

    def pack(self, record: Any) -> list[Any]:
        """The row of a record, its check included."""
        row = list(record)
        for at, write in self._written:
            row[at] = write(row[at])
        row.append(_check(row))
        return row

    @staticmethod
    def sound(row: Sequence[Any]) -> bool:
        """Whether a row is as it was written."""
        *values, check = row
        return bool(_check(values) == check)

    def unpack(self, row: Iterable[Any]) -> Any:
        """The record of a row. Raises Damaged."""
        *values, check = row
        if _check(values) != check:
            raise Damaged(self.name, values[0])
        for at, read in self._read:
            values[at] = read(values[at])
        return self.record(*values)


packed = Packer(use_bin_type=True, unicode_errors="surrogateescape").pack


def _check(row: list[Any]) -> int:
    return crc32(packed(row))


def _object_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else "{}"


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(" ")) if text else ()


_FORMS = {"B": Form.BYTES, "T": Form.TEXT, "I": Form.INT, "E": Form.ENUM, "W": Form.WORDS, "O": Form.OBJECT}


def _table(name: str, record: type[Any], forms: str, columns: str, indexes: str = "", **more: Any) -> Table:
    return Table(
        name, record, tuple(_FORMS[each] for each in forms), tuple(columns.split()), tuple(indexes.split()), **more
    )  # fmt: skip


TENANTS = _table(
    "identity_tenants", records.Tenant, "BTTTEOBTII",
    "tenant_id name name_key domain status settings requested_by approved_by created_at updated_at",
    "name_key domain", resident=True,
)  # fmt: skip
ILKS = _table(
    "identity_ilks", records.Ilk, "BEEEBTTOWWIBIEIWTIII",
    "ilk_id ilk_type subtype registration_status tenant_id email node_name identification roles capabilities live"
    " canonical_ilk_id alias_expires_at seal_status seal_expires_at degrees registered_by created_at updated_at"
    " deleted_at",
    "email node_name canonical_ilk_id",
    terms=(("email", "live = 1 AND email <> ''"), ("node_name", "live = 1 AND node_name <> ''"),
           ("canonical_ilk_id", "live = 0")),
)  # fmt: skip
CHANNELS = _table(
    "identity_ichs", records.Channel, "BBBTTBII",
    "ich_id ilk_id tenant_id channel_type address look_up is_primary added_at", "look_up ilk_id",
)  # fmt: skip
MERGES = _table(
    "identity_merges", records.Merge, "BBBITTWWITT",
    "merge_id source_ilk_id target_ilk_id merged_at merged_by reason moved repointed split_at split_by split_reason",
    "source_ilk_id target_ilk_id",
)  # fmt: skip
GRADUATIONS = _table(
    "identity_graduations", records.Graduation, "BBBIBETIIIT",
    "graduation_id ilk_id degree_id degree_version seal status issuer issued_at valid_until revoked_at reason",
    "ilk_id degree_id",
)  # fmt: skip
DOCUMENTS = _table(
    "identity_documents", records.Document, "BTTITBTII",
    "document_key kind name version series body created_by created_at deprecated_at", "series kind",
)  # fmt: skip
WORDS = _table(
    "identity_vocabulary",
    records.Word,
    "TTTII",
    "tag category description created_at deprecated_at",
    resident=True,
)
FACTS = _table("identity_facts", records.Fact, "TT", "name value", resident=True)
AUDIT = _table(
    "identity_audit", records.Entry, "IITTBBTTB", "seq at_ms actor action ilk_id tenant_id reason detail chain",
    "ilk_id", append_only=True,
)  # fmt: skip

ALL = (TENANTS, ILKS, CHANNELS, MERGES, GRADUATIONS, DOCUMENTS, WORDS, FACTS, AUDIT)
RESIDENT = tuple(table for table in ALL if table.resident)
