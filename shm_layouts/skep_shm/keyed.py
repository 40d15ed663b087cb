"""The writer of a region that is the image of a database: what ilks, tenants and channels have in common.

The database is the truth, so a new writer takes over nothing: it fills a segment from the database while readers go on
with what the writer before left, and only then swings. That is `fill`, and nothing may be put before it: a region that
shows half of the interlocutors would make strangers of the others.

A record is encoded before anything is touched, so a value that does not fit is refused and changes nothing. Each `put`
and `remove` is O(1) and visible when it returns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layout import Layout
from skep_shm.layouts import RegionKind
from skep_shm.region import Identity, Owner
from skep_shm.rescue import Rescue
from skep_shm.segment import MODE_DEFAULT
from skep_shm.table import TableWriter, capacity_for, placed

R = TypeVar("R")
KEY_BYTES = 16


Encoded = tuple[bytes, bytes, bytes]
"""Key, whole text, and the record up to its check, as for slot 0 and with nothing that follows."""


class KeyedWriter(Generic[R]):
    """Owns one region; subclasses say what a record is."""

    region: ClassVar[str]
    kind: ClassVar[RegionKind]
    layout: ClassVar[Layout]
    key: ClassVar[str]

    def __init__(self, owner: Owner, expected: int) -> None:
        self._owner = owner
        self._table = TableWriter(owner, self.layout, self.key, capacity_for(expected))
        self._rescue = Rescue(owner, self._table.restore)

    @classmethod
    def create(
        cls, root: Path, hive: str, *, mode: int = MODE_DEFAULT, group: int | None = None, expected: int = 0
    ) -> Self:
        """Becomes the region's writer, with room for `expected` records; `fill` makes it visible. Raises RegionError
        BUSY, NO_SPACE."""
        owner = Owner(root, cls.region, Identity(cls.kind, hive), mode, group)
        try:
            return cls(owner, expected)
        except BaseException:
            owner.give_up()
            raise

    def _encode(self, record: R) -> Encoded:
        """Raises RegionError TOO_LONG, ValueError, struct.error (a number out of range)."""
        raise NotImplementedError

    def _packed(self, record: R) -> Encoded:
        try:
            return self._encode(record)
        except struct.error as error:
            raise ValueError(f"{record}: {error}") from error

    @property
    def revision(self) -> int:
        return self._table.revision

    def fill(self, records: Iterable[R]) -> int:
        """Loads all records, shows the region, and returns how many it holds. Of two with one key the later counts."""
        if self._table.started:
            raise RuntimeError(f"{self._owner.name} is filled already; put() and remove() change it")
        load = self._table.load
        for record in records:
            load(*self._packed(record))
        self._table.start()
        return self._table.live

    def put(self, record: R) -> int:
        """Adds a record or replaces the one with its key; returns its slot. Raises RegionError TOO_LONG, NO_SPACE,
        LIMIT and ValueError, with everything as it was."""
        self._need_filled()
        key, text, body = self._packed(record)
        return self._table.put(key, text, placed(body))

    def remove(self, key: bytes) -> bool:
        """False when no record has this key."""
        self._need_filled()
        slot = self._table.slot_of(key)
        if slot is not None:
            self._table.delete(slot)
        return slot is not None

    def _need_filled(self) -> None:
        if not self._table.started:
            detail, hint = (
                "nothing is shown before it is filled",
                "call fill(), with () if there is nothing yet",
            )
            raise RegionError(RegionCode.NOT_READY, self._owner.name, detail, hint)

    def heartbeat(self, now_ns: int) -> None:
        """Sign of life, and makes the region again if its files were removed; `now_ns` is CLOCK_BOOTTIME."""
        self._owner.heartbeat(now_ns)
        self._rescue.look(now_ns)

    def statistics(self) -> dict[str, int]:
        return self._table.statistics()

    def close(self) -> None:
        """Ends the region: nothing stays behind. May be called twice."""
        self._table.close()


def wrong_width(**values: bytes) -> ValueError:
    """The error for values of which one has another length than `KEY_BYTES`."""
    name, value = next((name, value) for name, value in values.items() if len(value) != KEY_BYTES)
    return ValueError(f"{name} has {len(value)} bytes instead of {KEY_BYTES}")
