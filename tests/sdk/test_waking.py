"""A worker is woken inside the read that brought the message: what tasks promise must hold there as well."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from skep.workers import Workers

Serve = Callable[[Any], Awaitable[None]]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def message(thread: bytes = b"") -> Any:
    return SimpleNamespace(flow=SimpleNamespace(thread=thread))


async def asleep(serve: Serve, limit: int = 8) -> Workers:
    """Workers of which one was made, has served a message and sleeps."""
    workers = Workers(serve, limit=limit, ordered=True, drained=lambda: None)
    workers.queue.append(message())
    workers.open()
    await turns()
    assert not workers.queue
    return workers


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def from_the_loop(call: Callable[[], object]) -> asyncio.Future[None]:
    """Runs `call` as the loop runs a read: with no task being the current one."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(lambda: (call(), done.set_result(None)))
    return done


@pytest.mark.parametrize("make", LOOPS)
def test_a_handler_is_run_at_once_in_a_task_of_its_own(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    seen: list[object] = []

    async def serve(_: Any) -> None:
        async with asyncio.timeout(5):
            seen.append(asyncio.current_task())
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())

    async def check() -> None:
        workers = await asleep(serve)
        seen.clear()
        begun: list[int] = []

        def read() -> None:
            workers.queue.append(message())
            workers.kick()
            begun.append(len(seen))
            assert asyncio.current_task() is None

        await from_the_loop(read)
        await turns()
        assert begun == [1]
        assert seen[0] is seen[1] is not None
        await workers.stop(0)

    loop = make()
    loop.run_until_complete(check())
    loop.close()


async def test_a_worker_is_never_run_inside_another_task() -> None:
    served: list[object] = []

    async def serve(_: Any) -> None:
        served.append(asyncio.current_task())

    workers = await asleep(serve)
    workers.queue.append(message())
    workers.kick()  # this test is a task
    assert len(served) == 1
    await turns()
    assert len(served) == 2
    assert served[0] is served[1] is not asyncio.current_task()
    await workers.stop(0)


async def test_a_waking_worker_keeps_its_own_context() -> None:
    name = contextvars.ContextVar("name", default="worker")
    seen: list[str] = []

    async def serve(_: Any) -> None:
        seen.append(name.get())

    workers = await asleep(serve)

    def read() -> None:
        name.set("reader")
        workers.queue.append(message())
        workers.kick()

    await from_the_loop(read)
    assert seen == ["worker", "worker"]
    await workers.stop(0)


@pytest.mark.parametrize("kick_after", [False, True])
async def test_cancelling_a_sleeping_worker_loses_neither_it_nor_a_message(kick_after: bool) -> None:
    served: list[object] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(_: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        served.append(task)

    workers = await asleep(serve)

    def read() -> None:
        for task in tasks:
            assert task.cancel()
        workers.queue.append(message())
        if kick_after:
            workers.kick()

    await from_the_loop(read)
    await turns()
    await from_the_loop(workers.kick)
    await turns()
    assert len(served) == 2
    assert len(tasks) == 1
    await workers.stop(0)


@pytest.mark.parametrize("make", LOOPS)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_the_program_ends_the_loop_and_not_the_connection(
    make: Callable[[], asyncio.AbstractEventLoop], error: BaseException
) -> None:
    after_read: list[bool] = []
    leave: list[bool] = []

    async def serve(_: Any) -> None:
        if leave:
            raise error

    async def check() -> None:
        workers = await asleep(serve)
        leave.append(True)

        def read() -> None:
            workers.queue.append(message())
            workers.kick()
            after_read.append(True)

        await from_the_loop(read)
        await asyncio.Event().wait()

    loop = make()
    with pytest.raises(type(error)):
        loop.run_until_complete(check())
    assert after_read == [True]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
