"""`skep explain TRACE`: the way of one message through the hive, hop by hop, from the routers' hop records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from skep import find_hive
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Format, Output
from skep_nodes.cli.records import RecordsTail, facts_of
from skep_shm import Record, RecordKind

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
    """Print the steps of a trace."""
    tail = RecordsTail(find_hive(root).root)
    records = tail.read()
    found = choose(records, trace)
    if not found:
        raise Failure(
            "NOT_FOUND", f"no hop of trace {trace} is recorded", exit_code=Exit.NOT_FOUND,
            why="only sampled messages leave hop records, and old records are overwritten",
            then="send it sampled (`skep msg` does), or look at `skep events`",
        )  # fmt: skip
    steps = steps_of(found)
    full = str(UUID(bytes=found[0].trace_id))
    if out.form is Format.table:
        out.say(f"trace {full}: {len(steps)} steps in {span_text(found[-1].mono_ns - found[0].mono_ns)}")
        out.rows("skep.explain/1", "steps", steps, COLUMNS)
    else:
        out.one("skep.explain/1", {"trace_id": full, "steps": steps}, full)
    return Exit.OK


def choose(records: Sequence[Record], trace: str) -> list[Record]:
    """The records of the trace that is named by its id or by the beginning of it. Raises Failure."""
    wanted = trace.lower().replace("-", "")
    if not re.fullmatch(rf"[0-9a-f]{{{PREFIX_MIN},32}}", wanted):
        raise Failure("USAGE", f"{trace} is no trace id", why=f"at least {PREFIX_MIN} hexadecimal digits",
                      exit_code=Exit.USAGE)  # fmt: skip
    found = [record for record in records if record.trace_id.hex().startswith(wanted)]
    traces = {record.trace_id for record in found}
    if len(traces) > 1:
        names = ", ".join(str(UUID(bytes=each)) for each in sorted(traces)[:4])
        raise Failure(
            "AMBIGUOUS", f"{len(traces)} traces begin with {trace}", why=names, exit_code=Exit.USAGE
        )
    return found


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
