"""Builds the C programs into .cache/bench; a missing compiler makes their rows not run."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from bench.machine import CACHE, REPO, NotRunError, tool

OUT = CACHE / "bench"


@cache
def program(name: str) -> Path:
    """Path of `loadgen` or `relay`, built when its sources are newer."""
    argv = [tool("make"), "-s", "-C", str(REPO / "bench" / "c"), f"OUT={OUT}", f"CC={tool('gcc')}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise NotRunError(f"the C programs do not build: {done.stderr.strip()[-400:]}")
    return OUT / name
