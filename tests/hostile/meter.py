"""What the kernel says about a process, and figures that hold on a busy machine.

A latency under load is compared with the same latency without it, in turns: each pair of rounds sees the same machine,
and the median of the pairs' ratios is judged, so that one neighbour's burst decides nothing. Below FLOOR_S both are the
scheduler's noise.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

FLOOR_S = 0.005
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """Memory of a process, with its share of what it shares."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) << 10


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def p99(samples: list[float]) -> float:
    return sorted(samples)[int(len(samples) * 0.99)]


def timed(work: Callable[[], object], times: int) -> list[float]:
    samples = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        samples.append(time.perf_counter() - began)
    return samples


def slowdown(alone: Callable[[], float], loaded: Callable[[], float], rounds: int = 5) -> tuple[float, float, float]:
    """(median alone, median loaded, median ratio), in turns; a latency below FLOOR_S counts as FLOOR_S."""
    pairs = [(alone(), loaded()) for _ in range(rounds)]
    ratio = statistics.median(max(b, FLOOR_S) / max(a, FLOOR_S) for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio
