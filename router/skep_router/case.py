"""One new flow before identity and policy: who is concerned, what the policy says of it, and what that rests on.

A Case lives for one decision. `decide` asks it in the order of trust: `admit` (may these interlocutors talk at all),
`to_front_desk` (strangers go there, whatever the policy says), `candidates` (who should handle it), `obstacle` (may the
two ends meet), `allowed` (may it happen). On the way it notes everything that was read, and `rest` hands that over to
the flow. In a hive without identity and policy there are no cases.

System nodes are not asked for anything: a policy that denied its own repair would be the end of the hive. Nor are
answers to them, without which a question would wait for its whole timeout, nor frames of class system and receipts,
which the verbs' own rules guard, nor what a stranger may do anyway: speak to the front desk, and answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from skep.protocol.codes import Reason
from skep.protocol.header import DstKind, MessageClass, Phase, Selector
from skep.protocol.names import is_system, kind_of
from skep_router import fib
from skep_router.grants import NO_ID, tenant_allows
from skep_router.identities import Party, Unreadable
from skep_router.policies import Busy
from skep_router.rests import Rest
from skep_shm import IlkKind, TenantStatus

if TYPE_CHECKING:
    from skep_policy.decider import Asked, Decider, Decision
    from skep_router.core import Core
    from skep_router.link import Link

TARGET: Final = "router/target"
ALLOW: Final = "router/allow"
OPENING: Final = frozenset({Phase.MESSAGE, Phase.REQUEST, Phase.CANCEL})  # what takes a request back goes where it went
WAITING_MAX: Final = 64
"""Better candidates whose coming a flow waits for, by name; where more are missing it asks again after RETRY_NS."""
RETRY_NS: Final = 5_000_000_000
NAMES_SHOWN: Final = 5  # of refused candidates, in what the sender is told

EVENT_ROUTER: Final = 10
_UNASKED: Final = frozenset({MessageClass.SYSTEM, MessageClass.RECEIPT})
_ANSWERS: Final = frozenset({MessageClass.QUERY_RESPONSE, MessageClass.COMMAND_RESPONSE})


class Refusal(NamedTuple):
    """Why a frame does not go on. An expected outcome, told to the sender."""

    reason: Reason
    detail: str
    decision_id: str = ""  # of the policy, where it was asked


def answers_system(core: Core, selector: Selector) -> bool:
    """Does this frame answer a system node? Those may ask before the hive is ready, so they must hear what comes back:
    a question whose answer was refused would wait for its whole timeout."""
    if selector.dst_kind != DstKind.UUID or (selector.phase in OPENING and selector.message_class not in _ANSWERS):
        return False
    found = core.registry.by_uuid(selector.destination)
    return found is not None and is_system(found.name)


def _other_kinds(granted: frozenset[str], owned: tuple[str, ...]) -> bool:
    """Does this interlocutor own channels, and none of the granted kinds? Where the region names no kinds, the tenant
    alone decides."""
    return bool(granted and owned) and granted.isdisjoint(owned)


class Case:
    """One question of one sender."""

    __slots__ = (
        "core", "dst", "exempt", "key", "keys", "lasting", "link", "selector", "src", "trace", "until_ns", "unreadable",
        "waiting",
    )

    def __init__(self, core: Core, link: Link, key: bytes, selector: Selector, trace: bytes) -> None:
        self.core = core
        self.link = link
        self.key = key
        self.selector = selector
        self.trace = trace
        self.exempt = is_system(link.name)
        self.src: Party | None = None
        self.dst: Party | None = None
        self.keys: set[Hashable] = set()
        self.until_ns = 0
        self.lasting = True
        self.unreadable = ""
        self.waiting = 0  # candidates that are better than where it goes
        self._meet_parties()

    def _meet_parties(self) -> None:
        selector, identities = self.selector, self.core.identities
        try:
            self.src = identities.party(selector.src_ilk, self.core.now)
            self.dst = identities.party(selector.dst_ilk, self.core.now)
        except Unreadable as error:
            self.unreadable = str(error)
        if identities.there:
            self.keys.add(self.link.name)  # whose node it is
        for party in (self.src, self.dst):
            if party is not None:
                self.keys |= {*party.read, party.tenant} - {NO_ID}
                self.ends(party.until_ns)

    def ends(self, until_ns: int) -> None:
        if until_ns:
            self.until_ns = min(self.until_ns or until_ns, until_ns)

    def rest(self) -> Rest | None:
        if not self.keys and self.lasting and not self.until_ns:
            return None
        return Rest(tuple(self.keys), self.until_ns, self.lasting)

    # -- who may talk ----------------------------------------------------------------------------------------------

    def admit(self) -> Refusal | None:
        """Everything about the interlocutors; None when they may go on."""
        if self.exempt:
            return None
        return self._unready() or self._foreign() or self._shut() or self._misplaced()

    def _unready(self) -> Refusal | None:
        core, selector = self.core, self.selector
        asked = selector.message_class not in _UNASKED and not answers_system(core, selector)
        if asked and core.policies.required and core.policies.decider is None:
            return Refusal(Reason.NOT_READY, "the hive has no policy yet; retry")
        to_nobody = selector.dst_kind == DstKind.POLICY
        if to_nobody and core.settings.identity_required and not core.identities.there:
            return Refusal(Reason.NOT_READY, "the hive has no identities yet; retry")
        if self.unreadable:
            return Refusal(Reason.OPA_ERROR, f"who is who cannot be read: {self.unreadable}")
        return None

    def _foreign(self) -> Refusal | None:
        """A channel speaks for people who own a channel of its tenant, and for nobody else."""
        party, link = self.src, self.link
        if party is None or link.ilk_rule is None or not link.ilk_rule.any_ilk or kind_of(link.name) != "IO":
            return None
        if party.named in link.ilk_rule.listed:
            return None
        why = ""
        if party.record is None:
            narrow = link.ilk_rule.channel_kinds or link.tenant not in (NO_ID, b"")
            why = "nobody is registered under this ILK" if narrow else ""
        elif party.record.kind != IlkKind.HUMAN and party.record.handler != link.name:
            why = "the ILK is not a person's"
        elif not tenant_allows(link.tenant, party.tenant):
            why = "the ILK belongs to another tenant"
        elif _other_kinds(link.ilk_rule.channel_kinds, party.record.channel_kinds):
            why = f"the ILK owns no channel of kind {' or '.join(sorted(link.ilk_rule.channel_kinds))}"
        return Refusal(Reason.ILK_FORBIDDEN, f"{link.name} may not speak for it: {why}") if why else None

    def _shut(self) -> Refusal | None:
        """A tenant that waits for approval, is suspended, or that nobody knows, has nobody who talks."""
        for party in (self.src, self.dst):
            if party is not None and party.record is not None:
                status = self.core.identities.tenant_status(party.tenant)
                if status != TenantStatus.ACTIVE:
                    word = "not known" if status is None else status.name.lower()
                    return Refusal(Reason.POLICY_DENIED, f"the interlocutor's tenant is {word}")
        return None

    @property
    def stranger(self) -> bool:
        """An interlocutor that is not registered yet speaks, and not through a system node."""
        return not self.exempt and self.src is not None and self.src.temporary

    @property
    def opening(self) -> bool:
        return self.selector.phase in OPENING and self.selector.message_class not in _ANSWERS

    @property
    def to_front_desk(self) -> bool:
        """A stranger's message that names nobody. Not for the policy to decide, nor for a thread's binding."""
        return self.stranger and self.selector.dst_kind == DstKind.POLICY

    def _misplaced(self) -> Refusal | None:
        """A stranger opens conversations with the front desk and the system alone; whoever is asked may answer."""
        if not self.stranger or not self.opening or self.selector.message_class in _UNASKED:
            return None
        kind, name = self.selector.dst_kind, self.named_node()
        if kind == DstKind.POLICY or (name and (is_system(name) or name == self.core.frontdesk)):
            return None
        why = f"this interlocutor is not registered yet: it speaks to the front desk ({self.core.frontdesk})"
        return Refusal(Reason.POLICY_DENIED, why)

    def named_node(self) -> str:
        """The full name of the node that the sender names, as far as there is one."""
        selector = self.selector
        if selector.dst_kind == DstKind.NAME:
            return self.core.full_name(selector.destination.decode())
        found = self.core.registry.by_uuid(selector.destination) if selector.dst_kind == DstKind.UUID else None
        return found.name if found is not None else ""

    # -- whether two ends may meet ---------------------------------------------------------------------------------

    def obstacle(self, dest: Link) -> Refusal | None:
        """Why this sender may not reach `dest`; None when it may. What it rests on is noted."""
        link, identities = self.link, self.core.identities
        reason = self.core.may_meet(link, dest)
        if reason is not None:
            what = "VPN" if reason is Reason.VPN_BLOCKED else "tenant"
            return Refusal(reason, f"{link.name} and {dest.name} are not in one {what}")
        if not identities.there:
            return None
        self.keys.add(dest.name)
        if not self._tenants_meet(dest):
            return Refusal(Reason.TENANT_BLOCKED, f"{link.name} and {dest.name} do not serve one tenant")
        return None if self.exempt or self.selector.message_class in _UNASKED else self._unsealed(dest)

    def _tenants_meet(self, dest: Link) -> bool:
        """Everybody on this side with everybody on the other: nodes by whose they are, and the interlocutors."""
        handler = self.core.identities.handler
        ours = {party.tenant for party in (self.src,) if party is not None}
        theirs = {party.tenant for party in (self.dst,) if party is not None}
        for side, node in ((ours, self.link), (theirs, dest)):
            record = handler(node.name)
            side |= {node.tenant, record.tenant if record is not None else NO_ID}
        return all(tenant_allows(a, b) for a in ours for b in theirs)

    def _unsealed(self, dest: Link) -> Refusal | None:
        core = self.core
        if core.settings.seals == "off":
            return None
        why = core.identities.unsealed(dest.name, core.now)
        if not why:
            record = core.identities.handler(dest.name)
            self.ends(core.identities.core_ns(record.seal_until_ms) if record is not None else 0)
            return None
        core.counters.unsealed += 1
        if core.settings.seals == "require":
            return Refusal(Reason.SEAL_REQUIRED, f"{dest.name} gets no messages: {why}")
        core.hooks.recorder.event(EVENT_ROUTER, dest.uuid, dest.name, "UNSEALED", why)
        return None

    # -- what the policy says --------------------------------------------------------------------------------------

    def candidates(self) -> tuple[Link, ...] | Refusal:
        """The first candidate of the policy that lives and may be met."""
        decider = self.core.policies.decider
        if decider is None:
            return Refusal(Reason.OPA_ERROR, "the frame names no destination and no policy is loaded")
        if self.unreadable:
            return Refusal(Reason.OPA_ERROR, f"who is who cannot be read: {self.unreadable}")
        decision = self._ask(decider, TARGET)
        if isinstance(decision, Refusal):
            return decision
        where, refused = self._first_living(decision.names)
        decider.note_choice(decision, where[0].name if where else "", [(n, r.reason.value) for n, r in refused])
        return where or _nobody(refused, decision.id)

    def _first_living(self, names: Iterable[str]) -> tuple[tuple[Link, ...], list[tuple[str, Refusal]]]:
        refused: list[tuple[str, Refusal]] = []
        where: tuple[Link, ...] = ()
        for name in names:
            found = self._living(name)
            if not isinstance(found, Refusal):
                where = found
                break
            refused.append((name, found))
        self.core.charge_names(self.link, len(refused))
        return where, refused

    def _living(self, name: str) -> tuple[Link, ...] | Refusal:
        """The members of one candidate that may be met. While there are none, the flow waits for its name."""
        full = self._node_of(name)
        if not full:
            return Refusal(Reason.NODE_NOT_FOUND, "this interlocutor has no node")
        if "*" in full:
            self.lasting = False  # any join could change what a pattern means
        found = self.core.fib.resolve(full)
        if not isinstance(found, fib.Local):
            self._wait_for(full)
            gone = Reason.GATEWAY_UNAVAILABLE if isinstance(found, fib.Hive) else Reason.NODE_NOT_FOUND
            return Refusal(gone, f"{name} is not here")
        obstacles = [self.obstacle(dest) for dest in found.entries]
        kept = tuple(dest for dest, why in zip(found.entries, obstacles, strict=True) if why is None)
        if not kept:
            self._wait_for(full)
        return kept or next(why for why in obstacles if why is not None)

    def _wait_for(self, full: str) -> None:
        self.waiting += 1
        if self.waiting <= WAITING_MAX:
            self.keys.add(full)
        else:
            self.ends(self.core.now + RETRY_NS)

    def _node_of(self, name: str) -> str:
        """A candidate may be named by its ILK."""
        if not name.startswith("ilk:"):
            return self.core.full_name(name)
        record = self.core.identities.record_named(name)
        return record.handler if record is not None else ""

    def allowed(self, where: tuple[Link, ...]) -> Refusal | None:
        """May it happen? Asked for every new flow."""
        decider = self.core.policies.decider
        if decider is None or self.exempt or self.selector.message_class in _UNASKED:
            return None
        if self.stranger and (not self.opening or any(dest.name == self.core.frontdesk for dest in where)):
            return None
        if answers_system(self.core, self.selector):
            return None
        decision = self._ask(decider, ALLOW)
        return decision if isinstance(decision, Refusal) else None

    def _ask(self, decider: Decider, entrypoint: str) -> Decision | Refusal:
        core = self.core
        self.keys.add(entrypoint)
        self.lasting = self.lasting and decider.cacheable(entrypoint)
        decision = core.policies.ask(decider, entrypoint, self._asked(), core.payer(self.link), core.now)
        if isinstance(decision, Busy):
            return Refusal(Reason.POLICY_BUSY, "past its share of slow decisions; retry later", decision.decision_id)
        if decision.reason is not None:
            return Refusal(decision.reason, decision.detail, decision.id)
        return decision

    def _asked(self) -> Asked:
        from skep_policy.decider import Asked  # loaded already: there is a decider

        src, dst = self.src, self.dst
        return Asked(
            self.key, self.selector, self.link.uuid, self.link.name, src.record if src else None,
            dst.record if dst else None, self.trace, self.until_ns, self.core.wall_ns(),
            (*(src.read if src else ()), *(dst.read if dst else ())),
        )


def _nobody(refused: list[tuple[str, Refusal]], decision_id: str) -> Refusal:
    """None of the candidates will do: the first that is here says why, else nobody is here."""
    here = next((why for _, why in refused if why.reason is not Reason.NODE_NOT_FOUND), None)
    shown = ", ".join(f"{name} ({why.reason})" for name, why in refused[:NAMES_SHOWN])
    more = f" and {len(refused) - NAMES_SHOWN} more" if len(refused) > NAMES_SHOWN else ""
    reason = here.reason if here is not None else Reason.NODE_NOT_FOUND
    return Refusal(reason, f"no candidate of the policy can take it: {shown}{more}", decision_id)
