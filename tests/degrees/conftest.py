"""A registrar on a folder of its own, with a clock that tests move, and what agents read of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from degrees.school import School


@pytest.fixture
def school(tmp_path: Path) -> Iterator[School]:
    with School(tmp_path) as made:
        yield made


@pytest.fixture
def ids() -> Iterator[bytes]:
    return (number.to_bytes(16, "big") for number in itertools.count(1))
