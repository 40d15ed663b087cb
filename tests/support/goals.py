"""One table of the reliability goals at the end of a run: tests, seconds and verdict of each.

A test that proves a goal carries `@pytest.mark.goal("G8")`. Verdicts: `passed` (all of them), `FAILED`,
`skipped` (nothing ran, reasons are above the table), `not covered yet` (no test carries the goal),
`not selected` (tests exist but this run left them out). A goal nobody proves is shown, never left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

GOALS = {
    "G1": "kill -9 of each process",
    "G2": "crash points",
    "G3": "power cut",
    "G4": "flipped bits, truncation",
    "G5": "full disk, I/O errors",
    "G6": "clock steps, SIGSTOP",
    "G7": "partitions, simulated hives",
    "G8": "slow consumer",
    "G9": "flood by one uid",
    "G10": "descriptor exhaustion",
    "G11": "before authentication",
    "G12": "1,000 idle nodes",
    "G13": "fuzz of the parsers",
    "G14": "spoofed sources",
    "G15": "oversize and bombs",
    "G16": "name squatting",
    "G17": "policy sandbox",
    "G18": "shared memory reads",
    "G19": "gateway adversary",
    "G20": "federation signatures",
    "G21": "secrets",
    "G22": "service hardening",
    "G23": "upgrade N-1 and N",
    "G24": "soak",
    "G25": "audit of refusals",
    "G26": "each bug keeps its seed",
}
RESULTS = Path(".cache") / "goals.json"


@dataclass(slots=True)
class Tally:
    """What one goal's tests did."""

    seconds: float = 0.0
    selected: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def verdict(self, known: bool) -> str:
        if self.outcomes["failed"]:
            return "FAILED"
        if self.outcomes["passed"]:
            return "passed, some skipped" if self.outcomes["skipped"] else "passed"
        if self.outcomes["skipped"]:
            return "skipped"
        return "not selected" if known else "not covered yet"


class GoalTable:
    """The pytest plugin; conftest registers one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tallies = {name: Tally() for name in GOALS}
        self.goals_of: dict[str, tuple[str, ...]] = {}
        self.known: set[str] = set()
        self.skips: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self.goals_of[item.nodeid] = names = goals_of(item)
            self.known.update(names)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name in self.goals_of.get(report.nodeid, ()):
            tally = self.tallies[name]
            tally.seconds += report.duration
            if report.when == "call" or report.outcome != "passed":
                tally.outcomes[report.outcome] += 1
        if report.when == "call" or report.outcome != "passed":
            self.totals[report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        if not self.goals_of or terminalreporter.config.option.collectonly:
            return
        terminalreporter.section("skipped, by reason")
        for reason, count in self.skips.most_common():
            write(f"{count:5d}  {reason}")
        if not self.skips:
            write("    0  nothing was skipped")
        if terminalreporter.config.getoption("--goals"):
            terminalreporter.section("reliability goals (docs/reliability.md)")
            for line in self.lines():
                write(line)
        self.save()
        write("tests: {passed} passed, {failed} failed, {skipped} skipped".format_map(self.totals))

    def lines(self) -> list[str]:
        head = f"{'goal':5} {'what':30} {'tests':>5} {'seconds':>8}  verdict"
        return [head, *(self._line(name) for name in GOALS)]

    def _line(self, name: str) -> str:
        tally = self.tallies[name]
        tests = sum(tally.outcomes.values())
        return (
            f"{name:5} {GOALS[name]:30} {tests:5d} {tally.seconds:8.1f}  {tally.verdict(name in self.known)}"
        )

    def save(self) -> None:
        """Keeps the table for tools that compare runs; a folder that cannot be written costs nothing else."""
        path = self.root / RESULTS
        if not os.access(self.root, os.W_OK):
            return
        path.parent.mkdir(exist_ok=True)
        rows = {
            name: {
                "seconds": round(tally.seconds, 2),
                "outcomes": dict(tally.outcomes),
                "verdict": tally.verdict(name in self.known),
            }
            for name, tally in self.tallies.items()
        }
        path.write_text(json.dumps({"schema": "skep.goals/1", "goals": rows}, indent=1) + "\n")


def goals_of(item: pytest.Item) -> tuple[str, ...]:
    """The goals a test says it proves; an unknown name is a typing error and stops the run."""
    names: list[str] = []
    for mark in item.iter_markers("goal"):
        for name in mark.args:
            if name not in GOALS:
                raise pytest.UsageError(f"{item.nodeid}: goal {name!r} is not one of G1..G26")
            names.append(name)
    return tuple(dict.fromkeys(names))
