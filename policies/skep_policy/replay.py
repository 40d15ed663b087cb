"""Recorded decisions made again by another policy, with the data of their time: what would change, and for whom.

Input is the decision log, line by line (`skep_nodes.sy.decisions_store` says what a line is). A `data` line begins a
*span*; its `patch` lines are the steps from there on. A decision names the revisions of the regions that its data came
from, so it is asked at the step that it was made at, wherever in the log it arrived; one that does not say it is asked
where it stands. A decision that is older than its span (it arrived after its file had ended) is asked at the end of
the span before; where there is none, at the beginning of its own, and counted as `approximate`.

What differs is put into groups of the same path, change, action, from and to. A group's id depends on these alone, so
a review stays valid while the candidate is worked on, and a group that grows keeps its id. Opening what was closed
(`deny-to-allow`) is the change that must be reviewed; when there are more groups than are kept, the rest is a group
that nobody can accept.

Pure: lines and an engine in, groups out. Cost of one decision: parsing its line, the evaluation, one comparison.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from skep.protocol.errors import PolicyError
from skep_policy.decider import Engine, Evaluation, outcome
from skep_policy.documents import Patch
from skep_policy.manifest import ALLOW, ENTRYPOINTS, TARGET, Manifest, Reads
from skep_policy.record import ALLOWED, Revision, outcome_of, revision_of

GROUPS_MAX: Final = 5_000
SAMPLES_MAX: Final = 3
CASES_MAX: Final = 2_000_000
"""Decisions of one span in memory. A file of the log holds some 30,000; this bounds a file that somebody else wrote."""

PROGRESS_EVERY: Final = 4_096
NO_MORE: Final = "(more)"
_NOT_DECIDED: Final = frozenset({"POLICY_BUSY", "NOT_READY"})  # the policy was not asked


class Change(StrEnum):
    """What another policy does to a decision."""

    DENY_TO_ALLOW = "deny-to-allow"
    ALLOW_TO_DENY = "allow-to-deny"
    ERROR = "error"
    OTHER_TARGET = "other-target"
    OTHER_CANDIDATES = "other-candidates"
    NEW_TARGET = "new-target"
    LOST_TARGET = "lost-target"
    OTHER_REFUSAL = "other-refusal"


class Case(NamedTuple):
    """A recorded decision, as far as asking again and comparing need it. `input` is JSON."""

    path: str
    input: bytes
    outcome: str
    candidates: tuple[str, ...]
    chosen: str
    away: frozenset[str]  # candidates that could not be taken
    decision_id: str
    timestamp: str
    requested_by: str
    erased: bool


class Step(NamedTuple):
    """The data became this, by these patches."""

    revision: Revision
    patches: tuple[Patch, ...]


@dataclass(slots=True)
class Span:
    """Whole data, what changed in it, and who asked after how many of the changes."""

    data: dict[str, Any] = field(default_factory=dict)
    revision: Revision = field(default_factory=Revision)
    begun: bool = False  # by a data line
    steps: list[Step] = field(default_factory=list)
    cases: list[tuple[Revision | None, int, Case]] = field(
        default_factory=list
    )  # said revision, steps before it
    late: list[tuple[Revision | None, int, Case]] = field(default_factory=list)  # older than the span

    def place(self, revision: Revision | None, seen: int) -> int:
        """After how many steps a decision was made."""
        if revision is None:
            return seen
        by_ilks = bisect_right(self.steps, revision.ilks, key=lambda step: step.revision.ilks)
        return min(
            by_ilks, bisect_right(self.steps, revision.tenants, key=lambda step: step.revision.tenants)
        )

    def in_order(self) -> list[tuple[int, Case]]:
        """The cases by the step that they were made at; the order within one step stays."""
        placed = [(self.place(revision, seen), case) for revision, seen, case in self.cases]
        placed.sort(key=lambda each: each[0])
        return placed


@dataclass(slots=True)
class Group:
    """Decisions that change in the same way."""

    id: str
    path: str
    change: Change
    action: str
    source: str
    dest: str
    count: int = 0
    erased: int = 0  # of these, how many were asked with an input that masks had cut
    first: str = ""
    last: str = ""
    detail: str = ""  # of the first one: what the candidate says of it
    rule: str = ""  # where in the candidate; for whoever can tell
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """One decision of a group."""

    decision_id: str
    was: str
    now: str
    input: bytes


@dataclass(slots=True)
class Report:
    """What a candidate would change."""

    groups: dict[str, Group] = field(default_factory=dict)
    decisions: int = 0
    replayed: int = 0
    changed: int = 0
    not_asked: int = 0  # refused before the policy was asked
    masked: int = 0  # its answer was masked: nothing to compare with
    foreign: int = 0  # of another entry point, or no decision at all
    approximate: int = 0  # asked with the nearest data that the log has
    lost: int = 0  # decisions that the log says it has not

    def by_weight(self) -> list[Group]:
        """What must be reviewed first, then the most frequent."""
        order = list(Change)
        return sorted(
            self.groups.values(), key=lambda group: (order.index(group.change), -group.count, group.id)
        )

    def unreviewed(self, accepted: frozenset[str]) -> list[Group]:
        """The deny-to-allow groups that nobody has accepted."""
        return [
            group for group in self.by_weight()
            if group.change is Change.DENY_TO_ALLOW and (group.id not in accepted or group.action == NO_MORE)
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy to ask. `engine` makes one of it with this data (JSON)."""

    engine: Callable[[bytes], Engine]
    manifest: Manifest


