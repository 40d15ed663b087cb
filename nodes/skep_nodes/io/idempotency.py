"""Idempotency keys: one exchange for each (caller, key), however often the request is repeated.

What is kept is the *exchange* (a task that ends in a response), not the response: a client that gave up waiting and
repeats its request joins the question it already asked and gets that answer, instead of asking again. An exchange
that certainly had no effect is forgotten, so its retry is a fresh try; one whose effect is unknown is kept, since
repeating it could do the thing twice.

Rejected: keying by body alone (a person may say "yes" twice) and by key alone (two callers would read each other's
answers).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

KEY_BYTES_MAX = 128  # a UUID has 36; room for two and a prefix
ENTRIES_MAX = (
    4096  # x one answer of at most a frame (128 KiB): 512 MiB at the very worst, in practice a few MiB
)
KEEP_S = 3600.0  # clients that repeat do so within minutes

Result = TypeVar("Result")
Scope = tuple[str, ...]


class KeyReused(Exception):
    """The key was used for another body: answering either way would be a lie."""


class StoreFull(Exception):
    """Every kept exchange is still running."""


@dataclass(slots=True)
class _Entry(Generic[Result]):
    digest: bytes
    task: asyncio.Task[Result]
    since: float


@dataclass(slots=True)
class Exchanges(Generic[Result]):
    """Bounded by number; the oldest finished exchange leaves first, a running one never does."""

    entries_max: int = ENTRIES_MAX
    keep_s: float = KEEP_S
    _entries: OrderedDict[Scope, _Entry[Result]] = field(default_factory=OrderedDict)

    def join(
        self, scope: Scope, body: bytes, now: float, start: Callable[[], Coroutine[Any, Any, Result]]
    ) -> asyncio.Task[Result]:
        """The exchange of this key, started when there is none. Raises KeyReused or StoreFull."""
        digest = hashlib.sha256(body).digest()
        entry = self._entries.get(scope)
        if entry is not None and now - entry.since < self.keep_s:
            if entry.digest != digest:
                raise KeyReused
            return entry.task
        self._make_room(now)
        task = asyncio.get_running_loop().create_task(start())
        self._entries[scope] = _Entry(digest, task, now)
        self._entries.move_to_end(scope)
        return task

    def forget(self, scope: Scope) -> None:
        """For an exchange that certainly had no effect."""
        self._entries.pop(scope, None)

    def __len__(self) -> int:
        return len(self._entries)

    def _make_room(self, now: float) -> None:
        while self._entries:
            scope = next(iter(self._entries))
            entry = self._entries[scope]
            if now - entry.since < self.keep_s or not entry.task.done():
                break
            del self._entries[scope]
        if len(self._entries) >= self.entries_max:
            self._evict_one()

    def _evict_one(self) -> None:
        for scope, entry in self._entries.items():
            if entry.task.done():
                del self._entries[scope]
                return
        raise StoreFull
