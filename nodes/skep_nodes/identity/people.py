"""Interlocutors come and change: ILK_PROVISION, ILK_REGISTER, ILK_ADD_CHANNEL, ILK_UPDATE, ILK_DELETE.

A first message from an unknown address makes a temporary interlocutor (provision, idempotent); a registrar makes it
complete. Whoever asks about an interlocutor that was merged means the one it became, for as long as the alias lives. An
id is never given out twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from skep_nodes.identity import admission, channels, ids, limits, merging
from skep_nodes.identity.callers import Caller
from skep_nodes.identity.channels import Address
from skep_nodes.identity.records import Ilk, Tenant
from skep_nodes.identity.refusal import Code, Refusal, invalid
from skep_nodes.identity.tables import CHANNELS, ILKS
from skep_nodes.identity.view import Ask, View
from skep_shm import IlkKind, Registration, Subtype

STATUS_TEXTS = {status.value: status.name.lower() for status in Registration}


def canonical(view: View, key: bytes) -> Ilk | None:
    """The interlocutor that is meant: itself, or the one it was merged into."""
    found = view.ilk(key)
    if found is None or found.live:
        return found
    alive = found.canonical != ids.NONE and view.now_ms < found.alias_until_ms
    return view.ilk(found.canonical) if alive else None


def ask_canonical(view: View, key: bytes) -> Iterable[Ask]:
    """What `canonical` must see."""
    first = Ask(ILKS, "ilk_id", key)
    yield first
    if not view.unknown((first,)):
        found = view.ilk(key)
        if found is not None and found.canonical != ids.NONE:
            yield Ask(ILKS, "ilk_id", found.canonical)


def known(view: View, key: bytes) -> Ilk:
    """The interlocutor that is meant. Raises Refusal ILK_NOT_FOUND."""
    found = canonical(view, key)
    if found is None:
        raise Refusal(Code.ILK_NOT_FOUND, f"there is no interlocutor {ids.ilk_text(key)}")
    return found


@dataclass(slots=True)
class Provision:
    """ILK_PROVISION: the interlocutor behind an address, made when nobody is. What it asks for is worked out once."""

    caller: Caller
    address: Address
    tenant: bytes = ids.NONE
    _asks: tuple[Ask, ...] = ()

    def needs(self, view: View) -> Iterable[Ask]:
        if not self._asks:
            self._asks = tuple(self.address.asks(self._tenant(view)))
        if not view.knows(self._asks):
            return self._asks
        found = view.find(*self._asks[0])
        if not found:
            return self._asks
        return (*self._asks, Ask(ILKS, "ilk_id", found[0].ilk))

    def _tenant(self, view: View) -> bytes:
        if self.tenant != ids.NONE:
            return self.tenant
        return self.caller.tenant if self.caller.tenant != ids.NONE else admission.default_tenant(view)

    def run(self, view: View) -> dict[str, Any]:
        self._check_grant()
        tenant = admission.open_tenant(view, self._tenant(view))
        admission.check_channel(tenant, self.address.kind)
        found = self.address.found(view, tenant.tenant)
        ilk = view.ilk(found.ilk) if found is not None else self._make(view, tenant)
        assert ilk is not None, "a channel has an owner"
        status = STATUS_TEXTS[ilk.registration]
        return {"status": "ok", "ilk_id": ids.ilk_text(ilk.ilk), "registration_status": status}

    def _check_grant(self) -> None:
        if not self.caller.may_use(self.address.kind):
            detail = f"{self.caller.name} has no grant for {self.address.kind} channels"
            raise Refusal(Code.CHANNEL_NOT_GRANTED, detail)
        if self.caller.tenant not in (ids.NONE, self.tenant) and self.tenant != ids.NONE:
            raise Refusal(Code.CHANNEL_NOT_GRANTED, f"{self.caller.name} has a grant for another tenant")

    def _make(self, view: View, tenant: Tenant) -> Ilk:
        if view.one(CHANNELS, self.address.ich) is not None:
            detail = f"{ids.channel_text(self.address.ich)} is another address already"
            raise Refusal(Code.DUPLICATE_ICH, detail)
        admission.check_room(view, tenant)
        now_ms, actor = view.now_ms, self.caller.name
        made = Ilk(
            view.new_id(), subtype=Subtype.EXTERNAL, tenant=tenant.tenant, registered_by=actor, created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )  # fmt: skip
        view.put(ILKS, made)
        channels.put(view, made, self.address, is_primary=True)
        view.note_arrival(actor, made.ilk)
        return made


@dataclass(frozen=True, slots=True)
class Register:
    """ILK_REGISTER: make an interlocutor complete, and make it when it is absent."""

    actor: str
    may_place: bool  # whether this registrar may put anybody into any tenant
    ilk: bytes
    kind: IlkKind
    tenant: bytes
    identification: dict[str, Any]
    email: str = ""
    node_name: str = ""
    subtype: Subtype | None = None
    roles: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    reason: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        asks = [*ask_canonical(view, self.ilk), Ask(CHANNELS, "ilk_id", self.ilk)]
        asks += [Ask(ILKS, "email", self.email)] if self.email else []
        asks += [Ask(ILKS, "node_name", self.node_name)] if self.node_name else []
        if view.unknown(asks):
            return asks
        target = self._target(view)
        if target is not None:
            owned = Ask(CHANNELS, "ilk_id", target.ilk)
            asks.append(owned)
            if not view.unknown((owned,)) and target.tenant != self.tenant:
                asks += [self._moved(channel) for channel in view.channels_of(target.ilk)]
        return asks

    def _moved(self, channel: Any) -> Ask:
        return Ask(CHANNELS, "look_up", channels.look_up(channel.kind, channel.address, self.tenant))

    def _target(self, view: View) -> Ilk | None:
        """Whom it is about: a node keeps the interlocutor it had, whatever id is offered."""
        for other in view.find(ILKS, "node_name", self.node_name) if self.node_name else ():
            if other.live:
                return other  # type: ignore[no-any-return]
        return canonical(view, self.ilk)

    def run(self, view: View) -> dict[str, Any]:
        before = self._target(view)
        if before is None and view.ilk(self.ilk) is not None:
            raise Refusal(
                Code.ILK_NOT_FOUND, f"{ids.ilk_text(self.ilk)} was deleted; an id is never used twice"
            )
        tenant = admission.open_tenant(view, self.tenant)
        admission.check_admission(view, before, tenant, self.may_place)
        admission.check_words(view, "role", self.roles)
        admission.check_words(view, "capability", self.capabilities)
        after = self._made(view, tenant) if before is None else self._changed(view, before)
        self._check_unique(view, after)
        view.put(ILKS, after)
        self._note(view, before, after)
        return {"status": "ok", "ilk_id": ids.ilk_text(after.ilk)}

    def _made(self, view: View, tenant: Tenant) -> Ilk:
        admission.check_room(view, tenant)
        return self._filled(Ilk(self.ilk, created_at_ms=view.now_ms), view.now_ms)

    def _changed(self, view: View, before: Ilk) -> Ilk:
        if before.registration != Registration.TEMPORARY:
            if before.kind != self.kind:
                raise invalid(
                    f"{ids.ilk_text(before.ilk)} is registered as {IlkKind(before.kind).name.lower()}"
                )
            if before.tenant != self.tenant:
                raise Refusal(
                    Code.INVALID_TENANT, "the tenant changes only while an interlocutor is temporary"
                )
        if before.tenant != self.tenant:
            channels.move_to_tenant(view, view.channels_of(before.ilk), self.tenant)
        return self._filled(before, view.now_ms)

    def _filled(self, ilk: Ilk, now_ms: int) -> Ilk:
        usual = Subtype.NONE if self.kind != IlkKind.HUMAN else ilk.subtype or Subtype.EXTERNAL
        return ilk._replace(
            kind=self.kind, subtype=usual if self.subtype is None else self.subtype,
            registration=Registration.COMPLETE, tenant=self.tenant, email=self.email, node_name=self.node_name,
            identification=self.identification, roles=self.roles, capabilities=self.capabilities,
            registered_by=self.actor, updated_at_ms=now_ms,
        )  # fmt: skip

    def _check_unique(self, view: View, after: Ilk) -> None:
        for other in view.find(ILKS, "email", self.email) if self.email else ():
            if other.live and other.tenant == self.tenant and other.ilk != after.ilk:
                raise Refusal(
                    Code.DUPLICATE_EMAIL, "somebody in this tenant has this e-mail address; merge them if they are one",
                    existing_ilk_id=ids.ilk_text(other.ilk),
                )  # fmt: skip

    def _note(self, view: View, before: Ilk | None, after: Ilk) -> None:
        was = {} if before is None else {"was": definition(before)}
        view.note(
            self.actor, "ILK_REGISTER", after.ilk, after.tenant, self.reason, now=definition(after), **was
        )


def definition(ilk: Ilk) -> dict[str, Any]:
    """What history keeps of an interlocutor; names and addresses stay out of the chain, so that they can be deleted."""
    return {
        "ilk_type": IlkKind(ilk.kind).name.lower(), "registration_status": STATUS_TEXTS[ilk.registration],
        "tenant_id": ids.tenant_text(ilk.tenant), "roles": list(ilk.roles), "capabilities": list(ilk.capabilities),
        "degrees": list(ilk.degrees), "registered_by": ilk.registered_by,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class AddChannel:
    """ILK_ADD_CHANNEL: one more address, and with it, if wanted, the temporary interlocutor that was behind it."""

    actor: str
    ilk: bytes
    address: Address
    merge_from: bytes = ids.NONE
    reason: str = ""
    alias_ttl_s: int = limits.ALIAS_TTL_S
    decides: bool = False  # whether this registrar joins two by its own decision, without evidence
    proof: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        asks = [*ask_canonical(view, self.ilk)]
        if self.merge_from != ids.NONE:
            asks += merging.asks(view, self.merge_from)
        if view.unknown(asks):
            return asks
        target = canonical(view, self.ilk)
        if target is not None:
            asks += [Ask(CHANNELS, "ilk_id", target.ilk), *self.address.asks(target.tenant)]
            asks += merging.asks_of_target(target.ilk) if self.merge_from != ids.NONE else []
        return asks

    def run(self, view: View) -> dict[str, Any]:
        target = known(view, self.ilk)
        tenant = admission.open_tenant(view, target.tenant)
        admission.check_channel(tenant, self.address.kind)
        if self.merge_from != ids.NONE:
            source = view.ilk(self.merge_from)
            if source is None or source.registration != Registration.TEMPORARY:
                raise Refusal(Code.INVALID_MERGE_SOURCE, "merge_from_ilk_id must be a temporary interlocutor")
            if not self.decides:
                merging.check_evidence(view, source, target, self.address.kind, self.proof)
            merging.merge(view, source, target, self.actor, self.reason, self.alias_ttl_s)
        added = channels.add(view, target, self.address)
        channels.check_count(len(view.channels_of(target.ilk)))
        view.note(
            self.actor,
            "ILK_ADD_CHANNEL",
            target.ilk,
            target.tenant,
            self.reason,
            ich_id=ids.channel_text(added.ich),
            **({"proof": self.proof} if self.proof else {}),
        )
        return {"status": "ok", "ilk_id": ids.ilk_text(target.ilk), "change_reason": self.reason or None}


@dataclass(frozen=True, slots=True)
class Update:
    """ILK_UPDATE: addresses, roles and capabilities come and go."""

    actor: str
    ilk: bytes
    add_channels: tuple[Address, ...] = ()
    add_roles: tuple[str, ...] = ()
    remove_roles: tuple[str, ...] = ()
    add_capabilities: tuple[str, ...] = ()
    remove_capabilities: tuple[str, ...] = ()
    reason: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        asks = [*ask_canonical(view, self.ilk)]
        target = canonical(view, self.ilk) if not view.unknown(asks) else None
        if target is not None and self.add_channels:
            asks.append(Ask(CHANNELS, "ilk_id", target.ilk))
            asks += [ask for address in self.add_channels for ask in address.asks(target.tenant)]
        return asks

    def run(self, view: View) -> dict[str, Any]:
        before = known(view, self.ilk)
        tenant = admission.open_tenant(view, before.tenant)
        admission.check_words(view, "role", self.add_roles)
        admission.check_words(view, "capability", self.add_capabilities)
        roles = _changed(before.roles, self.add_roles, self.remove_roles)
        capabilities = _changed(before.capabilities, self.add_capabilities, self.remove_capabilities)
        after = before._replace(roles=roles, capabilities=capabilities, updated_at_ms=view.now_ms)
        view.put(ILKS, after)
        for address in self.add_channels:
            admission.check_channel(tenant, address.kind)
            channels.add(view, after, address)
        if self.add_channels:
            channels.check_count(len(view.channels_of(after.ilk)))
        self._note(view, before, after)
        return {"status": "ok", "ilk_id": ids.ilk_text(after.ilk), "change_reason": self.reason or None}

    def _note(self, view: View, before: Ilk, after: Ilk) -> None:
        added = (
            {"channels": [ids.channel_text(each.ich) for each in self.add_channels]}
            if self.add_channels
            else {}
        )
        states = {"was": definition(before), "now": definition(after)}
        view.note(self.actor, "ILK_UPDATE", after.ilk, after.tenant, self.reason, **states, **added)


def _changed(now: tuple[str, ...], added: tuple[str, ...], removed: tuple[str, ...]) -> tuple[str, ...]:
    after = tuple(sorted((set(now) | set(added)) - set(removed)))
    if len(after) > limits.TAGS_MAX:
        raise Refusal(
            Code.IDENTITY_LIMIT_REACHED, f"at most {limits.TAGS_MAX} roles, and as many capabilities"
        )
    return after


@dataclass(frozen=True, slots=True)
class Delete:
    """ILK_DELETE: forget who somebody is. The id stays taken, its channels are free again, its history remains."""

    actor: str
    ilk: bytes
    reason: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        return (Ask(ILKS, "ilk_id", self.ilk), Ask(CHANNELS, "ilk_id", self.ilk))

    def run(self, view: View) -> dict[str, Any]:
        before = view.ilk(self.ilk)
        if before is None or not before.live:
            raise Refusal(Code.ILK_NOT_FOUND, f"there is no interlocutor {ids.ilk_text(self.ilk)}")
        for channel in view.channels_of(self.ilk):
            view.drop(CHANNELS, channel.ich)
        now_ms = view.now_ms
        gone = before._replace(live=0, email="", node_name="", identification={}, deleted_at_ms=now_ms)
        view.put(ILKS, gone._replace(updated_at_ms=now_ms))
        view.note(self.actor, "ILK_DELETE", self.ilk, before.tenant, self.reason)
        return {"status": "ok", "ilk_id": ids.ilk_text(self.ilk)}
