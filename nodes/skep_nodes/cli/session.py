"""A command as a node: it joins as SY.cli.<pid>, says one thing, and leaves.

The name is single and ends with the process. A command that fails to reach its peer says which it was: no hive, no
router, a router that does not let it in, or a node that does not answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from skep import DeliveryError, Node, RemoteError, find_hive
from skep.errors import HiveError, LinkClosed
from skep.protocol.codes import CloseReason
from skep.protocol.system import HINTS
from skep_nodes.cli.failure import Exit, Failure, exit_for

T = TypeVar("T")
LOOK_S = 0.5  # after so many seconds of trying to join, see what is in the way


def joined(root: Path | None, name: str, work: Callable[[Node], Awaitable[T]], timeout: float) -> T:
    """Join the hive, do `work`, leave. Raises Failure."""
    hive = find_hive(root)
    return asyncio.run(_joined(hive.root, name or f"SY.cli.{os.getpid()}", work, timeout))


async def _joined(root: Path, name: str, work: Callable[[Node], Awaitable[T]], timeout: float) -> T:
    node = Node(name, hive=root)
    try:
        async with linked(node, root, timeout):
            return await work(node)
    except (DeliveryError, RemoteError) as error:
        raise _failure(error) from error


@asynccontextmanager
async def linked(node: Node, root: Path, timeout: float) -> AsyncIterator[None]:
    """The node while it is in the hive. Raises Failure when it does not get in within `timeout` seconds."""
    if not any((root / "run" / "routers").glob("*.sock")):
        raise not_running(root)
    await _join(node, root, timeout)
    try:
        yield
    finally:
        await node.stop()


async def _join(node: Node, root: Path, timeout: float) -> None:
    """A router that restarts is waited for; a name that somebody else holds is not."""
    problem: BaseException | None = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await node.start(min(LOOK_S, timeout / 2))
                except HiveError as error:
                    problem = error.__cause__
                    if isinstance(problem, LinkClosed) and problem.reason is CloseReason.NAME_TAKEN:
                        raise problem from None
    except LinkClosed as error:
        raise refused(node.requested_name, error) from error
    except TimeoutError as error:
        if isinstance(problem, LinkClosed):
            raise refused(node.requested_name, problem) from error
        if isinstance(problem, OSError):
            raise not_running(root) from error
        raise Failure("TIMEOUT", f"no router answered within {timeout:g} s", then="skep doctor",
                      exit_code=Exit.UNREACHABLE) from error  # fmt: skip


def not_running(root: Path) -> Failure:
    """Nobody listens where routers do."""
    return Failure("NOT_RUNNING", f"no router listens in {root}", then=f"skep up --hive {root}",
                   exit_code=Exit.NOT_FOUND)  # fmt: skip


def refused(name: str, error: LinkClosed) -> Failure:
    """The router does not let us in, or no longer."""
    code, hint = error.reason.name, HINTS[error.reason]
    why = error.detail.removesuffix(f" ({hint})")  # which a router says too
    return Failure(code, f"the router does not take {name}", why=why, then=hint, exit_code=exit_for(code))


def _failure(error: DeliveryError | RemoteError) -> Failure:
    code = str(error.reason) if isinstance(error, DeliveryError) else error.code
    what = error.detail or "the message was not delivered"
    if isinstance(error, TimeoutError):
        code, what = "TIMEOUT", str(error)
    place = f"message {error.message_id}, trace {error.trace_id}" if error.trace_id else ""
    then = f"skep explain {error.trace_id}" if error.trace_id else "skep doctor"
    if code == "NODE_NOT_FOUND":
        then = "skep node ls"
    return Failure(code, what, why=place, then=then, exit_code=exit_for(code))


def answered(payload: Any, what: str, noun: str = "") -> dict[str, Any]:
    """A node's answer, or the Failure that it reports. `noun` is what the commands that help are called."""
    if not isinstance(payload, dict):
        raise Failure("BAD_ANSWER", f"{what} was answered with something that is no object")
    if payload.get("status") != "ok":
        code = str(payload.get("error_code") or "FAILED")
        raise Failure(code, f"{what} was refused", why=str(payload.get("error_detail") or ""),
                      then=_next(code, noun), exit_code=exit_for(code))  # fmt: skip
    return payload


def _next(code: str, noun: str) -> str:
    listing = {
        "VERSION_CONFLICT": f"skep {noun} ls, then repeat the command",
        "NOT_FOUND": f"skep {noun} ls",
        "INVALID_CONFIG": f"skep {noun} add --help",
        "INVALID_PAYLOAD": f"skep {noun} add --help",
    }
    advice = (listing if noun else {}) | {
        "DUPLICATE_PREFIX": "skep route rm PREFIX, then add it again",
        "DUPLICATE_PATTERN": "skep vpn rm PATTERN, then add it again",
        "DUPLICATE_GRANT": "skep grant rm USER PATTERN, then add it again",
        "PERSIST_FAILED": "skep doctor (it shows disk space), then restart the hive",
        "MODULE_EXISTS": "publish it with a newer version",
        "FORBIDDEN": "run it as the account that owns the hive's folder",
    }
    mistyped = exit_for(code) in (Exit.USAGE, Exit.NOT_FOUND)
    return advice.get(code, "correct what was typed, and repeat it" if mistyped else "skep doctor")
