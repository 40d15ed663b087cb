"""Who may be in a tenant, and how many: the rules that every registration passes.

A tenant is told by its id, and knowing a name is no way in. A registrar that speaks with strangers (the front desk) may
put an interlocutor only where its channel already is, or into the tenant that was asked for on its behalf; somebody who
administers the hive may put anybody anywhere. Pending and suspended tenants take nobody.
"""

from __future__ import annotations

from typing import Any

from skep_nodes.identity import ids, limits
from skep_nodes.identity.records import Ilk, Tenant
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import WORDS
from skep_nodes.identity.view import View
from skep_shm import TenantStatus

DEFAULT_TENANT = "default_tenant"


def default_tenant(view: View) -> bytes:
    """The tenant of those who name none: written down once, never guessed. NONE when there is none."""
    return ids.parse(ids.TENANT, view.fact(DEFAULT_TENANT)) or ids.NONE


def open_tenant(view: View, key: bytes) -> Tenant:
    """The tenant, if it takes anybody. Raises Refusal."""
    if key == ids.NONE:
        raise Refusal(Code.INVALID_TENANT, "name a tenant: this hive has no default one")
    tenant = view.tenant(key)
    if tenant is None:
        raise Refusal(Code.INVALID_TENANT, f"there is no tenant {ids.tenant_text(key)}")
    if tenant.status == TenantStatus.PENDING:
        raise Refusal(
            Code.TENANT_PENDING, f"{ids.tenant_text(key)} waits for its approval (skep tenant approve)"
        )
    if tenant.status == TenantStatus.SUSPENDED:
        raise Refusal(Code.TENANT_SUSPENDED, f"{ids.tenant_text(key)} is suspended")
    return tenant


def check_room(view: View, tenant: Tenant) -> None:
    """Raises Refusal when the tenant, or the hive, is full."""
    most = int(tenant.settings.get("max_ilks", limits.ILKS_MAX))
    if view.counts.of("live", tenant.tenant) >= most or view.counts.total("live") >= limits.ILKS_MAX:
        raise Refusal(
            Code.IDENTITY_LIMIT_REACHED, f"{ids.tenant_text(tenant.tenant)} has its {most} interlocutors"
        )


def check_channel(tenant: Tenant, kind: str) -> None:
    """Raises Refusal for a kind that the tenant's settings leave out."""
    allowed = tenant.settings.get("allowed_channels")
    if allowed is not None and kind not in allowed:
        raise Refusal(
            Code.CHANNEL_NOT_GRANTED, f"{ids.tenant_text(tenant.tenant)} does not take {kind} channels"
        )


def check_admission(view: View, ilk: Ilk | None, tenant: Tenant, may_place: bool) -> None:
    """Raises Refusal when this registrar may not put this interlocutor into this tenant."""
    if may_place:
        return
    if ilk is not None and tenant.tenant == ilk.tenant:
        return
    if ilk is not None and tenant.requested_by == ilk.ilk:
        return
    raise Refusal(
        Code.TENANT_NOT_ADMITTED,
        "knowing a tenant's name admits nobody: an administrator registers this interlocutor there,"
        " or the tenant is created for it (requested_by_ilk)",
    )


def check_words(view: View, category: str, tags: tuple[str, ...]) -> None:
    """Raises Refusal for a tag outside the vocabulary, if there is one of this category."""
    known = {word.tag: word for word in view.all(WORDS) if word.category == category}
    if not known:
        return
    for tag in tags:
        word: Any = known.get(tag)
        if word is None or word.deprecated_at_ms:
            state = "deprecated" if word is not None else "not in the vocabulary"
            raise Refusal(Code.VOCABULARY_INVALID, f"{category} {tag} is {state}", tag=tag)
