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
from typing import ClassVar, Generic, NamedTuple, Self, TypeVar

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layout import Layout
from skep_shm.layouts import RegionKind
from skep_shm.region import Identity, Owner
from skep_shm.rescue import Rescue
from skep_shm.segment import MODE_DEFAULT
from skep_shm.table import Pack, TableWriter, capacity_for

R = TypeVar("R")
_place = struct.Struct("<I").pack


class Encoded(NamedTuple):
    """A record as bytes up to its check, for slot 0 and with nothing that follows; `text` is the whole of it."""

    key: bytes
    text: bytes
    body: bytes

    def pack(self, slot: int, following: int, text: bytes) -> bytes:
        """The record for the place it gets; its inline text is in the body already."""
        body = self.body
        return b"".join((body[:8], _place(slot), body[12:16], _place(following), body[20:]))


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

    def _packed(self, record: R) -> tuple[bytes, bytes, Pack]:
        try:
            encoded = self._encode(record)
        except struct.error as error:
            raise ValueError(f"{record}: {error}") from error
        return encoded.key, encoded.text, encoded.pack

    @property
    def revision(self) -> int:
        return self._table.revision

    def fill(self, records: Iterable[R]) -> int:
        """Loads all records, shows the region, and returns how many it holds. Of two with one key the later counts."""
        if self._table.started:
            raise RuntimeError(f"{self._owner.name} is filled already; put() and remove() change it")
        for record in records:
            self._table.load(*self._packed(record))
        self._table.start()
        return self._table.live

    def put(self, record: R) -> int:
        """Adds a record or replaces the one with its key; returns its slot. Raises RegionError TOO_LONG, NO_SPACE,
        LIMIT and ValueError, with everything as it was."""
        self._need_filled()
        return self._table.put(*self._packed(record))

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


def need_width(name: str, value: bytes, width: int = 16) -> None:
    """Raises ValueError for a value of another length."""
    if len(value) != width:
        raise ValueError(f"{name} has {len(value)} bytes instead of {width}")
