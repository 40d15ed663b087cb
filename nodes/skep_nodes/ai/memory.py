"""What was said lately in each conversation: a few turns, cut to size, for a bounded number of threads.

Kept per thread, not per person: one person's two conversations are two matters, and a state that both share mixes them.
In memory only; a restart forgets, which costs a follow-up question its subject and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

TURNS_MAX = 10  # of both sides; an exchange of five
TURN_CHARS_MAX = 1200
THREADS_MAX = 4096  # x 10 x 1,200 characters: about 50 MiB at the very worst


@dataclass(frozen=True, slots=True)
class Turn:
    """`role` is user, assistant or human."""

    role: str
    text: str


@dataclass(slots=True)
class Memory:
    """The thread that was used least recently is forgotten first."""

    threads_max: int = THREADS_MAX
    _threads: OrderedDict[str, deque[Turn]] = field(default_factory=OrderedDict)

    def add(self, thread: str, role: str, text: str) -> None:
        turns = self._threads.setdefault(thread, deque(maxlen=TURNS_MAX))
        turns.append(Turn(role, text[:TURN_CHARS_MAX]))
        self._threads.move_to_end(thread)
        while len(self._threads) > self.threads_max:
            self._threads.popitem(last=False)

    def turns(self, thread: str) -> tuple[Turn, ...]:
        return tuple(self._threads.get(thread, ()))

    def last_question(self, thread: str) -> str:
        return next((each.text for each in reversed(self.turns(thread)) if each.role == "user"), "")

    def __len__(self) -> int:
        return len(self._threads)
