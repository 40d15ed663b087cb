"""Runs the cases: peers interleaved inside each round, medians over the rounds, one row per goal.

A round measures every case once with every peer, so a ratio compares minutes and not hours. A row's value is the
median of its rounds and its ratio the ratio of the medians; `rounds` keeps each round's ratio. A peer that cannot run
costs its rows, never the run; each is listed with the reason. A run in which a count disagrees is not a result, and
fails the program.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.brokers import Brokers
from bench.loadgen import InvalidRunError
from bench.machine import NotRunError, cores, facts
from bench.rows import LIMIT, Bench, Case, Effort, Figures, Goal, ratio

SCHEMA = "skep.bench/1"
Progress = Callable[[str], None]


@dataclass(slots=True)
class Collected:
    """Every figure of a run, by case and peer, and what stood in the way."""

    figures: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(cases: Sequence[Case], effort: Effort, rounds: int, progress: Progress) -> dict[str, Any]:
    """Measures and returns the result file's content."""
    started = time.monotonic()
    machine = facts()
    collected = Collected()
    brokers = Brokers()
    try:
        bench = Bench(brokers, cores(), effort)
        for number in range(rounds):
            _round(cases, bench, number, collected, progress, rounds)
    finally:
        brokers.close()
    collected.seconds = time.monotonic() - started
    return _document(cases, collected, machine, effort, rounds)


def _round(
    cases: Sequence[Case], bench: Bench, number: int, collected: Collected, progress: Progress, rounds: int
) -> None:
    for case in cases:
        if case.rounds is not None and number >= case.rounds:
            continue
        for peer in case.peers:
            if (case.name, peer) not in collected.reasons:
                progress(f"round {number + 1} of {rounds}: {case.name}, {peer}")
                _measure(case, bench, peer, collected)


def _measure(case: Case, bench: Bench, peer: str, collected: Collected) -> None:
    key = (case.name, peer)
    try:
        figures = case.measure(bench, peer)
    except InvalidRunError as error:
        collected.invalid.append(f"{case.name}, {peer}: {error}")
        collected.reasons[key] = f"invalid: {error}"
    except NotRunError as error:
        collected.reasons[key] = str(error)
    except Exception as error:
        collected.reasons[key] = f"{type(error).__name__}: {error}"
    else:
        collected.figures.setdefault(key, []).append(figures)


def _document(
    cases: Sequence[Case], collected: Collected, machine: dict[str, object], effort: Effort, rounds: int
) -> dict[str, Any]:
    results, not_run = [], []
    for case in cases:
        for goal in case.goals:
            reason = missing(case, goal, collected)
            if reason:
                not_run.append({"name": goal.name, "size": goal.size, "peer": title(goal), "reason": reason})
            else:
                results.append(row(case, goal, collected))
    return {
        "schema": SCHEMA,
        "machine": machine,
        "run": {
            "effort": effort.name,
            "rounds": rounds,
            "seconds": round(collected.seconds, 1),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "invalid": collected.invalid,
        },
        "results": results,
        "not_run": not_run,
        "figures": medians(collected),
    }


def medians(collected: Collected) -> dict[str, dict[str, Figures]]:
    """Every figure that was taken, also those no row shows: case, peer, figure."""
    found: dict[str, dict[str, Figures]] = {}
    for (case, peer), rounds in collected.figures.items():
        values = {key: _rounded(statistics.median(one[key] for one in rounds)) for key in rounds[0]}
        found.setdefault(case, {})[peer] = values
    return found


def missing(case: Case, goal: Goal, collected: Collected) -> str:
    """Why a row has no value; empty when it has one."""
    needed = [goal.of] if goal.peer == LIMIT else [goal.of, goal.peer]
    for peer in needed:
        key = (case.name, peer)
        if key in collected.reasons:
            return collected.reasons[key]
        if not collected.figures.get(key):
            return f"{peer} was not measured"
        if goal.figure not in collected.figures[key][0]:
            return f"{peer} has no figure {goal.figure}"
    return ""


def row(case: Case, goal: Goal, collected: Collected) -> dict[str, Any]:
    """One entry of `results`."""
    ours = [figures[goal.figure] for figures in collected.figures[case.name, goal.of]]
    theirs = _other_side(case, goal, collected)
    skep, peer = statistics.median(ours), statistics.median(theirs)
    found = ratio(goal, skep, peer)
    entry: dict[str, Any] = {
        "name": goal.name,
        "size": goal.size,
        "skep": _rounded(skep),
        "peer": title(goal),
        "peer_value": _rounded(peer),
        "ratio": _finite(found),
        "unit": goal.unit,
        "rounds": [_finite(ratio(goal, a, b)) for a, b in zip(ours, theirs, strict=False)],
    }
    if goal.target is not None:
        entry |= {
            "required": goal.required,
            "target": round(goal.target, 3),
            "pass": found >= goal.target - 1e-9,
        }
    return entry


def _other_side(case: Case, goal: Goal, collected: Collected) -> list[float]:
    if goal.peer != LIMIT:
        return [figures[goal.figure] for figures in collected.figures[case.name, goal.peer]]
    own = collected.figures[case.name, goal.of]
    if goal.peer_figure:
        return [figures[goal.peer_figure] for figures in own]
    assert goal.limit is not None
    return [goal.limit] * len(own)


TITLES = {
    "nats": "nats-server",
    "nats-free": "nats-server, not pinned",
    "relay": "C relay",
    "zmq": "pyzmq ROUTER",
    "dbus-broker": "dbus-fast on dbus-broker",
}


def title(goal: Goal) -> str:
    """How a goal's peer is called in tables."""
    if goal.peer == LIMIT:
        return "itself" if goal.peer_figure else "limit"
    return goal.shown or TITLES.get(goal.peer, goal.peer)


def _rounded(value: float) -> float:
    if abs(value) >= 1000:
        return round(value)
    return round(value, 3)


def _finite(value: float) -> float:
    """JSON knows no infinity; a ratio of a thousand says as much."""
    return round(min(value, 1000.0), 3)
