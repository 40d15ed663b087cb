"""A registrar on a folder of its own, with a clock that tests move, and what agents read of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from degrees.school import School
from support.memory import memory_folder


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: the registrar syncs at every step, and thousands of its crashes are tried."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def school(tmp_path: Path) -> Iterator[School]:
    with School(tmp_path) as made:
        yield made


@pytest.fixture
def ids() -> Iterator[bytes]:
    return (number.to_bytes(16, "big") for number in itertools.count(1))
