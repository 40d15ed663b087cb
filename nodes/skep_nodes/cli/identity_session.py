"""Talking to SY.identity: one question and its answer, or a list in as many answers as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skep import Node
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.session import answered, joined

OWNER = "SY.identity"
PAGES_MAX = 1 << 17  # of a hundred: far more than a hive keeps
_EXITS = {
    "ILK_NOT_FOUND": Exit.NOT_FOUND, "NOT_FOUND": Exit.NOT_FOUND, "INVALID_TENANT": Exit.NOT_FOUND,
    "UNAUTHORIZED_REGISTRAR": Exit.DENIED, "DB_NOT_READY": Exit.UNREACHABLE, "BUSY": Exit.UNREACHABLE,
    "INVALID_REQUEST": Exit.USAGE, "VOCABULARY_INVALID": Exit.USAGE,
    **dict.fromkeys(
        ("DUPLICATE_EMAIL", "DUPLICATE_ICH", "DUPLICATE_NODE_NAME", "DUPLICATE_CONSTRAINT", "INVALID_SPLIT",
         "INVALID_TENANT_TRANSITION", "INVALID_MERGE_SOURCE"), Exit.CONFLICT,
    ),
}  # fmt: skip
_NEXT = {
    "ILK_NOT_FOUND": "skep identity ls", "NOT_FOUND": "skep identity ls", "INVALID_TENANT": "skep tenant ls",
    "UNAUTHORIZED_REGISTRAR": "run it as the account that owns the hive's folder",
    "INVALID_MERGE_SOURCE": "skep identity show, of both", "INVALID_SPLIT": "skep identity history ILK",
    "INVALID_TENANT_TRANSITION": "skep tenant ls", "DB_NOT_READY": "skep doctor, then repeat it",
}  # fmt: skip


async def say(node: Node, verb: str, payload: dict[str, Any], what: str, timeout: float) -> dict[str, Any]:
    """One answer. Raises Failure."""
    reply = await node.request(OWNER, payload, timeout=timeout, type="system", verb=verb)
    try:
        return answered(reply.payload, what)
    except Failure as failure:
        failure.exit_code = _EXITS.get(failure.code, failure.exit_code)
        failure.then = _NEXT.get(failure.code, failure.then)
        raise


def ask(root: Path | None, verb: str, payload: dict[str, Any], what: str, timeout: float) -> dict[str, Any]:
    """The same, joining the hive for it."""

    async def send(node: Node) -> dict[str, Any]:
        return await say(node, verb, payload, what, timeout)

    return joined(root, "", send, timeout)


def ask_all(
    root: Path | None, verb: str, noun: str, asked: dict[str, Any], cursor: str, limit: int, timeout: float
) -> list[dict[str, Any]]:
    """The rows of a list, up to `limit` (0: all), page by page. Raises Failure."""

    async def collect(node: Node) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        payload = dict(asked)
        for _ in _pages():
            page = await say(node, verb, payload, f"listing {noun}", timeout)
            rows += page[noun]
            if "next" not in page or (limit and len(rows) >= limit):
                break
            payload[cursor] = page["next"]
        return rows[:limit] if limit else rows

    return joined(root, "", collect, timeout)


def _pages() -> Iterator[int]:
    yield from range(PAGES_MAX)
