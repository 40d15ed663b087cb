"""`python -m bench.shm`: shared memory alone, one variable swept at a time, and pytest-benchmark's micro benchmarks.

Sweeps: the writer's rate with a fixed table, and the table's size without a writer. Each line is p50 and p99 of one
operation as a caller in Python sees it, the clock's own cost included and printed as the first line.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import REPO, child_environment, cores
from bench.shm_load import NODES, ROUTER, node_record, percentiles, table, written_table

RATES = (0, 100, 1_000, 10_000, -1)
SIZES = (64, 1_000, 10_000)
ADDED_LAST = 2000


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    count = 2_000 if "--quick" in words else 50_000
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_table("shared memory, p50 and p99 in us", sweeps(count)))
    return _micro("--quick" in words)


def sweeps(count: int) -> list[tuple[str, str, float, float]]:
    """Lines of (operation, variable, p50, p99)."""
    lines = [("nothing (the clock)", "", *percentiles(lambda: None, count))]
    for rate in RATES:
        lines += _reads_beside(rate, count)
    for size in SIZES:
        lines += _table_of(size, count)
    return lines


def _reads_beside(rate: int, count: int) -> list[tuple[str, str, float, float]]:
    from skep_shm import NodesReader

    label = "writer without pause" if rate < 0 else f"writer at {rate:,} Hz" if rate else "no writer"
    with written_table(rate, cores().broker) as root:
        reader = NodesReader.attach(root, ROUTER)
        next_slot = itertools.cycle(random.Random(1).choices(range(NODES), k=4096)).__next__
        lines = [
            ("node read, checksum each time", label, *percentiles(lambda: reader.read(next_slot()), count)),
            ("node get", label, *percentiles(lambda: reader.get(next_slot()), count)),
        ]
        reader.close()
    return lines


def _table_of(size: int, count: int) -> list[tuple[str, str, float, float]]:
    from skep_shm import NodesReader

    label = f"{size:,} nodes"
    with table(size) as (root, writer, slots):
        reader = NodesReader.attach(root, ROUTER)
        order = random.Random(1).choices(slots, k=4096)
        next_slot, next_uuid = (
            itertools.cycle(order).__next__,
            itertools.cycle([n.uuid for n in reader.all()]).__next__,
        )
        extra = itertools.count(1_000_000).__next__
        lines = [
            ("node find by uuid", label, *percentiles(lambda: reader.find(next_uuid()), count)),
            ("node update", label, *percentiles(lambda: writer.update(next_slot(), vpn_id=7), count)),
            (
                "node add",
                label,
                *percentiles(lambda: writer.add(node_record(extra())), min(count, ADDED_LAST)),
            ),
            (
                "a change: update, then changes()",
                label,
                *percentiles(_change(writer, reader, next_slot), count),
            ),
        ]
        reader.close()
    return lines


def _change(writer: Any, reader: Any, next_slot: Callable[[], int]) -> Callable[[], object]:
    """A writer's update until a reader in the same process has been told of it."""

    def change() -> object:
        seen = reader.revision
        writer.update(next_slot(), vpn_id=3)
        return reader.changes(seen)

    return change


def _table(title: str, lines: list[tuple[str, str, float, float]]) -> Table:
    shown = Table(title=title)
    for name in ("operation", "variable"):
        shown.add_column(name)
    for name in ("p50", "p99"):
        shown.add_column(name, justify="right")
    for operation, variable, p50, p99 in lines:
        shown.add_row(operation, variable, f"{p50:.2f}", f"{p99:.2f}")
    return shown


def _micro(quick: bool) -> int:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "bench/micro",
        "--benchmark-enable",
        "-p",
        "no:cacheprovider",
        "--benchmark-columns=median,iqr,ops,rounds",
        "--benchmark-sort=name",
    ]
    argv += ["--benchmark-max-time=0.05", "--benchmark-min-rounds=3"] if quick else []
    return subprocess.run(argv, cwd=REPO, env=child_environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
