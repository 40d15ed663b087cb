"""Commands that read: they look into shared memory and send nothing, so they also work on a hive that hangs."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import skep_shm
from skep import find_hive
from skep_nodes.cli.expected import listener
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Output
from skep_nodes.sy.config_document import plain
from skep_shm import NodeRecord

WATCH_S = 0.2  # between two looks at a revision word: quick for a person, nothing for a machine

NODES = [
    Column("name", "NAME", flexible=True), Column("uuid", "UUID", first=8), Column("pid", "PID", right=True),
    Column("uid", "UID", right=True), Column("vpn_id", "VPN", right=True), Column("framing", "FRAMING"),
    Column("up", "UP", right=True),
]  # fmt: skip
THREADS = [
    Column("thread", "THREAD", flexible=True), Column("handler", "HANDLER", flexible=True),
    Column("lease", "LEASE", right=True), Column("reason", "REASON", flexible=True),
]  # fmt: skip
CONFIG = {
    "routes": [
        Column("prefix", "PREFIX", flexible=True), Column("match_kind", "MATCH"), Column("action", "ACTION"),
        Column("to", "TO", flexible=True), Column("priority", "PRIO", right=True),
        Column("metric", "METRIC", right=True),
    ],
    "vpns": [
        Column("pattern", "PATTERN", flexible=True), Column("match_kind", "MATCH"),
        Column("vpn_id", "VPN", right=True), Column("priority", "PRIO", right=True),
    ],
    "grants": [
        Column("pattern", "PATTERN", flexible=True), Column("uid", "UID", right=True), Column("user", "USER"),
        Column("ilk", "ILK", flexible=True), Column("tenant", "TENANT", flexible=True),
        Column("channel_kinds", "CHANNELS", flexible=True),
    ],
}  # fmt: skip


def node_ls(root: Path | None, out: Output, watch: bool) -> int:
    """`skep node ls`."""
    folder = find_hive(root).root
    readers = routers_of(folder)
    seen = [reader.revision for reader in readers]
    out.rows("skep.nodes/1", "nodes", [node_facts(*pair) for pair in all_nodes(readers)], NODES)
    while watch:
        time.sleep(WATCH_S)
        now = [reader.revision for reader in readers]
        if now != seen:
            seen = now
            out.text("")
            out.rows("skep.nodes/1", "nodes", [node_facts(*pair) for pair in all_nodes(readers)], NODES)
    return Exit.OK


def node_info(root: Path | None, out: Output, wanted: str) -> int:
    """`skep node info`."""
    hive = find_hive(root)
    pairs = all_nodes(routers_of(hive.root))
    full = wanted if "@" in wanted else f"{wanted}@{hive.hive_id}"
    found = [pair for pair in pairs if full == pair[1].name or wanted == str(UUID(bytes=pair[1].uuid))]
    if not found:
        raise Failure("NODE_NOT_FOUND", f"no node is connected as {wanted}", then="skep node ls",
                      exit_code=Exit.NOT_FOUND)  # fmt: skip
    for router, record in found:
        out.one("skep.node/1", node_facts(router, record) | _more_facts(record), record.name)
    return Exit.OK


def routers_of(folder: Path) -> list[skep_shm.NodesReader]:
    """A reader for each router of the hive. Raises Failure when none runs."""
    readers = list(skep_shm.nodes_readers(folder))
    if not readers and any(listener(path) for path in (folder / "run" / "routers").glob("*.sock")):
        raise Failure("REGION_NOT_FOUND", "a router listens, but its node table is missing from shared memory",
                      then="skep doctor", exit_code=Exit.NOT_FOUND)  # fmt: skip
    if not readers:
        raise Failure("NOT_RUNNING", f"no router runs in {folder}", why="no node table is in shared memory",
                      then=f"skep up --hive {folder}", exit_code=Exit.NOT_FOUND)  # fmt: skip
    return readers


def all_nodes(readers: list[skep_shm.NodesReader]) -> list[tuple[str, NodeRecord]]:
    """(router's name, record) of every connected node, by name."""
    pairs = [(reader.header().router_name, record) for reader in readers for record in reader.all()]
    return sorted(pairs, key=lambda pair: (pair[1].name, pair[1].uuid))


def node_facts(router: str, record: NodeRecord) -> dict[str, Any]:
    """One node as every form prints it."""
    age = max(0, time.time_ns() // 1_000_000 - record.connected_at_ms)
    return {
        "name": record.name, "uuid": str(UUID(bytes=record.uuid)), "pid": record.pid, "uid": record.uid,
        "vpn_id": record.vpn_id, "framing": "native" if record.framing else "json", "up": duration(age / 1000),
        "up_s": age / 1000, "connected_at_ms": record.connected_at_ms, "router": router,
    }  # fmt: skip


def _more_facts(record: NodeRecord) -> dict[str, Any]:
    when = datetime.fromtimestamp(record.connected_at_ms / 1000, UTC).isoformat(timespec="seconds")
    return {
        "connected_at": when, "tenant": _id("tnt", record.tenant), "ilk": _id("ilk", record.ilk),
        "process": "alive" if os.path.exists(f"/proc/{record.pid}") else "not on this machine, or gone",
    }  # fmt: skip


def _id(kind: str, value: bytes) -> str | None:
    return f"{kind}:{UUID(bytes=value)}" if any(value) else None


def thread_ls(root: Path | None, out: Output) -> int:
    """`skep thread ls`."""
    folder = find_hive(root).root
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    bindings = [each for each in skep_shm.ThreadsReader.attach(folder).all() if each.handler]
    rows = [
        {
            "thread": f"thread:sha256:{each.thread.hex()}", "handler": each.handler, "reason": each.reason,
            **_lease(each, now),
        }
        for each in bindings
    ]  # fmt: skip
    out.rows("skep.threads/1", "threads", rows, THREADS)
    return Exit.OK


def _lease(binding: skep_shm.Binding, now_ns: int) -> dict[str, Any]:
    """What is left of the lease, for people and as a number; None for a binding without one."""
    left_s = (binding.lease_until_ns - now_ns) / 1e9 if binding.lease_until_ns else None
    return {"lease": None if left_s is None else duration(left_s), "lease_s": left_s}


def config_ls(root: Path | None, out: Output, section: str) -> int:
    """`skep route ls`, `skep vpn ls`, `skep grant ls`."""
    state = skep_shm.ConfigReader.attach(find_hive(root).root).read()
    rows = plain(state)[section]
    if section == "vpns":
        rows = sorted(rows, key=lambda rule: int(rule["priority"]))
    out.rows(f"skep.{section}/1", section, [row | _shown(section, row) for row in rows], CONFIG[section])
    return Exit.OK


def _shown(section: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a person wants to see beside the stored facts."""
    if section == "routes":
        hive = row.get("next_hop_hive")
        return {"to": row.get("next_hop_name") or (f"hive {hive}" if hive else None)}
    return {"user": _user(row["uid"])} if section == "grants" else {}


def _user(uid: int) -> str | None:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def duration(seconds: float) -> str:
    """A time span in two units at most: 3d4h, 12m05s, 1.2s."""
    whole = int(seconds)
    if seconds < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"
