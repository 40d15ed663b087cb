"""When waits are over: message ids in buckets of 20 ms, looked at by one timer.

A timer of the event loop per request costs more than the request; a set per bucket costs one hash. The price is that a
deadline is met up to one tick late, and never early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skep.clock import Clock, Timer

TICK_S: Final = 0.02


class Deadlines:
    """Message ids by the 20 ms in which their time is up."""

    def __init__(self, clock: Clock, expired: Callable[[int], None]) -> None:
        self._clock = clock
        self._expired = expired
        self._buckets: dict[int, set[int]] = {}
        self._timer: Timer | None = None
        self._next_tick = 0

    def add(self, message_id: int, seconds: float) -> int:
        """Remembers a deadline; the tick returned takes it back."""
        tick = int((self._clock.now() + seconds) / TICK_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {message_id}
            self._arm()
        else:
            bucket.add(message_id)
        return tick

    def remove(self, tick: int, message_id: int) -> None:
        """An answered request holds nothing until its deadline but a number in a set that this empties."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.discard(message_id)

    def _arm(self) -> None:
        first = min(self._buckets)
        if self._timer is None or first < self._next_tick:
            if self._timer is not None:
                self._timer.cancel()
            self._next_tick = first
            self._timer = self._clock.call_later(max(0.0, first * TICK_S - self._clock.now()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_tick = int(self._clock.now() / TICK_S)
        for tick in sorted(tick for tick in self._buckets if tick <= max(now_tick, self._next_tick)):
            for message_id in self._buckets.pop(tick):
                self._expired(message_id)
        if self._buckets:
            self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._buckets.clear()
