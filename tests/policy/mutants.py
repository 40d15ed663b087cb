"""Modules damaged at random, each loaded and asked in a child with a limit on time and memory.

`python -m policy.mutants SEED COUNT` is the child: it prints one JSON line of counts, and before each mutant its seed,
so that whoever started it knows which one ended it. What a mutant may do: be refused with a code, answer, or be an
error of one evaluation; and after each of them a good module still answers rightly.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from policy import wat
from skep.protocol.errors import PolicyError
from skep_policy.default import default_policy
from skep_policy.evaluator import ERRORS, Evaluator
from skep_policy.limits import VET_BYTES_MAX, VET_S_MAX, WASM_BYTES_MAX
from skep_policy.module import Module

REPO = Path(__file__).resolve().parents[2]
REFUSALS = {"WASM_TOO_LARGE", "WASM_INVALID", "IMPORT_FOREIGN", "ABI_UNSUPPORTED", "BUILTIN_UNKNOWN", "MEMORY",
            "DATA_INVALID", "TRAP", "FUEL"}  # fmt: skip
REAL_EVERY = (
    25  # of the mutants, how many are of the default policy, which takes fifty times as long to compile
)
ASKED = json.dumps({"meta": {"type": "user"}, "routing": {"dst": None}, "src": None, "dst": None}).encode()
DATA = b'{"agents":{},"node":{},"tenant":{},"config":{"frontdesk":"SY.desk@h"}}'
BODIES = (wat.LOOP, wat.BOMB, wat.RECURSION, wat.ABORT, "unreachable", "(i32.const 2048)", "(i32.const -5)")


def mutant(seed: int, real: bytes) -> bytes:
    """Bytes flipped, cut out, doubled, put in, or cut off; of a module that may be hostile to begin with."""
    dice = random.Random(seed)
    small = wat.module(bodies={"opa_eval": dice.choice(BODIES)}, said="opa_malloc: failed")
    wasm = bytearray(real if seed % REAL_EVERY == 0 else small)
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        at = dice.randrange(8, len(wasm))
        kind = dice.randrange(6)
        if kind <= 2:
            wasm[at] = dice.randrange(256) if kind else wasm[at] ^ (1 << dice.randrange(8))
        elif kind == 3:
            del wasm[at : at + dice.randrange(1, 9)]
        elif kind == 4:
            wasm[at:at] = wasm[max(8, at - dice.randrange(1, 30)) : at] or b"\0"
        else:
            wasm[at:at] = dice.randbytes(dice.randrange(1, 5))
        if len(wasm) < 16:
            break
    if dice.random() < 0.03:
        del wasm[dice.randrange(8, len(wasm)) :]
    if dice.random() < 0.01:
        wasm += bytes(WASM_BYTES_MAX)
    return bytes(wasm)


def tried(wasm: bytes) -> str:
    """What became of one. Raises AssertionError for what may not be."""
    try:
        evaluator = Evaluator(Module.load(wasm), DATA)
    except PolicyError as error:
        return f"refused {error.code}" if error.code in REFUSALS else _unexpected(error)
    try:
        said = [evaluator.decide(name, ASKED) for name in ("router/allow", "router/target")]
        assert all(one.error in ("", *ERRORS) for one in said), said
        return "error" if any(one.error for one in said) else "answered"
    finally:
        evaluator.close()


def _unexpected(error: PolicyError) -> str:
    raise AssertionError(f"no refusal that is known: {error.code}") from error


def child(seed: int, count: int) -> Counter[str]:
    resource.setrlimit(resource.RLIMIT_DATA, (VET_BYTES_MAX, VET_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    real, good = default_policy().wasm, Evaluator(Module.load(wat.module()))
    found: Counter[str] = Counter()
    for number in range(seed, seed + count):
        os.write(2, b"%d\n" % number)
        signal.setitimer(
            signal.ITIMER_PROF, VET_S_MAX
        )  # of processor time: a starved child is not a slow one
        found[tried(mutant(number, real))] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        assert good.decide("router/allow", ASKED).result is True, f"after mutant {number} a good module fails"
    good.close()
    return found


def run(seed: int, count: int, timeout: float = 600.0) -> tuple[Counter[str], str]:
    """(what became of them, "" or why the child ended early). Over the time limit ends a child, and is a refusal."""
    paths = [str(REPO / folder) for folder in ("policies", "sdk", "shm_layouts", "tests")]
    done = subprocess.run(
        [sys.executable, "-m", "policy.mutants", str(seed), str(count)], capture_output=True, timeout=timeout,
        env={"PYTHONPATH": os.pathsep.join(paths), "PATH": "", "RUST_BACKTRACE": "0"}, cwd=REPO, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return Counter(json.loads(done.stdout)), ""
    last = [line for line in done.stderr.decode(errors="replace").splitlines() if line.isdigit()][-1:]
    return (
        Counter(),
        f"mutant {last} ended the child with {done.returncode}: {_said(done.stderr)}",
    )


def _said(stderr: bytes) -> str:
    """What it said beside the seeds."""
    lines = stderr.decode(errors="replace").splitlines()
    return " / ".join(line for line in lines if line and not line.isdigit())[-1500:]


if __name__ == "__main__":
    print(json.dumps(child(int(sys.argv[1]), int(sys.argv[2]))))