# -- the log -------------------------------------------------------------------------------------------------------


def spans(lines: Iterable[Mapping[str, Any]], report: Report, since: str = "") -> Iterator[Span]:
    """The log in spans, one behind, so that decisions which came late are in the span they belong to. `since` is a
    timestamp as records have it; decisions before it are passed over."""
    before: Span | None = None
    span = Span()
    for line in lines:
        kind = line.get("kind", "decision")
        if kind == "data":
            yield from _settled(span, before, report)
            before = span if span.begun or span.cases else None
            span = Span(dict(line.get("data") or {}), revision_of(line) or Revision(), begun=True)
        elif kind == "patch":
            span.steps.append(Step(revision_of(line) or span.revision, tuple(_patches(line))))
        elif kind == "lost":
            report.lost += _count(line)
        elif kind == "decision":
            _add(span, line, report, since)
    yield from _settled(span, before, report)
    yield span


def _settled(span: Span, before: Span | None, report: Report) -> Iterator[Span]:
    """The span is complete: what is older than it goes to the one before, which is complete by that."""
    late, span.late = span.late, []
    if before is None:
        report.approximate += len(late)
        span.cases[:0] = [(None, 0, case) for _, _, case in late]
        return
    before.cases += [(revision, len(before.steps), case) for revision, _, case in late]
    yield before


def _add(span: Span, event: Mapping[str, Any], report: Report, since: str) -> None:
    timestamp = event.get("timestamp")
    if since and isinstance(timestamp, str) and timestamp < since:
        return
    report.decisions += 1
    case = _case_of(event, report)
    if case is None:
        return
    if len(span.cases) + len(span.late) >= CASES_MAX:
        raise PolicyError(
            "LOG_TOO_LARGE", f"more than {CASES_MAX} decisions without a data line between them"
        )
    revision = revision_of(event)
    older = revision is not None and span.begun and (
        revision.ilks < span.revision.ilks or revision.tenants < span.revision.tenants
    )  # fmt: skip
    (span.late if older else span.cases).append((revision, len(span.steps), case))


def _case_of(event: Mapping[str, Any], report: Report) -> Case | None:
    """What to ask again; None, counted, when there is nothing to ask or to compare with."""
    path, said = event.get("path"), outcome_of(event)
    if path not in ENTRYPOINTS or not isinstance(event.get("input"), dict):
        report.foreign += 1
        return None
    if said in _NOT_DECIDED:
        report.not_asked += 1
        return None
    erased = [*_list(event, "erased"), *_list(event, "masked")]
    if any(str(place).startswith(("/result", "/candidates", "/chosen", "/refused")) for place in erased):
        report.masked += 1
        return None
    refused = [each.get("name") for each in _list(event, "refused") if isinstance(each, dict)]
    return Case(
        path, orjson.dumps(event["input"]), said, tuple(_list(event, "candidates")), event.get("chosen") or "",
        frozenset(filter(None, refused)), str(event.get("decision_id", "")), str(event.get("timestamp", "")),
        str(event.get("requested_by", "")), bool(erased),
    )  # fmt: skip


