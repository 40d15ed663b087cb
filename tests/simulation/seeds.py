"""Which seeds run: those that failed once, always; one that is asked for; and as many new ones as fit in the time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

FAILED_ONCE = Path(__file__).with_name("seeds.txt")


def kept() -> list[int]:
    """Seeds of seeds.txt: each line is a seed and what it found."""
    lines = FAILED_ONCE.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def asked() -> int | None:
    """The seed of SKEP_SEED, when somebody wants to see just that one."""
    text = os.environ.get("SKEP_SEED", "")
    return int(text) if text else None


def within(seconds: float, start: int) -> Iterator[int]:
    """Seeds from `start` on until the time is over."""
    deadline = time.monotonic() + seconds
    seed = start
    while time.monotonic() < deadline:
        yield seed
        seed += 1
