"""`node.run()`: one node as a whole process, from start to the signal that ends it."""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skep.node import Node


def run(node: Node) -> None:
    """Serves until SIGINT or SIGTERM, then leaves in order. Uses uvloop when it is installed."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(node))


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None  # plain asyncio serves as well, only slower
    return uvloop.Loop


async def _serve(node: Node) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    stopping = loop.create_task(stopped.wait())
    try:
        if await _started(node, stopping):
            await _until(node, stopping)
    finally:
        stopping.cancel()
        await node.stop()


async def _started(node: Node, stopping: asyncio.Task[bool]) -> bool:
    """Starts the node; False when it was told to stop first: one that waits for its router must not need killing."""
    starting = asyncio.get_running_loop().create_task(node.start())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return False
    await starting  # raises why it could not start
    return True


async def _until(node: Node, stopping: asyncio.Task[bool]) -> None:
    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process: collections need not look at it again
    serving = asyncio.get_running_loop().create_task(node.serve_forever())
    done, _ = await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if serving in done:
        await serving  # raises when the router refused this node for good
    serving.cancel()
