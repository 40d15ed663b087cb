"""Damaged WASM modules for some seconds: a nightly job (tools/nightly.py says what it prints).

    .venv/bin/python tools/hostile_modules.py --seconds 60 --seed 1

Each batch runs in a child of its own with the limits of `skep_policy.module.vet`. A child that ends early is a failure,
and the line that runs its mutant again is shown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / folder) for folder in ("policies", "sdk", "shm_layouts", "tests")]

from policy import mutants  # noqa: E402

BATCH = 500
STRIDE = 1_000_000  # seeds of one turn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    deadline, seed = time.monotonic() + options.seconds, options.seed * STRIDE
    done = failures = 0
    while time.monotonic() < deadline:
        found, ended = mutants.run(seed, BATCH)
        if ended:
            failures += 1
            print(ended, flush=True)
        done += found.total()
        seed += BATCH
    print(json.dumps({"done": done, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
