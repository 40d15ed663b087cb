"""Runs the C load generator and believes it only when its counts agree."""

from __future__ import annotations

import json
import subprocess

from bench import build
from bench.brokers import Broker
from bench.hive import HIVE_ID
from bench.machine import NotRunError, child_environment

IN_FLIGHT_BYTES = 1024 * 1024  # below the mark at which a router asks its senders to pause
IN_FLIGHT_MAX = 4096
OVERHEAD_BYTES = 192  # of a frame, about; the bound is the same for every peer


class InvalidRunError(Exception):
    """Counts differ: a message was lost, doubled, misrouted or out of order. Such a run is no result."""


def window(size: int, frames_per_write: int = 1) -> int:
    """Messages in flight at most, alike for every peer."""
    fit = IN_FLIGHT_BYTES // (size + OVERHEAD_BYTES)
    return max(4 * frames_per_write, min(IN_FLIGHT_MAX, fit))


def command(broker: Broker, mode: str, core: int, **options: object) -> list[str]:
    """The command line; underscores of option names become dashes."""
    argv = [
        str(build.program("loadgen")),
        "--peer",
        broker.name.split("-")[0],
        "--mode",
        mode,
        "--hive",
        HIVE_ID,
    ]
    argv += ["--port", str(broker.port)] if broker.port else ["--addr", broker.address]
    argv += ["--broker-pid", str(broker.pid), "--core", str(core)]
    for name, value in options.items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    return argv


def run(broker: Broker, mode: str, core: int, **options: object) -> dict[str, float]:
    """One run; raises InvalidRunError when what arrived is not what was sent."""
    argv = command(broker, mode, core, **options)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=child_environment())
    if done.returncode:
        raise NotRunError(f"{broker.name} {mode}: {done.stderr.strip()[-400:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if found.get("sent", 0) != found.get("received", 0) or found.get("errors", 0):
        raise InvalidRunError(f"{broker.name} {mode} {options}: {found}")
    return found
