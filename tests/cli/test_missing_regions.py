"""A region that is gone though its writer runs: every command says so, and the writer makes it again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep.hive import find_hive
from skep_nodes.cli.expected import listener, missing_regions
from support.forked import SKEP, skep_command
from support.hives import SHM, HiveFolder, private_hive
from support.wait import eventually


def skep(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return skep_command(*arguments, SKEP_HIVE=str(root))


def running(hive: HiveFolder) -> HiveFolder:
    child = hive.start("up", [*SKEP, "up", "--hive", str(hive.root)])
    eventually(lambda: "hive test ready" in child.log(), within=15)
    return hive


def shared_memory(root: Path) -> dict[str, Any]:
    checks = json.loads(skep(root, "doctor", "-o", "json").stdout)["checks"]
    return next(check for check in checks if check["check"] == "shared memory")


def unlink(hive: HiveFolder, kind: str) -> None:
    for name in hive.segments():
        if f"-{kind}" in name:
            (SHM / name).unlink()


WRITERS = {
    "nodes": "skep_router", "records": "skep_router", "config": "skep_nodes.sy.config_routes",
    "threads": "skep_nodes.sy.threads",
}  # fmt: skip


@contextlib.contextmanager
def stopped(hive: HiveFolder, kind: str) -> Iterator[None]:
    """The writer of a region is there and does nothing: otherwise it makes what was removed again within a second."""
    pids = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and {WRITERS[kind], str(hive.root)} <= set(arguments_of(entry))
    ]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def arguments_of(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text().split("\0")
    except OSError:
        return []  # it ended while we looked


@pytest.fixture(scope="module")
def hive() -> Iterator[HiveFolder]:
    """One for all: whatever is taken away is made again before the test ends."""
    with private_hive() as folder:
        yield running(folder)


@pytest.mark.parametrize("kind", WRITERS)
def test_doctor_names_it_and_its_writer_makes_it_again(hive: HiveFolder, kind: str) -> None:
    assert shared_memory(hive.root)["level"] == "ok"
    with stopped(hive, kind):
        unlink(hive, kind)
        done = skep(hive.root, "doctor")
        assert done.returncode == 1
        found = shared_memory(hive.root)
        assert (found["level"], kind in found["detail"]) == ("wrong", True)
        assert re.search(r"kill [0-9 ]+ \(", found["next"])
        assert "MISSING" in skep(hive.root, "shm", "check").stdout
    eventually(lambda: shared_memory(hive.root)["level"] == "ok", within=20)
    assert skep(hive.root, "route", "add", f"AI.{kind}", "--drop").returncode == 0


def test_a_missing_table_is_named_as_what_it_is(hive: HiveFolder) -> None:
    with stopped(hive, "nodes"):
        unlink(hive, "nodes")
        done = skep(hive.root, "node", "ls")
        assert done.returncode == 3, done.stderr
        assert "error REGION_NOT_FOUND" in done.stderr
        assert "next: skep doctor" in done.stderr
    eventually(lambda: shared_memory(hive.root)["level"] == "ok", within=20)


def test_a_router_alone_misses_nothing(hive_folder: HiveFolder) -> None:
    router = hive_folder.start_router()
    hive = find_hive(hive_folder.root)
    assert missing_regions(hive) == []
    assert listener(router.socket) == router.pid
    router.kill()
    assert listener(router.socket) == 0
    assert missing_regions(hive) == [], "who does not run need not have made anything"
