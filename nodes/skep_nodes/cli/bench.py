"""`skep bench`: runs the checkout's benchmarks, and compares two result files, whoever made them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Output

SCHEMA = "skep.bench/1"
NOISE = 0.05  # below a twentieth, two runs on a shared machine do not differ
COLUMNS = [
    Column("name", "NAME", flexible=True), Column("size", "SIZE", right=True), Column("before", "BEFORE", right=True),
    Column("after", "AFTER", right=True), Column("change", "CHANGE", right=True), Column("verdict", "VERDICT"),
    Column("unit", "UNIT"),
]  # fmt: skip
_LOWER_IS_BETTER = ("s", "ms", "us", "µs", "ns", "bytes", "KiB", "MiB")


def run_command(quick: bool) -> int:
    """Run `python -m bench` in the checkout that this command comes from."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "bench" / "__main__.py").is_file():
        raise Failure("NOT_FOUND", "the benchmarks are part of a checkout, and this is an installed skep",
                      then="clone the repository and run `make bench`", exit_code=Exit.NOT_FOUND)  # fmt: skip
    command = [sys.executable, "-m", "bench", *(["--quick"] if quick else [])]
    return subprocess.run(command, cwd=checkout, check=False).returncode


def compare_command(before: Path, after: Path, out: Output) -> int:
    """Print both results of each row that both files have; 1 when one got worse."""
    old, new = _results(before), _results(after)
    rows = [compared(old[key], new[key]) for key in old if key in new]
    for path, missing in ((after, old.keys() - new.keys()), (before, new.keys() - old.keys())):
        if missing:
            out.say(f"not in {path}: " + ", ".join(sorted(f"{name} {size}" for name, size in missing)))
    out.rows("skep.bench-compare/1", "results", rows, COLUMNS)
    return Exit.FAILED if any(row["verdict"] == "worse" for row in rows) else Exit.OK


def compared(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """One row: how Skep's own value changed, and whether that is better."""
    before, after, unit = float(old["skep"]), float(new["skep"]), str(new.get("unit", ""))
    change = after / before - 1 if before else 0.0
    gain = -change if unit.split("/")[0] in _LOWER_IS_BETTER and "/" not in unit else change
    verdict = "same" if abs(change) <= NOISE else "better" if gain > 0 else "worse"
    return {
        "name": new["name"], "size": new.get("size"), "before": _number(before), "after": _number(after),
        "change": f"{change:+.1%}", "verdict": verdict, "unit": unit,
    }  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _results(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise Failure(
            "NOT_FOUND", f"{path}: {error.strerror}", then="make bench", exit_code=Exit.NOT_FOUND
        ) from error
    except ValueError as error:
        raise Failure("INVALID_PAYLOAD", f"{path}: {error}", exit_code=Exit.USAGE) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise Failure("INVALID_PAYLOAD", f"{path} is no benchmark result", why=f"its schema is not {SCHEMA}",
                      exit_code=Exit.USAGE)  # fmt: skip
    rows = [
        row for row in document.get("results", []) if isinstance(row, dict) and row.get("skep") is not None
    ]
    return {(str(row["name"]), str(row.get("size", ""))): row for row in rows}
