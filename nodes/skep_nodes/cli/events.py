"""`skep events`: what routers recorded, oldest first, and on with -w."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from skep import find_hive
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Format, Output, printable
from skep_nodes.cli.records import RecordsTail, facts_of
from skep_shm import RecordKind

POLL_S = 0.1
COLUMNS = [
    Column("time", "TIME"), Column("kind", "KIND"), Column("source", "SOURCE", flexible=True),
    Column("dest", "DESTINATION", flexible=True), Column("code", "CODE", flexible=True),
    Column("detail", "DETAIL", flexible=True),
]  # fmt: skip
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def events_command(root: Path | None, out: Output, watch: bool, since: str, kind: str) -> int:
    """Print the records there are; with `watch` go on."""
    wanted, oldest = _kind(kind), _oldest_ms(since)
    tail = RecordsTail(find_hive(root).root)
    found = _facts(tail, wanted, oldest)
    if not watch:
        out.rows("skep.events/1", "events", found, COLUMNS)
        _tell_losses(out, tail)
        return Exit.OK
    while True:
        for facts in found:
            out.event("skep.event/1", {key: facts[key] for key in facts if key != "time"}, _line(facts))
        time.sleep(POLL_S)
        found = _facts(tail, wanted, oldest)


def _facts(tail: RecordsTail, kind: int, oldest_ms: int) -> list[dict[str, Any]]:
    records = [each for each in tail.read() if kind in (0, each.kind) and each.at_ms >= oldest_ms]
    return [_with_time(facts_of(record)) for record in records]


def _with_time(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "time": facts["at"][11:-1]}


def _line(facts: dict[str, Any]) -> str:
    ends = " → ".join(facts[end] for end in ("source", "dest") if end in facts)
    rest = "  ".join(facts[name] for name in ("code", "detail") if name in facts)
    return printable(f"{facts['time']}  {facts['kind']:<11}  {ends}  {rest}".rstrip())


def _tell_losses(out: Output, tail: RecordsTail) -> None:
    if tail.lost_count and out.form is Format.table:
        out.say(f"{tail.lost_count} older records were overwritten")


def _kind(name: str) -> int:
    if name and name.upper() not in RecordKind.__members__:
        raise Failure("USAGE", f"--kind {name} is unknown", why="use " + ", ".join(RecordKind.__members__),
                      then="correct what was typed, and repeat it", exit_code=Exit.USAGE)  # fmt: skip
    return RecordKind[name.upper()] if name else 0


def _oldest_ms(since: str) -> int:
    if not since:
        return 0
    found = re.fullmatch(r"(\d{1,6})([smhd])", since)
    if not found:
        raise Failure(
            "USAGE", f"--since {since} is no time span", why="write 30s, 5m, 2h or 1d", exit_code=Exit.USAGE
        )
    return time.time_ns() // 1_000_000 - int(found[1]) * _UNITS[found[2]] * 1000