def _patches(line: Mapping[str, Any]) -> Iterator[Patch]:
    for each in _list(line, "patches"):
        value = orjson.dumps(each["value"]) if "value" in each else None
        yield Patch(tuple(each["path"]), value)


def _list(event: Mapping[str, Any], name: str) -> list[Any]:
    value = event.get(name)
    return value if isinstance(value, list) else []


def _count(line: Mapping[str, Any]) -> int:
    value = line.get("n", line.get("lost"))
    return value if isinstance(value, int) else 0


def data_at(span: Span, steps: int) -> dict[str, Any]:
    """The data of a span after so many steps. It changes the span's own."""
    for step in span.steps[:steps]:
        for path, value in step.patches:
            _patch(span.data, path, value)
    return span.data


def _patch(data: dict[str, Any], path: tuple[str, ...], value: bytes | None) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    if value is None:
        data.pop(path[-1], None)
    else:
        data[path[-1]] = orjson.loads(value)


# -- asking again --------------------------------------------------------------------------------------------------


def replay(
    found: Iterable[Span], candidate: Candidate, report: Report, progress: Callable[[int], None] | None = None
) -> Report:
    """Ask the candidate everything that was asked. Raises PolicyError when it cannot be loaded, or its data not be
    patched."""
    for span in found:
        asker = _Asker(span, candidate)
        try:
            for steps, case in span.in_order():
                asker.go_to(steps)
                _compare(case, asker.ask(case), report)
                report.replayed += 1
                if progress is not None and report.replayed % PROGRESS_EVERY == 0:
                    progress(report.replayed)
        finally:
            asker.close()
    return report


class Answer(NamedTuple):
    """What the candidate says."""

    outcome: str
    names: tuple[str, ...]
    detail: str


class _Asker:
    """The candidate with the data of one span, going forward through its steps."""

    def __init__(self, span: Span, candidate: Candidate) -> None:
        self._steps, self._done = span.steps, 0
        self._standing = set(span.data.get("agents") or ())
        self._reads = {name: candidate.manifest.reads.get(name, Reads()) for name in ENTRYPOINTS}
        self._there = {
            name for name in ENTRYPOINTS if name in candidate.manifest.reads or not candidate.manifest.reads
        }
        self._overlaid = {name for name, reads in self._reads.items() if "identity" in reads.data}
        self._engine = candidate.engine(orjson.dumps(span.data))

    def go_to(self, steps: int) -> None:
        while self._done < steps:
            patches = self._steps[self._done].patches
            self._engine.apply(patches)
            self._done += 1
            for path, value in patches:
                if len(path) == 2 and path[0] == "agents":
                    (self._standing.discard if value is None else self._standing.add)(path[1])

    def ask(self, case: Case) -> Answer:
        if case.path not in self._there:
            return Answer(
                "OPA_NO_TARGET" if case.path == TARGET else "POLICY_DENIED", (), "it has no such rule"
            )
        input_: bytes = case.input
        overlay: tuple[Patch, ...] = ()
        if case.path in self._overlaid or self._reads[case.path].source:
            input_, overlay = self._completed(case)
        return _answer(case.path, self._engine.decide(case.path, input_, overlay))

    def _completed(self, case: Case) -> tuple[bytes, tuple[Patch, ...]]:
        """The sender's name, which a policy that did not read it left out; and the interlocutors as guests."""
        document = orjson.loads(case.input)
        overlay: list[Patch] = []
        if case.path in self._overlaid:
            for member in ("src", "dst"):
                record = document.get(member)
                if isinstance(record, dict) and record.get("ilk") not in self._standing:
                    overlay.append(Patch(("identity", str(record.get("ilk"))), orjson.dumps(record)))
        routing = document.get("routing")
        if self._reads[case.path].source and isinstance(routing, dict) and "src_l2_name" not in routing:
            routing["src_l2_name"] = case.requested_by
            return orjson.dumps(document), tuple(overlay)
        return case.input, tuple(overlay)

    def close(self) -> None:
        self._engine.close()


