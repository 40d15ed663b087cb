"""Waiting for an answer without sleeping, while that pays.

A lone caller of a node that answers at once waits some 60 us, and falling asleep and being woken takes half of
that: an idle core of a virtual machine needs 30 us to come back. So after the request was written the loop looks
again instead of sleeping, for at most `LOOK_NS`; any other process that wants the core gets it (sched_yield).
Measured, client and responder on one core and the router on another: 120 to 89 us a round trip, and less CPU than
the sleeping cost.

Most requests go to something slow (a model, a person). After `PATIENCE` looks in vain the next `PAUSE` requests sleep
at once, so that such a caller pays some 7 us a request. Nobody looks while several requests wait: those share their
wakes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sized
from typing import Final

LOOK_NS: Final = 150_000
PATIENCE: Final = 3
PAUSE: Final = 64


class Eagerness:
    """Looks for the answer to one client's request. `waiting` is empty once it has come."""

    __slots__ = ("_loop", "_waiting", "_now", "_until", "_looking", "_misses", "_skip")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, waiting: Sized, now: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._loop = loop
        self._waiting = waiting
        self._now = now
        self._until = 0
        self._looking = False
        self._misses = 0
        self._skip = 0

    def begin(self) -> None:
        """A lone request was written."""
        if self._skip:
            self._skip -= 1
            return
        self._until = self._now() + LOOK_NS
        if self._looking:
            self._misses = 0  # the one before it was answered meanwhile
        else:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Before each poll of the loop."""
        if not self._waiting:
            self._looking = False
            self._misses = 0
        elif self._now() < self._until:
            os.sched_yield()
            self._loop.call_soon(self._look)
        else:
            self._looking = False
            self._missed()

    def _missed(self) -> None:
        self._misses += 1
        if self._misses >= PATIENCE:
            self._misses, self._skip = 0, PAUSE
