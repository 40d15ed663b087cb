"""What it costs to make an interlocutor durable, and to show a million of them: `python -m bench.identity_provision`.

Rows: one caller and sixty-four, on SQLite and, where a server is installed, on PostgreSQL, beside the floor (an append
of one record and its fdatasync, the same disk, taken in turns with it); then the regions filled from SQLite. What
is measured is the whole path behind the node's socket: request read, caller checked, group, transaction, sync, regions,
answer. It does not show the router's part. `--quick` is small; `--size N` sets how many the regions are filled with.

A *caller* is one channel node's conversation with SY.identity: a coroutine in the node's own process and loop that
hands over one ILK_PROVISION for an address that nobody has (the payload as the node's library decoded it), waits for
its answer, which comes after the sync and after the regions show it, and hands over the next at once. So sixty-four
callers are sixty-four requests in flight, never more, and a rate is what one core answers. Payloads are made before
the clock starts: making them is the channel's work. The rate and the ratio are the best of several short rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / part) for part in ("tests", "nodes", "sdk", "shm_layouts", "policies")]

from bench.machine import NotRunError  # noqa: E402
from identity.parts import CHANNEL, Office, channel_of, office  # noqa: E402
from identity.people import fill  # noqa: E402
from identity.postgres_server import binaries, private_server  # noqa: E402
from skep_nodes.identity.postgres import PostgresStore  # noqa: E402
from skep_nodes.identity.publisher import Regions  # noqa: E402
from skep_nodes.identity.sqlite import SqliteStore  # noqa: E402
from skep_nodes.identity.store import Store  # noqa: E402

RECORD_BYTES = 600  # what one interlocutor and its channel are as one line of a journal
CALLERS, ROUNDS = 64, 5
KEY = bytes(range(32))


def floor_us(folder: Path, count: int) -> float:
    """Median of an append of one record and its fdatasync."""
    fd = os.open(folder / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    took = []
    for _ in range(count):
        began = time.perf_counter_ns()
        os.write(fd, bytes(RECORD_BYTES))
        os.fdatasync(fd)
        took.append(time.perf_counter_ns() - began)
    os.close(fd)
    return sorted(took)[count // 2] / 1000


@asynccontextmanager
async def served(store: Store, folder: Path) -> AsyncIterator[tuple[Office, str]]:
    async with office(store, folder) as one:
        regions = Regions(folder, "bench", KEY)
        one.service.publisher = regions
        await regions.fill(store, [])
        try:
            yield one, await one.tenant()
        finally:
            regions.close()


async def one_caller(one: Office, tenant: str, folder: Path, count: int) -> dict[str, float]:
    """The floor and a single caller in turns, so that both see the same disk."""
    best = {"ratio": float("inf")}
    for round_ in range(ROUNDS):
        floor = floor_us(folder, count)
        took = []
        for payload in [channel_of(f"+1{round_:02}{number:06}", tenant) for number in range(count)]:
            began = time.perf_counter_ns()
            await one.ok("ILK_PROVISION", payload, CHANNEL)
            took.append(time.perf_counter_ns() - began)
        took.sort()
        p50, p99 = took[count // 2] / 1000, took[int(count * 0.99)] / 1000
        if p50 / floor < best["ratio"]:
            best = {"floor_us": floor, "p50_us": p50, "p99_us": p99, "ratio": p50 / floor}
    return best


async def many_callers(one: Office, tenant: str, count: int) -> dict[str, float]:
    async def caller(payloads: list[dict[str, Any]]) -> None:
        for payload in payloads:
            await one.ok("ILK_PROVISION", payload, CHANNEL)

    def payloads(number: int, round_: int) -> list[dict[str, Any]]:
        return [channel_of(f"+2{round_:02}{number:03}{at:06}", tenant) for at in range(count)]

    best: dict[str, float] = {"per_s": 0.0}
    for round_ in range(ROUNDS):
        asked = [payloads(number, round_) for number in range(CALLERS)]
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*map(caller, asked))
        took, used = time.perf_counter() - began, time.process_time() - cpu
        if CALLERS * count / took > best["per_s"]:
            best = {"per_s": CALLERS * count / took, "cpu_us": used / CALLERS / count * 1e6}
    return best


async def measure(store: Store, folder: Path, count: int) -> dict[str, Any]:
    async with served(store, folder) as (one, tenant):
        for number in range(count):  # warm: statements prepared, the log at its size
            await one.provision(tenant, f"+9{number:06}")
        single = await one_caller(one, tenant, folder, count)
        return {"one caller": single, f"{CALLERS} callers": await many_callers(one, tenant, count)}


async def filling(folder: Path, size: int) -> dict[str, float]:
    """`size` interlocutors with two channels each: made in SQLite, then the regions filled from it."""
    path = folder / "many.db"
    store = SqliteStore(path)
    await store.open()
    await fill(store, size)
    await store.close()
    began = time.perf_counter()
    store = SqliteStore(path)
    await store.open()
    opened = time.perf_counter() - began
    regions = Regions(folder, "bench", KEY)
    await regions.fill(store, [])
    filled = time.perf_counter() - began - opened
    shared = sum(one.get("size_bytes", 0) for one in regions.statistics().values())
    regions.close()
    await store.close()
    facts = {
        "interlocutors": size,
        "check_s": opened,
        "fill_s": filled,
        "database_mib": path.stat().st_size / 2**20,
    }
    return facts | ({"shared_bytes_each": shared / size} if shared else {})


def provisioning(kind: str, count: int) -> dict[str, float]:
    """One caller and many on `sqlite` or `postgres`, as figures of the table. Raises NotRunError."""
    from skep.runner import loop_factory

    with ExitStack() as open_, asyncio.Runner(loop_factory=loop_factory()) as runner:
        folder = open_.enter_context(folder_of())
        found = runner.run(measure(_store(kind, folder, open_), folder, count))
    many = {f"many_{name}": value for name, value in found[f"{CALLERS} callers"].items()}
    return dict(found["one caller"]) | many


def _store(kind: str, folder: Path, open_: ExitStack) -> Store:
    if kind == "sqlite":
        return SqliteStore(folder / "identity.db")
    if binaries() is None:
        raise NotRunError("no PostgreSQL server is installed")
    return PostgresStore(open_.enter_context(private_server()).url("bench"))


@contextmanager
def folder_of() -> Iterator[Path]:
    (REPO / ".cache").mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="skep-bench-", dir=REPO / ".cache"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


async def main(count: int, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with folder_of() as folder:
        found["sqlite"] = await measure(SqliteStore(folder / "identity.db"), folder, count)
        found["regions"] = await filling(folder, size)
    if binaries() is None:
        found["postgres"] = "not measured: no server is installed"
        return found
    with folder_of() as folder, private_server() as server:
        found["postgres"] = await measure(PostgresStore(server.url("bench")), folder, count)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", type=int, default=0, help="interlocutors to fill the regions with")
    asked = parser.parse_args()
    from skep.runner import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        report = runner.run(
            main(100 if asked.quick else 400, asked.size or (20_000 if asked.quick else 1_000_000))
        )
    print(json.dumps(report, indent=1))
