"""Tenants come, are approved, suspended and taken back: TNT_CREATE, TNT_APPROVE, TNT_SUSPEND, TNT_RESUME, TNT_LIST.

A tenant is pending until an administrator approves it, whoever asked for it. TNT_CREATE finds one of the same domain or
name and says which it was; that is information for an administrator, and no way in (`admission`). To anybody else it
says only that the name is taken: an id is not handed to those who know a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from skep_nodes.identity import ids, limits
from skep_nodes.identity.records import Tenant
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import ILKS, TENANTS
from skep_nodes.identity.view import Ask, View
from skep_shm import TenantStatus

STATUSES = {status.name.lower(): status for status in TenantStatus}


def name_key(name: str) -> str:
    """How names are compared: folded, with single spaces."""
    return " ".join(name.casefold().split())


@dataclass(frozen=True, slots=True)
class CreateTenant:
    """TNT_CREATE: find by domain, then by name; else make it."""

    actor: str
    may_place: bool
    name: str
    domain: str = ""
    status: TenantStatus = TenantStatus.PENDING
    settings: dict[str, Any] = field(default_factory=dict)
    requested_by: bytes = ids.NONE

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        known, matched_by = self._known(view)
        if known is not None:
            return self._matched(known, matched_by)
        if self.status != TenantStatus.PENDING and not self.may_place:
            detail = "a new tenant is pending until an administrator approves it; leave status out"
            raise Refusal(Code.INVALID_TENANT_TRANSITION, detail)
        made = self._make(view)
        return {**_told(made), "created": True, "matched_by": None}

    def _known(self, view: View) -> tuple[Tenant | None, str]:
        for column, value in (("domain", self.domain), ("name_key", name_key(self.name))):
            for tenant in view.find(TENANTS, column, value) if value else ():
                return tenant, column.removesuffix("_key")
        return None, ""

    def _matched(self, known: Tenant, matched_by: str) -> dict[str, Any]:
        own = known.requested_by != ids.NONE and known.requested_by == self.requested_by
        if not self.may_place and not own:
            detail = f"a tenant with this {matched_by} exists; an administrator admits people to it"
            raise Refusal(Code.TENANT_NOT_ADMITTED, detail, created=False, matched_by=matched_by)
        return {**_told(known), "created": False, "matched_by": matched_by}

    def _make(self, view: View) -> Tenant:
        if sum(1 for _ in view.all(TENANTS)) >= limits.TENANTS_MAX:
            raise Refusal(Code.IDENTITY_LIMIT_REACHED, f"at most {limits.TENANTS_MAX} tenants")
        approved_by = self.actor if self.status == TenantStatus.ACTIVE else ""
        made = Tenant(
            view.new_id(), self.name, name_key(self.name), self.domain, self.status, self.settings, self.requested_by,
            approved_by, view.now_ms, view.now_ms,
        )  # fmt: skip
        view.put(TENANTS, made)
        view.note(
            self.actor, "TNT_CREATE", self.requested_by, made.tenant, "", status=self.status.name.lower()
        )
        return made


@dataclass(frozen=True, slots=True)
class MoveTenant:
    """TNT_APPROVE, TNT_SUSPEND, TNT_RESUME: from one of `before` to `after`; a tenant that is there already is fine."""

    verb: str
    actor: str
    tenant: bytes
    before: TenantStatus
    after: TenantStatus
    approved_by: bytes = ids.NONE
    reason: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        return () if self.approved_by == ids.NONE else (Ask(ILKS, "ilk_id", self.approved_by),)

    def run(self, view: View) -> dict[str, Any]:
        tenant = view.tenant(self.tenant)
        if tenant is None:
            raise Refusal(Code.INVALID_TENANT, f"there is no tenant {ids.tenant_text(self.tenant)}")
        if self.approved_by != ids.NONE and view.ilk(self.approved_by) is None:
            raise Refusal(Code.ILK_NOT_FOUND, f"approved_by: there is no {ids.ilk_text(self.approved_by)}")
        if tenant.status != self.after:
            tenant = self._move(view, tenant)
        return {**_told(tenant), "approved_by": tenant.approved_by or None}

    def _move(self, view: View, tenant: Tenant) -> Tenant:
        if tenant.status != self.before:
            state = TenantStatus(tenant.status).name.lower()
            detail = f"{self.verb} needs a tenant that is {self.before.name.lower()}; this one is {state}"
            raise Refusal(Code.INVALID_TENANT_TRANSITION, detail)
        by = tenant.approved_by
        if self.verb == "TNT_APPROVE":
            by = ids.ilk_text(self.approved_by) or self.actor
        moved = tenant._replace(status=self.after, approved_by=by, updated_at_ms=view.now_ms)
        view.put(TENANTS, moved)
        was, now = TenantStatus(tenant.status).name.lower(), self.after.name.lower()
        view.note(self.actor, self.verb, self.approved_by, tenant.tenant, self.reason, was=was, now=now)
        return moved


@dataclass(frozen=True, slots=True)
class ListTenants:
    """TNT_LIST: all of them, in the order of their names, a page at a time."""

    after: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        rest = sorted((t for t in view.all(TENANTS) if t.name_key > self.after), key=_by_name)
        shown = rest[: limits.LIST_MAX]
        more = {"next": shown[-1].name_key} if len(rest) > len(shown) else {}
        tenants = [{**plain(each), "ilk_count": view.counts.of("live", each.tenant)} for each in shown]
        return {"status": "ok", "count": sum(1 for _ in view.all(TENANTS)), "tenants": tenants, **more}


def plain(tenant: Tenant) -> dict[str, Any]:
    """A tenant as answers show it."""
    return {
        "tenant_id": ids.tenant_text(tenant.tenant), "name": tenant.name, "domain": tenant.domain or None,
        "status": TenantStatus(tenant.status).name.lower(), "settings": dict(tenant.settings),
        "approved_by": tenant.approved_by or None, "requested_by_ilk": ids.ilk_text(tenant.requested_by) or None,
        "created_at_ms": tenant.created_at_ms,
    }  # fmt: skip


def _told(tenant: Tenant) -> dict[str, Any]:
    """`status` says how the request went, so the tenant's own state has another name."""
    state = TenantStatus(tenant.status).name.lower()
    return {"status": "ok", "tenant_id": ids.tenant_text(tenant.tenant), "tenant_status": state}


def _by_name(tenant: Tenant) -> str:
    return tenant.name_key
