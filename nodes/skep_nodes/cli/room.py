"""Where there is no room left. A process that cannot write cannot say so: its log stands in the same full folder.

So whoever sees it end asks the file systems: the hive's folder, for state and logs, and shared memory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from skep_nodes.cli.failure import Failure

ROOM_BYTES = 256 << 10  # with less, one of the files or regions of a start does not fit
FULL = (errno.ENOSPC, errno.EDQUOT)
SHARED_MEMORY = Path("/dev/shm")


def without_room(root: Path, shared_memory: Path = SHARED_MEMORY) -> str:
    """Which folder is full, in words; empty when none is."""
    for folder in (root, shared_memory):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue  # whoever needs it says so
        left = found.f_bavail * found.f_frsize
        if left < ROOM_BYTES:
            return f"no room in {folder}: {left >> 10} KiB are left"
        if found.f_files and not found.f_favail:
            return f"no room in {folder}: no more files can be made"
    return ""


def no_room(what: str, why: str) -> Failure:
    """The failure; `what` names the folder or file."""
    then = "free space there or enlarge it (see df -h and df -i), then repeat the command"
    return Failure("NO_SPACE", what, why=why, then=then)
