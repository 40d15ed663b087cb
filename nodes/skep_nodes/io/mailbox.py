"""Answers nobody was waiting for, kept for callers that have no webhook and come to fetch them.

Numbered within a conversation, so a caller that lost a response asks again with the last number it has. Bounded in
conversations and in answers of each; what falls off is counted, and the numbers show the gap.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

CONVERSATIONS_MAX = 4096
ANSWERS_MAX = (
    32  # of one conversation; x a frame x conversations is a theoretical 16 GiB, so bytes are bounded too
)
BYTES_MAX = 64 << 20


@dataclass(slots=True)
class _Box:
    answers: deque[tuple[int, int, dict[str, Any]]] = field(default_factory=deque)  # number, bytes, answer
    last: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Mailbox:
    def __init__(
        self,
        conversations_max: int = CONVERSATIONS_MAX,
        answers_max: int = ANSWERS_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._conversations_max, self._answers_max, self._bytes_max = (
            conversations_max,
            answers_max,
            bytes_max,
        )
        self._boxes: OrderedDict[str, _Box] = OrderedDict()
        self.bytes_held = 0
        self.dropped = 0

    def add(self, thread: str, answer: dict[str, Any], size: int) -> None:
        """Keeps `answer` (about `size` bytes); the thread that was used least recently gives way."""
        box = self._boxes.setdefault(thread, _Box())
        self._boxes.move_to_end(thread)
        box.last += 1
        box.answers.append((box.last, size, {"number": box.last, **answer}))
        self.bytes_held += size
        if len(box.answers) > self._answers_max:
            self._drop_oldest(box)
        while len(self._boxes) > self._conversations_max or (
            self.bytes_held > self._bytes_max and len(self._boxes) > 1
        ):
            self._drop_box(next(iter(self._boxes)))
        box.arrived.set()
        box.arrived = asyncio.Event()

    def after(self, thread: str, number: int) -> list[dict[str, Any]]:
        """The kept answers of `thread` with a number above `number`."""
        box = self._boxes.get(thread)
        return [answer for each, _, answer in box.answers if each > number] if box else []

    async def wait_after(self, thread: str, number: int, seconds: float) -> list[dict[str, Any]]:
        """As `after`, waiting up to `seconds` for one when there is none. The caller bounds how many wait."""
        found = self.after(thread, number)
        if found or seconds <= 0:
            return found
        box = self._boxes.setdefault(thread, _Box())
        try:
            async with asyncio.timeout(seconds):
                while not found:
                    await box.arrived.wait()
                    found = self.after(thread, number)
        except TimeoutError:
            return []
        finally:
            if not box.last:
                self._boxes.pop(thread, None)
        return found

    def _over_bounds(self) -> bool:
        too_large = self.bytes_held > self._bytes_max and len(self._boxes) > 1
        return too_large or len(self._boxes) > self._conversations_max

    def _drop_oldest(self, box: _Box) -> None:
        self.bytes_held -= box.answers.popleft()[1]
        self.dropped += 1

    def _drop_box(self, thread: str) -> None:
        box = self._boxes.pop(thread)
        while box.answers:
            self._drop_oldest(box)
