"""Decisions of one policy: asked once, kept for exactly as long as what they were made from stands.

Owns the engine of the policy in force, the cache of its answers, and the list of decisions that wait for the decision
log. A decision is a pure function of (policy, data roots that the entry point reads, records of the interlocutors,
selector, and the sender where the policy reads it); the cache's key is those bytes of the flow key that say so. Time to
live, phase, ack level, content type and thread are not among them, so a new thread of an old conversation is a hit.

Invariants:
  Fail closed: an engine that cannot answer gives OPA_ERROR, kept for that selector; undefined gives OPA_NO_TARGET or
  POLICY_DENIED. Nothing but `true` allows.
  What changes drops what depended on it: a data root its entry points, a record its readers, time what has an end.
  A new policy is a new Decider.
  Nothing waits for the log: past RECORDS_MAX a decision is lost to it, and counted.

A *shadow* is a second policy that answers the same questions on misses, within SHADOW_SHARE of the time, and only
reports: its answer stands beside the real one in the record.

Pure: time is an argument. Rejected: one cache for both entry points (a change of an agent would empty `allow`, which
reads no agents); keying by the records' contents instead of the ILKs (the policy may read the ILK itself).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from os import urandom
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

import orjson

from skep.protocol.codes import Reason
from skep.protocol.errors import PolicyError
from skep_policy.answer import AnswerError, allowed_by, names_of
from skep_policy.decision_cache import DecisionCache
from skep_policy.documents import Documents, Patch, ilk_name, roots_of
from skep_policy.input import Asked, Statuses, Wanted, input_document, statuses_of, whole_input
from skep_policy.manifest import ALLOW, TARGET, Manifest, Reads

CACHE_ENTRIES_MAX: Final = 65_536
"""Kept decisions of one entry point: four times the flows of one connection."""
RECORDS_MAX: Final = 8_192
"""Decisions that wait for the decision log: some seconds of a busy router's misses."""
SHADOW_SHARE: Final = 100
"""A shadow may use one hundredth of the time: past it, it is not asked, and that is counted."""
SHADOW_BURST_NS: Final = 20_000_000 * SHADOW_SHARE


__all__ = ["Asked", "Decider", "Decision", "Shadow", "input_document", "outcome", "record_of", "rfc3339"]


