"""SY.config.routes: the node that owns the hive's configuration. `python -m skep_nodes.sy.config_routes --hive
ROOT`.

This is the shell around `ConfigDesk`: it reads the clock, holds the region and answers. The region is published
before the node links, so a router becomes ready without waiting for a message. Verbs: CONFIG_CHANGED (answered by
one CONFIG_RESPONSE), CONFIG_ROUTES_GET, and the admin actions list|add|delete of routes and vpns.

A broadcast CONFIG_CHANGED about something this node does not own belongs to another system node: answering it too
would give the sender two answers, so it is passed over in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from skep import Hive, Message, Node
from skep.protocol.message import BROADCAST
from skep_nodes.sy.config_change import SUBSYSTEMS
from skep_nodes.sy.config_desk import Answer, ConfigDesk
from skep_nodes.sy.config_store import ConfigDamaged, ConfigStore
from skep_nodes.sy.system_node import beat, hive_of_arguments, ring_doorbell, say, wall_ms, wall_text
from skep_shm import ConfigState, ConfigWriter, RegionError, RegionKind

NAME = "SY.config.routes"
ACTIONS = ("list_routes", "add_route", "delete_route", "list_vpns", "add_vpn", "delete_vpn")


class ConfigRoutes:
    """The node: store, region and desk, joined."""

    def __init__(self, hive: Hive) -> None:
        store = ConfigStore(hive.config_dir)
        loaded = store.load()
        for warning in loaded.warnings:
            say(NAME, f"WARNING {warning}")
        state = loaded.state or ConfigState(version=1)
        self.region = ConfigWriter.create(hive.root, hive.hive_id)
        self.region.publish(state)
        self.desk = ConfigDesk(hive.hive_id, state, store, self.region.publish)
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._declare()

    def _declare(self) -> None:
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        self.node.on_system("CONFIG_CHANGED")(self._changed)
        self.node.on_system("CONFIG_ROUTES_GET")(self._get)
        for action in ACTIONS:
            self.node.on_message(self._admin, action=action)

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.region.close()

    async def _start(self) -> None:
        self._tasks.add(asyncio.create_task(beat(self.region.heartbeat)))
        ring_doorbell(self.node, RegionKind.CONFIG)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _changed(self, message: Message) -> dict[str, Any] | None:
        payload = _payload(message)
        subsystem = payload.get("subsystem") if isinstance(payload, dict) else None
        if message.destination == BROADCAST and subsystem not in SUBSYSTEMS:
            return None
        return self._answered(self.desk.change(payload, message.source_name, wall_ms(), wall_text()))

    async def _get(self, message: Message) -> dict[str, Any]:
        return self.desk.full_state()

    async def _admin(self, message: Message) -> dict[str, Any]:
        action, payload = message.action, _payload(message)
        return self._answered(self.desk.admin(action, payload, message.source_name, wall_ms(), wall_text()))

    def _answered(self, answer: Answer) -> dict[str, Any]:
        for warning in answer.warnings:
            say(NAME, f"WARNING {warning}")
        if answer.published:
            ring_doorbell(self.node, RegionKind.CONFIG)
        return answer.payload


def _payload(message: Message) -> Any:
    """The payload, or None when it is not what it says it is; the desk answers that like any wrong payload."""
    try:
        return message.payload
    except ValueError:
        return None


def main() -> int:
    """Run the node; 1 when it cannot own the configuration."""
    hive = hive_of_arguments("SY.config.routes: owns the hive's configuration.")
    try:
        node = ConfigRoutes(hive)
    except ConfigDamaged as error:
        say(
            NAME, f"cannot start: {error}. Restore the file, or remove both copies to begin with an empty one"
        )
        return 1
    except RegionError as error:
        say(NAME, f"cannot start: {error}")
        return 1
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
