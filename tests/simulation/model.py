"""What the router should decide, decided again from nothing for every message: no flow, no cache, no index.

Built on the naive registry and the naive FIB of tests/router/models.py. The production core may answer from its flow
tables only what this model answers from scratch at the same moment; that is the property `cached decisions are
invisible`, and it holds or fails message by message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from router.models import FakeLink, NaiveFib, NaiveRegistry, glob, system
from simulation.history import Verdict
from skep.protocol.header import AckLevel, DstKind, MessageClass, Phase, Selector
from skep_router.registry import Outcome
from skep_shm import ConfigState, Grant

HIVE = "h"
OWN_UID = 1000
ZERO = bytes(16)
GRACE_NS = 5_000_000_000


def refused(reason: str) -> Verdict:
    return Verdict(reasons=frozenset({reason}))


def base(name: str) -> str:
    return name.partition("@")[0]


def full(name: str) -> str:
    return name if "@" in name else f"{name}@{HIVE}"


def key_of(selector: Selector) -> bytes:
    return sha256(selector.thread).digest() if selector.thread_is_text else selector.thread


@dataclass
class Model:
    """Who is here and what the rules are."""

    registry: NaiveRegistry = field(default_factory=lambda: NaiveRegistry(HIVE, GRACE_NS))
    state: ConfigState | None = None
    bindings: dict[bytes, tuple[str, int]] = field(default_factory=dict)

    @property
    def fib(self) -> NaiveFib:
        state = self.state
        return NaiveFib(self.registry, state.routes, state.vpns) if state else NaiveFib(self.registry)

    # ---- standing ------------------------------------------------------------------------------------------------

    def grants_of(self, uid: int, name: str) -> list[Grant]:
        grants = self.state.grants if self.state else ()
        return [g for g in grants if g.uid == uid and glob(g.pattern, base(name))]

    def may_hold(self, uid: int, name: str) -> bool:
        return uid == OWN_UID or (not system(name) and bool(self.grants_of(uid, name)))

    def tenant_of(self, uid: int, name: str) -> bytes:
        named = [(len(g.pattern.replace("*", "")), g.tenant) for g in self.grants_of(uid, name) if g.tenant != ZERO]
        return max(named, default=(0, ZERO))[1]

    def may_speak(self, uid: int, name: str, ilk: bytes | None) -> bool:
        if ilk is None:
            return True
        grants = self.grants_of(uid, name)
        carrier = name[:3] in ("IO.", "SY.")
        if not grants:
            return carrier and uid == OWN_UID
        return any((g.ilk_mode == 2 and carrier) or (g.ilk_mode == 1 and g.ilk == ilk) for g in grants)

    def may_meet(self, a: FakeLink, b: FakeLink) -> str | None:
        fib = self.fib
        outside = system(a.name) or system(b.name)
        if not outside and fib.vpn_of(a.name) != fib.vpn_of(b.name):
            return "VPN_BLOCKED"
        one, other = self.tenant_of(a.uid, a.name), self.tenant_of(b.uid, b.name)
        return "TENANT_BLOCKED" if ZERO not in (one, other) and one != other else None

    def admits(self, entry: FakeLink, now: int) -> bool:
        """Joins, if it may."""
        if not self.may_hold(entry.uid, entry.name):
            return False
        return self.registry.join(entry, now)[0] <= Outcome.REPLACED

    # ---- decisions -----------------------------------------------------------------------------------------------

    def verdict(self, sender: FakeLink, claimed: bytes, selector: Selector, now: int) -> Verdict:
        refusal = self._refusal(sender, claimed, selector)
        if refusal:
            return refused(refusal)
        if selector.dst_kind == DstKind.BROADCAST:
            return self._broadcast(sender, selector)
        if selector.dst_kind == DstKind.UUID:
            found = self.registry.find(selector.destination)
            return self._meeting(sender, (found,)) if found else refused("NODE_NOT_FOUND")
        bound = self.bindings.get(key_of(selector)) if selector.thread else None
        if bound is None or not self._redirects(sender, selector, bound[0]):
            return self._unbound(sender, selector)
        verdict = self._named(sender, bound[0])
        over = 0 < bound[1] <= now  # the lease has ended, and the next tick will say so
        return verdict.either(self._unbound(sender, selector)) if over else verdict

    def _answers_system(self, selector: Selector) -> bool:
        """Whoever may ask before the hive is ready hears the answer."""
        if selector.dst_kind != DstKind.UUID:
            return False
        found = self.registry.find(selector.destination)
        answers = (MessageClass.QUERY_RESPONSE, MessageClass.COMMAND_RESPONSE)
        opening = selector.phase in (Phase.MESSAGE, Phase.REQUEST, Phase.CANCEL)
        return found is not None and system(found.name) and (not opening or selector.message_class in answers)

    def _refusal(self, sender: FakeLink, claimed: bytes, selector: Selector) -> str:
        if claimed != sender.uuid:
            return "SOURCE_FORGED"
        if self.state is None and not system(sender.name) and not self._answers_system(selector):
            return "NOT_READY"
        if not self.may_speak(sender.uid, sender.name, selector.src_ilk):
            return "ILK_FORBIDDEN"
        if selector.ack_level == AckLevel.STORED or selector.message_class == MessageClass.TAP:
            return "FORBIDDEN"
        if selector.message_class == MessageClass.SYSTEM and selector.verb == "CONFIG_CHANGED":
            return "FORBIDDEN"
        return "" if selector.ttl else "TTL_EXCEEDED"

    def _broadcast(self, sender: FakeLink, selector: Selector) -> Verdict:
        target = selector.target
        fits = [
            one for one in self.registry.entries
            if one.uuid != sender.uuid and (not target or glob(target, one.name)) and not self.may_meet(sender, one)
        ]
        return Verdict(frozenset(one.uuid for one in fits), many=True, drop=not fits)

    @staticmethod
    def _redirects(sender: FakeLink, selector: Selector, handler: str) -> bool:
        opening = selector.phase in (Phase.MESSAGE, Phase.REQUEST, Phase.CANCEL)
        return selector.message_class == MessageClass.USER and opening and full(handler) != sender.name

    def _unbound(self, sender: FakeLink, selector: Selector) -> Verdict:
        if selector.dst_kind == DstKind.POLICY:
            return refused("OPA_ERROR")
        return self._named(sender, selector.destination.decode())

    def _named(self, sender: FakeLink, name: str) -> Verdict:
        kind, where = self.fib.resolve(full(name), HIVE)
        if kind == "drop":
            return Verdict(drop=True)
        if kind == "hive":
            return refused("GATEWAY_UNAVAILABLE")
        if kind == "not found":
            return refused("NODE_NOT_FOUND")
        assert isinstance(where, tuple)
        return self._meeting(sender, where)

    def _meeting(self, sender: FakeLink, where: tuple[FakeLink, ...]) -> Verdict:
        blocked = [self.may_meet(sender, one) for one in where]
        kept = frozenset(one.uuid for one, why in zip(where, blocked, strict=True) if why is None)
        return Verdict(kept) if kept else refused(str(blocked[0]))