class Evaluation(Protocol):
    """`skep_policy.evaluator.Evaluation`, as far as it is read here."""

    @property
    def result(self) -> Any: ...
    @property
    def defined(self) -> bool: ...
    @property
    def error(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def ns(self) -> int: ...


class Engine(Protocol):
    """`skep_policy.evaluator.Evaluator`. An engine whose data could not be patched raises PolicyError."""

    def decide(self, entrypoint: str, input: bytes, overlay: Sequence[Any] = ()) -> Evaluation: ...
    def apply(self, patches: Sequence[Any]) -> None: ...
    def close(self) -> None: ...


class Decision:
    """An answer. `reason` is None for a yes; then `names` are the candidates of a target, best first."""

    __slots__ = ("_head", "_number", "detail", "ilks", "names", "ns", "reason", "valid_until_ns")

    def __init__(self, head: str, number: int, ilks: tuple[bytes, ...], valid_until_ns: int) -> None:
        self._head = head
        self._number = number
        self.ilks = ilks
        self.valid_until_ns = valid_until_ns
        self.reason: Reason | None = None
        self.detail = ""
        self.names: tuple[str, ...] = ()
        self.ns = 0

    @property
    def id(self) -> str:
        """A uuid. Written when somebody asks: of most decisions only the log does."""
        return f"{self._head}{self._number:012x}"


class Made:
    """One decision on its way to the log."""

    __slots__ = (
        "asked", "chosen", "decision", "entrypoint", "error", "refused", "result", "revision", "shadow", "source",
        "statuses",
    )  # fmt: skip

    def __init__(
        self, entry: _Entry, asked: Asked, statuses: Statuses, decision: Decision, revision: tuple[int, int]
    ) -> None:
        self.revision = revision
        self.entrypoint = entry.name
        self.source = entry.source
        self.asked = asked
        self.statuses = statuses
        self.decision = decision
        self.result: Any = None
        self.error = ""
        self.chosen = ""
        self.refused: list[tuple[str, str]] = []
        self.shadow: dict[str, Any] | None = None


class Shadow(NamedTuple):
    """A candidate policy that only reports."""

    engine: Engine
    manifest: Manifest


class _Entry:
    """One entry point of the policy in force: what it reads, and what it has answered."""

    __slots__ = ("cache", "cacheable", "identity", "name", "roots", "source", "there", "wanted")

    def __init__(self, name: str, manifest: Manifest) -> None:
        reads = manifest.reads.get(name, Reads())
        self.name = name
        self.there = name in manifest.reads or not manifest.reads
        self.roots = frozenset(reads.data)
        self.source = reads.source
        self.identity = "identity" in self.roots
        self.wanted = Wanted(reads)
        self.cacheable = manifest.cacheable.get(name, True)
        self.cache: DecisionCache[Decision] = DecisionCache(CACHE_ENTRIES_MAX)


def _entries(manifest: Manifest) -> dict[str, _Entry]:
    return {name: _Entry(name, manifest) for name in (TARGET, ALLOW)}


class Decider:
    """The policy in force."""

    def __init__(
        self, engine: Engine, manifest: Manifest, documents: Documents, *, labels: dict[str, str] | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self.manifest = manifest
        self.labels = {**(labels or {}), "policy_version": str(manifest.version)}
        self.revision = (0, 0)  # of the regions ilks and tenants, as far as the data has followed them
        self.decisions = 0  # evaluations, ever
        self.hits = 0  # questions that a kept decision answered, ever
        self.lost_ever = 0  # decisions that the log will not see
        self._lost = 0  # of those, what it was not told of
        self.broken = ""  # why the engine can no longer be believed; then everything is refused
        self.shadow_skipped = 0
        self._engine = engine
        self.documents = documents
        self._entries = _entries(manifest)
        self._recent = {name: entry.cache.recent for name, entry in self._entries.items()}
        self._made: list[Made] = []
        self._shadow: Shadow | None = None
        self._shadow_entries: dict[str, _Entry] = {}
        self._shadow_paid_ns = 0
        self.set_shadow(shadow)
        self._id_head = str(UUID(bytes=urandom(16), version=4))[:24]
        self._id_next = int.from_bytes(urandom(5), "big")

    # -- asking ----------------------------------------------------------------------------------------------------

    def known(self, entrypoint: str, key: bytes, name: str, now_ns: int) -> Decision | None:
        """What was answered before, if it still stands. `_cache_key` and `DecisionCache.find`, spelled out: each call
        less is a tenth of a hit."""
        try:
            decision = self._recent[entrypoint][key[17]][key[24 : -key[31] or None]]
        except KeyError:
            entry = self._entries[entrypoint]
            found = entry.cache.find(key[17], _cache_key(entry, key, name), now_ns)
            if found is None:
                return None
            decision = found
        self.hits += 1
        return decision

    def decide(self, entrypoint: str, asked: Asked, now_ns: int) -> Decision:
        """Ask the policy now, and keep the answer."""
        entry = self._entries[entrypoint]
        decision = self._new(_ilks_of(asked), asked.until_ns)
        made = Made(entry, asked, statuses_of(asked, self.documents), decision, self.revision)
        self._evaluate(entry, made)
        if self._shadow is not None:
            self._ask_shadow(self._shadow, made, now_ns)
        if entry.cacheable:
            entry.cache.put(asked.key[17], _cache_key(entry, asked.key, asked.name), decision)
        self._record(made)
        return decision

    def refuse(self, entrypoint: str, asked: Asked, reason: Reason, detail: str) -> Decision:
        """A refusal to ask the policy, recorded like a decision and never kept."""
        decision = self._new((), 0)
        decision.reason, decision.detail = reason, detail
        statuses = statuses_of(asked, self.documents)
        self._record(Made(self._entries[entrypoint], asked, statuses, decision, self.revision))
        return decision

    def _record(self, made: Made) -> None:
        if len(self._made) >= RECORDS_MAX:
            self._lost += 1
            self.lost_ever += 1
        else:
            self._made.append(made)

    def target(self, asked: Asked, now_ns: int) -> Decision:
        """Who should handle this message."""
        return self.known(TARGET, asked.key, asked.name, now_ns) or self.decide(TARGET, asked, now_ns)

    def allow(self, asked: Asked, now_ns: int) -> Decision:
        """May this message happen."""
        return self.known(ALLOW, asked.key, asked.name, now_ns) or self.decide(ALLOW, asked, now_ns)

    def cacheable(self, entrypoint: str) -> bool:
        """May what was decided be kept? Not where the policy reads clock or dice."""
        return self._entries[entrypoint].cacheable

    def note_choice(self, decision: Decision, chosen: str, refused: list[tuple[str, str]]) -> None:
        """What the router made of the candidates. Heard for the decision that was made last, for it alone is new."""
        if self._made and self._made[-1].decision is decision:
            self._made[-1].chosen, self._made[-1].refused = chosen, refused

    def _evaluate(self, entry: _Entry, made: Made) -> None:
        decision = made.decision
        if self.broken:
            decision.reason, decision.detail = Reason.OPA_ERROR, self.broken
            return
        if not entry.there:
            decision.reason = _undefined(entry.name)
            decision.detail = f"the policy has no rule {entry.name}"
            return
        overlay = self._overlay(made.asked) if entry.identity else ()
        self.decisions += 1
        found = self._engine.decide(entry.name, entry.wanted.text(made.asked, made.statuses), overlay)
        decision.ns, made.error, made.result = found.ns, found.error, found.result
        decision.reason, decision.detail, decision.names = outcome(entry.name, found)

    def _overlay(self, asked: Asked) -> tuple[Patch, ...]:
        """The interlocutors that do not stand in the data, for this evaluation alone."""
        guests = {r.ilk: r for r in (asked.src, asked.dst) if r is not None and not self.documents.standing(r.ilk)}
        return tuple(
            Patch(("identity", ilk_name(ilk)), orjson.dumps(self.documents.document(record)))
            for ilk, record in guests.items()
        )

    def _new(self, ilks: tuple[bytes, ...], valid_until_ns: int) -> Decision:
        self._id_next = (self._id_next + 1) & 0xFFFF_FFFF_FFFF
        return Decision(self._id_head, self._id_next, ilks, valid_until_ns)

    # -- shadow ----------------------------------------------------------------------------------------------------

    @property
    def shadow_version(self) -> int:
        return 0 if self._shadow is None else self._shadow.manifest.version

    def set_shadow(self, shadow: Shadow | None) -> None:
        """Try another policy beside this one, or none."""
        if self._shadow is not None:
            self._shadow.engine.close()
        self._shadow = shadow
        self._shadow_entries = {} if shadow is None else _entries(shadow.manifest)

    def _ask_shadow(self, shadow: Shadow, made: Made, now_ns: int) -> None:
        due = max(self._shadow_paid_ns, now_ns)
        if due - now_ns > SHADOW_BURST_NS:
            self.shadow_skipped += 1
            return
        entry = self._shadow_entries[made.entrypoint]
        overlay = self._overlay(made.asked) if entry.identity else ()
        found = shadow.engine.decide(made.entrypoint, entry.wanted.text(made.asked, made.statuses), overlay)
        self._shadow_paid_ns = due + found.ns * SHADOW_SHARE
        reason, detail, names = outcome(made.entrypoint, found)
        live = made.decision
        made.shadow = {
            "version": shadow.manifest.version, "result": found.result, "error": found.error or None,
            "outcome": reason.value if reason else "ALLOWED", "detail": detail,
            "differs": (reason, names) != (live.reason, live.names),
        }  # fmt: skip

    # -- changes ---------------------------------------------------------------------------------------------------

    def apply(self, patches: list[Patch]) -> frozenset[str]:
        """The data has changed. -> the entry points whose answers may be others now."""
        if not patches:
            return frozenset()
        try:
            self._engine.apply(patches)
        except PolicyError as error:
            self.broken = f"the policy's data could not be changed: {error}"
            return self.forget_all()
        if self._shadow is not None:
            self._apply_to_shadow(self._shadow, patches)
        roots = roots_of(patches)
        touched = frozenset(name for name, entry in self._entries.items() if entry.roots & roots)
        for name in touched:
            self._entries[name].cache.clear()
        return touched

    def _apply_to_shadow(self, shadow: Shadow, patches: list[Patch]) -> None:
        """A candidate that cannot follow the data reports nothing any more."""
        try:
            shadow.engine.apply(patches)
        except PolicyError:
            self.set_shadow(None)

    def forget_ilk(self, ilk: bytes) -> None:
        """This interlocutor's record is another one now."""
        for entry in self._entries.values():
            entry.cache.forget(ilk)

    def forget_all(self) -> frozenset[str]:
        for entry in self._entries.values():
            entry.cache.clear()
        return frozenset(self._entries)

    def close(self) -> None:
        self._engine.close()
        self.set_shadow(None)

    # -- the log ---------------------------------------------------------------------------------------------------

    def take_records(self, maximum: int = RECORDS_MAX) -> list[dict[str, Any]]:
        """The oldest decisions that the log has not seen, in the shape of OPA's decision log."""
        taken, self._made = self._made[:maximum], self._made[maximum:]
        return [record_of(made, self.labels) for made in taken]

    def take_lost(self) -> int:
        """How many were lost since this was asked last."""
        lost, self._lost = self._lost, 0
        return lost

    @property
    def records_waiting(self) -> int:
        return len(self._made)

    def statistics(self) -> dict[str, int]:
        """What is counted, for whoever asks the router."""
        kept = {f"kept_{name.partition('/')[2]}": len(entry.cache) for name, entry in self._entries.items()}
        return {
            **kept, "decisions": self.decisions, "hits": self.hits, "records_lost": self.lost_ever,
            "shadow_version": self.shadow_version, "shadow_skipped": self.shadow_skipped,
        }  # fmt: skip


def _cache_key(entry: _Entry, key: bytes, name: str) -> Hashable:
    """Kinds, lengths and texts of a flow key, beside its class (byte 17): without what no policy reads, flags, ttl,
    hops, phase, content type, ack level (bytes 18 to 23) and the thread at its end. The thread's length, byte 31, stays
    in it: to cut it out costs a third of a hit, and nearly every thread has the same."""
    said = key[24 : -key[31] or None]
    return (name, key[:16], said) if entry.source else said


def _ilks_of(asked: Asked) -> tuple[bytes, ...]:
    """Whose records were read: as the frame names them, known or not, as they are called now, and what lay between."""
    selector, src, dst = asked.selector, asked.src, asked.dst
    named = {selector.src_ilk, selector.dst_ilk, *asked.read}
    if src is not None:
        named.add(src.ilk)
    if dst is not None:
        named.add(dst.ilk)
    return tuple([ilk for ilk in named if ilk is not None])


def _undefined(entrypoint: str) -> Reason:
    return Reason.OPA_NO_TARGET if entrypoint == TARGET else Reason.POLICY_DENIED


def outcome(entrypoint: str, found: Evaluation) -> tuple[Reason | None, str, tuple[str, ...]]:
    """(None or why not, a sentence, the candidates) of one evaluation."""
    if found.error:
        return Reason.OPA_ERROR, f"the policy failed [{found.error}]: {found.detail}", ()
    if not found.defined:
        return _undefined(entrypoint), f"{entrypoint} is undefined for this message", ()
    try:
        if entrypoint == ALLOW:
            allowed = allowed_by(found.result)
            return (None, "", ()) if allowed else (Reason.POLICY_DENIED, "the policy does not allow it", ())
        names = names_of(found.result)
    except AnswerError as error:
        return Reason.OPA_ERROR, str(error), ()
    return (None, "", names) if names else (Reason.OPA_NO_TARGET, "the policy names nobody for this message", ())


def record_of(made: Made, labels: dict[str, str]) -> dict[str, Any]:
    """One decision as OPA logs it, with what Skep adds: trace, candidates, what became of them, shadow."""
    decision, asked = made.decision, made.asked
    reason = decision.reason
    record: dict[str, Any] = {
        "decision_id": decision.id, "timestamp": rfc3339(asked.wall_ns), "path": made.entrypoint,
        "labels": labels, "input": whole_input(asked, made.statuses, made.source), "result": made.result,
        "requested_by": asked.name,
        "metrics": {"timer_rego_query_eval_ns": decision.ns}, "trace_id": asked.trace.hex(),
        "outcome": reason.value if reason else "ALLOWED", "candidates": list(decision.names),
        "chosen": made.chosen, "refused": [{"name": name, "why": why} for name, why in made.refused],
        "data_revision": {"ilks": made.revision[0], "tenants": made.revision[1]},
    }  # fmt: skip
    if made.error or reason is Reason.POLICY_BUSY:
        record["error"] = {"code": made.error or reason, "message": decision.detail}
    if made.shadow is not None:
        record["shadow"] = made.shadow
    return record


def rfc3339(wall_ns: int) -> str:
    """UTC with nanoseconds, as OPA writes it."""
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09}Z"
