"""Whole hives, seed after seed: every message delivered, told or reported; nothing to whom it is not for."""

from __future__ import annotations

import secrets
from collections import Counter

import pytest

from simulation.scheduler import run
from simulation.seeds import asked, kept, within

SECONDS = 15.0  # the commit tier's share; `python -m tests.simulation` runs any number


@pytest.mark.goal("G7")
@pytest.mark.goal("G26")
@pytest.mark.parametrize("seed", [asked()] if asked() is not None else kept())
def test_a_seed_that_failed_once(seed: int) -> None:
    run(seed)


@pytest.mark.goal("G6")
@pytest.mark.goal("G7")
@pytest.mark.slow
@pytest.mark.skipif(asked() is not None, reason="SKEP_SEED asks for one seed")
def test_new_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Other seeds each time: a suite that always walks the same path stops finding anything."""
    seeds = 0
    counts: Counter[str] = Counter()
    for seed in within(SECONDS, secrets.randbelow(1 << 40)):
        counts += run(seed).history.counts
        seeds += 1
    with capsys.disabled():
        print(f"\nsimulation: {seeds} seeds, {seeds / SECONDS:.0f}/s; {dict(counts)}")
    assert seeds > 0
    assert all(counts[what] for what in ("sent", "delivered", "told", "LOST", "UNKNOWN")), "a kind of fate never came"
