"""Fuzzes one parser for some seconds: a nightly job (see tools/nightly.py for the report it prints).

Without `--guided` a mutator works from valid inputs (fast, repeatable by seed); with it atheris looks for new branches
and keeps its corpus in .cache/fuzz. A finding is written to .cache/fuzz/findings and shown with the line that runs it
again: `python tools/fuzz.py json --input FILE`. A finding that was a bug becomes a test with its bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
for _folder in ("tests", "shm_layouts", "sdk"):
    sys.path.insert(0, str(REPO / _folder))

from support import fuzzing  # noqa: E402  (the path above comes first)

KEEP = REPO / ".cache" / "fuzz"
BATCH = 500  # inputs between two looks at the clock; a batch of good ones takes about 10 ms
FINDINGS_MAX = 20  # a parser that is broken needs no more examples
STEP_S = 60


def main() -> int:
    options = _options()
    target = fuzzing.TARGETS[options.target]
    if options.input:
        fuzzing.run_one(target, options.input.read_bytes())
        return 0
    if options.engine:
        return _engine(target, options.engine)
    if options.guided:
        done, failures = _guided(target, options.seconds, options.seed)
    else:
        done, failures = _mutate(target, options.seconds, options.seed, options.inputs)
    print(json.dumps({"done": done, "failures": failures}))
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(fuzzing.TARGETS))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=1 << 62, help="stop after so many")
    parser.add_argument("--guided", action="store_true", help="coverage-guided, with atheris")
    parser.add_argument("--input", type=Path, help="run one kept input again")
    parser.add_argument("--engine", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def _mutate(target: fuzzing.Target, seconds: float, seed: int, inputs: int) -> tuple[int, int]:
    """Until the time is over or `inputs` were tried."""
    random_ = random.Random(f"{target.name} {seed}")
    draw, seeds = random_.random, target.seeds()
    end = time.monotonic() + seconds
    done = failures = 0
    while time.monotonic() < end and done < inputs and failures < FINDINGS_MAX:
        batch = [fuzzing.mutated(seeds[int(draw() * len(seeds))], random_) for _ in range(BATCH)]
        failures += sum(_keep(target, data) for data in fuzzing.run_many(target, batch))
        done += BATCH
    return done, failures


def _keep(target: fuzzing.Target, data: bytes) -> int:
    """Writes a finding down with the way to run it again; returns how many findings that makes."""
    path = KEEP / "findings" / f"{target.name}-{sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        fuzzing.run_one(target, data)
        print("did not happen again by itself", file=sys.stderr)
    except Exception:  # noqa: BLE001  (whatever a parser raises besides ProtocolError is what is looked for)
        traceback.print_exc()
    print(f"again: python tools/fuzz.py {target.name} --input {path}", file=sys.stderr)
    return 1


def _guided(target: fuzzing.Target, seconds: float, seed: int) -> tuple[int, int]:
    """Runs the engine in a child: it ends its process when it is done. The unit is seconds of guided search."""
    corpus = KEEP / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (corpus / sha256(data).hexdigest()[:16]).write_bytes(data)
    findings = KEEP / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
        f"-artifact_prefix={findings}/{target.name}-",
    ]
    argv = [
        sys.executable,
        __file__,
        target.name,
        "--engine",
        str(corpus),
        *(flag.lstrip("-") for flag in flags),
    ]
    ran = subprocess.run(
        argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds + STEP_S, check=False
    )
    if ran.returncode:
        print(ran.stderr[-3000:], file=sys.stderr)
    return int(seconds), int(ran.returncode != 0)


def _engine(target: fuzzing.Target, arguments: Sequence[str]) -> int:
    import atheris

    corpus, *flags = arguments
    atheris.instrument_all()
    atheris.Setup([__file__, corpus, *(f"-{flag}" for flag in flags), "-max_len=4096", "-rss_limit_mb=1024"],
                  lambda data: fuzzing.run_one(target, data))  # fmt: skip
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
