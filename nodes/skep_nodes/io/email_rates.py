"""How often one sender may do something: a number of times in a window, bounded in senders.

What is over is told so and not remembered, so a flood does not prolong itself. Past `senders_max` the sender who was
quiet longest is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

SENDERS_MAX: Final = 10_000


@dataclass(slots=True)
class Rate:
    """Time is an argument, in seconds of any monotonic clock."""

    count: int
    window_s: float
    senders_max: int = SENDERS_MAX
    _times: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def allows(self, sender: str, now: float) -> bool:
        """Whether `sender` may, once more; counts it when so."""
        times = self._times.setdefault(sender, deque())
        self._times.move_to_end(sender)
        while times and now - times[0] >= self.window_s:
            times.popleft()
        if len(self._times) > self.senders_max:
            self._times.popitem(last=False)
        if len(times) >= self.count:
            return False
        times.append(now)
        return True
