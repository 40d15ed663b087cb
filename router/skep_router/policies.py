"""The policy in force in one router, and what asking it costs whom.

Owns the decider of the bundle that was loaded last, what a new one is refused for, and the allowance of slow decisions.
The core asks `ask`; the shell, which reads and compiles bundles off the loop, tells it `loaded` or `refused`. Nothing
here loads or compiles anything, so a router without a policy imports no engine.

A cheap evaluation is paid like any miss. What lasts longer than SLOW_NS is charged to whoever asked (a uid, or, for the
hive's own account, each node by its name, so that reconnecting buys nothing): a two-hundredth of the time, past which
it hears POLICY_BUSY for whatever is not decided yet. One of the refusals of a busy spell is recorded, and gives its id
to all of them: a flood of refusals must not fill the decision log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skep.protocol.codes import Reason

if TYPE_CHECKING:
    from collections.abc import Hashable

    from skep_policy.decider import Asked, Decider, Decision

LOAD_OK, LOAD_ERROR, LOADING = 0, 1, 2  # as upstream numbers them

SLOW_NS: Final = 100_000
"""An evaluation up to this is a miss like any other: several times what the default policy takes."""
SLOW_SHARE: Final = 200
"""One two-hundredth of the router's time for slow decisions of one asker: nobody else's p99 can feel it."""
SLOW_BURST_NS: Final = 2_000_000 * SLOW_SHARE
"""Two milliseconds of evaluation at once: what a node that starts may need, less than a loop turn of a loaded hive."""
DEBTORS_MAX: Final = 4_096
"""Askers that owe something. Each owes at least 100 us of evaluation, so there are that many only for a moment."""


class Busy(NamedTuple):
    """The asker has had its share of slow decisions."""

    decision_id: str


class _Debt:
    __slots__ = ("decision_id", "paid_ns")

    def __init__(self) -> None:
        self.paid_ns = 0
        self.decision_id = ""  # of the refusal that was recorded in this busy spell


class SlowTime:
    """Who has used how much of it (GCRA: the instant at which all that was used is paid off)."""

    __slots__ = ("_debts",)

    def __init__(self) -> None:
        self._debts: dict[Hashable, _Debt] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def debt(self, payer: Hashable, now_ns: int) -> _Debt | None:
        """What keeps this asker from another slow decision; None when nothing does."""
        debt = self._debts.get(payer)
        if debt is None:
            return None
        if debt.paid_ns - now_ns > SLOW_BURST_NS:
            return debt
        debt.decision_id = ""
        return None

    def charge(self, payer: Hashable, ns: int, now_ns: int) -> None:
        if ns <= SLOW_NS:
            return
        debt = self._debts.get(payer)
        if debt is None:
            if len(self._debts) >= DEBTORS_MAX:
                self.expire(now_ns)
            debt = self._debts[payer] = _Debt()
        debt.paid_ns = max(debt.paid_ns, now_ns) + ns * SLOW_SHARE

    def expire(self, now_ns: int) -> None:
        """Forget what is paid off; past the bound, the oldest debts too."""
        self._debts = {payer: debt for payer, debt in self._debts.items() if debt.paid_ns > now_ns}
        while len(self._debts) >= DEBTORS_MAX:
            del self._debts[next(iter(self._debts))]


class Policies:
    """What one router knows of the policy of its hive."""

    __slots__ = (
        "busy", "decider", "error", "hash", "load_status", "refused_version", "required", "slow", "stale", "version",
    )  # fmt: skip

    def __init__(self, required: bool) -> None:
        self.required = required
        self.decider: Decider | None = None
        self.version = 0
        self.hash = ""
        self.load_status = LOADING
        self.error = ""
        self.refused_version = 0  # the one that `error` is about
        self.stale = False  # more has changed than the loop may tell the engine: load it anew
        self.slow = SlowTime()
        self.busy = 0  # decisions refused for want of an allowance

    def loaded(self, decider: Decider, version: int, hash_: str) -> Decider | None:
        """A new policy is in force from here on. -> the one before, to be closed by its owner."""
        before, self.decider = self.decider, decider
        self.version, self.hash, self.load_status = version, hash_, LOAD_OK
        self.error, self.refused_version = "", 0
        return before

    def loading(self) -> None:
        """A bundle is being compiled; the one before decides meanwhile."""
        self.load_status = LOADING

    def idle(self) -> None:
        """What is published is in force already, or nothing is published."""
        self.load_status = LOADING if self.decider is None else LOAD_OK

    def refused(self, error: str, version: int = 0) -> None:
        """A bundle could not be used: the policy stays what it is, and this router says so."""
        self.load_status, self.error, self.refused_version = LOAD_ERROR, error, version

    def ask(self, decider: Decider, entrypoint: str, asked: Asked, payer: Hashable, now_ns: int) -> Decision | Busy:
        """A decision, kept or new; Busy when a new one may not be made for this asker now."""
        decision = decider.known(entrypoint, asked.key, asked.name, now_ns)
        if decision is not None:
            return decision
        debt = self.slow.debt(payer, now_ns)
        if debt is not None:
            self.busy += 1
            if not debt.decision_id:
                why = "past its share of slow decisions; retry later"
                debt.decision_id = decider.refuse(entrypoint, asked, Reason.POLICY_BUSY, why).id
            return Busy(debt.decision_id)
        decision = decider.decide(entrypoint, asked, now_ns)
        self.slow.charge(payer, decision.ns, now_ns)
        return decision

    def statistics(self) -> dict[str, Any]:
        """Member `policy` of ROUTER_STATS."""
        facts: dict[str, Any] = {
            "version": self.version, "hash": self.hash, "load_status": self.load_status, "error": self.error,
            "refused_version": self.refused_version, "shadow_version": 0, "required": self.required,
            "busy": self.busy,
        }  # fmt: skip
        if self.decider is not None:
            facts |= self.decider.statistics()
            facts["error"] = self.error or self.decider.broken
        return facts
