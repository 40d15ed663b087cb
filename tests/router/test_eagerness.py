"""Looking instead of sleeping: it goes on while reads come, ends when they do not, and gives up where it is in vain."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skep_router import eagerness
from skep_router.eagerness import Eagerness

SPIN_NS = 1000


class FakeLoop:
    """Runs what was asked to run soon, one turn at a time, on a clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.soon: list[Callable[[], None]] = []
        monkeypatch.setattr(eagerness, "_now", lambda _clock: self.now)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self, ns: int = 100) -> bool:
        """-> whether anything kept the loop from sleeping."""
        self.now += ns
        due, self.soon = self.soon, []
        for callback in due:
            callback()
        return bool(due)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    return FakeLoop(monkeypatch)


def turns_awake(loop: FakeLoop) -> int:
    count = 0
    while loop.turn():
        count += 1
    return count


def test_after_a_read_the_loop_stays_awake_for_the_given_time(loop: FakeLoop) -> None:
    eager = Eagerness(loop, SPIN_NS)  # type: ignore[arg-type]
    eager.stir()
    assert turns_awake(loop) in (SPIN_NS // 100, SPIN_NS // 100 + 1)


def test_each_read_extends_it_and_one_look_at_a_time_is_enough(loop: FakeLoop) -> None:
    eager = Eagerness(loop, SPIN_NS)  # type: ignore[arg-type]
    for _ in range(50):
        eager.stir()
        assert len(loop.soon) == 1
        loop.turn(SPIN_NS // 2)
    assert turns_awake(loop) <= SPIN_NS // 100


def test_a_trickle_is_not_waited_for(loop: FakeLoop) -> None:
    eager = Eagerness(loop, SPIN_NS)  # type: ignore[arg-type]
    awake = []
    for _ in range(2 * eagerness._PAUSE):
        eager.stir()
        awake.append(turns_awake(loop) > 0)
        loop.now += 1_000_000
    assert awake[: eagerness._PATIENCE] == [True] * eagerness._PATIENCE
    assert sum(awake) <= 3 * eagerness._PATIENCE
