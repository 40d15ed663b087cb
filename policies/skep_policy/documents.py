"""Records of identity as a policy sees them, and what one change of a record changes in its data.

Owns the data of one policy: who stands in it, and where. *Standing* are agents, system interlocutors, and a tenant's
own people who answer from a node; everybody else is known to a decision by the record handed in with it and never
stands in the data, so a million customers cost a policy nothing.

    agents[ilk], identity[ilk]      the record of everybody who stands
    capability[tag][ilk] = ilk      who stands and has the tag
    node[name] = ilk                whose node that is
    tenant[tnt] = {status, agents: {ilk: ilk}, capability: {tag: {ilk: ilk}}, ready: {tag: ...}}   see `ready`
    identity_aliases[old] = new
    config                          settings that rules may read: frontdesk, identity, seals

Look-ups are objects `{ilk: ilk}`, not arrays: `some ilk in data.capability[tag]` means the same for both, and a member
of an object is set or removed by itself. So one change of one record is a handful of small patches, whatever the number
of records; only a tenant's new status touches all who stand in that tenant, because their records state it.

Each patch can be applied in its order without making parents: an object is set whole with its first member, and
removed whole with its last. Pure: no clock, no region, no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from skep_policy.ready import Change, Ready, readiness
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype, TenantRecord, TenantStatus

ZERO: Final = bytes(16)
ROOTS: Final = ("agents", "capability", "config", "identity", "identity_aliases", "node", "tenant")
Path = tuple[str, ...]


class Patch(NamedTuple):
    """One change of the data. `value` is JSON; None removes what stands at `path`."""

    path: Path
    value: bytes | None


def uuid_text(raw: bytes) -> str:
    """As `str(UUID(bytes=raw))`, at a quarter of its cost: every decision writes some."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def ilk_name(ilk: bytes) -> str:
    return f"ilk:{uuid_text(ilk)}"


def tenant_name(tenant: bytes) -> str:
    return f"tnt:{uuid_text(tenant)}"


def ilk_bytes(name: str) -> bytes | None:
    """The 16 bytes of `ilk:<uuid>`; None for any other text."""
    try:
        return UUID(name[4:]).bytes if name.startswith("ilk:") else None
    except ValueError:
        return None


def stands(record: IlkRecord) -> bool:
    """Is this record part of the data, and not only of decisions about its own messages?"""
    if record.canonical != ZERO:
        return False
    if record.kind == IlkKind.HUMAN:
        return record.subtype == Subtype.INTERNAL and bool(record.handler)
    return True


_KINDS: Final = tuple(kind.name.lower() for kind in IlkKind)  # by number: an enum's `name` costs more than the rest
_SUBTYPES: Final = ("", *(subtype.name.lower() for subtype in Subtype if subtype))
_REGISTRATIONS: Final = tuple(registration.name.lower() for registration in Registration)
_SHUT: Final = (TenantStatus.PENDING, TenantStatus.SUSPENDED)
_STATUSES: Final = tuple(status.name.lower() for status in TenantStatus)

RECORD: Final[dict[str, Callable[[IlkRecord, str], Any]]] = {
    "ilk": lambda record, _: ilk_name(record.ilk),
    "type": lambda record, _: _KINDS[record.kind],
    "ilk_type": lambda record, _: _KINDS[record.kind],
    "human_subtype": lambda record, _: _SUBTYPES[record.subtype],
    "tenant": lambda record, _: tenant_name(record.tenant),
    "tenant_id": lambda record, _: tenant_name(record.tenant),
    "tenant_status": lambda _, status: status,
    "registration_status": lambda record, _: _REGISTRATIONS[record.registration],
    "roles": lambda record, _: list(record.roles),
    "capabilities": lambda record, _: list(record.capabilities),
    "degrees": lambda record, _: list(record.degrees),
    "handler_node": lambda record, _: record.handler,
    "sealed": lambda record, _: record.seal == SealStatus.VALID,
}
"""What rules read of a record. `type` and `ilk_type`, `tenant` and `tenant_id` are the same facts under the names that
upstream's texts and upstream's code give them."""


