"""`node.run()` as a process: told to stop, it stops, whatever it was doing."""

from __future__ import annotations

import signal
import sys

from support.hives import REPO, HiveFolder, environment
from support.wait import eventually


def test_a_node_that_waits_for_its_router_stops_at_once(hive_folder: HiveFolder) -> None:
    argv = [sys.executable, str(REPO / "examples" / "01_echo.py")]
    child = hive_folder.start("echo", argv, env=environment(SKEP_HIVE=str(hive_folder.root)))
    status = f"/proc/{child.pid}/status"

    def catches_sigterm() -> bool:
        with open(status) as lines:
            mask = next(line for line in lines if line.startswith("SigCgt"))
        return bool(int(mask.split()[1], 16) & 1 << (signal.SIGTERM - 1))

    eventually(catches_sigterm, within=10)
    assert child.stop(within=3) == 0, child.log()
