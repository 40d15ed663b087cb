"""The router's side of the identity regions: who is who, as far as a router must know it by heart.

The first look at the regions, and one after an overrun of their rings, walks every record in a thread of its own and
remembers the few that matter (`identities.remembered`); meanwhile the core goes on with what it has. From then on each
tick follows the change rings. A ring names slots, so the thread also writes down whose slot is whose: 16 bytes each, 16
MB for a million. Everybody who is not remembered is read from the region when a decision needs them.

A region that fails changes nothing that is known; a look-up that fails is told to the core as what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from os.path import exists
from pathlib import Path
from time import sleep, time_ns
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from skep_router.changes import IdentityChange
from skep_router.core import Core
from skep_router.identities import Unreadable, remembered
from skep_router.log import Log
from skep_shm import IlkRecord, IlksReader, RegionError, TenantRecord, TenantsReader, region_path

_RETRY_NS: Final = 50_000_000  # between two attempts to attach a region that is not there
CHANGES_PER_TICK: Final = 512  # two milliseconds; a ring holds more, and what is left waits for the next tick
_KEY: Final = 16
_NOBODY: Final = bytes(_KEY)
_WALK_REST_S: Final = 0.0002  # given to the loop after each piece of a walk, which is all Python
_WALK_PIECE: Final = 64

R = TypeVar("R", IlkRecord, TenantRecord)
R_co = TypeVar("R_co", IlkRecord, TenantRecord, covariant=True)


class Reader(Protocol[R_co]):
    """What is read of a region of identity."""

    @property
    def revision(self) -> int: ...
    def get(self, slot: int) -> R_co | None: ...
    def find(self, key: bytes) -> R_co | None: ...
    def slots(self) -> range: ...
    def changes(self, since_revision: int) -> list[Any] | None: ...
    def close(self) -> None: ...


class Walked(NamedTuple, Generic[R]):
    """One region, read whole: as of `revision`, whose slot is whose, and the records that are kept."""

    revision: int
    keys: bytearray
    records: list[R]


def walk(reader: Reader[R], keep: Callable[[R], bool]) -> Walked[R]:
    """Read every record. In a thread beside the loop, so it rests after each piece."""
    revision, slots = reader.revision, reader.slots()
    keys = bytearray(_KEY * len(slots))
    records = []
    for slot in slots:
        record = reader.get(slot)
        if record is not None:
            keys[slot * _KEY:(slot + 1) * _KEY] = record[0]
            if keep(record):
                records.append(record)
        if not slot % _WALK_PIECE:
            sleep(_WALK_REST_S)
    return Walked(revision, keys, records)


class Follower(Generic[R]):
    """One region: what has become of its records since it was looked at last."""

    def __init__(self, reader: Reader[R], walked: Walked[R]) -> None:
        self.reader: Reader[R] = reader
        self.seen = walked.revision
        self._keys = walked.keys

    def look(self) -> tuple[list[R], list[bytes]] | None:
        """Records that are new or changed, and keys that nobody has any more. None: too much has happened, walk."""
        if self.reader.revision == self.seen:
            return [], []
        found = self.reader.changes(self.seen)
        if found is None:
            return None
        found = found[:CHANGES_PER_TICK]
        if found:
            self.seen = found[-1].revision
        fresh, left = [], []
        for slot in dict.fromkeys(change.slot for change in found):
            record = self.reader.get(slot)
            before = self._owner(slot, _NOBODY if record is None else record[0])
            if record is not None:
                fresh.append(record)
            if before != _NOBODY and (record is None or before != record[0]):
                left.append(before)
        return fresh, [key for key in left if self.reader.find(key) is None]

    def _owner(self, slot: int, key: bytes) -> bytes:
        """Whose slot this was; from now on it is `key`'s."""
        start, end = slot * _KEY, (slot + 1) * _KEY
        if len(self._keys) < end:
            self._keys.extend(bytes(end - len(self._keys)))
        before = bytes(self._keys[start:end])
        self._keys[start:end] = key
        return before


