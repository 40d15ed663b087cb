"""What every test gets: the table of goals, named skips, and private hives that must leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import tools
from support.goals import GoalTable
from support.hives import HiveFolder, RouterProcess, private_hive

# A commit's run is the same every time (a flaky test helps nobody); the nightly tier explores, and prints its seed.
settings.register_profile("commit", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, max_examples=1000, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goals", action="store_true", help="print the table of reliability goals at the end")
    parser.addoption("--nightly", action="store_true", help="also run tests marked nightly")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("nightly" if config.getoption("--nightly") else "commit")
    config.pluginmanager.register(GoalTable(config.rootpath), "skep-goals")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves nightly tests out unless asked for: deselected and counted by pytest, not skipped."""
    if config.getoption("--nightly"):
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for tool in mark.args:
            tools.need(tool)


@pytest.fixture
def hive_folder() -> Iterator[HiveFolder]:
    """A private hive folder under a short path; fails the test if a process or a segment outlives it."""
    with private_hive() as hive:
        yield hive


@pytest.fixture
def hive_root(hive_folder: HiveFolder) -> Path:
    """The root path of the private hive."""
    return hive_folder.root


@pytest.fixture
def router(hive_folder: HiveFolder) -> RouterProcess:
    """A real router process, ready, serving the private hive."""
    return hive_folder.start_router()
