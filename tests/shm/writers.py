"""Writers that run in processes of their own, so that they can be killed at any store.

`crash` starts a function here in a child, which kills itself with SIGKILL where the function says so.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skep_shm import (
    IlkRecord,
    IlksWriter,
    NodeRecord,
    NodesWriter,
    PolicyState,
    PolicyStatus,
    PolicyWriter,
    segment,
)
from support.hives import environment

TESTS = Path(__file__).resolve().parents[1]
ROUTER = bytes(range(16))
LAST_SLOT = 7
FILLED = 12  # records of a region of identity, agents with long texts among them


def node(number: int, name: str = "") -> NodeRecord:
    """The n-th node: every field follows from n, so a reader can tell a mixture of two from either."""
    pattern = number.to_bytes(4, "big") * 4
    return NodeRecord(
        uuid=number.to_bytes(16, "big"),
        name=name or f"AI.n{number}@test",
        uid=number,
        pid=number,
        vpn_id=number,
        framing=number & 1,
        connected_at_ms=number,
        tenant=pattern,
        ilk=pattern,
        flags=number,
    )


class DyingMap(mmap.mmap):
    """A mapping whose n-th slice store is only half done when the process dies."""

    stores_left = -1

    def __setitem__(self, where: Any, data: Any) -> None:
        cls = type(self)
        cls.stores_left -= 1
        if cls.stores_left == 0:
            half = len(data) // 2
            super().__setitem__(slice(where.start, where.start + half), data[:half])
            os.kill(os.getpid(), signal.SIGKILL)
        super().__setitem__(where, data)


@dataclass(frozen=True, slots=True)
class Crash:
    """What the child printed before it died."""

    output: str


def crash(function: str, root: Path, *arguments: object) -> Crash:
    """Runs `function` of this module and returns when the child was killed. Fails when it ended otherwise."""
    path = os.pathsep.join([environment()["PYTHONPATH"], str(TESTS)])
    argv = [sys.executable, "-m", "shm.writers", function, str(root), *map(str, arguments)]
    done = subprocess.run(argv, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, f"the writer was to be killed, not to end:\n{done.stderr}"
    return Crash(done.stdout)


def spawn(function: str, root: Path, *arguments: object) -> subprocess.Popen[str]:
    """Starts `function` in a child that prints a line when it is ready."""
    path = os.pathsep.join([environment()["PYTHONPATH"], str(TESTS)])
    argv = [sys.executable, "-m", "shm.writers", function, str(root), *map(str, arguments)]
    child = subprocess.Popen(argv, env=environment(PYTHONPATH=path), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    return child


def half_update(root: Path, stores: str) -> None:
    """Adds eight nodes and dies in the n-th slice store of an endless series of updates."""
    segment.mmap.mmap = DyingMap  # type: ignore[misc, assignment]
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test")
    for number in range(LAST_SLOT + 1):
        writer.add(node(number))
    print("ready", flush=True)
    DyingMap.stores_left = int(stores)
    while True:
        for slot in range(LAST_SLOT + 1):
            writer.update(slot, flags=slot, uid=slot)


def half_add(root: Path, stores: str) -> None:
    """Dies in the n-th slice store of a series of additions with long names and removals."""
    segment.mmap.mmap = DyingMap  # type: ignore[misc, assignment]
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test", capacity=16)
    kept = writer.add(node(0))
    assert kept == 0
    DyingMap.stores_left = int(stores)
    for number in range(1, 1000):
        writer.remove(writer.add(node(number, "AI." + "x" * 200 + "@test")))
        writer.add(node(number))


def half_put(root: Path, region: str, stores: str) -> None:
    """Fills a region of identity and dies in the n-th slice store of an endless series of puts and removals."""
    segment.mmap.mmap = DyingMap  # type: ignore[misc, assignment]
    from shm.test_identity_regions import KINDS, key16

    kind = KINDS[region]
    writer = kind.writer.create(root, "test")
    writer.fill(kind.make(number) for number in range(FILLED))
    print("ready", flush=True)
    DyingMap.stores_left = int(stores)
    while True:
        for number in range(FILLED):
            writer.put(kind.change(kind.make(number)))
            writer.remove(key16(FILLED + number))
            writer.put(kind.make(FILLED + number))
            writer.put(kind.make(number))


def half_publish(root: Path, stores: str) -> None:
    """Publishes policies without end, each of one repeated byte, and dies in the n-th slice store."""
    segment.mmap.mmap = DyingMap  # type: ignore[misc, assignment]
    writer = PolicyWriter.create(root, "test")
    number = 1
    writer.publish(policy(number))
    print("ready", flush=True)
    DyingMap.stores_left = int(stores)
    while True:
        number += 1
        writer.publish(policy(number))


def policy(number: int) -> PolicyState:
    """The n-th policy: bundles and version follow from n."""
    return PolicyState(
        number, PolicyStatus.OK, bytes([number & 0xFF]) * 50_000, bytes([number & 0xFF]) * number
    )


def endless_ilks(root: Path, count: str) -> None:
    """Puts its interlocutors without pause: all fields of one follow from one number. Ends when its parent does."""
    writer = IlksWriter.create(root, "test")
    writer.fill(twin(number, 0) for number in range(int(count)))
    parent = os.getppid()
    print("ready", flush=True)
    version = 0
    while os.getppid() == parent:
        version = (version + 1) & 0xFFFFFFFF
        for number in range(int(count)):
            writer.put(twin(number, version))


def twin(number: int, version: int) -> IlkRecord:
    """One whose fields all follow from `version`, with a text that goes on in another record every other time."""
    pattern = version.to_bytes(4, "big") * 4
    roles = (str(version),) * (1 + version % 9)
    return IlkRecord(
        number.to_bytes(16, "big"),
        tenant=pattern,
        canonical=pattern,
        alias_until_ms=version,
        seal_until_ms=version,
        handler=str(version),
        roles=roles,
    )


def endless(root: Path, count: str) -> None:
    """Updates its nodes without pause: all fields of a record follow from one number. Ends when its input does."""
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test")
    slots = [writer.add(node(number)) for number in range(int(count))]
    parent = os.getppid()
    print("ready", flush=True)
    number = 0
    while os.getppid() == parent:
        for slot in slots:
            number = (number + 1) & 0xFFFFFFFF
            p = number.to_bytes(4, "big") * 4
            writer.update(slot, uid=number, pid=number, vpn_id=number, tenant=p, ilk=p, flags=number)


def grow(root: Path, step: str) -> None:
    """Adds nodes without end, a little at a time, through many generations."""
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test", capacity=2)
    parent = os.getppid()
    writer.add(node(0))
    print("ready", flush=True)
    number, slots = 1, []
    while os.getppid() == parent:
        slots.append(writer.add(node(number)))
        number += 1
        if len(slots) > int(step):
            writer.close()
            writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test", capacity=2)
            writer.add(node(0))
            slots.clear()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
