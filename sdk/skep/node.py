"""A node: handlers by decorator, on a client, served by a few workers.

    node = Node("AI.echo")

    @node.on_message
    async def echo(message):
        return message.payload

    node.run()

Which handler takes a message depends only on its flow (class, verb, type, action), so it is looked up once per flow. A
handler's return value is the reply; an async generator's values are the parts of a streamed reply; an exception becomes
an ERROR answer with a code and no traceback, and is logged here. System verbs every node must answer (status, ping,
configuration) are answered by `skep.lifecycle` unless the node says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from skep.client import Client
from skep.connector import CONNECT_S, Connector
from skep.contract import Contract
from skep.errors import LinkClosed, RemoteError, SkepError
from skep.flows import Destination, InFlow, SendOptions
from skep.handlers import Failure, Route, Routes, failure_of
from skep.lifecycle import Lifecycle
from skep.message import Message
from skep.place import Place
from skep.protocol.header import AckLevel, MessageClass, Phase
from skep.receipts import Receipt
from skep.reporting import Reporting
from skep.reports import Report
from skep.workers import Workers

if TYPE_CHECKING:
    from skep.degree import DegreeGuard
    from skep.seal import Verified
    from skep.testing import Hive as MemoryHive

log = logging.getLogger("skep")
Handler = TypeVar("Handler", bound=Callable[..., Any])
CONCURRENCY: Final = 64
STOP_GRACE_S: Final = 5.0
_REQUEST: Final = int(Phase.REQUEST)
_REPLY: Final = int(Phase.REPLY)
_PROCESSED: Final = int(AckLevel.PROCESSED)
_NO_DEADLINE: Final = bytes(4)
_SHORTCUTS: Final = ("send", "request", "send_nowait")
_TOO_LATE: Final = ("deadline_exceeded", "the deadline passed before a handler was free")


class Node:
    """One node of a hive. `name` may leave out the hive."""

    def __init__(
        self,
        name: str,
        *,
        hive: str | Path | MemoryHive | None = None,
        framing: str = "native",
        persistent: bool = False,
        concurrency: int = CONCURRENCY,
        ordered: bool = True,
        version: str = "1.0",
        contract: Contract | None = None,
        degree: str | Path | None = None,
        ilk: str = "",
    ) -> None:
        """`degree` is the folder of the degree this node must hold to speak; a relative one is in the hive's folder."""
        self.requested_name = name
        self.version = version
        self.framing = framing
        self._hive = hive
        self._persistent = persistent
        self._concurrency = concurrency
        self._ordered = ordered
        self._degree, self._ilk = degree, ilk
        self._guard: DegreeGuard | None = None
        self.routes = Routes()
        self._on_start: list[Callable[[], Awaitable[None]]] = []
        self._on_stop: list[Callable[[], Awaitable[None]]] = []
        self._reporting = Reporting()
        self.lifecycle = Lifecycle(self, contract or Contract())
        self._place: Place | None = None
        self._client: Client | None = None
        self._connector: Connector | None = None
        self._workers: Workers | None = None
        self._finished: asyncio.Future[None] | None = None

    # ---- declaring -----------------------------------------------------------------------------------------------

    def on_message(
        self,
        handler: Handler | None = None,
        *,
        model: Any = None,
        type: str | None = None,
        action: str | None = None,
    ) -> Any:
        """Registers a handler for messages that are not system messages; the first one that fits takes a message.

        With `model` the payload is validated and handed over as a second argument.
        """
        return self._declare(
            handler, lambda function: self.routes.add(function, model, type=type, action=action)
        )

    def on_system(self, verb: str) -> Callable[[Handler], Handler]:
        """Registers the handler of one system verb."""

        def declare(handler: Handler) -> Handler:
            self.routes.add_verb(verb, handler)
            return handler

        return declare

    def on_start(self, handler: Handler) -> Handler:
        """Called when the node is linked, before messages are handled."""
        self._on_start.append(handler)
        return handler

    def on_stop(self, handler: Handler) -> Handler:
        """Called before the node leaves."""
        self._on_stop.append(handler)
        return handler

    def on_report(self, handler: Handler) -> Handler:
        """Called for each message that was lost, may have been lost, or was refused with nobody waiting."""
        self._reporting.handler = handler
        return handler

    def on_config(self, handler: Handler) -> Handler:
        """Called with each new configuration, and at the start with the stored one; ConfigError refuses it."""
        self.lifecycle.apply = handler
        return handler

    @staticmethod
    def _declare(handler: Handler | None, add: Callable[[Any], None]) -> Any:
        def declare(function: Handler) -> Handler:
            add(function)
            return function

        return declare if handler is None else declare(handler)

    def move_to(self, hive: str | Path | MemoryHive | None) -> None:
        """Says which hive to start in, for a node that was declared before its hive was known."""
        if self._client is not None:
            raise SkepError(f"{self.name} is started already")
        self._hive = hive

    # ---- facts ---------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The client of a started node. Raises SkepError before that."""
        if self._client is None:
            raise SkepError(f"{self.requested_name} is not started: use 'async with node' or node.run()")
        return self._client

    @property
    def name(self) -> str:
        return self._client.name if self._client is not None else self.requested_name

    @property
    def uuid(self) -> bytes:
        return self.client.uuid

    @property
    def place(self) -> Place:
        if self._place is None:
            raise SkepError(f"{self.requested_name} has no place in a hive before it is started")
        return self._place

    @property
    def guard(self) -> DegreeGuard | None:
        """What knows whether this node may speak; None for a node that declared no degree."""
        return self._guard

    @property
    def degree(self) -> Verified:
        """The degree that was verified last. Raises SkepError for a node that declared none or is not started."""
        if self._guard is None or self._guard.verified is None:
            raise SkepError(f"{self.requested_name} holds no verified degree: declare one and start the node")
        return self._guard.verified

    # ---- sending -------------------------------------------------------------------------------------------------

    def send(self, dst: Destination, payload: Any, **options: Unpack[SendOptions]) -> Awaitable[Receipt]:
        """Sends one message; see `Client.send`."""
        return self.client.send(dst, payload, **options)

    def send_nowait(self, dst: Destination, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
        return self.client.send_nowait(dst, payload, **options)

    def request(
        self, dst: Destination, payload: Any, timeout: float = 30.0, **options: Any
    ) -> Awaitable[Message]:
        """Sends a request and returns the answer; see `Client.request`."""
        return self.client.request(dst, payload, timeout, **options)

    def stream(
        self, dst: Destination, payload: Any, timeout: float = 30.0, **options: Unpack[SendOptions]
    ) -> AsyncIterator[Message]:
        """Sends a request and yields the parts of the answer; see `Client.stream`."""
        return self.client.stream(dst, payload, timeout, **options)

    def broadcast(self, payload: Any, **options: Unpack[SendOptions]) -> Awaitable[Receipt]:
        return self.client.broadcast(payload, **options)

    async def handoff(self, message: Message, to: str, reason: str = "", lease: float | None = None) -> None:
        """Gives the thread of `message` to another node and passes the message on to it."""
        from skep.threads import handoff

        await handoff(self.client, message, to, reason, lease)

    async def escalate(self, message: Message, to: str, reason: str = "", lease: float | None = None) -> None:
        """Hands the thread to somebody who can do what this node cannot, usually a person."""
        from skep.threads import handoff

        await handoff(self.client, message, to, reason or "escalated", lease)

    async def return_thread(self, message: Message, reason: str = "returned") -> None:
        """Ends the binding of the message's thread: the next message is routed as if there had been none."""
        from skep.threads import unbind

        await unbind(self.client, message, reason)

    # ---- life ----------------------------------------------------------------------------------------------------

    async def start(self, timeout: float = CONNECT_S) -> None:
        """Links to the hive and begins to serve. Raises HiveError, IdentityError or LinkClosed."""
        if self._client is not None:
            raise SkepError(f"{self.name} is started already")
        self._place = Place.find(self.requested_name, self._hive, persistent=self._persistent)
        self._finished = asyncio.get_running_loop().create_future()
        try:
            self._guard = self._verified_guard(self._place)
            await self._link(self._place, timeout)
            await self.lifecycle.load()
            for handler in self._on_start:
                await handler()
        except BaseException:
            await self._leave()
            raise
        assert self._workers is not None
        self._workers.open()

    def _verified_guard(self, place: Place) -> DegreeGuard | None:
        """Nothing is linked before the degree is good. Raises DegreeError that says what to do."""
        if self._degree is None:
            return None
        from skep.degree import DegreeGuard  # with a degree come its checks; nobody else pays for them
        from skep.errors import DegreeError

        guard = DegreeGuard(place.hive.root / self._degree, place.hive.config_dir, place.name, self._ilk)
        try:
            guard.verify()
        except DegreeError as error:
            raise DegreeError(error.code, guard.reason(error), error.module) from error
        return guard

    async def _link(self, place: Place, timeout: float) -> None:
        self._workers = Workers(
            self._serve, limit=self._concurrency, ordered=self._ordered, drained=self._drained
        )
        self.deliver = self._workers.queue.append
        client, self._connector = place.client(self, self.framing)
        self._client = client
        # The client's own methods, not a call of ours around each, unless a subclass has its own: a tenth of a send.
        inherited = [name for name in _SHORTCUTS if getattr(type(self), name) is getattr(Node, name)]
        vars(self).update({name: getattr(client, name) for name in inherited})
        self._reporting.start()
        await self._connector.start(timeout)

    def _drained(self) -> None:
        self.client.drained()

    async def stop(self, grace: float = STOP_GRACE_S) -> None:
        """Lets running handlers finish, leaves the hive, and frees the uuid."""
        if self._client is None:
            return
        for handler in self._on_stop:
            await handler()
        await self._leave(grace)

    async def _leave(self, grace: float = 0) -> None:
        if self._workers is not None:
            await self._workers.stop(grace)
        if self._connector is not None:
            await self._connector.close()
        await self._reporting.stop()
        if self._place is not None:
            self._place.identity.close()
        self._client = self._connector = self._workers = self._place = None
        for shortcut in _SHORTCUTS:
            vars(self).pop(shortcut, None)
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def serve_forever(self) -> None:
        """Returns when the node was stopped. Raises LinkClosed when the router refused it for good."""
        assert self._finished is not None
        await asyncio.shield(self._finished)

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM. Blocks; uses uvloop when it is there."""
        from skep.runner import run

        run(self)

    # ---- Inbox: what the client hands over -----------------------------------------------------------------------

    deliver: Callable[[Message], object]

    def waiting(self) -> int:
        workers = self._workers
        return workers.waiting if workers is not None else 0

    def wake(self) -> int:
        workers = self._workers
        if workers is None:
            return 0
        waiting = len(workers.queue)
        if waiting:
            workers.kick()
        return waiting + workers.held

    def cancelled(self, source: bytes, message_id: int) -> None:
        if self._workers is not None:
            self._workers.cancel(source, message_id)

    def report(self, reports: Iterable[Report]) -> None:
        self._reporting.add(reports)

    def ended(self, error: LinkClosed) -> None:
        log.error("%s left the hive for good: %s", self.name, error)
        if self._finished is not None and not self._finished.done():
            self._finished.set_exception(error)

    # ---- serving -------------------------------------------------------------------------------------------------

    async def _serve(self, message: Message) -> None:
        """Runs the handler of one message and sends what comes of it.

        A message that somebody waits for always gets an answer: its handler's value, None, an error, or that it came
        too late. Nothing but the end of the worker itself leaves this function as an exception.
        """
        flow = message.flow
        route: Route = flow.handler or self._route(flow)
        try:
            if message.frame[56:60] != _NO_DEADLINE and message.too_late():
                raise RemoteError(*_TOO_LATE)
            if route.parts:
                await self._send_parts(message, route)
            else:
                result = await route.call(message)
                if (result is not None and flow.phase != _REPLY) or (
                    flow.phase == _REQUEST and not message.answered
                ):
                    client = message.client
                    if not client.answer_nowait(message, result):
                        await client.answer(message, result)
        except asyncio.CancelledError:
            self._survive()  # it was the request that was cancelled, not the worker
        except Exception as error:  # noqa: BLE001 a handler may raise anything; it must not end the worker
            await self._failed(message, failure_of(error))
            return
        if flow.ack == _PROCESSED:
            self.client.acknowledge(message, AckLevel.PROCESSED)

    def _survive(self) -> None:
        """Ends a cancellation that was meant for a request. Raises it again when the workers are being stopped."""
        task = asyncio.current_task()
        if task is None or self._workers is None or self._workers.stopping:
            raise asyncio.CancelledError
        task.uncancel()

    def _route(self, flow: InFlow) -> Route:
        route = self.routes.find(flow.selector) or self.lifecycle.route(flow.selector)
        if self._guard is not None and flow.selector.message_class is not MessageClass.SYSTEM:
            route = self._guard.guarded(route)
        flow.handler = route
        return route

    async def _send_parts(self, message: Message, route: Route) -> None:
        number = 0
        async for part in route.call(message):
            number += 1
            await self.client.answer(message, part, Phase.PART, number)
        await self.client.answer(message, None, Phase.END)

    async def _failed(self, message: Message, failure: Failure) -> None:
        """Tells whoever waits, and the log. A message that nobody waits for is only logged."""
        if failure.error is not None:
            log.error("%s: handler failed for %r", self.name, message, exc_info=failure.error)
        dropped = failure.code == _TOO_LATE[0]  # its sender must hear that it was not handled
        if dropped or message.wants_reply or message.flow.ack == AckLevel.PROCESSED:
            try:
                await self.client.answer(message, failure.payload(), Phase.ERROR)
            except SkepError as error:
                log.warning("%s: could not tell %s of the failure: %s", self.name, message.source_name, error)
