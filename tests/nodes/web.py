"""A plain HTTP client and a stand-in hive for tests of the channels; a recording server for what they post."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from skep_nodes.io.http_server import HttpLimits, HttpServer, Request, Response, Route

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


async def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | dict[str, Any] = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request on a connection of its own; written by hand so that the server's own library judges nothing."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    fields = {"Host": "test", "Connection": "close", **(headers or {})}
    if data and "Content-Length" not in fields and "Transfer-Encoding" not in fields:
        fields["Content-Length"] = str(len(data))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return parse(await exchange(port, head.encode() + b"\r\n" + data))


async def exchange(port: int, data: bytes) -> bytes:
    """Writes `data`, reads until the server closes."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(-1), 10)
    finally:
        writer.close()


def parse(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return Reply(int(first.split()[1]), headers, body)


@asynccontextmanager
async def serving(
    routes: dict[tuple[str, str], Route], limits: HttpLimits | None = None
) -> AsyncIterator[tuple[int, HttpServer]]:
    server = HttpServer(routes, limits)
    port = await server.start(HOST, 0)
    try:
        yield port, server
    finally:
        await server.close(grace_s=0.5)


@dataclass
class Recorder:
    """A receiver that answers with the statuses it was given, then 200, and keeps what came."""

    statuses: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    headers: tuple[tuple[str, str], ...] = ()
    answer: bytes = b"{}"

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        return Response(status, self.answer, headers=self.headers)

    @asynccontextmanager
    async def at(self, *paths: str) -> AsyncIterator[str]:
        """Serves the recorder at `paths`; yields the base URL."""
        async with serving({("POST", path): Route(self.handle) for path in paths}) as (port, _):
            yield f"http://{HOST}:{port}"


@dataclass
class Came:
    """A message as the channels read one."""

    payload: Any
    thread_id: str | None = None
    trace_id: str = "5f0c1e62-8f0e-4d0f-9b4b-1f3ac0ffee00"
    message_id: int = 7
    source_name: str = "AI.desk@test"


@dataclass
class StandInHive:
    """Records what is sent; `answer` makes replies, and errors in `errors` are raised first."""

    answer: Callable[[str, Any, dict[str, Any]], Any] = lambda to, payload, options: None
    sent: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    cancelled: int = 0

    async def send(self, to: str, payload: Any, **options: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((to, payload, options))
        return Came(None)

    async def request(self, to: str, payload: Any, timeout: float = 30.0, **options: Any) -> Came:
        await self.send(to, payload, **options)
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Came(self.answer(to, payload, options), options.get("thread"))
