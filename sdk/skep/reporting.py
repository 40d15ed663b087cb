"""Reports on their way to the application: one task that hands them over in order.

A cut of a busy link yields as many reports as there were messages in flight, so they are kept as the iterables they
come as and made one at a time. Without a handler they are counted in the log, once per cut: nobody is left unaware.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Final

from skep.reports import Report

log = logging.getLogger("skep")
BATCHES_MAX: Final = 4096  # refusals come one by one; past this the oldest are summed up in the log


class Reporting:
    """Hands reports to `handler`."""

    def __init__(self) -> None:
        self.handler: Callable[[Report], Awaitable[None]] | None = None
        self._batches: deque[Iterable[Report]] = deque()
        self._more: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._more = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def add(self, reports: Iterable[Report]) -> None:
        if self._more is None or self.handler is None:
            self._log(reports)
            return
        if len(self._batches) >= BATCHES_MAX:
            self._log(self._batches.popleft())
        self._batches.append(list(reports))
        self._more.set()

    @staticmethod
    def _log(reports: Iterable[Report]) -> None:
        counts = Counter((report.outcome, report.reason) for report in reports)
        for (outcome, reason), count in counts.items():
            log.warning(
                "%d message(s) %s (%s); declare @node.on_report to hear of each", count, outcome, reason
            )

    async def _run(self) -> None:
        assert self._more is not None
        while True:
            await self._more.wait()
            self._more.clear()
            while self._batches:
                for report in self._batches.popleft():
                    await self._hand_over(report)

    async def _hand_over(self, report: Report) -> None:
        assert self.handler is not None
        try:
            await self.handler(report)
        except Exception:
            log.exception("the report handler failed for %s", report)

    async def stop(self) -> None:
        """Ends the task; what it had not handed over yet goes to the log."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._log(chain.from_iterable(self._batches))
        self._task = self._more = None
        self._batches.clear()
