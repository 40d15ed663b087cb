"""One real router for all tests of a module that only talk to it, and lines to it that end with their test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile.line import Line
from skep_shm import ConfigState, ConfigWriter, Grant, MatchKind, VpnRule
from support.hives import RouterProcess, private_hive

FOREIGN = 4242  # a uid with grants for names of AI.*.g
UNGRANTED = 4343  # one that the configuration does not know
RIVAL = 4444  # one with grants for the same names as FOREIGN
ILK, OTHER_ILK = b"i" * 16, b"o" * 16

CONFIG = ConfigState(
    version=1,
    grants=(
        Grant(FOREIGN, "AI.*.g", 1, ILK),
        Grant(RIVAL, "AI.*.g"),
        Grant(FOREIGN, "AI.*.red", tenant=b"r" * 16),
        Grant(FOREIGN, "AI.*.blue", tenant=b"b" * 16),
        Grant(FOREIGN, "SY.*"),  # a mistake of the operator: it must reach nobody
    ),
    vpns=(VpnRule("AI.*.vpn7@*", MatchKind.GLOB, 7),),
)
_numbers = itertools.count(1)


class Net:
    """A router, and the lines that one test has to it. Names carry the test's number: no test meets another's nodes."""

    def __init__(self, router: RouterProcess) -> None:
        self.router = router
        self.path: Path = router.socket
        self.number = next(_numbers)
        self.lines: list[Line] = []

    def called(self, part: str) -> str:
        return f"AI.t{self.number}.{part}"

    def line(self, uid: int = 0) -> Line:
        line = Line(self.path, uid)
        self.lines.append(line)
        return line

    def node(self, part: str, *, native: bool = True, uid: int = 0, **hello: Any) -> Line:
        """A registered node called AI.t<number>.<part>, or `part` itself where that is a whole name."""
        name = part if part[:3] in ("SY.", "IO.", "RT.", "WF.") else self.called(part)
        return self.line(uid).hello(name, native=native, **hello)

    def pair(self, native: bool = True, to_native: bool = True) -> tuple[Line, Line]:
        return self.node("a", native=native), self.node("b", native=to_native)

    def close(self) -> None:
        for line in self.lines:
            line.close()


@pytest.fixture(scope="module")
def shared_router() -> Iterator[RouterProcess]:
    """Started once for a module, with CONFIG published by this process in the place of SY.config.routes."""
    with private_hive() as hive:
        writer = ConfigWriter.create(hive.root, hive.hive_id)
        writer.publish(CONFIG)
        try:
            yield hive.start_router()
        finally:
            writer.close()


@pytest.fixture
def net(shared_router: RouterProcess) -> Iterator[Net]:
    net = Net(shared_router)
    yield net
    net.close()
    assert shared_router.running(), shared_router.log()
    assert "Traceback" not in shared_router.log(), shared_router.log()
