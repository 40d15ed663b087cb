"""A hive folder with the small router behind a real Unix socket."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sdk.fake_router import UnixRouter
from skep import Node


@pytest.fixture
def root() -> Iterator[Path]:
    """A hive folder under a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="sk-"))
    (folder / "hive.yaml").write_text("hive_id: test\n")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def unix(root: Path) -> AsyncIterator[UnixRouter]:
    router = UnixRouter(root, "test")
    await router.start()
    yield router
    await router.stop()


@pytest.fixture(params=["native", "json"])
def framing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(root: Path) -> Iterator[Path]:
    """A router and an echo node, in a thread of their own."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        router = UnixRouter(root, "test")
        await router.start()
        node = Node("AI.echo", hive=root)

        @node.on_message
        async def echo(message):
            if message.payload == {"parts": 1}:
                for number in range(3):
                    await message.part({"n": number})
                await message.end()
            return message.payload

        async with node:
            ready.set()
            await stop.wait()
        await router.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield root
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()
