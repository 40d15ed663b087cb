"""Waiting for the next read without sleeping, while that pays.

Falling asleep and being woken costs more than forwarding: on a virtual machine an idle core takes 30 us and more to
come back, twice for each message that is answered. So after a read the loop looks again, instead of sleeping, for up
to `spin_ns`; other processes that want the core get it (sched_yield). Looking in vain is stopped soon: after
`_PATIENCE` looks without a read it sleeps like any program, and tries again after `_PAUSE` further reads. So a
conversation keeps the router awake, and a trickle does not (the kernel's halt polling works alike, from the other
side).

Rejected: ending it as soon as an offered core is taken (a yield that lasts). Where client, router and responder share
one core it saves the Python SDK a sixth of a round trip; C clients lose a fifth, and so do two cores of a virtual
machine, where a yield may last for other reasons.
"""

from __future__ import annotations

import asyncio
import os
import time

_PATIENCE = 3
_PAUSE = 256
_now, _CLOCK = time.clock_gettime_ns, time.CLOCK_MONOTONIC


class Eagerness:
    """`stir` is called after each read."""

    __slots__ = ("_fresh", "_hit", "_looking", "_loop", "_misses", "_skip", "_spin_ns", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, spin_ns: int) -> None:
        self._loop = loop
        self._spin_ns = spin_ns
        self._until = 0
        self._looking = False
        self._fresh = False  # there was a read since the last look
        self._hit = False  # looking has found one since it began
        self._misses = 0
        self._skip = 0

    def stir(self) -> None:
        """A read was handled: stay awake for a while."""
        if self._skip:
            self._skip -= 1
            return
        self._fresh = True
        if not self._looking:
            self._looking = True
            self._hit = False
            self._loop.call_soon(self._look)
        else:
            self._hit = True

    def _look(self) -> None:
        """Before each poll. The core is offered to others only where the last poll found nothing: with reads coming
        in, a turn given away is a queue that grows."""
        now = _now(_CLOCK)
        if self._fresh:
            self._fresh = False
            self._until = now + self._spin_ns
        elif now < self._until:
            os.sched_yield()
        else:
            self._rest()
            return
        self._loop.call_soon(self._look)

    def _rest(self) -> None:
        self._looking = False
        self._misses = 0 if self._hit else self._misses + 1
        if self._misses >= _PATIENCE:
            self._misses, self._skip = 0, _PAUSE
