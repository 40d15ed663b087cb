"""What a change of policy or identity does to decisions already made: it drops exactly those that depended on it.

Each is one event of the core, complete when it returns. The order is: what the router knows, what the policy knows of
it (its data, in patches), then the flows. A first policy, or identities where there were none, touch everything,
because decisions made without them rest on nothing that could be named.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, NamedTuple

from skep_router import joining
from skep_router.case import ALLOW, TARGET
from skep_shm import IlkRecord, TenantRecord

if TYPE_CHECKING:
    from skep_policy.decider import Decider
    from skep_router.core import Core
    from skep_router.identities import Find

TOLD_AT_ONCE: Final = 256
"""Records that an engine may be told of within one event, at some ten microseconds each."""
_EVENT_CONFIG: Final = 8


class IdentityChange(NamedTuple):
    """What has become of records. `ilks` without a remembered handler are as welcome as those with."""

    ilks: tuple[IlkRecord, ...] = ()
    gone: tuple[bytes, ...] = ()
    tenants: tuple[TenantRecord, ...] = ()
    tenants_gone: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ilks or self.gone or self.tenants or self.tenants_gone)


def identity_known(core: Core, find: Find, change: IdentityChange, now: int) -> None:
    """All that is remembered, anew: after the first look at the regions, and after an overrun of their rings."""
    known = core.identities
    first = not known.there
    fresh = {record.ilk for record in change.ilks}
    tenants = {record.tenant for record in change.tenants}
    gone = tuple(ilk for ilk in known.records if ilk not in fresh)
    known.attach(find)
    core.governed = True
    tenants_gone = tuple(tenant for tenant in known.tenants if tenant not in tenants)
    change = change._replace(gone=gone, tenants_gone=tenants_gone)
    decider = core.policies.decider
    if first and decider is not None and len(change.ilks) > TOLD_AT_ONCE:
        core.now = now
        _remember(core, change)
        core.policies.stale = True
    else:
        identity_changed(core, change, now)
    if decider is not None:
        decider.forget_all()
        decider.apply(decider.documents.set_config("identity", True))
    joining.drop_everything(core) if first else drop_resting(core)


def drop_resting(core: Core) -> None:
    """Every decision that an identity or the policy had a say in."""
    for link in core.registry:
        for flow in tuple(link.flows.values()):
            if flow.rest is not None:
                core.drop_flow(flow)


def identity_changed(core: Core, change: IdentityChange, now: int) -> None:
    core.now = now
    touched = _remember(core, change)
    decider = core.policies.decider
    if decider is not None:
        touched |= tell(decider, change)
    core.drop_resting_on(touched)


def _remember(core: Core, change: IdentityChange) -> set[Hashable]:
    known = core.identities
    touched: set[Hashable] = set()
    for record in change.ilks:
        touched |= known.learn(record)
    for ilk in change.gone:
        touched |= known.forget(ilk)
    for tenant in change.tenants:
        touched |= known.learn_tenant(tenant)
    for key in change.tenants_gone:
        touched |= known.forget_tenant(key)
    return touched


def tell(decider: Decider, change: IdentityChange) -> set[Hashable]:
    """-> the entry points whose answers may be others now."""
    documents, patches = decider.documents, []
    for record in change.ilks:
        decider.forget_ilk(record.ilk)
        patches += documents.set(record)
    for ilk in change.gone:
        decider.forget_ilk(ilk)
        patches += documents.remove(ilk)
    for tenant in change.tenants:
        patches += documents.set_tenant(tenant)
    for key in change.tenants_gone:
        patches += documents.remove_tenant(key)
    if change.tenants or change.tenants_gone:
        decider.forget_all()  # a guest's record states its tenant's status, and no index says whose is in which
    return set(decider.apply(patches))


def use_policy(core: Core, decider: Decider, version: int, hash_: str, now: int) -> Decider | None:
    core.now = now
    core.governed = True
    before = core.policies.loaded(decider, version, hash_)
    core.hooks.recorder.event(_EVENT_CONFIG, core.uuid, core.name, "POLICY", f"version {version}")
    if before is None:
        joining.drop_everything(core)
    else:
        core.drop_resting_on((TARGET, ALLOW))
    return before
