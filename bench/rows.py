"""Cases and goals: what is measured, and which figures of it are compared with what.

A *case* is measured once per round for each of its peers and yields named figures. A *goal* turns figures into one row
of the result file: Skep's median beside a peer's (or beside a fixed limit), as a ratio that is above 1 when Skep is
better, whatever the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.brokers import Brokers
from bench.machine import Cores

Figures = dict[str, float]
LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work one measurement does."""

    name: str
    rounds: int
    seconds: float
    warm_s: float
    swarm: int
    kills: int
    starts: int
    reads: int


FULL = Effort("full", rounds=5, seconds=1.5, warm_s=0.3, swarm=10_000, kills=20, starts=5, reads=20_000)
QUICK = Effort("quick", rounds=1, seconds=0.25, warm_s=0.1, swarm=1_000, kills=3, starts=1, reads=5_000)
TINY = Effort("tiny", rounds=1, seconds=0.08, warm_s=0.02, swarm=110, kills=1, starts=1, reads=300)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement gets: brokers, where to run, how much."""

    brokers: Brokers
    where: Cores
    effort: Effort


@dataclass(frozen=True, slots=True)
class Goal:
    """One row. `target` is the least ratio that passes; None: reported without a verdict.

    With peer LIMIT the comparison is with the fixed value `limit`, and the target is 1. `of` names the case's figures
    that Skep's row is taken from when they are not of peer `skep`.
    """

    name: str
    peer: str
    figure: str
    unit: str
    lower_is_better: bool = False
    target: float | None = None
    limit: float | None = None
    size: int | str = ""
    peer_figure: str = ""
    of: str = "skep"
    required: str = ""
    shown: str = ""  # how the peer is called in tables, when not by its broker


@dataclass(frozen=True, slots=True)
class Case:
    """What runs: `measure(bench, peer)` for each peer, in each round (`rounds` overrides the run's number)."""

    name: str
    peers: tuple[str, ...]
    measure: Callable[[Bench, str], Figures]
    goals: tuple[Goal, ...]
    rounds: int | None = None
    quick: bool = True


def atleast(factor: float) -> float:
    """Target of a goal `>= factor x peer` where higher is better."""
    return factor


def atmost(factor: float) -> float:
    """Target of a goal `<= factor x peer` where lower is better: the ratio is peer / skep."""
    return 1 / factor


def ratio(goal: Goal, skep: float, peer: float) -> float:
    """Above 1 means Skep is better; 0 where nothing can be said."""
    above, below = (peer, skep) if goal.lower_is_better else (skep, peer)
    return above / below if below else (1.0 if above == below else float("inf"))


def chosen(cases: Sequence[Case], pattern: str, quick: bool) -> list[Case]:
    """Cases whose name, or a goal's name, contains the pattern."""
    words = pattern.lower()
    return [
        case
        for case in cases
        if (case.quick or not quick or words)
        and (words in case.name.lower() or any(words in goal.name.lower() for goal in case.goals))
    ]
