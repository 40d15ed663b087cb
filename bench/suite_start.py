"""How long a first message takes: a program that imports the SDK, connects and asks; and a whole hive coming up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from bench.children import start
from bench.machine import NotRunError, child_environment
from bench.rows import LIMIT, Bench, Case, Figures, Goal
from bench.suite_clients import ROLE

# The clock starts in the first line; what came before is the interpreter, measured from outside.
FIRST_MESSAGE = """
import time
begun = time.perf_counter()
import asyncio, json, sys
from skep import Node
imported = time.perf_counter()
async def main():
    node = Node("AI.bench.newcomer", hive=sys.argv[1])
    async with node:
        connected = time.perf_counter()
        answer = await node.request("AI.bench.responder", b"Ehello")
        done = time.perf_counter()
    assert bytes(answer.payload) == b"Ehello"
    print(json.dumps({"import_ms": (imported - begun) * 1e3, "connect_ms": (connected - imported) * 1e3,
                      "request_ms": (done - connected) * 1e3, "all_ms": (done - begun) * 1e3}))
asyncio.run(main())
"""
UP_READY = re.compile(r"\bhive\b.*\bready\b")
UP_WITHIN_S = 20.0


def first_message(bench: Bench, peer: str) -> Figures:
    """A fresh process each time; the files are in the page cache, as they are for any second program."""
    broker = bench.brokers.get("skep")
    assert broker.hive is not None
    root = str(broker.hive.root)
    responder = start([*ROLE, "skep", "responder", root], bench.where.clients, pipe=True)
    try:
        assert responder.process.stdout is not None
        if responder.process.stdout.readline().strip() != b"ready":
            raise NotRunError(f"the responder did not start: {responder.complaint()}")
        runs = [_newcomer(root) for _ in range(bench.effort.starts)]
    finally:
        responder.kill()
        responder.log.close()
    return {key: sorted(run[key] for run in runs)[len(runs) // 2] for key in runs[0]}


def _newcomer(root: str) -> Figures:
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", FIRST_MESSAGE, root],
        capture_output=True,
        text=True,
        timeout=30,
        env=child_environment(),
    )
    whole = (time.perf_counter() - begun) * 1e3
    if done.returncode:
        raise NotRunError(f"the newcomer failed: {done.stderr.strip()[-400:]}")
    found: Figures = json.loads(done.stdout)
    return found | {"process_ms": whole}


def hive_up(bench: Bench, peer: str) -> Figures:
    """`skep up` in a new folder, until it says that it is ready."""
    runs = sorted(_up_once() for _ in range(bench.effort.starts))
    return {"ready_ms": runs[len(runs) // 2]}


def _up_once() -> float:
    root = Path(tempfile.mkdtemp(prefix="sku", dir="/tmp"))
    argv = [sys.executable, "-m", "skep_nodes.cli", "up", "--hive", str(root)]
    begun = time.perf_counter()
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        env=child_environment() | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        _wait_for_word(process)
        return (time.perf_counter() - begun) * 1e3
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _wait_for_word(process: subprocess.Popen[str]) -> None:
    lines: Queue[str | None] = Queue()
    assert process.stdout is not None
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    said: list[str] = []
    deadline = time.monotonic() + UP_WITHIN_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except Empty:
            break
        if line is None:
            break
        said.append(line)
        if UP_READY.search(line):
            return
    raise NotRunError(
        f"`skep up` did not say that the hive is ready: {' '.join(said)[-400:].strip() or 'it said nothing'}"
    )


def _pump(stream: IO[str], lines: Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def cases() -> list[Case]:
    name = "SDK: import, connect, first message"
    return [
        Case(
            name,
            ("skep",),
            first_message,
            (
                Goal(name, LIMIT, "all_ms", "ms", True, target=1, limit=150, required="<= 150 ms"),
                Goal(
                    f"{name}, with the interpreter's start and end",
                    LIMIT,
                    "process_ms",
                    "ms",
                    True,
                    limit=150,
                ),
                Goal("SDK: import alone", LIMIT, "import_ms", "ms", True, limit=150),
            ),
        ),
        Case(
            "skep up ready",
            ("skep",),
            hive_up,
            (Goal("skep up ready", LIMIT, "ready_ms", "ms", True, target=1, limit=2000, required="<= 2 s"),),
            rounds=1,
        ),
    ]
