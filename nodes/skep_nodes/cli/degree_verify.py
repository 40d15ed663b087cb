"""`skep degree verify`: the check that agents make, made from the files alone. No hive has to run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from skep import Hive, find_hive
from skep.degree import AGENTS, advice, degree_folder, load_ring, verify_folder
from skep.errors import DegreeError
from skep.protocol.names import base_of, parse_name
from skep.seal import KeyRing, Verified
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Output
from skep_nodes.degrees.history import HistoryDamaged
from skep_nodes.degrees.roll import carriers

ROWS = [
    Column("agent", "AGENT"), Column("seal", "SEAL"), Column("degree", "DEGREE", flexible=True),
    Column("detail", "DETAIL", flexible=True),
]  # fmt: skip


def verify_command(root: Path | None, out: Output, agent: str, *, prompt: bool) -> int:
    """Check one agent, one folder, or all."""
    hive = find_hive(root)
    places = [_place(hive, agent)] if agent else _all(hive)
    try:
        ring = load_ring(hive.config_dir)
        if prompt:
            return _print_prompt(out, [_verified(place, handler, ring) for _, place, handler in places])
    except DegreeError as error:
        raise Failure(error.code, error.detail, then=advice(error.code)) from error
    rows = [_row(shown, place, handler, ring) for shown, place, handler in places]
    out.rows("skep.seals/1", "seals", rows, ROWS)
    bad = next((row for row in rows if row["seal"] != "VALID"), None)
    if bad is not None:
        raise Failure(bad["seal"], f"{bad['agent']} may not speak", why=bad["detail"], then=advice(bad["seal"]))
    return Exit.OK


def _place(hive: Hive, agent: str) -> tuple[str, Path, str]:
    """What to show, the folder, and whose it must be; a folder is anybody's."""
    if "/" in agent or agent == ".":
        return agent, Path(agent), ""
    full = parse_name(agent, hive.hive_id)
    return full, degree_folder(hive.root, base_of(full)), full


def _all(hive: Hive) -> list[tuple[str, Path, str]]:
    """Every agent with a folder, and every one that the registrar's history says should have one."""
    names = {path.name for path in (hive.root / AGENTS).glob("[!.]*")}
    try:
        names |= {base_of(each.seal.handler) for each in carriers(hive.root)}
    except (HistoryDamaged, OSError) as error:
        raise Failure("REGISTRAR_MISSING", "who graduated cannot be read", why=str(error)) from error
    return [_place(hive, name) for name in sorted(names)]


def _verified(folder: Path, handler: str, ring: KeyRing) -> Verified:
    return verify_folder(folder, ring, now_ms=time.time_ns() // 1_000_000, handler=handler)


def _row(shown: str, folder: Path, handler: str, ring: KeyRing) -> dict[str, Any]:
    try:
        found = _verified(folder, handler, ring)
    except DegreeError as error:
        return {"agent": shown, "seal": error.code, "degree": None, "detail": error.detail}
    names = " ".join(module.title for module in found.degree.modules)
    return {"agent": shown, "seal": "VALID", "degree": f"{found.degree.name}/{found.degree.version}", "detail": names}


def _print_prompt(out: Output, found: list[Verified]) -> int:
    for verified in found:
        out.text(verified.prompt)
    return Exit.OK
