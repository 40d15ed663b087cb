"""`skep shm`: what skep_shm.inspect finds, printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from skep import find_hive
from skep_nodes.cli.expected import missing_regions
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Output
from skep_shm import inspect

KINDS = ("nodes", "records", "config", "threads")
REGIONS = [
    Column("region", "REGION", flexible=True), Column("state", "STATE"), Column("generation", "GEN", right=True),
    Column("live", "LIVE", right=True), Column("capacity", "ROOM", right=True),
    Column("size_bytes", "BYTES", right=True), Column("pid", "WRITER", right=True),
    Column("problem", "PROBLEM", flexible=True),
]  # fmt: skip
FINDINGS = [
    Column("region", "REGION", flexible=True), Column("code", "CODE"), Column("fatal", "FATAL"),
    Column("detail", "DETAIL", flexible=True),
]  # fmt: skip


def ls_command(root: Path | None, out: Output) -> int:
    """`skep shm ls`."""
    rows = [
        asdict(each) | {"problem": each.problem or None}
        for each in inspect.list_regions(find_hive(root).root)
    ]
    out.rows("skep.regions/1", "regions", rows, REGIONS)
    return Exit.OK


def dump_command(root: Path | None, region: str) -> int:
    """`skep shm dump`."""
    folder = find_hive(root).root
    document = {"schema": "skep.region/1", **inspect.dump(folder, region_called(folder, region))}
    print(json.dumps(document, indent=2, default=str))
    return Exit.OK


def region_called(folder: Path, wanted: str) -> str:
    """The region of that name, or the only one whose name begins so. Raises Failure."""
    names = inspect.region_names(folder)
    found = [name for name in names if name == wanted] or [name for name in names if name.startswith(wanted)]
    if len(found) > 1:
        raise Failure("AMBIGUOUS", f"{len(found)} regions begin with {wanted}", why=", ".join(found[:4]),
                      then="skep shm ls", exit_code=Exit.USAGE)  # fmt: skip
    if not found and wanted not in KINDS:
        raise Failure("REGION_NOT_FOUND", f"no region is called {wanted}", then="skep shm ls",
                      exit_code=Exit.NOT_FOUND)  # fmt: skip
    return found[0] if found else wanted


def check_command(root: Path | None, out: Output) -> int:
    """`skep shm check`; 1 when anything was found."""
    hive = find_hive(root)
    findings = [asdict(each) for each in inspect.check(hive.root)]
    findings += [
        {"region": each.region, "code": "MISSING", "fatal": True,
         "detail": f"{each.writer} (pid {each.pid}) runs without it"}
        for each in missing_regions(hive)
    ]  # fmt: skip
    out.rows("skep.findings/1", "findings", findings, FINDINGS)
    return Exit.FAILED if findings else Exit.OK


def header_command() -> int:
    """`skep shm header`."""
    print(inspect.c_header(), end="")
    return Exit.OK
