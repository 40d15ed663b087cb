"""How many there are, kept in step with the changes: for metrics, and for a tenant's `max_ilks`.

Counted once at the start by the database, then moved by every change as it is made in the view (and back when it is
undone), so a limit holds within a group of requests too.
"""

from __future__ import annotations

from typing import Any

from skep_nodes.identity.tables import CHANNELS, ILKS, Table

COUNTED = (ILKS, CHANNELS)


class Counts:
    """Interlocutors and channels, by tenant."""

    def __init__(self, found: dict[str, dict[bytes, int]] | None = None) -> None:
        names = ("live", "gone", "aliases", "channels")
        self._by = {name: dict((found or {}).get(name, {})) for name in names}
        self._totals = {name: sum(tenants.values()) for name, tenants in self._by.items()}

    def total(self, name: str) -> int:
        return self._totals[name]

    def of(self, name: str, tenant: bytes) -> int:
        """Of one tenant."""
        return self._by[name].get(tenant, 0)

    def moved(self, table: Table, before: Any, after: Any) -> None:
        """A row became another; None stands for no row."""
        if table in COUNTED:
            if before is not None:
                self._add(_kind(table, before), before.tenant, -1)
            if after is not None:
                self._add(_kind(table, after), after.tenant, 1)

    def _add(self, name: str, tenant: bytes, step: int) -> None:
        tenants = self._by[name]
        tenants[tenant] = tenants.get(tenant, 0) + step
        self._totals[name] += step


def _kind(table: Table, record: Any) -> str:
    if table is CHANNELS:
        return "channels"
    return "live" if record.live else "gone" if record.deleted_at_ms else "aliases"
