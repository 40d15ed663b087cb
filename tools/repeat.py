"""A nightly job made of ordinary tests: runs them again and again with a new hypothesis seed until the time is over.

Prints the report that tools/nightly.py reads; one unit is one test passed. A failure ends the job at once: its output,
with the seed and hypothesis's own reproduction line, goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time

ROUNDS_PER_SEED = 10_000  # so that no two turns of one job share a hypothesis seed


def main() -> int:
    options = _options()
    end = time.monotonic() + options.seconds
    done, round_ = 0, 0
    while round_ == 0 or time.monotonic() < end:
        seed = options.seed * ROUNDS_PER_SEED + round_
        passed, failed, output = _run(options.tests, seed, options.env)
        done, round_ = done + passed, round_ + 1
        if failed or not passed:
            print(f"seed {seed}\n{output}", file=sys.stderr)
            print(json.dumps({"done": done, "failures": max(failed, 1)}))
            return 1
    print(json.dumps({"done": done, "failures": 0}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("tests", nargs="+")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="more work for these tests"
    )
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


def _run(tests: list[str], seed: int, settings: list[str]) -> tuple[int, int, str]:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        *tests,
        "--nightly",
        "-x",
        f"--hypothesis-seed={seed}",
        "--timeout=1800",
    ]
    env = {**os.environ, **dict(setting.split("=", 1) for setting in settings)}
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    last = (ran.stdout.strip().splitlines() or [""])[-1]
    count = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}
    return count.get("passed", 0), count.get("failed", 0) + count.get("error", 0), ran.stdout[-4000:]


if __name__ == "__main__":
    sys.exit(main())
