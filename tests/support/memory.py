"""Folders in memory, for tests that sync thousands of times: where the bytes lie changes nothing of what they show.

A killed process, a failed or torn write and a power cut are made by the tests themselves (a disk that fails at the n-th
call, a shim below the database), so a sync that costs nothing loses no coverage. What measures a disk is on a disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")


def place() -> str:
    """Where such folders are made: in memory, else where all temporary files are."""
    return str(MEMORY) if os.access(MEMORY, os.W_OK) else tempfile.gettempdir()


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A new, private folder; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sk", dir=place()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
