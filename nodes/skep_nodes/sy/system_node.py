"""What every system node's process does alike: its arguments, its signs of life, its doorbell, its log line.

A system node publishes its region before it links, so that whoever finds the node finds the region; and closes it
after it left.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from skep import Hive, Node, find_hive
from skep.protocol.link import pack_doorbell
from skep_shm import RegionKind

HEARTBEAT_S = 1.0  # a region is called stale after 30 s of silence


def hive_of_arguments(description: str) -> Hive:
    """The hive that `--hive` names, else the usual one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--hive", type=Path, default=None, help="the hive's folder")
    return find_hive(parser.parse_args().hive)


def ring_doorbell(node: Node, kind: RegionKind) -> None:
    """Tell the router that a region moved. It looks by itself a moment later; this only shortens the wait."""
    link = node.client.link
    if link is not None and link.framing == "native":
        link.write_link(pack_doorbell(kind))


async def beat(heartbeat: Callable[[int], None], each_beat: Callable[[int], None] | None = None) -> None:
    """Keep a region's heartbeat fresh until cancelled."""
    while True:
        now_ns = boottime_ns()
        heartbeat(now_ns)
        if each_beat is not None:
            each_beat(now_ns)
        await asyncio.sleep(HEARTBEAT_S)


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: never jumps, goes on in suspend, the same for every process of the machine."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_ms() -> int:
    """Wall time, for people."""
    return time.time_ns() // 1_000_000


def wall_text() -> str:
    """Wall time as ISO 8601, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def say(name: str, text: str) -> None:
    """One line for the operator, on stderr, where `skep up` and journald pick it up."""
    print(f"{name}: {text}", file=sys.stderr, flush=True)  # noqa: T201
