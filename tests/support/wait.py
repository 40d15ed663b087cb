"""Waiting for a fact, with a deadline: the only place where a test may pass time on a real clock.

Tests of pure code move a fake clock instead. What runs in other processes has no clock of ours, so a test
asks again until the fact holds, and fails with the last thing it saw.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S_FIRST = 0.001  # most facts hold at once
POLL_S_MAX = 0.05  # a slow one must not burn a core that the tested process needs


class NeverHappenedError(AssertionError):
    """The fact did not hold before its deadline."""


def eventually(fact: Callable[[], T | None], within: float = 5.0, what: str = "") -> T:
    """Calls `fact` until it returns something true, and returns that.

    An AssertionError or OSError inside `fact` counts as "not yet"; the last one is shown on failure.
    """
    deadline = time.monotonic() + within
    pause = POLL_S_FIRST
    while True:
        seen, value = _ask(fact)
        if value:
            return value
        if time.monotonic() >= deadline:
            raise NeverHappenedError(
                f"{what or _name(fact)} did not hold within {within} s; last seen: {seen!r}"
            )
        time.sleep(pause)
        pause = min(pause * 2, POLL_S_MAX)


async def eventually_async(
    fact: Callable[[], T] | Callable[[], Awaitable[T]], within: float = 5.0, what: str = ""
) -> T:
    """The same for a test that runs in an event loop; `fact` may be a coroutine function."""
    deadline = time.monotonic() + within
    pause = POLL_S_FIRST
    while True:
        seen, value = _ask(fact)
        if isinstance(value, Awaitable):
            seen = value = await value
        if value:
            return value  # type: ignore[return-value]
        if time.monotonic() >= deadline:
            raise NeverHappenedError(
                f"{what or _name(fact)} did not hold within {within} s; last seen: {seen!r}"
            )
        await asyncio.sleep(pause)
        pause = min(pause * 2, POLL_S_MAX)


def _ask(fact: Callable[[], T | None]) -> tuple[object, T | None]:
    try:
        value = fact()
    except (AssertionError, OSError) as error:
        return error, None
    return value, value


def _name(fact: Callable[..., object]) -> str:
    return getattr(fact, "__qualname__", repr(fact))
