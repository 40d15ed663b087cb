"""G13 on every commit: ten million mutated inputs over the parsers that hostile bytes reach first.

Every input is parsed, every sixteenth is also taken through a whole round trip. Seeds are fixed, so a commit's run is
the same every time; the nightly tier uses new seeds and coverage guidance (tools/nightly.toml).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import fuzzing
from support.markdown import REPO

INPUTS = {"json": 3_000_000, "native": 3_000_000, "link": 3_000_000, "handshake": 1_000_000}
SECONDS_MAX = 600


@pytest.mark.goal("G13")
@pytest.mark.parametrize("name", sorted(fuzzing.TARGETS))
def test_valid_inputs_are_accepted_and_nearby_ones_are_refused_or_read_the_same_twice(name: str) -> None:
    target = fuzzing.TARGETS[name]
    random_ = random.Random(name)
    seeds = target.seeds()
    for data in seeds:
        target.check(data)
    for _ in range(5_000):
        fuzzing.run_one(target, fuzzing.mutated(random_.choice(seeds), random_))


@pytest.mark.slow
@pytest.mark.goal("G13")
@pytest.mark.timeout(SECONDS_MAX)
def test_ten_million_mutated_inputs_have_no_finding() -> None:
    assert sum(INPUTS.values()) >= 10_000_000
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        reports = dict(zip(INPUTS, pool.map(fuzzed, INPUTS), strict=True))
    assert {name: report["failures"] for name, report in reports.items()} == dict.fromkeys(INPUTS, 0)
    assert all(reports[name]["done"] >= INPUTS[name] for name in INPUTS), f"not enough time: {reports}"


def fuzzed(name: str) -> dict[str, int]:
    argv = [
        sys.executable,
        "tools/fuzz.py",
        name,
        "--seconds",
        str(SECONDS_MAX),
        "--inputs",
        str(INPUTS[name]),
    ]
    ran = subprocess.run(
        argv, cwd=REPO, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    print(ran.stderr, end="")  # the findings, and how to run each again
    report: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return report
