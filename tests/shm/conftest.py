"""What the tests of shared memory share: private roots that must leave nothing behind, and writers in processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm.writers import Crash, crash
from skep_shm import hive_prefix
from skep_shm.segment import segment_names, unlink


@pytest.fixture
def root() -> Iterator[Path]:
    """A hive folder of its own. What a killed writer left is removed; a test that kills nobody must leave nothing."""
    folder = Path(tempfile.mkdtemp(prefix="skshm"))
    yield folder
    for name in segment_names(hive_prefix(folder)):
        unlink(name)
    shutil.rmtree(folder)


@pytest.fixture
def clean_root(root: Path) -> Iterator[Path]:
    """As `root`; fails the test when a segment is left."""
    yield root
    left = segment_names(hive_prefix(root))
    assert not left, f"left in /dev/shm: {left}"


@pytest.fixture
def crashing(root: Path) -> Callable[..., Crash]:
    """Runs a function of `shm.writers` in a process that is gone, by SIGKILL, when this returns."""
    return lambda function, *arguments: crash(function, root, *arguments)
