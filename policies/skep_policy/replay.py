"""Recorded decisions made again by another policy, with the data of their time: what would change, and for whom.

Input is the decision log, line by line (`skep_nodes.sy.decisions_store` says what a line is). A `data` line begins a
*span*; its `patch` lines are the steps from there on. A decision names the revisions of the regions that its data came
from, so it is asked at the step that it was made at, wherever in the log it arrived; one that does not say it is asked
where it stands. A decision that is older than its span (it arrived after its file had ended) is asked at the end of
the span before; where there is none, at the beginning of its own, and counted as `approximate`.

Pure: lines and an engine in, groups out. Cost of one decision: parsing its line, the evaluation, one comparison.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from skep.protocol.errors import PolicyError
from skep_policy.answer import AnswerError, names_of
from skep_policy.decider import Engine, Evaluation, outcome
from skep_policy.difference import Answer, Case, Report, note
from skep_policy.documents import Patch
from skep_policy.input import SOMEBODY
from skep_policy.manifest import ENTRYPOINTS, TARGET, Manifest, Reads
from skep_policy.record import ALLOWED, Revision, outcome_of, revision_of

CASES_MAX: Final = 2_000_000
"""Decisions of one span in memory. A file of the log holds some 30,000; this bounds a file that somebody else wrote."""

KEPT_MAX: Final = 65_536  # answers on the same data
PROGRESS_EVERY: Final = 4_096
_SOMEBODY: Final = SOMEBODY.decode()
_NOBODY: Final[frozenset[str]] = frozenset()
_NOT_DECIDED: Final = frozenset({"POLICY_BUSY", "NOT_READY"})  # the policy was not asked


class Step(NamedTuple):
    """The data became this, by these patches."""

    revision: Revision
    patches: tuple[Patch, ...]


@dataclass(slots=True)
class Span:
    """Whole data, what changed in it, and who asked after how many of the changes."""

    data: bytes = (
        b"{}"  # JSON: parsed it would be ten times the size, and walked by every collection of garbage
    )
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
        places: dict[tuple[Revision | None, int], int] = {}  # neighbours say the same
        placed = []
        for revision, seen, case in self.cases:
            at = places.get((revision, seen))
            if at is None:
                at = places[revision, seen] = self.place(revision, seen)
            placed.append((at, case))
        placed.sort(key=_first)
        return placed


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy to ask. `engine` makes one of it with this data (JSON)."""

    engine: Callable[[bytes], Engine]
    manifest: Manifest

    def questions(self) -> Questions:
        """How it is asked. For `spans`, which has each input parsed anyway."""
        return Questions(self.manifest)


class Questions:
    """What a policy reads of a recorded input, as JSON: what a router would have asked it."""

    __slots__ = ("_parts", "_present", "_source", "roots")

    def __init__(self, manifest: Manifest) -> None:
        roots = manifest.roots()
        self.roots = (
            roots if roots is None or "identity" not in roots else roots | {"agents"}
        )  # who stands in it
        reads = {name: manifest.reads.get(name, Reads()) for name in ENTRYPOINTS}
        self._parts = {name: parts_of(each) for name, each in reads.items()}
        self._source = {name for name, each in reads.items() if each.source}
        self._present = {
            name: [member for member in ("src_ilk", "dst_ilk") if f"meta.{member}" in each.present]
            for name, each in reads.items()
        }

    def text(self, path: str, document: Mapping[str, Any], requested_by: str) -> bytes:
        """A policy that did not read the sender's name left it out; one that does gets it."""
        lean = {**document}
        for part, wanted in self._parts[path]:
            value = document.get(part)
            if isinstance(value, dict):
                lean[part] = {name: value[name] for name in wanted if name in value}
        for member in self._present[path]:
            meta = lean.get("meta")
            if isinstance(meta, dict) and isinstance(meta.get(member), str) and meta[member]:
                meta[member] = _SOMEBODY
        routing = document.get("routing")
        if path in self._source and isinstance(routing, dict):
            lean["routing"] = {"src_l2_name": requested_by, **routing}
        return orjson.dumps(lean)


# -- the log -------------------------------------------------------------------------------------------------------


