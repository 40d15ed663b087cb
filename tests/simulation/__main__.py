"""`python -m tests.simulation --seeds N --from S`: the nightly tier. Exits 1 when a seed failed, and names it."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / part) for part in ("shm_layouts", "sdk", "policies", "router", "nodes", "tests")]

from simulation.scheduler import EVENTS, run  # noqa: E402  # the path comes first


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", dest="start", type=int, default=0)
    parser.add_argument("--events", type=int, default=EVENTS, help="events of trouble in each seed")
    options = parser.parse_args()
    began = time.monotonic()
    failed = [seed for seed in range(options.start, options.start + options.seeds) if not _passes(seed, options.events)]
    rate = options.seeds / (time.monotonic() - began)
    print(f"{options.seeds} seeds from {options.start}, {rate:.0f}/s, failed: {failed or 'none'}")
    return 1 if failed else 0


def _passes(seed: int, events: int) -> bool:
    try:
        run(seed, events)
    except Exception:
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
