"""Which regions of shared memory must be there, judged by the processes that run.

A region that somebody unlinked keeps working for those who have it open, while everybody who comes later finds
nothing: the check of what is there says all is sound, and new nodes are strangers. So the writers are asked for
first, routers by their sockets, system nodes by the node table or their command line, and what they should have made
is looked for. Whoever is just starting has a moment to make it.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import skep_shm
from skep.hive import Hive
from skep_shm import RegionError, inspect

SETTLE_S = 0.5  # a process that is starting has made its regions by then
ROUTER_REGIONS = ("nodes", "records")
SYSTEM_REGIONS = {
    "SY.config.routes": ("config", "skep_nodes.sy.config_routes"),
    "SY.threads": ("threads", "skep_nodes.sy.threads"),
    "SY.opa.rules": ("policy", "skep_nodes.sy.opa_rules"),
}


@dataclass(frozen=True, slots=True)
class Missing:
    """A region that is not there, and who should have made it."""

    region: str
    writer: str
    pid: int

    def __str__(self) -> str:
        return f"{self.region} of {self.writer} (pid {self.pid})"


def missing_regions(hive: Hive) -> list[Missing]:
    """Regions that are missing though their writers run; those still missing after a moment."""
    found = _missing(hive)
    if found:
        time.sleep(SETTLE_S)
        found = [each for each in _missing(hive) if each in found]
    return found


def _missing(hive: Hive) -> list[Missing]:
    there = set(inspect.region_names(hive.root))
    wanted = [
        Missing(f"{kind}-{path.stem}", "the router", pid)
        for path in hive.sockets_dir.glob("*.sock")
        if len(path.stem) == 32 and (pid := listener(path))
        for kind in ROUTER_REGIONS
    ]
    for name, (region, module) in SYSTEM_REGIONS.items():
        if region not in there and (pid := _pid_of(hive, name, module)):
            wanted.append(Missing(region, name, pid))
    return [each for each in wanted if each.region not in there]


def listener(path: Path) -> int:
    """The process that listens on a Unix socket; 0 when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            facts = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
    return int(struct.unpack("3i", facts)[0])


def _pid_of(hive: Hive, name: str, module: str) -> int:
    """The process of a system node, by the node table, and without one by its command line."""
    full = f"{name}@{hive.hive_id}"
    for reader in skep_shm.nodes_readers(hive.root):
        try:
            pids = [record.pid for record in reader.all() if record.name == full]
        except RegionError:
            continue  # `skep shm check` names what is wrong with it
        finally:
            reader.close()
        if pids:
            return pids[0]
    return next((pid for pid, words in _commands() if module in words and str(hive.root) in words), 0)


def _commands() -> list[tuple[int, list[str]]]:
    """Every process and the words of its command line, as far as we may read them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended meanwhile
            found.append((int(entry.name), words))
    return found