def spans(
    lines: Iterable[Mapping[str, Any]], report: Report, since: str = "", questions: Questions | None = None
) -> Iterator[Span]:
    """The log in spans, one behind, so that decisions which came late are in the span they belong to. `since` is a
    timestamp as records have it; decisions before it are passed over. With `questions`, of the candidate that will be
    asked, no input is parsed a second time."""
    before: Span | None = None
    span = Span()
    for line in lines:
        kind = line.get("kind", "decision")
        if kind == "data":
            yield from _settled(span, before, report)
            before = span if span.begun or span.cases else None
            span = Span(_data_of(line, questions), revision_of(line) or Revision(), begun=True)
        elif kind == "patch":
            span.steps.append(Step(revision_of(line) or span.revision, tuple(_patches(line))))
        elif kind == "lost":
            report.lost += _count(line)
        elif kind == "decision":
            _add(span, line, report, since, questions)
    yield from _settled(span, before, report)
    yield span


def _data_of(line: Mapping[str, Any], questions: Questions | None) -> bytes:
    """As JSON; cut to what is read of them, if that is known: most of the data are read by nobody."""
    data = line.get("data") or {}
    if questions is not None and questions.roots is not None and isinstance(data, dict):
        data = {root: value for root, value in data.items() if root in questions.roots}
    return orjson.dumps(data)


def _settled(span: Span, before: Span | None, report: Report) -> Iterator[Span]:
    """The span is complete: what is older than it goes to the one before, which is complete by that."""
    late, span.late = span.late, []
    if before is None:
        report.approximate += len(late)
        span.cases[:0] = [(None, 0, case) for _, _, case in late]
        return
    before.cases += [(revision, len(before.steps), case) for revision, _, case in late]
    yield before


def _add(
    span: Span, event: Mapping[str, Any], report: Report, since: str, questions: Questions | None
) -> None:
    timestamp = event.get("timestamp")
    if since and isinstance(timestamp, str) and timestamp < since:
        return
    report.decisions += 1
    case = _case_of(event, report, questions)
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


def _case_of(event: Mapping[str, Any], report: Report, questions: Questions | None = None) -> Case | None:
    """What to ask again; None, counted, when there is nothing to ask or to compare with."""
    path, said, document = event.get("path"), outcome_of(event), event.get("input")
    if path not in ENTRYPOINTS or not isinstance(document, dict):
        report.foreign += 1
        return None
    if said in _NOT_DECIDED:
        report.not_asked += 1
        return None
    erased = event.get("erased") or event.get("masked")
    if erased and _masks_the_answer(event):
        report.masked += 1
        return None
    requested_by = str(event.get("requested_by", ""))
    return Case(
        path, orjson.dumps(document), said, tuple(_list(event, "candidates")), event.get("chosen") or "", _away(event),
        str(event.get("decision_id", "")), str(event.get("timestamp", "")), requested_by, bool(erased),
        questions.text(path, document, requested_by) if questions else b"",
    )  # fmt: skip


def _patches(line: Mapping[str, Any]) -> Iterator[Patch]:
    for each in _list(line, "patches"):
        value = orjson.dumps(each["value"]) if "value" in each else None
        yield Patch(tuple(each["path"]), value)


def _masks_the_answer(event: Mapping[str, Any]) -> bool:
    places = [*_list(event, "erased"), *_list(event, "masked")]
    return any(str(place).startswith(("/result", "/candidates", "/chosen", "/refused")) for place in places)


def _away(event: Mapping[str, Any]) -> frozenset[str]:
    """The candidates that could not be taken."""
    refused = event.get("refused")
    if not refused or not isinstance(refused, list):
        return _NOBODY
    return frozenset(name for each in refused if isinstance(each, dict) and (name := each.get("name")))


def _list(event: Mapping[str, Any], name: str) -> list[Any]:
    value = event.get(name)
    return value if isinstance(value, list) else []


def _first(placed: tuple[int, Case]) -> int:
    return placed[0]


def _count(line: Mapping[str, Any]) -> int:
    value = line.get("n", line.get("lost"))
    return value if isinstance(value, int) else 0


def data_at(span: Span, steps: int) -> dict[str, Any]:
    """The data of a span after so many steps."""
    data: dict[str, Any] = orjson.loads(span.data)
    for step in span.steps[:steps]:
        for path, value in step.patches:
            _patch(data, path, value)
    return data


def _patch(data: dict[str, Any], path: tuple[str, ...], value: bytes | None) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    if value is None:
        data.pop(path[-1], None)
    else:
        data[path[-1]] = orjson.loads(value)


# -- what a shadow said --------------------------------------------------------------------------------------------


