"""`connect()`: a link without handlers, split in two: a Sender to send with, a Receiver to read from.

For programs with a loop of their own (a bridge, a test, the synchronous facade). What arrives waits in a bounded queue;
while it is above its mark nothing is reported taken, so the router slows the senders down instead of this process
growing. Closing either half closes both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skep.client import Client
from skep.clock import Clock
from skep.errors import LinkClosed, RequestTimeout
from skep.protocol.codes import CloseReason
from skep.reports import Report

if TYPE_CHECKING:
    from skep.connector import Connector, Dialer
    from skep.identity import Identity
    from skep.message import Message
    from skep.testing import Hive as MemoryHive

REPORTS_MAX: Final = 65536


class Sender:
    """The half that sends. Its methods are the client's."""

    __slots__ = ("_receiver", "client", "send", "send_nowait", "request", "stream", "broadcast")

    def __init__(self, client: Client, receiver: Receiver) -> None:
        self.client = client
        self._receiver = receiver
        self.send = client.send
        self.send_nowait = client.send_nowait
        self.request = client.request
        self.stream = client.stream
        self.broadcast = client.broadcast

    @property
    def name(self) -> str:
        return self.client.name

    async def close(self) -> None:
        await self._receiver.close()

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Receiver:
    """The half that receives: `async for message in receiver`, or `await receiver.receive(timeout)`."""

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()
        self.deliver: Callable[[Message], object] = self._queue.append
        self.reports: deque[Report] = deque(maxlen=REPORTS_MAX)
        self.cancelled_ids: deque[tuple[bytes, int]] = deque(maxlen=1024)
        self._waiter: asyncio.Future[None] | None = None
        self._error: LinkClosed | None = None
        self._connector: Connector | None = None
        self._identity: Identity | None = None

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message. Raises RequestTimeout after `timeout` seconds, LinkClosed when there will be none."""
        if not self._queue:
            try:
                async with asyncio.timeout(timeout):
                    await self._wait()
            except TimeoutError as error:
                assert timeout is not None
                raise RequestTimeout(timeout) from error
        return self._pop()

    def receive_nowait(self) -> Message | None:
        return self._pop() if self._queue else None

    async def _wait(self) -> None:
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _pop(self) -> Message:
        message = self._queue.popleft()
        if not self._queue:
            message.client.drained()
        return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            try:
                yield await self.receive()
            except LinkClosed:
                return

    # ---- Inbox ---------------------------------------------------------------------------------------------------

    def waiting(self) -> int:
        return len(self._queue)

    def wake(self) -> int:
        if self._queue and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return len(self._queue)

    def cancelled(self, source: bytes, message_id: int) -> None:
        self.cancelled_ids.append((source, message_id))

    def report(self, reports: Iterable[Report]) -> None:
        self.reports.extend(reports)

    def ended(self, error: LinkClosed) -> None:
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- life ----------------------------------------------------------------------------------------------------

    def own(self, connector: Connector, identity: Identity) -> None:
        self._connector, self._identity = connector, identity

    async def close(self) -> None:
        self.ended(LinkClosed(CloseReason.LOCAL_CLOSED))
        if self._connector is not None:
            await self._connector.close()
        if self._identity is not None:
            self._identity.close()


async def connect(
    name: str,
    *,
    hive: str | Path | MemoryHive | None = None,
    framing: str = "native",
    persistent: bool = False,
    timeout: float = 30.0,
    clock: Clock | None = None,
    dialer: Dialer | None = None,
) -> tuple[Sender, Receiver]:
    """Registers as `name` and returns the two halves. Raises HiveError, IdentityError or LinkClosed."""
    from skep.place import Place

    place = Place.find(name, hive, persistent=persistent, clock=clock, dialer=dialer)
    receiver = Receiver()
    client, connector = place.client(receiver, framing)
    receiver.own(connector, place.identity)
    try:
        await connector.start(timeout)
    except BaseException:
        await receiver.close()
        raise
    return Sender(client, receiver), receiver


__all__ = ["Receiver", "Sender", "connect"]
