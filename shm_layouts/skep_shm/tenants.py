"""The tenants region: which tenants there are, and whether they may do anything.

Writer: SY.identity, alone. Readers: routers and system nodes, by group.
"""

from __future__ import annotations

from pathlib import Path

from skep_shm.keyed import KEY_BYTES, Encoded, KeyedWriter, wrong_width
from skep_shm.layouts import SLOT_NONE, TENANT, RegionKind, State
from skep_shm.table_reader import TableReader
from skep_shm.types import TenantRecord, TenantStatus

REGION = "tenants"

_LIVE = int(State.LIVE)
_unpack = TENANT.only("state", "status", "flags", "tenant").unpack
_STATUSES = tuple(TenantStatus)


class TenantsWriter(KeyedWriter[TenantRecord]):
    """Owns the tenants."""

    region = REGION
    kind = RegionKind.TENANTS
    layout = TENANT
    key = "tenant"

    def _encode(self, record: TenantRecord) -> Encoded:
        if len(record.tenant) != KEY_BYTES:
            raise wrong_width(tenant=record.tenant)
        fields = (0, 0, _LIVE, record.status, 0, SLOT_NONE, record.flags, record.tenant, 0)
        return record.tenant, b"", TENANT.struct.pack(*fields)[:-4]


class TenantsReader(TableReader[TenantRecord]):
    """The tenants, as routers see them."""

    kind = RegionKind.TENANTS
    layout = TENANT
    record_bytes = TENANT.size
    key = "tenant"

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> TenantsReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _decode(self, slot: int, raw: bytes) -> TenantRecord | None:
        state, status, flags, tenant = _unpack(raw)
        return TenantRecord(tenant, _STATUSES[status], flags) if state == _LIVE else None
