"""System nodes as processes, and what the regions say about a hive: shared by the end-to-end tests."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from skep_shm import RegionError, nodes_readers
from support.hives import Child, HiveFolder

MODULES = {"SY.config.routes": "skep_nodes.sy.config_routes", "SY.threads": "skep_nodes.sy.threads"}


def start_system(hive: HiveFolder, name: str) -> Child:
    return hive.start(name, [sys.executable, "-m", MODULES[name], "--hive", str(hive.root)])


def listed(root: Path) -> list[str]:
    """Base names in the node tables of all routers, sorted."""
    names = []
    try:
        for reader in nodes_readers(root):
            names += [record.name.partition("@")[0] for record in reader.all()]
            reader.close()
    except RegionError:
        return []
    return sorted(names)


async def paced(stop: asyncio.Event, seconds: float) -> None:
    """Waits, but not past `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