def shadowed(lines: Iterable[Mapping[str, Any]], since: str = "") -> dict[int, Report]:
    """What shadows would have changed, by their version: nothing is asked again, the router has asked them."""
    reports: dict[int, Report] = {}
    for line in lines:
        shadow = line.get("shadow")
        if not isinstance(shadow, dict) or line.get("kind", "decision") != "decision":
            continue
        if since and str(line.get("timestamp")) < since:
            continue
        version = shadow.get("version")
        report = reports.setdefault(version if isinstance(version, int) else 0, Report())
        report.decisions += 1
        case = _case_of(line, report)
        answer = None if case is None else _shadow_answer(case.path, shadow)
        if case is not None and answer is not None:
            note(case, answer, report)
            report.replayed += 1
    return reports


def _shadow_answer(path: str, shadow: Mapping[str, Any]) -> Answer | None:
    """None for an answer that was masked."""
    said = str(shadow.get("outcome") or ALLOWED)
    try:
        names = names_of(shadow.get("result")) if path == TARGET and said == ALLOWED else ()
    except AnswerError:
        return None
    return Answer(said, names, str(shadow.get("detail") or ""))


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
                if steps != asker.steps:
                    asker.go_to(steps)
                answer = asker.ask(case)
                if answer.outcome != case.outcome or answer.names != case.candidates:
                    note(case, answer, report)
                report.replayed += 1
                if progress is not None and report.replayed % PROGRESS_EVERY == 0:
                    progress(report.replayed)
        finally:
            asker.close()
    return report


class _Asker:
    """The candidate with the data of one span, going forward through its steps.

    It is asked what it reads of the input, as a router asks it; and where it reads neither clock nor dice, an equal
    question on equal data is asked once, because a decision is a function of the two.
    """

    def __init__(self, span: Span, candidate: Candidate) -> None:
        reads, self._steps, self.steps = candidate.manifest.reads, span.steps, 0
        self._questions = candidate.questions()
        self._there = {name for name in ENTRYPOINTS if name in reads or not reads}
        self._overlaid = {name for name, each in reads.items() if "identity" in each.data}
        self._keeps = {
            name for name in ENTRYPOINTS if candidate.manifest.cacheable.get(name, False)
        } - self._overlaid
        self._kept: dict[tuple[str, bytes], Answer] = {}
        self._standing = set(orjson.loads(span.data).get("agents") or ()) if self._overlaid else set()
        self._engine = candidate.engine(span.data)

    def go_to(self, steps: int) -> None:
        while self.steps < steps:
            patches = self._steps[self.steps].patches
            self._engine.apply(patches)
            self.steps += 1
            self._kept.clear()
            for path, value in patches:
                if len(path) == 2 and path[0] == "agents":
                    (self._standing.discard if value is None else self._standing.add)(path[1])

    def ask(self, case: Case) -> Answer:
        path = case.path
        if path not in self._there:
            return Answer("OPA_NO_TARGET" if path == TARGET else "POLICY_DENIED", (), "it has no such rule")
        overlay = self._guests(orjson.loads(case.input)) if path in self._overlaid else ()
        question = case.question or self._questions.text(path, orjson.loads(case.input), case.requested_by)
        key = path, question
        found = self._kept.get(key)
        if found is None:
            found = _answer(path, self._engine.decide(path, question, overlay))
            if path in self._keeps and len(self._kept) < KEPT_MAX:
                self._kept[key] = found
        return found

    def _guests(self, document: dict[str, Any]) -> tuple[Patch, ...]:
        """The interlocutors that do not stand in the data."""
        records = [document.get(member) for member in ("src", "dst")]
        guests = {str(each["ilk"]): each for each in records if isinstance(each, dict) and each.get("ilk")}
        return tuple(
            Patch(("identity", ilk), orjson.dumps(record))
            for ilk, record in guests.items() if ilk not in self._standing
        )  # fmt: skip

    def close(self) -> None:
        self._engine.close()


def parts_of(reads: Reads) -> list[tuple[str, tuple[str, ...]]]:
    """The parts of the input of which only some members are read, with these; a part that is not here is read whole."""
    paths = [path.split(".") for path in reads.input]
    return [
        (part, tuple(sorted({path[1] for path in paths if path[0] == part})))
        for part in ("meta", "src", "dst")
        if not any(path[0] in ("", part) and len(path) == 1 for path in paths)
    ]


def _answer(path: str, evaluation: Evaluation) -> Answer:
    reason, detail, names = outcome(path, evaluation)
    return Answer(reason.value if reason else ALLOWED, names, detail)
