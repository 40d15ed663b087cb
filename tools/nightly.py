"""The nightly and release tiers of docs/reliability.md: long jobs in slices, with a ledger of what really ran.

Jobs stand in tools/nightly.toml. A job is a program that takes `--seconds N --seed S`, works for about that long
and prints, as its last line, `{"done": units, "failures": n}`. Each turn of a job becomes one line of
.cache/nightly/ledger.jsonl, with the commit it ran on, so a slice may end (or be killed) at any time and the next
one goes on with whatever is furthest from its target. Seeds never repeat: a job's next seed follows its last one.
What has not run is reported as not run.

Rejected: one long process per job (killed at minute 29, it proves nothing) and counting turns instead of units (a
slow machine would claim what a fast one did).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
LEDGER = REPO / ".cache" / "nightly" / "ledger.jsonl"
JOBS = REPO / "tools" / "nightly.toml"
TURN_S = 120  # long enough that start-up costs nothing, short enough to lose little
GRACE_S = 120  # past its seconds a job is hung, and that is a failure


@dataclass(frozen=True, slots=True)
class Job:
    """One line of work; `nightly` and `release` are targets in `unit`s."""

    name: str
    goal: str
    unit: str
    argv: tuple[str, ...]
    nightly: int
    release: int

    def target(self, tier: str) -> int:
        return self.release if tier == "release" else self.nightly


@dataclass(slots=True)
class Progress:
    """What the ledger says of one job."""

    done: int = 0
    failures: int = 0
    turns: int = 0
    seconds: float = 0.0


def main() -> int:
    options = _options()
    jobs = [job for job in read_jobs() if options.only in job.name]
    if not options.status:
        _slice(jobs, options.tier, options.slice_minutes * 60)
    progress = read_ledger()
    for line in table(jobs, progress, options.tier):
        print(line)
    return 1 if any(progress[job.name].failures for job in jobs if job.name in progress) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slice-minutes", type=float, default=30.0)
    parser.add_argument("--tier", choices=("nightly", "release"), default="nightly")
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    parser.add_argument("--status", action="store_true", help="print the ledger's table and run nothing")
    return parser.parse_args()


def read_jobs() -> list[Job]:
    entries = tomllib.loads(JOBS.read_text())["job"]
    return [Job(**{**entry, "argv": tuple(entry["argv"])}) for entry in entries]


def read_ledger() -> dict[str, Progress]:
    progress: dict[str, Progress] = {}
    for entry in _entries():
        sum_ = progress.setdefault(entry["job"], Progress())
        sum_.done += entry["done"]
        sum_.failures += entry["failures"]
        sum_.seconds += entry["seconds"]
        sum_.turns += 1
    return progress


def _entries() -> Iterator[dict[str, Any]]:
    if LEDGER.exists():
        for line in LEDGER.read_text().splitlines():
            yield json.loads(line)


def _slice(jobs: list[Job], tier: str, seconds: float) -> None:
    """Gives turns to whichever job is furthest from its target, until the slice or the work is over."""
    end = time.monotonic() + seconds
    given_up: set[str] = set()
    while (left := end - time.monotonic()) > 1:
        progress = read_ledger()
        job = _furthest([job for job in jobs if job.name not in given_up], progress, tier)
        if job is None:
            return
        if not _turn(job, progress.get(job.name, Progress()).turns, min(TURN_S, left)):
            given_up.add(job.name)  # a job that fails is not repeated all night; the next slice tries again


def _furthest(jobs: list[Job], progress: dict[str, Progress], tier: str) -> Job | None:
    shares = {job: progress.get(job.name, Progress()).done / max(job.target(tier), 1) for job in jobs}
    unfinished = [job for job, share in shares.items() if share < 1]
    return min(unfinished, key=lambda job: shares[job], default=None)


def _turn(job: Job, seed: int, seconds: float) -> bool:
    started = time.monotonic()
    argv = [sys.executable, *job.argv, "--seconds", str(max(int(seconds), 1)), "--seed", str(seed)]
    print(f"nightly: {job.name}, seed {seed}, {seconds:.0f} s", file=sys.stderr)
    done, failures, note = _run(argv, seconds + GRACE_S)
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(), "job": job.name, "goal": job.goal,
        "seed": seed, "seconds": round(time.monotonic() - started, 1), "done": done, "failures": failures, "note": note,
    }  # fmt: skip
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    with LEDGER.open("a") as ledger:
        ledger.write(json.dumps(entry) + "\n")
    return failures == 0 and done > 0


def _run(argv: list[str], seconds: float) -> tuple[int, int, str]:
    """(units done, failures, note); a job that hangs, dies or says nothing readable has failed once."""
    try:
        ran = subprocess.run(
            argv,
            cwd=REPO,
            timeout=seconds,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 0, 1, f"hung: no end {seconds:.0f} s after its start"
    last = (ran.stdout.strip().splitlines() or [""])[-1]
    try:
        report = json.loads(last)
        done, failures = int(report["done"]), int(report["failures"])
    except (ValueError, KeyError, TypeError):
        return 0, 1, f"exit {ran.returncode}, no report: {(ran.stderr or last)[-800:]}"
    return done, failures, "" if not failures else ran.stderr[-800:]


def _commit() -> str:
    ran = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False
    )
    return ran.stdout.strip()


def table(jobs: list[Job], progress: dict[str, Progress], tier: str) -> Iterator[str]:
    yield f"{'job':22} {'goal':5} {'done':>14} {'target':>14} {'minutes':>8} {'failures':>8}  {tier}"
    for job in jobs:
        ran = progress.get(job.name, Progress())
        share = ran.done / max(job.target(tier), 1)
        verdict = (
            "FAILED"
            if ran.failures
            else "not run"
            if not ran.turns
            else "done"
            if share >= 1
            else f"{share:.1%}"
        )
        yield (
            f"{job.name:22} {job.goal:5} {ran.done:14,} {job.target(tier):14,} {ran.seconds / 60:8.1f} "
            f"{ran.failures:8}  {verdict}"
        )


if __name__ == "__main__":
    sys.exit(main())
