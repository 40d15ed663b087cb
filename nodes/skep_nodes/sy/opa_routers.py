"""Which routers are on the new policy: every live router of the hive is asked until it is, or until the deadline.

A router says in ROUTER_STATS, member `policy`, which version it runs and what went wrong with a newer one. Silence is
an answer too: a router that did not answer, or still has an older version, is named in `pending`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skep_shm import RegionError, nodes_readers
from skep_shm.inspect import writer_alive

ROUTERS_MAX: Final = 64  # asked at once; a hive has a handful
ASK_S: Final = 1.0  # one question
PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2)  # between questions; the last one repeats
SETTLE_S: Final = (
    1.5  # a router that still shows trouble then has it with the new version: it switches within a second
)
LOAD_OK, LOAD_ERROR, LOAD_LOADING = 0, 1, 2

Ask = Callable[
    [str, float], Awaitable[dict[str, Any] | None]
]  # (router, seconds) -> its statistics, None: silence


@dataclass(frozen=True, slots=True)
class Router:
    """One router of the hive."""

    name: str
    uuid: bytes


@dataclass(frozen=True, slots=True)
class Collected:
    """A row per router, and the names of those that are not there yet."""

    rows: list[dict[str, Any]]
    pending: list[str]

    @property
    def failed(self) -> list[str]:
        return [row["router"] for row in self.rows if row["status"] == "error"]


def routers_of(root: Path) -> list[Router]:
    """The live routers of the hive, by name; the region that a killed one left is not a router."""
    found = {}
    for reader in nodes_readers(root):
        try:
            header = reader.header()
            if writer_alive(header):
                found[header.router_name] = Router(header.router_name, header.router_uuid)
        except RegionError:
            continue  # it ended while we looked
        finally:
            reader.close()
    return [found[name] for name in sorted(found)[:ROUTERS_MAX]]


async def collect(routers: Sequence[Router], ask: Ask, version: int, within_s: float) -> Collected:
    """Ask every router until it runs `version` or newer, or refused it, or `within_s` is over."""
    rows = await asyncio.gather(*(_follow(router, ask, version, within_s) for router in routers))
    pending = [row["router"] for row in rows if row["status"] == "pending"]
    return Collected(list(rows), pending)


async def _follow(router: Router, ask: Ask, version: int, within_s: float) -> dict[str, Any]:
    clock = asyncio.get_running_loop().time
    began, turn = clock(), 0
    while True:
        left_s = began + within_s - clock()
        policy = _policy_of(await ask(router.name, max(0.01, min(ASK_S, left_s))))
        took_s = clock() - began
        row = row_of(router, policy, version, int(took_s * 1000), settled=took_s >= min(SETTLE_S, within_s))
        if row["status"] != "pending" or took_s >= within_s:
            return row
        await asyncio.sleep(PAUSES_S[min(turn, len(PAUSES_S) - 1)])
        turn += 1


def _policy_of(statistics: dict[str, Any] | None) -> dict[str, Any] | None:
    policy = None if statistics is None else statistics.get("policy")
    return policy if isinstance(policy, dict) else None


def row_of(
    router: Router, policy: dict[str, Any] | None, version: int, took_ms: int = 0, *, settled: bool = True
) -> dict[str, Any]:
    """What an answer says of one router; `version` is the one it should run, 0 for any.

    `settled`: it had its time, so trouble that does not say which version it is about is about this one.
    """
    facts = policy or {}
    runs, load, error = (
        facts.get("version", 0),
        facts.get("load_status", LOAD_LOADING),
        facts.get("error") or "",
    )
    if policy is None:
        status, error = "pending", "it does not answer, or knows of no policy"
    elif isinstance(runs, int) and runs >= max(version, 1):
        status = "ok"
    elif load == LOAD_ERROR and facts.get("refused_version", version if settled else None) == version:
        status = "error"
    else:
        status = "pending"
    return {
        "router": router.name, "router_id": str(uuid.UUID(bytes=router.uuid)), "policy_version": runs,
        "load_status": load, "status": status, "took_ms": took_ms, **({"error": str(error)} if error else {}),
    }  # fmt: skip
