"""The data of the policy as the decision log follows it: the regions of identity in, patches and whole data out.

A router makes its data from the same two regions by the same `Documents`, so the revisions of the regions name the
state that a decision was made from, and the log need not ask anybody what a policy knew at that time.

Regions come and go with their writer: one that is not there yet means no data from it; one that ends leaves its last
state standing, as it does in a router. Only what stands in the data is remembered here by its slot, so a million
customers cost the log one look at each and nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import orjson

from skep_policy.documents import ZERO, Documents, Patch, ilk_name, stands
from skep_policy.record import Revision
from skep_shm import IlkRecord, IlksReader, RegionError, TenantRecord, TenantsReader

FRONTDESK: Final = "SY.frontdesk.gov"
"""A router may be told another front desk; what it tells its policy then is not known here."""

R = TypeVar("R", IlkRecord, TenantRecord)
Reader = IlksReader | TenantsReader
Change = tuple[bytes, Any]  # key, and its record; None: nobody has the key any more


class Followed(Generic[R]):
    """One region, by key. `keep` says of a record whether its end matters to us."""

    def __init__(self, attach: Callable[[], Any], keep: Callable[[R], bool]) -> None:
        self._attach = attach
        self._keep: Callable[[R], bool] = keep
        self._reader: Any = None
        self._slots: dict[int, bytes] = {}
        self.revision = 0
        self.there = False  # was it ever read?

    def look(self) -> list[Change]:
        """What has changed since the last look."""
        try:
            if self._reader is None:
                self._reader = self._attach()
                return self._read_all()
            if self._reader.revision == self.revision:
                return []
            changes = self._reader.changes(self.revision)
            return self._read_all() if changes is None else self._read_some(changes)
        except (RegionError, OSError):
            self.close()  # what it said last stands until its next writer says something else
            return []

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read_all(self) -> list[Change]:
        reader, before = self._reader, set(self._slots.values())
        revision, slots, found = reader.revision, {}, []
        for slot in reader.slots():
            record = reader.read(slot)
            if record is not None and self._keep(record):
                slots[slot] = record[0]
                found.append((record[0], record))
        gone: list[Change] = [(key, None) for key in before - set(slots.values())]
        self._slots, self.revision, self.there = slots, revision, True
        return gone + found

    def _read_some(self, changes: list[Any]) -> list[Change]:
        """A slot may hold another record now, or none: what became of either key, the region's index says."""
        keys: dict[bytes, None] = {}
        for change in changes:
            old, record = self._slots.pop(change.slot, None), self._reader.read(change.slot)
            if old is not None:
                keys[old] = None
            if record is not None:
                keys[record[0]] = None
                if self._keep(record):
                    self._slots[change.slot] = record[0]
        found = [(key, self._reader.find(key)) for key in keys]
        self.revision = changes[-1].revision if changes else self._reader.revision
        return found


class HiveData:
    """What a policy of this hive knows."""

    def __init__(self, root: Path, hive: str, seals: str = "off") -> None:
        """`seals` as the hive's routers are told: who is ready to answer depends on it."""
        self.documents = Documents({"frontdesk": f"{FRONTDESK}@{hive}", "identity": False, "seals": seals})
        self._ilks: Followed[IlkRecord] = Followed(lambda: IlksReader.attach(root), _matters)
        self._tenants: Followed[TenantRecord] = Followed(lambda: TenantsReader.attach(root), lambda _: True)

    @property
    def revision(self) -> Revision:
        return Revision(self._ilks.revision, self._tenants.revision)

    def look(self) -> list[Patch]:
        """What has changed in the data. Tenants first: records state their tenant's status."""
        patches: list[Patch] = []
        for tenant, status in self._tenants.look():
            patches += (
                self.documents.remove_tenant(tenant) if status is None else self.documents.set_tenant(status)
            )
        for ilk, record in self._ilks.look():
            patches += self.documents.remove(ilk) if record is None else self.documents.set(record)
        if self._ilks.there:
            patches += self.documents.set_config("identity", True)
        return patches

    def guests(self, *records: IlkRecord | None) -> list[Patch]:
        """The interlocutors that do not stand in the data, as one decision about them has them."""
        guests = {
            each.ilk: each for each in records if each is not None and not self.documents.standing(each.ilk)
        }
        return [
            Patch(("identity", ilk_name(ilk)), orjson.dumps(self.documents.document(record)))
            for ilk, record in guests.items()
        ]

    def whole_line(self) -> dict[str, Any]:
        """All of it, as a line of the log."""
        return {"kind": "data", **_revisions(self.revision), "data": orjson.Fragment(self.documents.whole())}

    def patch_line(self, patches: list[Patch]) -> dict[str, Any]:
        """These changes, as a line of the log."""
        return {"kind": "patch", **_revisions(self.revision), "patches": list(map(_patch_json, patches))}

    def close(self) -> None:
        self._ilks.close()
        self._tenants.close()


def _matters(record: IlkRecord) -> bool:
    return record.canonical != ZERO or stands(record)


def _revisions(revision: Revision) -> dict[str, Any]:
    return {"data_revision": revision._asdict()}


def _patch_json(patch: Patch) -> dict[str, Any]:
    path = list(patch.path)
    return {"path": path} if patch.value is None else {"path": path, "value": orjson.Fragment(patch.value)}
