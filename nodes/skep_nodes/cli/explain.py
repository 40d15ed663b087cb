"""`skep explain TRACE`: the way of one message through the hive, and why it went that way.

Hops come from the routers' hop records, which only sampled messages leave; decisions from the decision log. A message
that left neither is looked for in the turn record, and then it is said that its decision is worked out from there. A
decision's own id will do, too: it is what a refused sender is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from skep import Hive, find_hive
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Format, Output
from skep_nodes.cli.records import RecordsTail, facts_of
from skep_shm import Record, RecordKind

if TYPE_CHECKING:
    from skep_nodes.cli.explain_decision import Explained
    from skep_nodes.cli.explain_log import Logged

TRACE_DIGITS: Final = 32
PREFIX_MIN = 6  # shorter beginnings of a trace id would often be ambiguous
COLUMNS = [
    Column("after", "AFTER", right=True), Column("step", "STEP"), Column("source", "FROM", flexible=True),
    Column("dest", "TO", flexible=True), Column("message_id", "MESSAGE", right=True),
    Column("note", "NOTE", flexible=True),
]  # fmt: skip
STEPS = {
    RecordKind.HOP_IN: "received", RecordKind.HOP_OUT: "sent on", RecordKind.HOP_QUEUED: "queued",
    RecordKind.REFUSED: "refused", RecordKind.BINDING: "bound",
}  # fmt: skip


def explain_command(root: Path | None, out: Output, trace: str) -> int:
    """Print the steps of a trace, and its decisions."""
    from skep_nodes.cli import explain_decision

    hive = find_hive(root)
    found = choose(_recorded(hive), trace)
    decisions = _decisions(hive, trace, found)
    if not found and not decisions:
        raise Failure(
            "NOT_FOUND", f"no hop and no decision of trace {trace} is recorded", exit_code=Exit.NOT_FOUND,
            why="only sampled messages leave hop records, and old records are overwritten",
            then="give the decision id that a refused sender is told, or send it sampled (`skep msg` does)",
        )  # fmt: skip
    steps = steps_of(found)
    full = _full_id(found, decisions, trace)
    if out.form is not Format.table:
        shown = [each.document() for each in decisions]
        out.one("skep.explain/1", {"trace_id": full, "steps": steps, "decisions": shown}, full)
        return Exit.OK
    if found:
        word = "step" if len(steps) == 1 else "steps"
        out.say(f"trace {full}: {len(steps)} {word} in {span_text(found[-1].mono_ns - found[0].mono_ns)}")
        out.rows("skep.explain/1", "steps", steps, COLUMNS)
    else:
        out.say(f"trace {full}: no hop is recorded")
    for each in decisions:
        for line in explain_decision.lines_of(each):
            out.text(line)
    return Exit.OK


def _recorded(hive: Hive) -> list[Record]:
    """The hop records of all routers; none when no router runs, for the decision log outlives them."""
    try:
        return RecordsTail(hive.root).read()
    except Failure as failure:
        if failure.code != "NOT_RUNNING":
            raise
        return []


def _decisions(hive: Hive, trace: str, found: Sequence[Record]) -> list[Explained]:
    """The decisions of the trace: its own, else those that were kept for it, else what would be decided now."""
    from skep_nodes.cli.explain_decision import How, explained
    from skep_nodes.cli.explain_log import decision_named, decisions_of
    from skep_nodes.cli.explain_turn import explain_turns, turns_of_trace

    wanted = found[0].trace_id.hex() if found else trace.lower().replace("-", "")
    own = _of_one_trace(decisions_of(hive, wanted), trace)
    if not own and len(wanted) == TRACE_DIGITS and not found:
        named = decision_named(hive, str(UUID(wanted)))
        own = [named] if named is not None else []
    if own:
        return [explained(each, How.RECORDED) for each in own]
    return explain_turns(hive, turns_of_trace(hive, wanted))


def _of_one_trace(logged: list[Logged], trace: str) -> list[Logged]:
    _one_of({str(each.event["trace_id"]) for each in logged}, trace)
    return logged


def _full_id(found: Sequence[Record], decisions: Sequence[Explained], trace: str) -> str:
    """The whole id, as far as anything knows it."""
    if found:
        return str(UUID(bytes=found[0].trace_id))
    own = (str(each.event.get("trace_id")) for each in decisions if each.how == "recorded")
    said = next(own, trace.replace("-", ""))
    return str(UUID(said)) if len(said) == TRACE_DIGITS else trace


def choose(records: Sequence[Record], trace: str) -> list[Record]:
    """The records of the trace that is named by its id or by the beginning of it. Raises Failure."""
    wanted = trace.lower().replace("-", "")
    if not re.fullmatch(rf"[0-9a-f]{{{PREFIX_MIN},32}}", wanted):
        raise Failure("USAGE", f"{trace} is no trace id", why=f"at least {PREFIX_MIN} hexadecimal digits",
                      then="skep events -o json shows traces", exit_code=Exit.USAGE)  # fmt: skip
    found = [record for record in records if record.trace_id.hex().startswith(wanted)]
    _one_of({record.trace_id.hex() for record in found}, trace)
    return found


def _one_of(traces: set[str], trace: str) -> None:
    """Raises Failure when there are several."""
    if len(traces) > 1:
        names = ", ".join(str(UUID(each)) for each in sorted(traces)[:4])
        raise Failure(
            "AMBIGUOUS", f"{len(traces)} traces begin with {trace}", why=names, exit_code=Exit.USAGE
        )


def steps_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One step for each record, with the time since the one before it."""
    before = records[0].mono_ns if records else 0
    steps: list[dict[str, Any]] = []
    for record in records:
        facts = facts_of(record)
        step = (
            STEPS.get(RecordKind(record.kind), facts["kind"].lower())
            if record.kind in set(RecordKind)
            else "?"
        )
        note = " ".join(facts[name] for name in ("code", "detail") if name in facts)
        after = record.mono_ns - before
        steps.append(
            {**facts, "step": step, "note": note, "after": "+" + span_text(after), "after_ns": after}
        )
        before = record.mono_ns
    return steps


def span_text(span_ns: int) -> str:
    """A short time span: 12µs, 3.4ms, 1.2s."""
    if span_ns < 1_000_000:
        return f"{span_ns / 1000:.0f}µs"
    return f"{span_ns / 1e6:.1f}ms" if span_ns < 1_000_000_000 else f"{span_ns / 1e9:.1f}s"