def _answer(path: str, evaluation: Evaluation) -> Answer:
    reason, detail, names = outcome(path, evaluation)
    return Answer(reason.value if reason else ALLOWED, names, detail)


# -- comparing -----------------------------------------------------------------------------------------------------


def _compare(case: Case, answer: Answer, report: Report) -> None:
    change = change_of(case, answer)
    if change is None:
        return
    report.changed += 1
    group = _group(case, answer, change, report)
    group.count += 1
    group.erased += case.erased
    group.first = min(group.first or case.timestamp, case.timestamp)
    group.last = max(group.last, case.timestamp)
    group.detail = group.detail or answer.detail
    if len(group.samples) < SAMPLES_MAX:
        was, now = _shown(case.outcome, case.candidates), _shown(answer.outcome, answer.names)
        group.samples.append(Sample(case.decision_id, was, now, case.input))


def change_of(case: Case, answer: Answer) -> Change | None:
    """How the candidate's answer differs; None: it does not."""
    was, now = case.outcome, answer.outcome
    if was == now:
        return None if now != ALLOWED or case.path == ALLOW else _other_target(case, answer)
    if now == ALLOWED:
        return Change.DENY_TO_ALLOW if case.path == ALLOW else Change.NEW_TARGET
    if now == "OPA_ERROR":
        return Change.ERROR
    if was == ALLOWED:
        return Change.ALLOW_TO_DENY if case.path == ALLOW else Change.LOST_TARGET
    return Change.OTHER_REFUSAL


def _other_target(case: Case, answer: Answer) -> Change | None:
    """Other candidates may still lead to the same node: those that were away then would have been away now."""
    if case.candidates == answer.names:
        return None
    taken = next((name for name in answer.names if name not in case.away), "")
    return Change.OTHER_CANDIDATES if case.chosen and taken == case.chosen else Change.OTHER_TARGET


def _group(case: Case, answer: Answer, change: Change, report: Report) -> Group:
    key = (case.path, change.value, *_who(case, answer))
    id_ = group_id(key)
    group = report.groups.get(id_)
    if group is None and len(report.groups) >= GROUPS_MAX:
        key = (case.path, change.value, NO_MORE, "", "")
        id_ = group_id(key)
        group = report.groups.get(id_)
    if group is None:
        group = report.groups[id_] = Group(id_, case.path, change, *key[2:])
    return group


def group_id(key: tuple[str, ...]) -> str:
    """Of what a group has in common, and of nothing else."""
    return blake2b(orjson.dumps(key), digest_size=8, person=b"skep.group/1").hexdigest()


def _who(case: Case, answer: Answer) -> tuple[str, str, str]:
    """(action, from, to): the act, who does it, and to whom; for a target, from whom to whom it goes over."""
    document = orjson.loads(case.input)
    meta, routing = (_mapping(document, name) for name in ("meta", "routing"))
    action = str(meta.get("action") or meta.get("msg") or meta.get("type") or "")
    action_class = meta.get("action_class")
    source = f"{_base(case.requested_by)}{_kind(document.get('src'))}"
    if case.path == TARGET:
        dest = f"{_first(case.candidates)} -> {_first(answer.names)}"
    else:
        dest = f"{_base(str(routing.get('dst') or ''))}{_kind(document.get('dst'))}"
    return f"{action} ({action_class})" if action_class else action, source, dest


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _base(name: str) -> str:
    """A name without the number of a command's process: SY.cli.4711 is SY.cli, today and tomorrow."""
    base, _, hive = name.partition("@")
    fields = base.split(".")
    if len(fields) > 2 and fields[-1].isdecimal():
        base = ".".join(fields[:-1])
    return f"{base}@{hive}" if hive else base


def _kind(record: Any) -> str:
    """What an interlocutor is, without saying who."""
    if not isinstance(record, dict):
        return ""
    words = (record.get("type"), record.get("human_subtype"), record.get("registration_status"))
    return f" [{' '.join(str(word) for word in words if word)}]"


def _first(names: tuple[str, ...]) -> str:
    return names[0] if names else "nobody"


def _shown(outcome_: str, names: tuple[str, ...]) -> str:
    return outcome_ if not names else f"{outcome_} {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
