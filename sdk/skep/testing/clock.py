"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

SETTLE_TURNS = 20  # loop turns given to what a timer set going: a reply crosses two wires in about six


class FakeTimer:
    """A call that has not happened yet."""

    __slots__ = ("callback", "args")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Implements `skep.clock.Clock`; begins at an arbitrary moment, as a monotonic clock does."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = count()

    def now(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        timer = FakeTimer(callback, args)
        heapq.heappush(self._timers, (self._now + max(0.0, delay), next(self._order), timer))
        return timer

    async def sleep(self, delay: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Moves time on, running what falls due in order, with loop turns in between for what it sets going."""
        until = self._now + seconds
        await settle()
        while self._timers and self._timers[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback(*timer.args)
                await settle()
        self._now = until
        await settle()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def settle(turns: int = SETTLE_TURNS) -> None:
    """Lets the loop run what is ready."""
    for _ in range(turns):
        await asyncio.sleep(0)
