"""What a node counts, and how its operator sees it: in the node's status always, in its log now and then.

A counter that nobody can read is no evidence, and a line for each event of a flood is one flood more. So trouble is
counted each time and said at most once a minute for each counter, with the total. `NODE_STATUS_GET` answers what the
SDK answers and all counters beside it, under the name of the part that counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from skep import Message, Node

WARN_EVERY_S = 60.0  # soon enough for a person, and 1,440 lines a day at the very worst


class Counters(dict[str, int]):
    """Counts by name; the names are fixed, so what is exposed is bounded and always complete."""

    def __init__(
        self, names: Iterable[str], log: logging.Logger, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(dict.fromkeys(names, 0))
        self._log, self._now = log, now
        self._said_at: dict[str, float] = {}

    def trouble(self, name: str, what: str, *facts: object) -> None:
        """Counts `name`, and warns unless it did so within the last minute."""
        self[name] += 1
        now = self._now()
        said_at = self._said_at.get(name)
        if said_at is None or now - said_at >= WARN_EVERY_S:
            self._said_at[name] = now
            self._log.warning(f"{what} (%s so far: %d)", *facts, name, self[name])


def expose(node: Node, **parts: Mapping[str, int]) -> None:
    """Lets NODE_STATUS_GET answer with these counters too."""

    async def status(_message: Message) -> dict[str, Any]:
        counters = {part: dict(counts) for part, counts in parts.items()}
        return {"status": "ok", "health_state": node.lifecycle.health.value, "counters": counters}

    node.on_system("NODE_STATUS_GET")(status)
