"""Which provider events were already passed on: bounded in number and age.

An event is *pending* from the moment a node takes it until the send succeeded (`done`) or failed (`failed`, which
forgets it so that the provider's next attempt is taken). Marking before the send, as is often done, turns a failed
send into a lost message that no retry can mend.

A key always begins with who received the event (tenant, or business number): two tenants whose customers share an
id, or whose provider counts from one, must never shadow each other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

ENTRIES_MAX = 50_000  # ten minutes at 80 messages a second, above what one number is allowed
KEEP_S = 600.0  # providers that resend do so within minutes; see `IO.whatsapp` for its longer one

Key = tuple[str, ...]


class Seen(Enum):
    NEW = "new"
    PENDING = "pending"
    DONE = "done"


@dataclass(slots=True)
class Dedup:
    """Time is an argument (seconds of any monotonic clock). Past `entries_max` the oldest finished go first."""

    entries_max: int = ENTRIES_MAX
    keep_s: float = KEEP_S
    _done: OrderedDict[Key, float] = field(default_factory=OrderedDict)
    _pending: set[Key] = field(default_factory=set)

    def begin(self, key: Key, now: float) -> Seen:
        """NEW makes the key pending: the caller must end it with `done` or `failed`."""
        self._expire(now)
        if key in self._done:
            return Seen.DONE
        if key in self._pending:
            return Seen.PENDING
        self._pending.add(key)
        return Seen.NEW

    def done(self, key: Key, now: float) -> None:
        self._pending.discard(key)
        self._done[key] = now
        self._done.move_to_end(key)
        while len(self._done) > self.entries_max:
            self._done.popitem(last=False)

    def failed(self, key: Key) -> None:
        self._pending.discard(key)

    def __len__(self) -> int:
        return len(self._done) + len(self._pending)

    def _expire(self, now: float) -> None:
        while self._done:
            oldest = next(iter(self._done))
            if now - self._done[oldest] < self.keep_s:
                return
            del self._done[oldest]
