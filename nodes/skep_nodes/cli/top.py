"""`skep top`: what happens in the hive, as one picture that renews itself.

The picture is made by one function from plain facts, so `--once` prints exactly what the screen shows. Facts come
from shared memory; the routers' counters by one ROUTER_STATS a second, and without an answer the picture says so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skep import DeliveryError, Node, find_hive
from skep.hive import Hive
from skep_nodes.cli.failure import Exit
from skep_nodes.cli.reading import all_nodes, node_facts, routers_of
from skep_nodes.cli.records import RecordsTail, facts_of
from skep_nodes.cli.session import linked
from skep_shm import Record

if TYPE_CHECKING:
    from rich.console import RenderableType

STATS_S = 0.5  # for an answer; a router that needs longer is what the picture should show
JOIN_S = 5.0
EVENTS_SHOWN = 8
NODES_SHOWN = 30
_HOPS = {"HOP_IN", "HOP_OUT", "HOP_QUEUED"}


def top_command(root: Path | None, once: bool, interval_s: float) -> int:
    """Show the picture until interrupted."""
    hive = find_hive(root)
    return asyncio.run(_show(hive, once, interval_s))


async def _show(hive: Hive, once: bool, interval_s: float) -> int:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    tail, recent = RecordsTail(hive.root), list[Record]()
    node = Node(f"SY.cli.{os.getpid()}", hive=hive.root)
    async with linked(node, hive.root, JOIN_S):
        before, before_s = await _stats(node), time.monotonic()
        with Live(console=console, screen=not once and console.is_terminal, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(min(interval_s, 0.3) if once else interval_s)
                now, now_s = await _stats(node), time.monotonic()
                recent = [*recent, *tail.read()][-200:]
                live.update(picture(hive, now, _rates(before, now, now_s - before_s), recent), refresh=True)
                before, before_s = now, now_s
                if once:
                    break
        if not console.is_terminal:
            print()  # rich ends the last line on a screen only
        return Exit.OK


async def _stats(node: Node) -> dict[str, Any]:
    """The router's counters; empty when it does not answer in time."""
    router = node.client.router_name
    try:
        reply = await node.request(router, {}, timeout=STATS_S, type="system", verb="ROUTER_STATS")
    except DeliveryError:
        return {}
    return reply.payload if isinstance(reply.payload, dict) else {}


def _rates(before: dict[str, Any], now: dict[str, Any], seconds: float) -> dict[str, float]:
    """Frames and bytes a second; a counter that went back belongs to a new router."""
    if not before or not now or seconds <= 0:
        return {}
    return {key: max(0, now.get(key, 0) - before.get(key, 0)) / seconds for key in ("frames", "bytes")}


def picture(
    hive: Hive, stats: dict[str, Any], rates: dict[str, float], recent: Sequence[Record]
) -> RenderableType:
    """The whole screen."""
    from rich.console import Group

    return Group(_heading(hive, stats, rates), _nodes(hive), _events(recent))


def _heading(hive: Hive, stats: dict[str, Any], rates: dict[str, float]) -> RenderableType:
    from rich.text import Text

    if not stats:
        return Text(f"hive {hive.hive_id}: the router does not answer", style="bold red")
    facts = [
        f"hive {hive.hive_id}",
        f"{stats.get('nodes', 0)} nodes",
        f"{rates.get('frames', 0):,.0f} frames/s",
        f"{rates.get('bytes', 0) / 1024:,.0f} KiB/s",
        f"{stats.get('held_bytes', 0) >> 10:,} KiB held",
        f"{stats.get('flows', 0):,} flows",
        f"config {stats.get('config_version', 0)}",
    ]
    return Text("  ".join(facts), style="bold")


def _nodes(hive: Hive) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("NODE", ratio=1, no_wrap=True, overflow="ellipsis")
    for heading in ("PID", "UID", "VPN", "UP"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [node_facts(*pair) for pair in all_nodes(routers_of(hive.root))]
    for row in rows[:NODES_SHOWN]:
        table.add_row(row["name"], str(row["pid"]), str(row["uid"]), str(row["vpn_id"]), row["up"])
    if len(rows) > NODES_SHOWN:
        table.add_row(f"… and {len(rows) - NODES_SHOWN} more")
    return table


def _events(recent: Sequence[Record]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("TIME", no_wrap=True)
    table.add_column("EVENT", no_wrap=True)
    table.add_column("WHO", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("WHY", ratio=1, no_wrap=True, overflow="ellipsis")
    shown = [facts for facts in map(facts_of, recent) if facts["kind"] not in _HOPS]
    for facts in shown[-EVENTS_SHOWN:]:
        why = " ".join(facts[name] for name in ("code", "detail") if name in facts)
        table.add_row(facts["at"][11:19], facts["kind"], facts.get("source", ""), why)
    return table
