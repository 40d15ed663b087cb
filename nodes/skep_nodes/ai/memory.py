"""What was said lately in each conversation: a few turns, cut to size, for a bounded number of conversations.

A conversation is what `conversation` says it is: a person's, on whatever channels, or a thread's. In memory only; a
restart forgets, which costs a follow-up question its subject and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

TURNS_MAX = 10  # of both sides; an exchange of five
TURN_CHARS_MAX = 1200
CONVERSATIONS_MAX = 4096  # x 10 x 1,200 characters: about 50 MiB at the very worst


@dataclass(frozen=True, slots=True)
class Turn:
    """`role` is user, assistant or human."""

    role: str
    text: str


@dataclass(slots=True)
class Memory:
    """The conversation that was used least recently is forgotten first."""

    conversations_max: int = CONVERSATIONS_MAX
    _kept: OrderedDict[str, deque[Turn]] = field(default_factory=OrderedDict)

    def add(self, conversation: str, role: str, text: str) -> None:
        turns = self._kept.setdefault(conversation, deque(maxlen=TURNS_MAX))
        turns.append(Turn(role, text[:TURN_CHARS_MAX]))
        self._kept.move_to_end(conversation)
        while len(self._kept) > self.conversations_max:
            self._kept.popitem(last=False)

    def join(self, conversation: str, others: Iterable[str]) -> None:
        """What was said in `others` belongs to `conversation`, before what was said in it."""
        for other in others:
            before = self._kept.pop(other, None)
            if before is not None:
                self._kept[conversation] = deque((*before, *self.turns(conversation)), maxlen=TURNS_MAX)

    def turns(self, conversation: str) -> tuple[Turn, ...]:
        return tuple(self._kept.get(conversation, ()))

    def last_question(self, conversation: str) -> str:
        return next((each.text for each in reversed(self.turns(conversation)) if each.role == "user"), "")

    def __len__(self) -> int:
        return len(self._kept)
