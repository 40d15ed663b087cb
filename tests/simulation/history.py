"""The ledger of a run: what was sent, and everything that was ever said about it; and the checks on the whole of it.

It knows nothing of routers, wires or clocks: keys, names of ends and reasons are opaque, times are whatever grows. A
simulation, a run of real processes or a test of partitions can all write it. What can be wrong the moment it is written
is refused at once (`Violation`, with the events of that message); what only the end can tell is in `close`.

A message has one *verdict*, given when it was accepted: where it may go, or why it may not. Fates are: delivered, told
(a refusal that names it), reported (LOST or UNKNOWN), absorbed (handed to a receiver that confirms nothing), dropped (a
rule says: in silence). No fate at all is silence, the one thing that must not happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

LOST, UNKNOWN = "LOST", "UNKNOWN"


class Violation(AssertionError):
    """The run did what it must not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a message may go, and for which reasons it may be refused; `drop`: a rule lets it vanish."""

    allowed: frozenset[bytes] = frozenset()
    reasons: frozenset[str] = frozenset()
    drop: bool = False
    many: bool = False  # to each of `allowed`, not to one of them

    def either(self, other: Verdict) -> Verdict:
        """One of two: the moment of a change is not the moment at which it is noticed."""
        return Verdict(
            self.allowed | other.allowed, self.reasons | other.reasons, self.drop or other.drop, self.many
        )


@dataclass(slots=True)
class Entry:
    """One message and what became of it. `where` holds (receiver, time, thread sequence)."""

    key: int
    source: bytes
    order: int  # of its source
    deadline_ms: int = 0
    thread: bytes = b""
    group: str = ""
    answerable: bool = True  # somebody waits to hear of it; not so for a receipt
    accepted_at: int | None = None
    accepted_as: int = 0
    verdict: Verdict | None = None
    where: list[tuple[bytes, int, int]] = field(default_factory=list)
    told: list[tuple[str, int]] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    absorbed: set[bytes] = field(default_factory=set)

    @property
    def has_fate(self) -> bool:
        dropped = self.verdict is not None and self.verdict.drop
        return bool(self.where or self.told or self.reported or self.absorbed or dropped)


class History:
    """Everything that one run said. `pressure` are the reasons that may meet a message which may go; those in `early`
    may meet any message, because the sender itself is over its bounds."""

    def __init__(self, pressure: Iterable[str], early: Iterable[str] = ()) -> None:
        self.pressure = frozenset(pressure)
        self.early = frozenset(early)
        self.entries: dict[int, Entry] = {}
        self.counts: Counter[str] = Counter()
        self._accepted = 0
        self._last: dict[tuple[bytes, bytes], int] = {}
        self._away: dict[bytes, list[int]] = {}  # receiver -> accept counts at which it was not there

    # ---- written while it happens --------------------------------------------------------------------------------

    def sent(self, entry: Entry) -> None:
        if entry.key in self.entries:
            raise Violation(f"{entry.key} was sent before")
        self.entries[entry.key] = entry
        self.counts["sent"] += 1

    def accepted(self, key: int, verdict: Verdict, at: int) -> None:
        entry = self.entries[key]
        self._need(entry.accepted_at is None, entry, "accepted twice")
        self._accepted += 1
        entry.accepted_at, entry.accepted_as, entry.verdict = at, self._accepted, verdict

    def delivered(
        self, key: int, source: bytes, receiver: bytes, at: int, *, seq: int = 0, left_ms: int = 0
    ) -> None:
        entry = self.entries.get(key)
        if entry is None:
            raise Violation(f"{key} was delivered and never sent")
        self.counts["delivered"] += 1
        self._need(source == entry.source, entry, f"delivered as a message of {source.hex()[:8]}")
        self._need(entry.verdict is not None, entry, "delivered before it was accepted")
        assert entry.verdict is not None
        self._need(receiver in entry.verdict.allowed, entry, f"delivered to {receiver.hex()}, which may not have it")
        self._need(all(receiver != one for one, _, _ in entry.where), entry, "delivered twice to one receiver")
        self._need(entry.verdict.many or not entry.where, entry, "delivered to two receivers")
        self._need(entry.verdict.many or not entry.told, entry, "delivered and told")
        self._need(entry.verdict.many or LOST not in entry.reported, entry, "delivered and reported LOST")
        before = self._last.get((source, receiver), 0)
        self._need(before < entry.order, entry, f"delivered after number {before} of the same source")
        self._last[source, receiver] = entry.order
        self._deadline(entry, left_ms, at)
        entry.where.append((receiver, at, seq))

    def _deadline(self, entry: Entry, left_ms: int, at: int) -> None:
        assert entry.accepted_at is not None
        passed_ms = (at - entry.accepted_at) // 1_000_000
        if not entry.deadline_ms:
            self._need(not left_ms, entry, f"a deadline of {left_ms} ms out of nothing")
            return
        least = max(1, entry.deadline_ms - passed_ms)
        self._need(least <= left_ms <= entry.deadline_ms, entry, f"{left_ms} ms left of {entry.deadline_ms}")

    def told(self, key: int, reason: str, at: int) -> None:
        """A refusal that names the message reached its sender."""
        entry = self.entries[key]
        self.counts["told"] += 1
        verdict = entry.verdict
        self._need(verdict is not None, entry, "refused before it was accepted")
        assert verdict is not None
        many = verdict.many and reason in self.pressure
        self._need(many or not entry.told, entry, f"told twice, now {reason}")
        self._need(many or not entry.where, entry, f"delivered and told {reason}")
        self._need(entry.answerable, entry, f"told {reason}, and nobody asked")
        expected = reason in verdict.reasons | self.early or (bool(verdict.allowed) and reason in self.pressure)
        self._need(expected, entry, f"told {reason} instead of {sorted(verdict.reasons) or 'delivery'}")
        if reason == "DEADLINE_EXCEEDED":
            assert entry.accepted_at is not None
            self._need(at - entry.accepted_at >= entry.deadline_ms * 1_000_000, entry, "its deadline came early")
        entry.told.append((reason, at))

    def reported(self, key: int, outcome: str) -> None:
        entry = self.entries[key]
        self.counts[outcome] += 1
        self._need(outcome != LOST or not entry.where or self._many(entry), entry, "delivered and reported LOST")
        entry.reported.append(outcome)

    def absorbed(self, key: int, receiver: bytes) -> None:
        self.entries[key].absorbed.add(receiver)

    def away(self, receiver: bytes) -> None:
        """The receiver was not there for a moment: what sticks to it may move on."""
        self._away.setdefault(receiver, []).append(self._accepted)

    # ---- at the end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The run is quiet: nothing is on its way any more."""
        for entry in self.entries.values():
            if entry.answerable:
                self._need(entry.has_fate, entry, "silent: neither delivered, nor told, nor reported")
            if self._many(entry):
                self._everywhere(entry)
        self._sequences()
        self._sticking()

    def _everywhere(self, entry: Entry) -> None:
        assert entry.verdict is not None
        if entry.told or entry.reported:
            return
        missing = entry.verdict.allowed - {one for one, _, _ in entry.where} - entry.absorbed
        missing = frozenset(one for one in missing if not self._left(one, entry.accepted_as, self._accepted + 1))
        self._need(not missing, entry, f"a broadcast that {len(missing)} never got")

    def _sequences(self) -> None:
        """Numbers of a thread grow in the order of acceptance, whoever gets the frames and whichever router counts."""
        highest: dict[bytes, int] = {}
        for entry in self._threaded():
            for _, _, seq in entry.where:
                before = highest.get(entry.thread, 0)
                self._need(seq > before, entry, f"thread sequence {seq:#x} after {before:#x}")
                highest[entry.thread] = seq

    def _sticking(self) -> None:
        """A thread stays with one member of a group for as long as that member is there."""
        home: dict[tuple[bytes, str], tuple[bytes, int]] = {}
        for entry in self._threaded():
            for receiver, _, _ in entry.where:
                old = home.get((entry.thread, entry.group))
                if old is not None and old[0] != receiver:
                    left = self._left(old[0], old[1], entry.accepted_as)
                    self._need(left or not entry.group, entry, "its thread changed handlers, and the old one is there")
                home[entry.thread, entry.group] = (receiver, entry.accepted_as)

    def _threaded(self) -> list[Entry]:
        found = [e for e in self.entries.values() if e.thread and e.where and not self._many(e)]
        return sorted(found, key=lambda e: e.accepted_as)

    def _left(self, receiver: bytes, since: int, until: int) -> bool:
        return any(since <= at < until for at in self._away.get(receiver, ()))

    @staticmethod
    def _many(entry: Entry) -> bool:
        return entry.verdict is not None and entry.verdict.many

    @staticmethod
    def _need(fact: Hashable, entry: Entry, what: str) -> None:
        if not fact:
            raise Violation(f"message {entry.key}: {what}\n  {entry}")
