"""Shared memory under measurement: tables of nodes in a private root, and a writer in a process of its own."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.children import Child, start
from bench.machine import NotRunError

ROUTER = bytes(range(16))
NODES = 64  # few enough that the reader meets the writer's records often


def node_record(number: int) -> Any:
    from skep_shm import NodeRecord

    return NodeRecord(
        uuid=hashlib.sha256(number.to_bytes(8, "big")).digest()[:16],  # spread as real uuids are
        name=f"AI.node{number:05d}@bench",
        uid=1000,
        pid=4242,
        vpn_id=number,
        framing=1,
        connected_at_ms=1_700_000_000_000,
        tenant=bytes(16),
        ilk=bytes(16),
        flags=1,
    )


@contextmanager
def table(count: int = NODES) -> Iterator[tuple[Path, Any, list[int]]]:
    """Root, writer and slots of a table with `count` nodes."""
    from skep_shm import NodesWriter

    root = Path(tempfile.mkdtemp(prefix="sks", dir="/tmp"))
    writer = NodesWriter.create(root, ROUTER, "RT.bench@bench", "bench")
    try:
        yield root, writer, [writer.add(node_record(number)) for number in range(count)]
    finally:
        writer.close()
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def written_table(rate: int, core: int, count: int = NODES) -> Iterator[Path]:
    """The same with the writer in another process, updating `rate` records a second; 0: none, -1: without pause."""
    root = Path(tempfile.mkdtemp(prefix="sks", dir="/tmp"))
    child = start([sys.executable, "-m", "bench.shm_load", str(root), str(rate), str(count)], core, pipe=True)
    try:
        _expect_ready(child)
        yield root
    finally:
        _end(child)
        shutil.rmtree(root, ignore_errors=True)


def _expect_ready(child: Child) -> None:
    assert child.process.stdout is not None
    if child.process.stdout.readline().strip() != b"ready":
        raise NotRunError(f"the writer did not start: {child.complaint()}")


def _end(child: Child) -> None:
    """Closing its input ends it, so that it takes its region away with it."""
    assert child.process.stdin is not None
    child.process.stdin.close()
    child.stop()


def percentiles(work: Callable[[], object], count: int) -> tuple[float, float]:
    """p50 and p99 in us of one call, clock included, as a caller would see it."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(count):
        begun = clock()
        work()
        taken.append(clock() - begun)
    taken.sort()
    return taken[count // 2] / 1e3, taken[min(count - 1, count * 99 // 100)] / 1e3


def reads(read: Callable[[Any], object], keys: Sequence[Any], count: int) -> tuple[float, float]:
    """p50 and p99 in us of `count` reads of these keys in turn, clock included; nothing else is."""
    clock, taken = time.perf_counter_ns, []
    for key in itertools.islice(itertools.cycle(keys), count):
        begun = clock()
        read(key)
        taken.append(clock() - begun)
    taken.sort()
    return taken[count // 2] / 1e3, taken[min(count - 1, count * 99 // 100)] / 1e3


def main(root: str, rate: str, count: str) -> None:
    """The writer: a field of each node in turn, at the asked rate, until its standard input ends."""
    from skep_shm import NodesWriter

    writer = NodesWriter.create(Path(root), ROUTER, "RT.bench@bench", "bench")
    slots = [writer.add(node_record(number)) for number in range(int(count))]
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    threading.Thread(target=_until_input_ends, args=(done,), daemon=True).start()
    print("ready", flush=True)
    try:
        _write(writer, slots, int(rate), done.is_set)
    finally:
        writer.close()


def _until_input_ends(done: threading.Event) -> None:
    sys.stdin.read()
    done.set()


def _write(writer: Any, slots: list[int], rate: int, done: Callable[[], bool]) -> None:
    number, due = 0, time.monotonic()
    while not done():
        if rate:
            writer.update(slots[number % len(slots)], vpn_id=number)
            number += 1
        if rate >= 0:
            due += 1 / (rate or 100)
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(*sys.argv[1:])
