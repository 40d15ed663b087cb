"""Work in order within a conversation, at once across conversations, bounded in all.

A lane is one conversation's queue with one task that works it off and ends with it. So a slow answer holds up only
its own conversation, and two messages of one person never overtake each other. Rejected: one queue with one worker
(one slow conversation stops all) and one task for each message (the second may arrive first).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from skep_nodes.io.counters import Counters

log = logging.getLogger("skep.nodes.lanes")

WAITING_MAX = 1024  # messages in all lanes; x a frame each, 128 MiB at the very worst
LANE_MAX = 64  # in one: nobody types that much ahead, so more is a flood

Work = Callable[[], Awaitable[None]]


class Lanes:
    def __init__(self, waiting_max: int = WAITING_MAX, lane_max: int = LANE_MAX) -> None:
        self._waiting_max, self._lane_max = waiting_max, lane_max
        self._lanes: dict[str, deque[Work]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0
        self.counters = Counters(("done", "refused", "failed"), log)

    def put(self, lane: str, work: Work) -> bool:
        """Queues `work`; False (counted) when the lane or all of them together are full."""
        queue = self._lanes.get(lane)
        if self.waiting >= self._waiting_max or (queue is not None and len(queue) >= self._lane_max):
            self.counters.trouble(
                "refused", "no room in a conversation's lane: %d messages wait in all", self.waiting
            )
            return False
        self.waiting += 1
        if queue is not None:
            queue.append(work)
            return True
        self._lanes[lane] = deque((work,))
        task = asyncio.get_running_loop().create_task(self._work_off(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self, grace_s: float = 2.0) -> None:
        """Lets what waits finish for `grace_s`, then cuts it."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work_off(self, lane: str) -> None:
        queue = self._lanes[lane]
        try:
            while queue:
                work = queue.popleft()
                self.waiting -= 1
                await self._one(lane, work)
        finally:
            self.waiting -= len(queue)
            del self._lanes[lane]

    async def _one(self, lane: str, work: Work) -> None:
        try:
            await work()
            self.counters["done"] += 1
        except Exception:
            self.counters["failed"] += 1
            log.exception("work of conversation %s failed", lane)
