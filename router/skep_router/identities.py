"""Who the interlocutors of a message are, as SY.identity publishes it.

Owns what a router must have at hand of identity: who answers from a node (agents, operators, system interlocutors),
aliases, and the tenants' status. Everybody else is read from the region when a decision needs them (`find`), so a
million customers cost a router nothing.

Invariants:
  an alias that lives leads to its canonical ILK; one that has ended leads nowhere;
  a tenant that is not published, or not active, has nobody who may speak or be spoken to;
  identity that cannot be read is an error of its own (`Unreadable`), never "nobody".

Where a hive has no identity (`there` is False) nobody is known, nobody is refused for it, and the router behaves as it
did before there was any. Times are the core's; ends are published in wall time, and `wall_offset_ns` leads from one to
the other (the shell measures it in every tick).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, NamedTuple
from uuid import UUID

from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, TenantRecord, TenantStatus

ZERO: Final = bytes(16)
ALIAS_HOPS_MAX: Final = 4  # a merge of merged ones; longer chains are nobody's intention
_NS_PER_MS: Final = 1_000_000

Find = Callable[[bytes], IlkRecord | None]


class Unreadable(Exception):
    """The region of the interlocutors is there and cannot be read."""


class Party(NamedTuple):
    """One interlocutor of a message. `record` is the canonical one; None: nobody has this ILK."""

    named: bytes
    record: IlkRecord | None
    until_ns: int = 0  # when its alias or its seal ends
    read: tuple[bytes, ...] = ()  # what was looked up on the way, found or not: a change of any of it may change this

    @property
    def canonical(self) -> bytes:
        return self.named if self.record is None else self.record.ilk

    @property
    def temporary(self) -> bool:
        return self.record is not None and self.record.registration == Registration.TEMPORARY

    @property
    def tenant(self) -> bytes:
        return ZERO if self.record is None else self.record.tenant


def remembered(record: IlkRecord) -> bool:
    """Is this record kept here, and not only read when asked for?"""
    return record.canonical != ZERO or record.kind != IlkKind.HUMAN or bool(record.handler)


class Identities:
    """What one router knows of who is who."""

    __slots__ = ("_find", "handlers", "records", "tenants", "wall_offset_ns")

    def __init__(self) -> None:
        self.records: dict[bytes, IlkRecord] = {}  # those who are `remembered`
        self.handlers: dict[str, IlkRecord] = {}  # by the full name of their node
        self.tenants: dict[bytes, TenantStatus] = {}
        self.wall_offset_ns = 0  # wall clock minus the core's clock
        self._find: Find | None = None

    @property
    def there(self) -> bool:
        return self._find is not None

    def attach(self, find: Find) -> None:
        """The region can be read: `find` raises Unreadable when it no longer can."""
        self._find = find

    # -- asking ----------------------------------------------------------------------------------------------------

    def party(self, ilk: bytes | None, now_ns: int) -> Party | None:
        """Who this ILK is now; None where no ILK is named or the hive has no identity. Raises Unreadable."""
        if ilk is None or self._find is None:
            return None
        record = self._find(ilk)
        read: tuple[bytes, ...] = (ilk,)
        until = 0
        for _ in range(ALIAS_HOPS_MAX):
            if record is None or record.canonical == ZERO:
                break
            end = self.core_ns(record.alias_until_ms)
            if end and end <= now_ns:
                return Party(ilk, None, 0, read)
            read, until = (*read, record.canonical), _sooner(until, end)
            record = self._find(record.canonical)
        if record is None or record.canonical != ZERO:
            return Party(ilk, None, until, read)
        end = self.core_ns(record.seal_until_ms)
        return Party(ilk, record, _sooner(until, end) if end > now_ns else until, read)

    def core_ns(self, wall_ms: int) -> int:
        """A published end on the core's clock; 0 where there is none."""
        return max(1, wall_ms * _NS_PER_MS - self.wall_offset_ns) if wall_ms else 0

    def tenant_status(self, tenant: bytes) -> TenantStatus | None:
        """None: nobody published it. The tenant-neutral zero is always active."""
        return TenantStatus.ACTIVE if tenant == ZERO else self.tenants.get(tenant)

    def handler(self, name: str) -> IlkRecord | None:
        """Whose node this full name is."""
        return self.handlers.get(name)

    def record_named(self, name: str) -> IlkRecord | None:
        """The record of `ilk:<uuid>`, of those who are remembered: nobody else has a node."""
        try:
            return self.records.get(UUID(name.removeprefix("ilk:")).bytes)
        except ValueError:
            return None

    def unsealed(self, name: str, now_ns: int) -> str:
        """Why an agent's node may not speak for want of a seal; empty where it may, or is no agent's."""
        record = self.handlers.get(name)
        if record is None:
            return "no agent is registered for it" if name.startswith("AI.") else ""
        if record.kind != IlkKind.AGENT:
            return ""
        if record.seal != SealStatus.VALID:
            return f"the seal of its degree is {SealStatus(record.seal).name.lower()}"
        end = self.core_ns(record.seal_until_ms)
        return "the seal of its degree has expired" if 0 < end <= now_ns else ""

    def statistics(self) -> dict[str, object]:
        """Member `identity` of ROUTER_STATS."""
        return {
            "there": self.there, "remembered": len(self.records), "handlers": len(self.handlers),
            "tenants": len(self.tenants),
        }  # fmt: skip

    # -- changes ---------------------------------------------------------------------------------------------------

    def learn(self, record: IlkRecord) -> set[Hashable]:
        """This record is new or has changed. -> what flows may rest on of it: its ILK, and the names of its nodes."""
        touched = self.forget(record.ilk)
        if remembered(record):
            self.records[record.ilk] = record
            if record.handler and record.canonical == ZERO:
                self.handlers[record.handler] = record
                touched.add(record.handler)
        return touched

    def forget(self, ilk: bytes) -> set[Hashable]:
        """Nobody has this ILK any more."""
        touched: set[Hashable] = {ilk}
        old = self.records.pop(ilk, None)
        if old is not None and self.handlers.get(old.handler) is old:
            del self.handlers[old.handler]
            touched.add(old.handler)
        return touched

    def learn_tenant(self, record: TenantRecord) -> set[Hashable]:
        changed = self.tenants.get(record.tenant) != record.status
        self.tenants[record.tenant] = TenantStatus(record.status)
        return {record.tenant} if changed else set()

    def forget_tenant(self, tenant: bytes) -> set[Hashable]:
        return {tenant} if self.tenants.pop(tenant, None) is not None else set()


def _sooner(a: int, b: int) -> int:
    """The earlier of two ends, of which 0 is none."""
    return min(a, b) if a and b else a or b
