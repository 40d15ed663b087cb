"""A router that finds no room in /dev/shm says so and leaves nothing behind: the next start needs that room."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.hives import environment, private_hive

SIZES_KIB = (8, 256, 1024)  # of the node table: nothing, a part; of the ring of hop records: a part


@pytest.mark.goal("G5")
@pytest.mark.needs("root")
@pytest.mark.parametrize("size", SIZES_KIB)
def test_what_was_made_is_taken_away(size: int) -> None:
    with private_hive("bee") as hive:
        router = f'"{sys.executable}" -m skep_router --hive "{hive.root}" --name RT.main'
        script = f"mount -t tmpfs -o size={size}k tmpfs /dev/shm && {{ {router}; echo $?; ls -A /dev/shm; echo end; }}"
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=30, env=environment()
        )  # fmt: skip
    assert "router cannot start" in done.stderr, done
    assert "room" in done.stderr
    assert done.stdout == "1\nend\n"
