"""SY.decisions: keeps the decision log. `python -m skep_nodes.sy.decisions --hive ROOT [--config FILE]`.

Routers send it DECISIONS; it looks at the regions of identity and policy itself, so that the log also has the data and
the policy that each decision was made by. `skep explain`, `skep policy diff` and `skep policy shadow` read the files.

It never makes anybody wait: routers hold a bounded list and count what does not fit; here a write goes to the page
cache and a sync to a thread. What the disk does not take is lost, counted, and said once.

DECISIONS from anybody but a router is refused: who could write here could make a bad policy look harmless. Verb
DECISIONS_STATUS says how the log is doing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from skep import Hive, Message, Node, RemoteError, find_hive
from skep.protocol.errors import PolicyError
from skep.protocol.names import kind_of
from skep_nodes.sy.decisions_data import HiveData
from skep_nodes.sy.decisions_desk import Accepted, Settings, accept, read_settings
from skep_nodes.sy.decisions_policy import PolicyInForce
from skep_nodes.sy.decisions_store import SYNC_S, DecisionLog, log_files
from skep_nodes.sy.durable import Disk
from skep_nodes.sy.standing import FindSender, Standing, sender_of
from skep_nodes.sy.system_node import say, wall_text

NAME: Final = "SY.decisions"
LOOK_S: Final = 0.2  # how late a change of the data may stand in the log, when no decision comes
FOLDER: Final = "decisions"


def log_folder(hive: Hive) -> Path:
    """Where the hive's decisions are."""
    return hive.state_dir / FOLDER


class DecisionKeeper:
    """Data, policy and files, joined; everything but the node."""

    def __init__(self, hive: Hive, settings: Settings, seals: str = "off", disk: Disk | None = None) -> None:
        self.masks = settings.masks
        self.data = HiveData(hive.root, hive.hive_id, seals)
        self.policy = PolicyInForce(hive.root, hive.hive_id)
        self.log = DecisionLog(log_folder(hive), self._head, settings.bounds, disk)
        self.invalid_count = 0
        self.look(time.monotonic())

    def _head(self) -> list[dict[str, Any]]:
        at = wall_text()
        return [{**self.data.whole_line(), "at": at}, {**self.policy.line, "at": at}]

    def look(self, now_s: float) -> None:
        """Bring data and policy up to date, and write what has changed of them. A log without decisions has no file."""
        lines = []
        patches = self.data.look()
        if patches:
            lines.append({**self.data.patch_line(patches), "at": wall_text()})
        if self.policy.look():
            lines.append({**self.policy.line, "at": wall_text()})
        if lines and self.log.is_open:
            self._write(lines, now_s)

    def keep(self, payload: bytes, router: str, now_s: float) -> Accepted:
        """Keep the decisions of one payload."""
        self.look(now_s)
        found = accept(payload, router, self.masks)
        self.invalid_count += found.invalid
        missing = found.lost + found.invalid
        if not self._write(found.documents, now_s):
            missing += found.decisions
        self.log.lose(missing)
        return found

    def _write(self, lines: Sequence[dict[str, Any]], now_s: float) -> bool:
        return self.log.write(lines, now_s, datetime.now(UTC))

    def status(self) -> dict[str, Any]:
        """How the log is doing."""
        return {
            "status": "ok", "written": self.log.written_count, "lost": self.log.lost_count,
            "invalid": self.invalid_count, "size_bytes": self.log.size_bytes(),
            "files": len(log_files(self.log.folder)), "masks": len(self.masks),
            "policy_version": self.policy.version, "data_revision": self.data.revision._asdict(),
        }  # fmt: skip

    def close(self) -> None:
        self.log.end()
        self.data.close()
        self.policy.close()


class Decisions:
    """The node."""

    def __init__(self, hive: Hive, settings: Settings, seals: str = "off") -> None:
        self.keeper = DecisionKeeper(hive, settings, seals)
        self.find_sender: FindSender = partial(sender_of, hive.root)
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=1)
        self._task: asyncio.Task[None] | None = None
        self._said = False
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        self.node.on_system("DECISIONS")(self._keep)
        self.node.on_system("DECISIONS_STATUS")(self._status)

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.keeper.close()

    async def _start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._sync()

    async def _keep(self, message: Message) -> None:
        sender = self.find_sender(message.source)
        if sender.standing is not Standing.SYSTEM or kind_of(sender.name) != "RT":
            raise RemoteError("FORBIDDEN", f"{message.source_name} is no router of this hive")
        before = self.keeper.log.lost_count
        self.keeper.keep(message.payload_bytes, sender.name, time.monotonic())
        if self.keeper.log.lost_count != before and not self._said:
            self._said = True
            say(NAME, "WARNING decisions were lost; `losses` beside the log and DECISIONS_STATUS count them")

    async def _status(self, message: Message) -> dict[str, Any]:
        return self.keeper.status()

    async def _follow(self) -> None:
        """Look at the regions, and sync, until cancelled."""
        due_s = time.monotonic() + SYNC_S
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = time.monotonic()
            self.keeper.look(now_s)
            if now_s >= due_s:
                await self._sync()
                due_s = now_s + SYNC_S

    async def _sync(self) -> None:
        log = self.keeper.log
        if not log.unsynced:
            return
        try:
            await asyncio.to_thread(log.sync_job())
        except OSError as error:
            say(NAME, f"WARNING a sync failed ({error.strerror}): a file ends here, another begins")
            log.end()


def main() -> int:
    """Run the node; 1 when the log cannot be kept."""
    parser = argparse.ArgumentParser(description="SY.decisions: keeps the decision log.")
    parser.add_argument("--hive", type=Path, default=None, help="the hive's folder")
    parser.add_argument(
        "--config", type=Path, default=None, help="a JSON file: masks, file_mib, file_hours, total_mib"
    )
    parser.add_argument("--seals", choices=("off", "warn", "require"), default="off", help="as the routers are told")
    arguments = parser.parse_args()
    hive = find_hive(arguments.hive)
    try:
        node = Decisions(hive, read_settings(arguments.config), arguments.seals)
    except (OSError, PolicyError) as error:
        say(NAME, f"cannot start: {error}")
        return 1
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
