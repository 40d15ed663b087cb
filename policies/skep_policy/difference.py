"""How the answers of another policy differ from those that were given: groups of decisions that change alike.

A group is what its decisions have in common: path, change, action, from and to. Its id depends on these alone, so a
review stays valid while a candidate is worked on, and a group that grows keeps its id. Opening what was closed
(`deny-to-allow`) is the change that must be reviewed; when there are more groups than are kept, the rest is a group
that nobody can accept.

Pure, and without an engine: two answers in, groups out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from skep_policy.manifest import ALLOW, TARGET
from skep_policy.record import ALLOWED

GROUPS_MAX: Final = 5_000
SAMPLES_MAX: Final = 3
NO_MORE: Final = "(more)"


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
    """A recorded decision, as far as asking again and comparing need it. `input` is JSON, and so is `question`: what
    the candidate reads of it, "" where that is not known yet."""

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
    question: bytes = b""


class Answer(NamedTuple):
    """What the candidate says."""

    outcome: str
    names: tuple[str, ...]
    detail: str


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


# -- comparing -----------------------------------------------------------------------------------------------------


def note(case: Case, answer: Answer, report: Report) -> None:
    """Count a decision that differs, in its group."""
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
    same = taken and case.chosen in (
        taken,
        f"{taken}@{case.chosen.partition('@')[2]}",
    )  # the hive may be left out
    return Change.OTHER_CANDIDATES if same else Change.OTHER_TARGET


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
