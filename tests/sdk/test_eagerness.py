"""A lone caller looks for its answer for a moment instead of sleeping, and stops when that does not pay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from skep.eagerness import LOOK_NS, PATIENCE, PAUSE, Eagerness

STEP_NS = LOOK_NS // 10


class Loop:
    """A loop that runs what it is told to, and counts turns."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], object]] = deque()
        self.turns = 0
        self.time = 0

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.due.append(callback)

    def now(self) -> int:
        return self.time

    def run(self, turns: int = 1000) -> int:
        """Turns until it would sleep."""
        begun = self.turns
        while self.due and self.turns - begun < turns:
            self.due.popleft()()
            self.turns += 1
            self.time += STEP_NS
        return self.turns - begun


def made() -> tuple[Loop, dict[int, int], Eagerness]:
    loop, waiting = Loop(), {1: 1}
    stand_in: Any = loop
    return loop, waiting, Eagerness(stand_in, waiting, loop.now)


def test_it_looks_until_the_time_is_up() -> None:
    loop, _, eagerness = made()
    eagerness.begin()
    assert 9 <= loop.run() <= 12


def test_it_stops_when_the_answer_is_there() -> None:
    loop, waiting, eagerness = made()
    eagerness.begin()
    loop.run(3)
    waiting.clear()
    assert loop.run() == 1


def test_a_slow_peer_is_soon_waited_for_asleep_and_tried_again() -> None:
    loop, _, eagerness = made()
    looked = []
    for _ in range(2 * (PATIENCE + PAUSE)):
        eagerness.begin()
        looked.append(loop.run() > 0)
    assert looked == 2 * (PATIENCE * [True] + PAUSE * [False])


def test_requests_one_after_another_share_one_look() -> None:
    loop, _, eagerness = made()
    for _ in range(100):
        eagerness.begin()
        assert len(loop.due) == 1
        loop.run(3)  # answered, and the caller asks again before the next look
    assert loop.due
