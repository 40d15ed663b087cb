"""SY.tap: keeps a copy of every turn. `python -m skep_nodes.sy.tap --hive ROOT`.

Routers send it TAP frames: canonical ILK (16 bytes), tenant (16 bytes), then whole native frames. Each goes into
the spool as it came. The tap never slows a turn: what it cannot keep is counted, by the router or by the spool.
`read_turns` is how everybody else reads the spool.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from skep import Hive, Message, Node
from skep.protocol.errors import ProtocolError
from skep.protocol.header import Frame, parse_frame
from skep_nodes.sy.spool import Spool, read_records, spool_files
from skep_nodes.sy.system_node import hive_of_arguments, say

NAME = "SY.tap"
PREFIX_BYTES = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """One tapped frame, and whose it is; zero bytes mean none."""

    ilk: bytes
    tenant: bytes
    frame: Frame


def spool_folder(hive: Hive) -> Path:
    """Where the hive's turns are."""
    return hive.state_dir / "tap"


def read_turns(path: Path) -> Iterator[Turn]:
    """Every turn in a spool folder, or in one of its files, oldest first."""
    for file in spool_files(path) if path.is_dir() else [path]:
        for record in read_records(file):
            yield from turns_of(record)


def turns_of(record: bytes) -> Iterator[Turn]:
    """The turns of one TAP payload. A frame that cannot be read ends the record: its length is not to be trusted."""
    ilk, tenant, at = record[:16], record[16:PREFIX_BYTES], PREFIX_BYTES
    while at < len(record):
        size = int.from_bytes(record[at : at + 4], "little")
        if not 4 < size <= len(record) - at:
            return
        try:
            yield Turn(ilk, tenant, parse_frame(record, at, at + size))
        except ProtocolError:
            return
        at += size


class Tap:
    """The node and its spool."""

    def __init__(self, hive: Hive) -> None:
        self.spool = Spool(spool_folder(hive))
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=1)
        self.node.on_message(self._keep)

    async def _keep(self, message: Message) -> None:
        before = self.spool.lost_count
        if not self.spool.append(message.payload_bytes) and before == 0:
            say(NAME, "WARNING a record was lost; `losses` beside the spool counts them")

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.spool.close()


def main() -> int:
    """Run the node; 1 when the spool cannot be opened."""
    hive = hive_of_arguments("SY.tap: keeps a copy of every turn.")
    try:
        tap = Tap(hive)
    except OSError as error:
        say(NAME, f"cannot start: {error}")
        return 1
    tap.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
