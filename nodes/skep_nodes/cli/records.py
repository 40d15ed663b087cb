"""What routers recorded, as plain facts: hop records and events of all routers of a hive, in the order they
happened.

Order and intervals come from the monotonic clock, which all processes of one machine share; wall time is for
display.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import skep_shm
from skep_nodes.cli.failure import Exit, Failure
from skep_shm import Record, RecordKind

ROUTERS_MAX = 64


class RecordsTail:
    """Reads every router's ring from where it was last; counts what was overwritten before it was read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._readers: dict[str, tuple[skep_shm.RecordsReader, int]] = {}
        self.lost_count = 0
        self._attach()
        if not self._readers:
            raise Failure("NOT_RUNNING", f"no router keeps records in {root}", then=f"skep up --hive {root}",
                          exit_code=Exit.NOT_FOUND)  # fmt: skip

    def _attach(self) -> None:
        for reader in skep_shm.nodes_readers(self._root):
            uuid = reader.header().router_uuid
            if uuid.hex() not in self._readers and len(self._readers) < ROUTERS_MAX:
                self._readers[uuid.hex()] = (skep_shm.RecordsReader.attach(self._root, uuid), 0)

    def read(self) -> list[Record]:
        """Records since the last call, of all routers, in the order they happened."""
        found: list[list[Record]] = []
        for name, (reader, cursor) in list(self._readers.items()):
            records, cursor, lost = reader.since(cursor)
            self._readers[name] = (reader, cursor)
            self.lost_count += lost
            found.append(records)
        return list(heapq.merge(*found, key=lambda record: record.mono_ns))


def facts_of(record: Record) -> dict[str, Any]:
    """One record as every form prints it; empty facts are left out."""
    when = datetime.fromtimestamp(record.at_ms / 1000, UTC)
    facts = {
        "at": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "mono_ns": record.mono_ns,
        "kind": kind_name(record.kind), "source": record.source_name or _uuid(record.source),
        "dest": record.dest_name or _uuid(record.dest), "code": record.code, "detail": record.detail,
        "trace_id": _uuid(record.trace_id), "message_id": record.message_id,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value not in ("", 0)}


def kind_name(kind: int) -> str:
    """The kind's name; a number for one that a newer router writes."""
    return RecordKind(kind).name if kind in set(RecordKind) else f"KIND_{kind}"


def _uuid(value: bytes) -> str:
    return str(UUID(bytes=value)) if any(value) else ""


def of_trace(records: list[Record], trace: bytes) -> Iterator[Record]:
    """The records of one trace."""
    return (record for record in records if record.trace_id == trace)
