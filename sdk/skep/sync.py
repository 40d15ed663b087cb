"""Skep without async: one connection, ordinary blocking calls, for scripts and notebooks.

    import skep.sync

    with skep.sync.connect("IO.script") as hive:
        print(hive.request("AI.echo", {"hi": 1}).payload)

A thread of its own runs an event loop with the connection in it; every call hands a coroutine over and waits for its
result. Calls may come from several threads. A call from inside that loop, or after close, is an error, not a hang.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack

from skep.errors import SkepError
from skep.flows import Destination, SendOptions
from skep.message import Message
from skep.receipts import Receipt
from skep.receiver import Receiver, Sender
from skep.receiver import connect as _connect
from skep.reports import Report
from skep.runner import loop_factory

Result = TypeVar("Result")
JOIN_S: Final = 5.0


class Connection:
    """A node without handlers, in blocking style."""

    def __init__(self) -> None:
        self._loop = (loop_factory() or asyncio.new_event_loop)()
        self._thread = threading.Thread(target=self._run, name="skep", daemon=True)
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs `work` in the connection's loop and waits for it."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            work.close()
            raise SkepError(
                "this connection is closed, or it was called from its own loop: use skep.connect there"
            )
        future: Future[Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt of the waiting thread cancels the work, and so the request at the other end
            raise

    def open(self, name: str, **options: Any) -> None:
        self._sender, self._receiver = self._wait(_connect(name, **options))

    @property
    def _out(self) -> Sender:
        if self._sender is None:
            raise SkepError("this connection is not open")
        return self._sender

    @property
    def name(self) -> str:
        return self._out.name

    def send(self, dst: Destination, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
        return self._wait(self._out.send(dst, payload, **options))

    def request(
        self, dst: Destination, payload: Any, timeout: float = 30.0, **options: Unpack[SendOptions]
    ) -> Message:
        return self._wait(self._out.request(dst, payload, timeout, None, **options))

    def broadcast(self, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
        return self._wait(self._out.broadcast(payload, **options))

    def stream(
        self, dst: Destination, payload: Any, timeout: float = 30.0, **options: Unpack[SendOptions]
    ) -> Iterator[Message]:
        """Yields the parts of the answer as they come."""
        parts = self._out.stream(dst, payload, timeout, **options)
        try:
            while (part := self._wait(_next(parts))) is not None:
                yield part
        finally:
            self._wait(_end(parts))

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. Raises RequestTimeout, or LinkClosed when there will be none."""
        assert self._receiver is not None
        return self._wait(self._receiver.receive(timeout))

    def reply(self, message: Message, payload: Any) -> None:
        self._wait(message.reply(payload))

    def reports(self) -> list[Report]:
        """Takes the reports that have come since the last call."""
        assert self._receiver is not None
        reports = self._receiver.reports
        return [reports.popleft() for _ in range(len(reports))]

    def close(self) -> None:
        """Leaves the hive and ends the thread. May be called twice."""
        if not self._thread.is_alive():
            return
        if self._sender is not None:
            self._wait(self._sender.close())
            self._sender = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_S)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def connect(
    name: str,
    *,
    hive: str | Path | None = None,
    framing: str = "native",
    persistent: bool = False,
    timeout: float = 30.0,
) -> Connection:
    """Registers as `name`; close the connection, or use it in a `with` statement."""
    connection = Connection()
    try:
        connection.open(name, hive=hive, framing=framing, persistent=persistent, timeout=timeout)
    except BaseException:
        connection.close()
        raise
    return connection


async def _next(parts: Any) -> Message | None:
    found: Message | None = await anext(parts, None)
    return found


async def _end(parts: Any) -> None:
    await parts.aclose()
