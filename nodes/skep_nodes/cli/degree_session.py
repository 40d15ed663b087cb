"""Talking to SY.registrar: one question and its answer, or a list in as many answers as it takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from skep import Node
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.session import answered, joined

OWNER = "SY.registrar"
PAGES_MAX = 4096  # of 48 KiB: far more than the registrar keeps


def ask(root: Path | None, verb: str, payload: dict[str, Any], what: str, timeout: float) -> dict[str, Any]:
    """One answer. Raises Failure."""

    async def send(node: Node) -> dict[str, Any]:
        reply = await node.request(OWNER, payload, timeout=timeout, type="system", verb=verb, sampled=True)
        return answered(reply.payload, what)

    return joined(root, "", send, timeout)


def ask_all(root: Path | None, verb: str, noun: str, timeout: float) -> list[dict[str, Any]]:
    """Every row of a list. Raises Failure."""

    async def collect(node: Node) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        start = 0
        for _ in range(PAGES_MAX):
            reply = await node.request(OWNER, {"from": start}, timeout=timeout, type="system", verb=verb)
            page = answered(reply.payload, f"listing {noun}")
            rows += page[noun]
            if "next" not in page:
                break
            start = page["next"]
        return rows

    return joined(root, "", collect, timeout)


def confirm(what: str, *, yes: bool) -> None:
    """Asks a person; a script must say --yes, so that it never hangs on a question. Raises Failure."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure("NOT_CONFIRMED", f"{what} needs --yes", why="nobody is there to be asked",
                      then="repeat it with --yes", exit_code=Exit.USAGE)  # fmt: skip
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("NOT_CONFIRMED", "nothing was changed")
