"""Getting onto a router and back onto one: which socket, the handshake, and the pauses between tries.

A hive's routers are the sockets in one folder; a node begins at the one its name hashes to and goes round, so nodes
spread themselves and a missing router costs one refused connect. After a cut the first try is immediate and further
ones follow every 20 ms for two seconds (a killed router is back within that), then 100 ms doubling to 30 s, with jitter
so that a thousand nodes do not return in step. A refusal that would be repeated (name not granted, uuid taken) ends the
client instead.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from skep.errors import HiveError
from skep.protocol.codes import CloseReason, Reason
from skep.protocol.errors import DeliveryError, LinkClosed
from skep.protocol.names import base_of, fnv1a64

if TYPE_CHECKING:
    from skep.client import Client
    from skep.link import NativeLink

QUICK_S: Final = 2.0
QUICK_EVERY_S: Final = 0.02
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 30.0
HANDSHAKE_S: Final = 5.0  # the router answers in microseconds; a stopped one must not hold us for ever
CONNECT_S: Final = 30.0  # for the first link, so that nodes may be started before their router
CLOSE_S: Final = 2.0
SETTLE_S: Final = 1.0

Factory = Callable[[], asyncio.BaseProtocol]


class Dialer(Protocol):
    """Where routers are and how a byte stream to one is opened."""

    where: str

    def places(self, base: str) -> list[str]:
        """Addresses in the order in which to try them."""
        ...

    async def open(self, factory: Factory, place: str) -> None:
        """Opens a stream whose protocol is made by `factory`. Raises OSError."""
        ...


class UnixDialer:
    """The sockets of a hive's routers, or one socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = str(path)

    def places(self, base: str) -> list[str]:
        if not self._path.is_dir():
            return [str(self._path)]
        found = sorted(entry.name for entry in self._path.glob("*.sock") if not entry.name.startswith("irp-"))
        if not found:
            return []
        start = fnv1a64(base.encode()) % len(found)
        return [str(self._path / name) for name in found[start:] + found[:start]]

    async def open(self, factory: Factory, place: str) -> None:
        await asyncio.get_running_loop().create_unix_connection(factory, place)


class Connector:
    """Keeps one client linked until it is closed."""

    def __init__(self, client: Client, dialer: Dialer, *, framing: str, ticket: str | None) -> None:
        self.client = client
        self._dialer = dialer
        self._framing = framing
        self._ticket = ticket
        self._ended: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.links = 0
        client.on_lost = self._link_lost

    async def start(self, seconds: float = CONNECT_S) -> None:
        """Makes the first link. Raises LinkClosed when refused for good, HiveError when no router answers."""
        give_up = self.client.clock.now() + seconds
        tries = _Tries(self.client)
        while True:
            try:
                link = await self._connect_once()
                break
            except (OSError, LinkClosed) as error:
                if isinstance(error, LinkClosed) and not error.reason.retryable:
                    raise
                if self.client.clock.now() >= give_up:
                    raise HiveError(
                        f"no router of {self.client.hive.root} took {self.client.name} within {seconds:g} s: "
                        f"{error}. Is the hive up? Try: skep doctor"
                    ) from error
            await tries.pause()
        self._task = asyncio.get_running_loop().create_task(self._keep_linked(link))

    async def _connect_once(self) -> NativeLink:
        """Tries every place once. Raises the last error, or LinkClosed when a router refused for good."""
        problem: OSError | LinkClosed = FileNotFoundError(f"no router socket in {self._dialer.where}")
        for place in self._dialer.places(base_of(self.client.name)):
            try:
                return await self._open(place)
            except LinkClosed as error:
                if not error.reason.retryable:
                    raise
                problem = error
            except OSError as error:
                problem = error
        raise problem

    async def _open(self, place: str) -> NativeLink:
        from skep.greeting import Greeting

        greeting = Greeting(self.client, framing=self._framing, ticket=self._ticket)
        await self._dialer.open(lambda: greeting, place)
        timer = self.client.clock.call_later(HANDSHAKE_S, greeting.give_up)
        try:
            link = await greeting.linked
        finally:
            timer.cancel()
        self.links += 1
        return link

    async def _keep_linked(self, link: NativeLink) -> None:
        while True:
            await self._ended.wait()
            self._ended.clear()
            if self._closing:
                return
            if link.close_reason is not None and not link.close_reason.retryable:
                self._give_up(LinkClosed(link.close_reason, link.close_detail))
                return
            next_link = await self._reconnect()
            if next_link is None:
                return
            link = next_link

    async def _reconnect(self) -> NativeLink | None:
        tries = _Tries(self.client)
        while not self._closing:
            try:
                return await self._connect_once()
            except LinkClosed as error:
                if not error.reason.retryable:
                    self._give_up(error)
                    return None
            except OSError:
                pass  # not back yet: the pause below says when to look again
            await tries.pause()
        return None

    def _give_up(self, error: LinkClosed) -> None:
        """The router would refuse us again: every wait ends with the reason."""
        closed = DeliveryError(Reason.FORBIDDEN, detail=str(error))
        self.client.close(closed)
        self.client.inbox.ended(error)

    def _link_lost(self, link: NativeLink) -> None:
        self._ended.set()

    async def close(self) -> None:
        """Says good-bye, waits for what is queued to be written, and ends every wait."""
        self._closing = True
        link = self.client.link
        if link is not None:
            self._ended.clear()
            await self._settle(link)
            link.say_bye(CloseReason.WITHDRAWN)
            link.end(CloseReason.LOCAL_CLOSED)
            await self._wait_ended(link)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.client.close(DeliveryError(Reason.UNKNOWN, detail="the node was closed"))
        self.client.directory.close()

    async def _settle(self, link: NativeLink) -> None:
        """Waits until the router has read everything: a message sent just before leaving is not a lost one.

        By the loop's time and not the client's clock: closing must end even where a test has stopped time.
        """
        link.send_taken()
        link.flush()
        try:
            async with asyncio.timeout(SETTLE_S):
                await link.wait_accepted()
        except TimeoutError:
            pass  # it reads nothing; what it has not read is reported when the link ends
        link.finished = max(link.finished, link.accepted)  # the router has them and goes on without us

    async def _wait_ended(self, link: NativeLink) -> None:
        """The transport closes once its buffer is written; a router that reads nothing is not waited for."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()
        except TimeoutError:
            link.transport.abort()


class _Tries:
    """The pauses of one reconnection."""

    def __init__(self, client: Client) -> None:
        self._clock = client.clock
        self._began = self._clock.now()
        self._backoff = BACKOFF_FIRST_S

    async def pause(self) -> None:
        if self._clock.now() - self._began < QUICK_S:
            await self._clock.sleep(QUICK_EVERY_S * _jitter())
            return
        await self._clock.sleep(self._backoff * _jitter())
        self._backoff = min(BACKOFF_MAX_S, self._backoff * 2)


def _jitter() -> float:
    """Between 0.75 and 1.25; a byte of chance is enough, and the random module takes a millisecond to import."""
    return 0.75 + os.urandom(1)[0] / 510
