"""Time as something handed in: `LoopClock` is the event loop's, `skep.testing` brings one that tests move by hand.

Every timer of the SDK goes through a Clock (reconnect back-off, deadlines, TAKEN, keep-alive), so a test of "what
happens after 30 seconds" takes no time. Time is monotonic seconds; wall time decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that has not happened yet."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the SDK asks of time."""

    def now(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer: ...

    async def sleep(self, delay: float) -> None: ...


class LoopClock:
    """The running event loop's clock."""

    __slots__ = ("_loop", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now: Callable[[], float] = loop.time

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        return self._loop.call_later(delay, callback, *args)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)
