"""The test helpers themselves: deadlines, private hives, foreign uids, and the table of goals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.goals import GOALS, GoalTable
from support.hives import SHM, private_hive, run_as
from support.tools import missing
from support.wait import NeverHappenedError, eventually, eventually_async


def test_eventually_returns_the_value_and_names_what_it_last_saw() -> None:
    answers = iter([0, 0, 7])
    assert eventually(lambda: next(answers)) == 7
    with pytest.raises(NeverHappenedError, match=r"door open did not hold within 0.01 s; last seen: None"):
        eventually(lambda: None, 0.01, "door open")


async def test_eventually_async_awaits_coroutines() -> None:
    async def fact() -> str:
        return "yes"

    assert await eventually_async(fact) == "yes"


def test_hive_root_is_short_private_and_gone_afterwards() -> None:
    with private_hive() as hive:
        assert len(os.fsencode(hive.sockets_dir / ("0" * 32 + ".sock"))) < 107
        child = hive.start("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
        assert child.running()
    assert not hive.root.exists()
    assert not child.running()


def test_a_leaked_segment_fails_the_test() -> None:
    def leak() -> None:
        with private_hive() as hive:
            leaked.append(SHM / f"skep-0-{hive.digest}-x")
            leaked[0].touch()

    leaked: list[Path] = []
    with pytest.raises(AssertionError, match="segments left"):
        leak()
    assert not leaked[0].exists()


def test_a_real_router_serves_the_private_hive_and_leaves_nothing_behind() -> None:
    with private_hive() as hive:
        router = hive.start_router()
        assert router.socket.is_socket()
        assert hive.segments()
        assert router.stop() == 0
        assert not hive.segments()
        assert not hive.sockets()


@pytest.mark.needs("root")
def test_run_as_changes_the_uid_and_reports_failure() -> None:
    def check() -> None:
        assert os.getuid() == 12345

    assert run_as(12345, check) == 0
    assert run_as(12346, check) == 1


def test_goal_table_shows_every_goal(tmp_path: Path) -> None:
    table = GoalTable(tmp_path)
    table.known.add("G8")
    table.tallies["G9"].outcomes["passed"] = 2
    lines = table.lines()
    assert len(lines) == len(GOALS) + 1 == 27
    assert "not selected" in lines[8]
    assert "passed" in lines[9]
    assert "not covered yet" in lines[10]


def test_a_missing_tool_names_the_line_that_installs_it() -> None:
    assert "apt-get install gcc" in missing("gcc")