def record_document(record: IlkRecord, tenant_status: str) -> dict[str, Any]:
    """The whole record as rules read it."""
    return {name: value(record, tenant_status) for name, value in RECORD.items()}


def status_text(status: TenantStatus | None, tenant: bytes = ZERO) -> str:
    """`active`, `pending`, `suspended`; `none` for the tenant-neutral zero, `unknown` for one that nobody published."""
    if status is not None:
        return _STATUSES[status]
    return "none" if tenant == ZERO else "unknown"


class Documents:
    """The data of one policy, kept as records; JSON is made for what changes."""

    __slots__ = ("_aliases", "_config", "_members", "_nodes", "_ready", "_records", "_tenants")

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self._config = dict(config or {})
        self._records: dict[bytes, IlkRecord] = {}
        self._aliases: dict[bytes, bytes] = {}
        self._nodes: dict[str, bytes] = {}
        self._tenants: dict[bytes, TenantStatus] = {}
        self._members: dict[Path, dict[bytes, None]] = {}  # every look-up object, by where it stands
        self._ready = Ready()

    def __len__(self) -> int:
        return len(self._records)

    # -- changes ---------------------------------------------------------------------------------------------------

    def set(self, record: IlkRecord) -> list[Patch]:
        """This record is new, or says something else than before."""
        if record.canonical != ZERO:
            return self._leave(record.ilk) + self._set_alias(record.ilk, record.canonical)
        patches = self._end_alias(record.ilk)
        if not stands(record):
            return patches + self._leave(record.ilk)
        old = self._records.get(record.ilk)
        return patches if old == record else patches + self._replace(old, record)

    def remove(self, ilk: bytes) -> list[Patch]:
        """Nobody has this ILK any more."""
        return self._end_alias(ilk) + self._leave(ilk)

    def set_tenant(self, record: TenantRecord) -> list[Patch]:
        """A tenant's status; those who stand in it carry it in their own records."""
        status = TenantStatus(record.status)
        if self._tenants.get(record.tenant) == status:
            return []
        old = self._tenants.get(record.tenant)
        self._tenants[record.tenant] = status
        name, text = tenant_name(record.tenant), orjson.dumps(status_text(status))
        if old is None and not self._tenant_populated(name):
            patches = [Patch(("tenant", name), orjson.dumps(self._tenant_document(record.tenant)))]
        else:
            patches = [Patch(("tenant", name, "status"), text), *self._opened(record.tenant, old)]
        for ilk in self._members.get(("tenant", name, "agents"), ()):
            patches += self._restated(ilk, text)
        return patches

    def remove_tenant(self, tenant: bytes) -> list[Patch]:
        """The tenant is no longer published. Those who stand in it go on, in a tenant that nobody knows."""
        old = self._tenants.pop(tenant, None)
        if old is None:
            return []
        name, text = tenant_name(tenant), orjson.dumps(status_text(None, tenant))
        if not self._tenant_populated(name):
            return [Patch(("tenant", name), None)]
        patches = [Patch(("tenant", name, "status"), text), *self._opened(tenant, old)]
        for ilk in self._members[("tenant", name, "agents")]:
            patches += self._restated(ilk, text)
        return patches

    def set_config(self, name: str, value: Any) -> list[Patch]:
        """A setting that rules may read."""
        if name in self._config and self._config[name] == value:
            return []
        self._config[name] = value
        patches = [Patch(("config", name), orjson.dumps(value))]
        return patches + self._sort_out() if name == "seals" else patches

    def _sort_out(self) -> list[Patch]:
        """Who is ready, anew for everybody: what is asked of seals has changed."""
        patches: list[Patch] = []
        for record in self._records.values():
            now = readiness(record, self._sealed)
            patches += self._below(record.tenant, self._ready.take_out(record.ilk, now))
            patches += self._below(record.tenant, self._ready.put_in(record.ilk, now))
        return patches

    def _below(self, tenant: bytes, changes: list[Change]) -> list[Patch]:
        """Changes of who is ready, where they stand in the data: nowhere while the tenant is shut."""
        if not changes or self._tenants.get(tenant) in _SHUT:
            return []
        ready = ("tenant", tenant_name(tenant), "ready")
        return [Patch((*ready, *path), value) for path, value in changes]

    def _opened(self, tenant: bytes, old: TenantStatus | None) -> list[Patch]:
        """A tenant that is shut has nobody who is ready; one that is opened has again who was ready before."""
        if (old in _SHUT) == (self._tenants.get(tenant) in _SHUT):
            return []
        return [Patch(("tenant", tenant_name(tenant), "ready"), orjson.dumps(self._ready_of(tenant)))]

    def _ready_of(self, tenant: bytes) -> dict[str, Any]:
        return {} if self._tenants.get(tenant) in _SHUT else self._ready.document(tenant)

    @property
    def _sealed(self) -> bool:
        return self._config.get("seals") not in ("off", "warn")

    @staticmethod
    def _restated(ilk: bytes, text: bytes) -> list[Patch]:
        name = ilk_name(ilk)
        return [Patch((root, name, "tenant_status"), text) for root in ("agents", "identity")]

    def _set_alias(self, old: bytes, new: bytes) -> list[Patch]:
        if self._aliases.get(old) == new:
            return []
        self._aliases[old] = new
        return [Patch(("identity_aliases", ilk_name(old)), orjson.dumps(ilk_name(new)))]

    def _end_alias(self, ilk: bytes) -> list[Patch]:
        if self._aliases.pop(ilk, None) is None:
            return []
        return [Patch(("identity_aliases", ilk_name(ilk)), None)]

    # -- who stands ------------------------------------------------------------------------------------------------

    def _replace(self, old: IlkRecord | None, record: IlkRecord) -> list[Patch]:
        self._records[record.ilk] = record
        name = ilk_name(record.ilk)
        body = orjson.dumps(self.document(record))
        patches = [Patch((root, name), body) for root in ("agents", "identity")]
        before, after, now = _places(old), _places(record), readiness(record, self._sealed)
        if old is not None:
            patches += self._below(old.tenant, self._ready.take_out(record.ilk, now))
        for path in sorted(before - after, reverse=True):
            patches += self._take_out(path, record.ilk)
        for path in sorted(after - before):
            patches += self._put_in(path, record.ilk)
        patches += self._below(record.tenant, self._ready.put_in(record.ilk, now))
        if old is None or old.handler != record.handler:
            patches += self._unname(old) + self._name(record)
        return patches

    def _leave(self, ilk: bytes) -> list[Patch]:
        old = self._records.pop(ilk, None)
        if old is None:
            return []
        patches = [Patch((root, ilk_name(ilk)), None) for root in ("agents", "identity")]
        patches += self._below(old.tenant, self._ready.take_out(ilk, None))
        for path in sorted(_places(old), reverse=True):  # a tenant's parts before what they hang on
            patches += self._take_out(path, ilk)
        return patches + self._unname(old)

    def _name(self, record: IlkRecord) -> list[Patch]:
        if not record.handler:
            return []
        self._nodes[record.handler] = record.ilk
        return [Patch(("node", record.handler), orjson.dumps(ilk_name(record.ilk)))]

    def _unname(self, old: IlkRecord | None) -> list[Patch]:
        if old is None or self._nodes.get(old.handler) != old.ilk:
            return []  # it never had a node, or another record has taken the name over
        del self._nodes[old.handler]
        return [Patch(("node", old.handler), None)]

    def _put_in(self, path: Path, ilk: bytes) -> list[Patch]:
        name = ilk_name(ilk)
        members = self._members.get(path)
        if members is not None:
            members[ilk] = None
            return [Patch((*path, name), orjson.dumps(name))]
        patches = self._found_tenant(path)
        self._members[path] = {ilk: None}
        return [*patches, Patch(path, orjson.dumps({name: name}))]

    def _take_out(self, path: Path, ilk: bytes) -> list[Patch]:
        members = self._members[path]
        del members[ilk]
        if members:
            return [Patch((*path, ilk_name(ilk)), None)]
        del self._members[path]
        if path[0] != "tenant":
            return [Patch(path, None)]
        if path[2] == "agents":
            return [Patch(path, b"{}")] if self._known(path[1]) else [Patch(path[:2], None)]
        return [Patch(path, None)]

    def _found_tenant(self, path: Path) -> list[Patch]:
        """A tenant that nobody published stands in the data as soon as somebody stands in it. `agents` sorts before
        `capability`, so this is asked for it first."""
        if path[0] != "tenant" or path[2] != "agents" or self._known(path[1]):
            return []
        status = status_text(None, UUID(path[1][4:]).bytes)
        empty: dict[str, Any] = {"status": status, "agents": {}, "capability": {}, "ready": {}}
        return [Patch(path[:2], orjson.dumps(empty))]

    def _known(self, name: str) -> bool:
        return UUID(name[4:]).bytes in self._tenants

    def _tenant_populated(self, name: str) -> bool:
        return ("tenant", name, "agents") in self._members

    # -- reading ---------------------------------------------------------------------------------------------------

    def tenant_status(self, tenant: bytes) -> str:
        status = self._tenants.get(tenant)
        return status_text(None, tenant) if status is None else _STATUSES[status]

    def document(self, record: IlkRecord) -> dict[str, Any]:
        """Any record, standing or not, with its tenant's status as it is known here."""
        return record_document(record, self.tenant_status(record.tenant))

    def record_json(self, ilk: bytes) -> bytes:
        """A standing record; `null` when nobody of that ILK stands."""
        record = self._records.get(ilk)
        return b"null" if record is None else orjson.dumps(self.document(record))

    def standing(self, ilk: bytes) -> bool:
        return ilk in self._records

    def record(self, ilk: bytes) -> IlkRecord | None:
        return self._records.get(ilk)

    def ilk_of_node(self, name: str) -> bytes | None:
        return self._nodes.get(name)

    def whole(self) -> bytes:
        """All of the data, for an engine that starts. Equal to what the patches so far would have made of it."""
        people = {ilk_name(ilk): self.document(record) for ilk, record in self._records.items()}
        data: dict[str, Any] = {
            "agents": people, "identity": people, "config": self._config,
            "node": {name: ilk_name(ilk) for name, ilk in self._nodes.items()},
            "identity_aliases": {ilk_name(old): ilk_name(new) for old, new in self._aliases.items()},
            "capability": {p[1]: self._look_up(p) for p in self._members if p[0] == "capability"},
            "tenant": {},
        }  # fmt: skip
        populated = {UUID(path[1][4:]).bytes for path in self._members if path[0] == "tenant"}
        for tenant in self._tenants.keys() | populated:
            data["tenant"][tenant_name(tenant)] = self._tenant_document(tenant)
        for path in self._members:
            if path[0] == "tenant" and path[2] == "capability":
                data["tenant"][path[1]]["capability"][path[3]] = self._look_up(path)
        return orjson.dumps(data)

    def _tenant_document(self, tenant: bytes) -> dict[str, Any]:
        agents = self._look_up(("tenant", tenant_name(tenant), "agents"))
        ready = self._ready_of(tenant)
        return {"status": self.tenant_status(tenant), "agents": agents, "capability": {}, "ready": ready}

    def _look_up(self, path: Path) -> dict[str, str]:
        return {name: name for name in map(ilk_name, self._members.get(path, ()))}


def _places(record: IlkRecord | None) -> set[Path]:
    """The look-up objects that a standing record is a member of."""
    if record is None:
        return set()
    tenant = ("tenant", tenant_name(record.tenant))
    tags = set(record.capabilities)
    places: set[Path] = {("capability", tag) for tag in tags} | {(*tenant, "capability", tag) for tag in tags}
    return places | {(*tenant, "agents")}


def roots_of(patches: list[Patch]) -> frozenset[str]:
    """The data roots that these patches change."""
    return frozenset(patch.path[0] for patch in patches)
