"""Run OPA's published cases through compiler and host, all or those whose name contains a word.

.venv/bin/python tools/opa_cases.py [WORD] [--jobs N] [--part K/N]      # prints each wrong one, and the totals

All of them take a quarter of an hour of one core; `--part 3/8` is the third eighth.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / folder) for folder in ("policies", "sdk", "shm_layouts", "tests")]

from policy import opa_cases  # noqa: E402
from policy.opa_cases import OpaCase  # noqa: E402
from skep_policy.opa import need_opa  # noqa: E402


def part_of(found: list[OpaCase], part: str) -> list[OpaCase]:
    """The K-th of N parts of equal size."""
    which, _, of = part.partition("/")
    begin, end = (len(found) * number // int(of) for number in (int(which) - 1, int(which)))
    return found[begin:end]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", default="1/1", help="which part of how many, such as 3/8")
    parser.add_argument("--skips", action="store_true", help="say why cases were skipped")
    arguments = parser.parse_args()
    where = opa_cases.folder()
    if where is None:
        print("OPA's module is not here: `python tools/fetch.py`, or name the folder in SKEP_OPA_CASES")
        return 2
    found = [case for case in opa_cases.cases(str(need_opa()), where) if arguments.word in case.name]
    chosen = part_of(found, arguments.part)
    totals: Counter[str] = Counter()
    why: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:  # a fork may hold a lock for ever
        judged = pool.map(partial(opa_cases.judge, str(need_opa())), chosen, chunksize=8)
        for case, outcome in zip(chosen, judged, strict=True):
            totals[outcome.verdict] += 1
            if outcome.verdict == "wrong":
                print(f"{case.name}: {outcome.why}", flush=True)
            elif outcome.verdict == "skip":
                why[outcome.why[:60]] += 1
    print(f"cases: {totals['ok']} ok, {totals['wrong']} wrong, {totals['skip']} skipped")
    if arguments.skips:
        for reason, count in why.most_common():
            print(f"  {count:4d} {reason}")
    return 1 if totals["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
