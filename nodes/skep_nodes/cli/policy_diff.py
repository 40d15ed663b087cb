"""`skep policy diff CANDIDATE`: what another policy would have decided, over the decisions that the log holds.

Every recorded decision is asked again, with the data of its time; what differs is shown in groups. A group that opens
what was closed (`deny-to-allow`) makes the exit code 1 until somebody has accepted it, so a pipeline stops where a
person must look. `--accept` names a group, or a file of groups, one a line, whatever follows `#` being its reason.
"""

from __future__ import annotations

import gc
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from skep import find_hive
from skep.protocol.errors import PolicyError
from skep_nodes.cli.explain_log import lines_of, lines_since, moment_of, stamp
from skep_nodes.cli.explain_rules import rules_of
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Format, Output
from skep_nodes.cli.policy_build import read_rego
from skep_nodes.sy.decisions_store import LogReader
from skep_policy.compiler import Compiled, CompileError, compile_policy
from skep_policy.difference import Group, Report
from skep_policy.manifest import ENTRYPOINTS
from skep_policy.replay import Candidate, replay, spans

RULED_MAX: Final = 20  # groups whose rule is looked up: one run of opa each
RATED_MIN: Final = 1_000  # below it the start of the engine is all there is to measure
ACCEPT_BYTES_MAX: Final = 1 << 20
GROUPS: Final = (
    Column("id", "GROUP"), Column("change", "CHANGE"), Column("count", "COUNT", right=True),
    Column("action", "ACTION", flexible=True), Column("source", "FROM", flexible=True),
    Column("dest", "TO", flexible=True), Column("rule", "RULE", flexible=True), Column("accepted", "ACCEPTED"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared with what."""

    candidate: Path
    since: str = "7d"
    file: Path | None = None
    accept: tuple[str, ...] = ()


def diff_command(root: Path | None, out: Output, asked: Asked) -> int:
    """`skep policy diff`."""
    accepted = accepted_groups(asked.accept)
    compiled = compiled_candidate(asked.candidate)
    report, reader = Report(), LogReader()
    moment = None if asked.file else moment_of(asked.since)
    lines = lines_of(asked.file, reader) if moment is None else lines_since(find_hive(root), moment, reader)  # type: ignore[arg-type]
    began = time.monotonic()
    try:
        asked_again(lines, compiled, report, stamp(moment) if moment else "", _progress(out))
    except PolicyError as error:
        raise Failure(error.code, error.detail, then=f"skep policy check {asked.candidate}") from error
    if asked.file and not report.decisions:
        raise Failure("NOT_FOUND", f"no decision stands in {asked.file}", exit_code=Exit.NOT_FOUND,
                      why=f"{reader.damaged} damaged lines, and nothing to compare",
                      then="give a file of decisions, such as one of state/decisions")  # fmt: skip
    took_s = time.monotonic() - began
    _name_rules(report, compiled, asked.candidate.name)
    return _tell(out, report, accepted, reader.damaged, took_s)


def compiled_candidate(file: Path) -> Compiled:
    """The candidate, compiled. Raises Failure."""
    try:
        return compile_policy(read_rego(file), entrypoint=_entrypoint(read_rego(file)))
    except CompileError as error:
        raise Failure(error.code, f"{file}:{error.problems[0]}", why=f"{len(error.problems)} problems",
                      then=f"skep policy check {file}") from error  # fmt: skip
    except PolicyError as error:
        what, _, then = error.detail.partition("; ")
        raise Failure(error.code, what, then=then) from error


def _entrypoint(rego: str) -> str:
    """The compiler wants one that is there; a policy of nothing but `allow` is a policy too."""
    has_target = re.search(r"^\s*(default\s+)?target\b", rego, re.MULTILINE)
    return ENTRYPOINTS[0] if has_target else ENTRYPOINTS[1]


def candidate_of(compiled: Compiled) -> Candidate:
    """Something to ask. The module is compiled once; each span of the log gets an engine with its own data."""
    from skep_policy.evaluator import Evaluator
    from skep_policy.module import Module

    module = Module.load(compiled.wasm)
    roots = compiled.manifest.roots()
    return Candidate(
        lambda data: Evaluator(module, data, roots=roots, cut=True, spare=False), compiled.manifest
    )


def asked_again(
    lines: Iterable[dict[str, Any]],
    compiled: Compiled,
    report: Report,
    since: str = "",
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Ask the candidate all that these lines hold. Without the collector of cycles: there are none here, and its walks
    over everything that is held were a quarter of the time."""
    before = gc.isenabled()
    gc.disable()
    candidate = candidate_of(compiled)
    try:
        return replay(spans(lines, report, since, candidate.questions()), candidate, report, progress)
    finally:
        if before:
            gc.enable()


def accepted_groups(given: Sequence[str]) -> frozenset[str]:
    """The ids that `--accept` names. Raises Failure for a file that is none."""
    found: set[str] = set()
    for each in given:
        if re.fullmatch(r"[0-9a-f]{16}", each) and not Path(each).exists():
            found.add(each)
        else:
            found |= _groups_in(Path(each))
    return frozenset(found)


def _groups_in(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(ACCEPT_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("NOT_FOUND", f"{path} is neither a group nor a file of groups", why=str(error),
                      exit_code=Exit.NOT_FOUND) from error  # fmt: skip
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        group = line.partition("#")[0].strip()
        if group and not re.fullmatch(r"[0-9a-f]{16}", group):
            raise Failure("USAGE", f"{path}:{number}: {group[:40]!r} is no group", exit_code=Exit.USAGE,
                          why="one group a line, then # and why it is accepted")  # fmt: skip
        found.add(group)
    return found - {""}


def _progress(out: Output) -> Callable[[int], None] | None:
    if out.quiet or not sys.stderr.isatty():
        return None

    def say(count: int) -> None:
        print(f"\r{count} decisions", end="", file=sys.stderr, flush=True)

    return say


def _name_rules(report: Report, compiled: Compiled, file: str) -> None:
    """The line of the candidate that makes the difference, of the groups that matter most. The data of the decision's
    time are not kept that long, so a rule that needs them is found by its guests alone, or not."""
    for group in report.by_weight()[:RULED_MAX]:
        sample = orjson.loads(group.samples[0].input)
        rules = rules_of(compiled.rego, {}, sample, group.path, old=compiled.manifest.rego_version == "v0")
        name = group.path.partition("/")[2]
        line = next((fired.line for fired in reversed(rules.fired) if fired.rule == name), 0)
        group.rule = f"{file}:{line}" if line else ""


def _tell(out: Output, report: Report, accepted: frozenset[str], damaged: int, took_s: float) -> int:
    unreviewed = report.unreviewed(accepted)
    rows = [row_of(group, accepted, unreviewed) for group in report.by_weight()]
    if out.form is Format.table or out.form is Format.name:
        out.rows("skep.policy.diff/1", "groups", rows, GROUPS)
    else:
        out.one("skep.policy.diff/1", {**totals_of(report), "damaged_lines": damaged, "groups": rows,
                                       "unreviewed": [group.id for group in unreviewed]})  # fmt: skip
    out.say(_summary(report, damaged, took_s))
    if unreviewed:
        out.say(f"{len(unreviewed)} groups open what was closed and are not accepted: "
                f"{' '.join(group.id for group in unreviewed[:4])}{' …' if len(unreviewed) > 4 else ''}")  # fmt: skip
    return Exit.FAILED if unreviewed else Exit.OK


def row_of(group: Group, accepted: Iterable[str] = (), unreviewed: Sequence[Group] = ()) -> dict[str, Any]:
    """One group, for every form."""
    samples = [
        {"decision_id": each.decision_id, "was": each.was, "now": each.now, "input": orjson.loads(each.input)}
        for each in group.samples
    ]
    state = "no" if group in unreviewed else "yes" if group.id in accepted else ""
    return {
        "id": group.id, "path": group.path, "change": group.change.value, "count": group.count, "action": group.action,
        "source": group.source, "dest": group.dest, "rule": group.rule, "accepted": state, "detail": group.detail,
        "first": group.first, "last": group.last, "erased": group.erased, "samples": samples,
    }  # fmt: skip


def totals_of(report: Report) -> dict[str, int]:
    """What was asked again, and what was not."""
    names = ("decisions", "replayed", "changed", "not_asked", "masked", "foreign", "approximate", "lost")
    return {name: getattr(report, name) for name in names}


def _summary(report: Report, damaged: int, took_s: float) -> str:
    rate = f" ({report.replayed / took_s:,.0f} a second)" if report.replayed >= RATED_MIN else ""
    text = f"{report.replayed} decisions asked again in {took_s:.1f} s{rate}, {report.changed} differ"
    shown = {
        "refused before the policy was asked": report.not_asked, "with a masked answer": report.masked,
        "of other rules": report.foreign, "asked with the nearest data": report.approximate,
        "missing from the log": report.lost, "damaged lines": damaged,
        "with a masked input": sum(group.erased for group in report.groups.values()),
    }  # fmt: skip
    return "; ".join([text, *(f"{count} {what}" for what, count in shown.items() if count)])
