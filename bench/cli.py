"""`python -m bench`: run (the default), compare, shm, list.

Exit codes: 0 measured (missed targets are results, not errors), 1 a run was invalid or nothing could be measured, 2
wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import report, runner
from bench.machine import REPO
from bench.rows import FULL, QUICK, TINY, Case, Effort, chosen

LATEST = REPO / "bench" / "results" / "latest.json"
COMMANDS = ("run", "compare", "shm", "list")


def all_cases() -> list[Case]:
    """Every case, in the order of the table in docs/benchmarks.md."""
    from bench import (
        suite_clients,
        suite_crash,
        suite_identity,
        suite_policy,
        suite_robust,
        suite_router,
        suite_scale,
        suite_shm,
        suite_start,
    )

    suites = (
        suite_router,
        suite_clients,
        suite_start,
        suite_scale,
        suite_robust,
        suite_shm,
        suite_policy,
        suite_identity,
        suite_crash,
    )
    return [case for suite in suites for case in suite.cases()]


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words.insert(0, "run")
    options = _parser().parse_args(words)
    try:
        code: int = options.call(options)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Skep beside its peers")
    commands = parser.add_subparsers(required=True, metavar="|".join(COMMANDS))
    run = commands.add_parser("run", help="measure; writes bench/results/latest.json (the default)")
    run.add_argument("--quick", action="store_true", help="small: under a minute")
    run.add_argument("--tiny", action="store_true", help="smallest: only whether everything runs")
    run.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains TEXT")
    run.add_argument("--rounds", type=int, help="rounds to take medians of (5; with --quick 1)")
    run.add_argument("--out", type=Path, default=LATEST)
    run.add_argument("--json", action="store_true", help="print the result file instead of the table")
    run.set_defaults(call=_run)
    compare = commands.add_parser("compare", help="two result files, ratio by ratio")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--json", action="store_true")
    compare.set_defaults(call=_compare)
    shm = commands.add_parser("shm", help="shared memory alone, with sweeps")
    shm.add_argument("--quick", action="store_true")
    shm.set_defaults(call=_shm)
    commands.add_parser("list", help="cases and their rows").set_defaults(call=_list)
    return parser


def _run(options: argparse.Namespace) -> int:
    effort = TINY if options.tiny else QUICK if options.quick else FULL
    rounds = options.rounds or effort.rounds
    if rounds < 1:
        raise ValueError(f"--rounds {rounds}: at least 1")
    cases = chosen(all_cases(), options.only, effort is not FULL)
    if not cases:
        raise ValueError(f"--only {options.only!r} names no row; see: python -m bench list")
    document = _measure(cases, effort, rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        report.show(document, _console())
        print(f"written: {options.out}")
    return 0 if document["results"] and not document["run"]["invalid"] else 1


def _measure(cases: Sequence[Case], effort: Effort, rounds: int) -> dict[str, Any]:
    """Progress goes to standard error: one moving line on a terminal, one line per step elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return runner.run(cases, effort, rounds, lambda text: print(text, file=sys.stderr, flush=True))
    with console.status("starting") as status:
        return runner.run(cases, effort, rounds, status.update)


def _console() -> Console:
    """Wide enough for the table when the output is a file."""
    return Console() if sys.stdout.isatty() else Console(width=180)


def _compare(options: argparse.Namespace) -> int:
    rows = report.compare(report.load(options.before), report.load(options.after))
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        report.show_comparison(rows, _console())
    return 0


def _shm(options: argparse.Namespace) -> int:
    from bench import shm

    return shm.main(["--quick"] if options.quick else [])


def _list(options: argparse.Namespace) -> int:
    for case in all_cases():
        print(f"{case.name}  ({', '.join(case.peers)}){'' if case.quick else '  not with --quick'}")
        for goal in case.goals:
            print(
                f"    {goal.name}, beside {runner.title(goal)}{': ' if goal.required else ''}{goal.required}"
            )
    return 0