class _Known(NamedTuple):
    ilks: Walked[IlkRecord]
    tenants: Walked[TenantRecord]


class IdentityWatcher:
    """Follows the regions `ilks` and `tenants`. `look` is called every tick: two loads when nothing moved."""

    def __init__(self, root: Path, core: Core, log: Log, pool: ThreadPoolExecutor) -> None:
        self._root = root
        self._core = core
        self._log = log
        self._pool = pool
        self._anchors = [region_path(root, region) for region in ("ilks", "tenants")]
        self._ilks: IlksReader | None = None
        self._tenants: TenantsReader | None = None
        self._walk: Future[_Known] | None = None
        self._followers: tuple[Follower[IlkRecord], Follower[TenantRecord]] | None = None
        self._retry_at = 0
        self.journal: list[IdentityChange] | None = None  # what changes while a policy is being loaded

    @property
    def walking(self) -> bool:
        return self._walk is not None

    @property
    def revisions(self) -> tuple[int, int]:
        """How far the core has followed: ilks, tenants."""
        return (self._followers[0].seen, self._followers[1].seen) if self._followers else (0, 0)

    def look(self, now: int) -> None:
        self._core.identities.wall_offset_ns = time_ns() - now
        if self._walk is not None:
            if self._walk.done():
                self._walked(self._walk, now)
        elif self._followers is None:
            self._attach(now)
        else:
            self._follow(*self._followers, now)

    def _attach(self, now: int) -> None:
        if now < self._retry_at:
            return
        self._retry_at = now + _RETRY_NS
        if not all(map(exists, self._anchors)):
            return
        try:
            self._ilks = self._ilks or IlksReader.attach(self._root)
            self._tenants = self._tenants or TenantsReader.attach(self._root)
        except (RegionError, OSError):
            return  # a hive without identity, or one whose identity has not started
        self._begin()

    def _begin(self) -> None:
        """Read everything, in a thread, with readers of its own: the loop's follow generations meanwhile."""
        self._walk = self._pool.submit(_read_all, self._root)

    def _walked(self, walk: Future[_Known], now: int) -> None:
        self._walk = None
        try:
            known = walk.result()
        except (RegionError, OSError) as error:
            self._log.write("identities cannot be read", reason=str(error), hint="run: skep shm check")
            self._followers = None
            return
        assert self._ilks is not None and self._tenants is not None  # noqa: PT018  # attached before the walk began
        self._followers = Follower(self._ilks, known.ilks), Follower(self._tenants, known.tenants)
        change = IdentityChange(tuple(known.ilks.records), (), tuple(known.tenants.records))
        self._note(change)
        self._core.identity_known(self._find, change, now)
        self._log.write("identities known", remembered=len(change.ilks), tenants=len(change.tenants))

    def _follow(self, ilks: Follower[IlkRecord], tenants: Follower[TenantRecord], now: int) -> None:
        try:
            people, houses = ilks.look(), tenants.look()
        except (RegionError, OSError) as error:
            self._log.write("identities cannot be followed", reason=str(error), hint="run: skep shm check")
            self._begin()
            return
        if people is None or houses is None:
            self._begin()
            return
        change = IdentityChange(tuple(people[0]), tuple(people[1]), tuple(houses[0]), tuple(houses[1]))
        if change:
            self._note(change)
            self._core.identity_changed(change, now)

    def _note(self, change: IdentityChange) -> None:
        if self.journal is not None:
            self.journal.append(change)

    def _find(self, ilk: bytes) -> IlkRecord | None:
        assert self._ilks is not None  # the core is given this once it is attached
        try:
            return self._ilks.find(ilk)
        except (RegionError, OSError) as error:
            raise Unreadable(str(error)) from error

    def close(self) -> None:
        for reader in (self._ilks, self._tenants):
            if reader is not None:
                reader.close()


def _read_all(root: Path) -> _Known:
    ilks, tenants = IlksReader.attach(root), TenantsReader.attach(root)
    try:
        return _Known(walk(ilks, remembered), walk(tenants, lambda _record: True))
    finally:
        ilks.close()
        tenants.close()
