"""SY.opa.rules on a disk that kills the process: `python -m nodes.opa_killed --hive ROOT --nth N [--after]`.

Counting starts when the node is made, so N is the N-th disk call of the first change. kill -9 to itself leaves exactly
what a crash leaves: no handler, no flush, no farewell.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from nodes.sy_disk import OPERATIONS
from skep import find_hive
from skep_nodes.sy.durable import Disk
from skep_nodes.sy.opa_rules import OpaRules


class KillingDisk(Disk):
    """Ends the process before or after its n-th call once it is armed."""

    def __init__(self, nth: int, after: bool) -> None:
        self.left = nth
        self.after = after
        self.armed = False

    def __getattribute__(self, name: str):  # type: ignore[no-untyped-def]
        real = super().__getattribute__(name)
        return self._counted(real) if name in OPERATIONS and self.armed else real

    def _counted(self, real):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            self.left -= 1
            if self.left == 0 and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hive", type=Path, required=True)
    parser.add_argument("--nth", type=int, required=True)
    parser.add_argument("--after", action="store_true")
    options = parser.parse_args()
    disk = KillingDisk(options.nth, options.after)
    owner = OpaRules(find_hive(options.hive), disk)
    disk.armed = True
    owner.run()


if __name__ == "__main__":
    main()
