"""Handlers run in a few lasting tasks, not in one task per message.

A worker takes messages from the queue and awaits the handler for each, without giving the loop a turn in between, until
the queue is empty; then it sleeps on a future. When a handler waits for something while messages are queued, the next
worker is woken or made, up to `limit`: so a node that never waits runs in one task, and one that waits for a model runs
64 conversations at once. A worker is an ordinary task: `asyncio.timeout`, `current_task` and cancellation work inside
handlers.

A sleeping worker is woken inside the read that brought the message (`_Nap`): its task's step runs there, instead of a
loop turn later by way of a future, so the answer leaves in the turn in which the question came. Measured: 5 us of a
round trip, most of it the loop's extra look at its sockets.

Order: messages start in the order they arrived. Messages of one thread are also finished in that order
(`ordered`): the second waits until the handler of the first returned. A handler that requests something in its own
thread of a node which answers by asking back would wait for itself; such a node says `ordered=False`. Messages without
a thread may overtake each other while their handlers wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING

from skep.protocol.header import Phase

if TYPE_CHECKING:
    from skep.message import Message

Serve = Callable[["Message"], Awaitable[None]]


class _Slot:
    """What one worker is at."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        self.message: Message | None = None


class _Nap:
    """What a worker without messages awaits: a future that can be completed on the spot, and again and again.

    asyncio lets a task await any object with `_asyncio_future_blocking`, and leaves it to that object to call the
    task's wakeup. A Future does so a turn later; this does it at once where no other task is being run (a task's step
    cannot be nested), and a turn later otherwise. For the task and whoever cancels it there is no difference.
    """

    __slots__ = ("_asyncio_future_blocking", "_loop", "_wakeup", "_context", "_cancelled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._wakeup: Callable[[_Nap], object] | None = None
        self._context: Context | None = None
        self._cancelled = False

    def __await__(self) -> Generator[_Nap, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def wake(self) -> None:
        """Runs the worker until it waits for something, if it sleeps."""
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is None:
            return
        assert self._context is not None
        if asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(wakeup, self, context=self._context)
            return
        try:
            self._context.run(wakeup, self)
        except (
            SystemExit,
            KeyboardInterrupt,
        ) as error:  # for the loop's runner, and not for whoever read the socket
            self._loop.call_soon(_leave, error)

    # ---- called by the task --------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wakeup: Callable[[_Nap], object], *, context: Context) -> None:
        self._wakeup, self._context = wakeup, context

    def cancel(self, msg: object = None) -> bool:
        """False when it was woken already: the task then gets its cancellation at its next step, as with a Future."""
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is None:
            return False
        self._cancelled = True
        self._loop.call_soon(wakeup, self, context=self._context)
        return True

    def result(self) -> None:
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError


def _leave(error: BaseException) -> None:
    raise error


class Workers:
    """The queue of a node and the tasks that drain it."""

    def __init__(self, serve: Serve, *, limit: int, ordered: bool, drained: Callable[[], None]) -> None:
        self.queue: deque[Message] = deque()
        self.held = 0  # messages that wait for their thread's turn
        self.limit = limit
        self._serve = serve
        self._ordered = ordered
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], _Slot] = {}
        self._idle: list[_Nap] = []
        self._waking = False
        self._opened = False
        self._busy_threads: dict[bytes, deque[Message] | None] = {}
        self.stopping = False
        self._settled: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> int:
        """Messages that no handler has started on."""
        return len(self.queue) + self.held

    def open(self) -> None:
        """From now on messages are served; what came before waits until then."""
        self._opened = True
        self.kick()

    def cancel(self, source: bytes, message_id: int) -> None:
        """Ends the request that its sender no longer wants: its handler, or its place in the queue.

        Looks at all of them: cancelling is rare, and remembering every request for it would cost each of them.
        """
        for task, slot in self._tasks.items():
            if slot.message is not None and _is(slot.message, source, message_id):
                task.cancel()
                return
        for message in self.queue:
            if _is(message, source, message_id):
                self.queue.remove(message)
                return

    def kick(self) -> None:
        """Sees to it that somebody looks at the queue, now or in the next turn, if anybody is free."""
        if self._waking or self.stopping or not self._opened:
            return
        if self._idle:
            self._waking = True
            self._idle.pop().wake()
        elif len(self._tasks) < self.limit:
            self._waking = True
            slot = _Slot()
            task = self._loop.create_task(self._work(slot))
            self._tasks[task] = slot
            task.add_done_callback(self._tasks.pop)

    async def _work(self, slot: _Slot) -> None:
        queue, serve, busy, ordered = self.queue, self._serve, self._busy_threads, self._ordered
        nap = _Nap(self._loop)
        while True:
            self._waking = False
            if len(queue) > 1:
                self._loop.call_soon(self._relay)
            while queue:
                slot.message = message = queue.popleft()
                thread = message.flow.thread if ordered else b""
                if not thread:
                    await serve(message)
                elif thread in busy:
                    self._hold(thread, message)
                else:
                    busy[thread] = None
                    await serve(message)
                    if busy[thread]:
                        await self._serve_held(thread, slot)
                    del busy[thread]
            slot.message = None
            self._drained()
            self._idle.append(nap)
            if self._settled is not None and not self._settled.done() and self._all_idle():
                self._settled.set_result(None)
            try:
                await nap
            except asyncio.CancelledError:
                if self.stopping:
                    raise
                self._forget(nap)  # a cancellation that came after its handler had ended

    def _forget(self, nap: _Nap) -> None:
        if nap in self._idle:
            self._idle.remove(nap)
        self._waking = False

    def _relay(self) -> None:
        """One turn after a worker began: messages still queued mean that its handler waits, so the next one starts."""
        if self.queue:
            self.kick()

    def _hold(self, thread: bytes, message: Message) -> None:
        """Another worker is at this thread: it takes the message when it is done."""
        held = self._busy_threads[thread]
        if held is None:
            held = self._busy_threads[thread] = deque()
        held.append(message)
        self.held += 1

    async def _serve_held(self, thread: bytes, slot: _Slot) -> None:
        held = self._busy_threads[thread]
        while held:
            self.held -= 1
            slot.message = held.popleft()
            await self._serve(slot.message)

    async def stop(self, grace: float) -> None:
        """Lets running handlers finish for `grace` seconds, then cancels them."""
        if grace > 0 and not self._all_idle():
            self._settled = self._loop.create_future()
            try:
                async with asyncio.timeout(grace):
                    await self._settled
            except TimeoutError:
                pass  # they had their time
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _all_idle(self) -> bool:
        return not self.queue and len(self._idle) == len(self._tasks)


def _is(message: Message, source: bytes, message_id: int) -> bool:
    return (
        message.flow.phase == Phase.REQUEST and message.message_id == message_id and message.source == source
    )
