"""A small HTTP/1.1 server: h11 decides what the bytes mean, asyncio moves them, this module bounds both.

Owns: listening sockets, connections, and every limit a stranger can push against before a route's handler runs.
Invariants: a connection holds at most one request and `body_bytes_max` of it; a request's head and body each have a
deadline that trickled bytes do not extend (slow loris); a route's guard (authentication) sees the head before one
byte of the body is read; a handler that raises answers 500 and ends only its own request.

Why not FastAPI on uvicorn: importing them costs about half a second of CPU on a laptop core, h11 a twentieth of
that, and a hive starts several such processes in its two seconds. Rejected too: `http.server` (a thread for each
connection) and a parser of our own (request smuggling is a solved problem in h11).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any
from urllib.parse import parse_qsl

import h11
import orjson

from skep_nodes.io.counters import Counters

log = logging.getLogger("skep.nodes.http")

READ_BYTES = 65536  # one read; h11 copies it once into its own buffer
LINGER_BYTES, LINGER_S = 1 << 20, 1.0  # what a refused client may still send before it is cut
QUERY_FIELDS_MAX = 32  # no route here takes more than three


ADDRESS_CONNECTIONS_MAX = 64
NOT_HTTP = "this is not an HTTP/1.1 request that can be served; check its request line and headers"
COUNTERS = ("connections_refused", "requests", "busy", "errors")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one server grants to everybody together."""

    connections_max: int = 256
    """Connections; each may hold a head and a body, so memory is at most this x (head + body)."""
    connections_per_address_max: int = ADDRESS_CONNECTIONS_MAX
    """Of one address (IPv6: one /64), so that nobody's idle connections lock the others out; as many as there may be
    requests at once, which a proxy in front, one address for all its clients, does not exceed either."""
    requests_max: int = 64
    """Requests in handlers at once; more are told 503 and Retry-After, which a client can act on."""
    head_bytes_max: int = 16384
    """Bytes of request line and headers; the usual limit of servers in front of us."""
    body_bytes_max: int = 256 << 10
    """Bytes of a body; a message travels in a frame of half that, the rest is room for JSON escapes."""
    head_timeout_s: float = 5.0
    """Seconds for a whole head, however slowly it trickles."""
    body_timeout_s: float = 10.0
    """Seconds for a whole body; 256 KiB in 10 s is a very slow phone."""
    write_timeout_s: float = 10.0
    """Seconds for a client to read its answer; one that never reads must not keep a connection."""
    idle_timeout_s: float = 30.0
    """Seconds a kept-alive connection may wait for its next request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` is empty while a guard looks at it. Header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]
Guard = Callable[[Request], Response | None]


@dataclass(frozen=True, slots=True)
class Route:
    """`guard` may refuse on the head alone: no body of an unauthenticated client is ever held."""

    handler: Handler
    guard: Guard | None = None


def json_response(status: int, value: Any, *headers: tuple[str, str]) -> Response:
    return Response(status, orjson.dumps(value), headers=headers)


def error_response(status: int, code: str, detail: str, *headers: tuple[str, str]) -> Response:
    """The one shape of every refusal: a stable code for programs, a sentence for people."""
    error = {"code": code, "message": detail, "retryable": status in (429, 503, 504)}
    return json_response(status, {"status": "error", "error": error}, *headers)


class _Refused(Exception):
    """Ends reading a request with an answer; the connection closes since its body may be unread."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class HttpServer:
    """Serves `routes` ((method, path) -> Route). `close` waits for requests in flight, for `grace_s`."""

    def __init__(self, routes: Mapping[tuple[str, str], Route], limits: HttpLimits | None = None) -> None:
        self._routes = dict(routes)
        self._limits = limits or HttpLimits()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.requests_open = 0
        self._addresses: Counter[str] = Counter()
        self.counters = Counters(COUNTERS, log)

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port (useful with port 0). Raises OSError when it is taken."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=READ_BYTES, backlog=128)
        port_bound: int = self._server.sockets[0].getsockname()[1]
        return port_bound

    async def close(self, grace_s: float = 2.0) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = set(self._tasks)
        if not tasks:
            return
        if self.requests_open:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        address = _address_of(writer.get_extra_info("peername"))
        self._addresses[address] += 1
        connection = _Connection(self, reader, writer, self._limits)
        try:
            full = self._full(address)
            if full:
                self.counters.trouble("connections_refused", "a connection was refused: %s", full)
                await connection.refuse(_busy(full))
            else:
                await connection.serve()
        except (ConnectionError, TimeoutError, h11.ProtocolError) as error:
            log.debug("connection ended: %r", error)
        finally:
            self._tasks.discard(task)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
            writer.close()

    def _full(self, address: str) -> str:
        """Why one more connection is too many; empty when it is not."""
        if len(self._tasks) > self._limits.connections_max:
            return "too many connections"
        if self._addresses[address] > self._limits.connections_per_address_max:
            return "too many connections from one address"
        return ""

    def route_for(self, request: Request) -> Route:
        route = self._routes.get((request.method, request.path))
        if route is not None:
            return route
        allowed = sorted(method for method, path in self._routes if path == request.path)
        if allowed:
            detail = f"{request.method} is not offered here; use {', '.join(allowed)}"
            raise _Refused(error_response(405, "method_not_allowed", detail, ("Allow", ", ".join(allowed))))
        raise _Refused(error_response(404, "not_found", f"nothing is served at {request.path[:200]}"))

    async def answer(self, route: Route, request: Request) -> Response:
        if self.requests_open >= self._limits.requests_max:
            self.counters.trouble("busy", "a request was refused: %d are being served", self.requests_open)
            return _busy("too many requests at once")
        self.requests_open += 1
        self.counters["requests"] += 1
        try:
            return await route.handler(request)
        except Exception:
            self.counters["errors"] += 1
            log.exception("handler of %s %s failed", request.method, request.path)
            return error_response(500, "internal_error", "the node failed on this request; its log says why")
        finally:
            self.requests_open -= 1


def _busy(detail: str) -> Response:
    return error_response(503, "busy", f"{detail}; try again in a second", ("Retry-After", "1"))


@dataclass(slots=True)
class _Connection:
    """One client, one request at a time."""

    server: HttpServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    limits: HttpLimits
    http: h11.Connection = field(init=False)
    head_only: bool = False

    def __post_init__(self) -> None:
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes_max)

    async def serve(self) -> None:
        wait_s = self.limits.head_timeout_s
        while await self._serve_one(wait_s):
            self.http.start_next_cycle()
            wait_s = self.limits.idle_timeout_s

    async def refuse(self, response: Response) -> None:
        """Answers without having read anything, which h11 has no event for."""
        head = f"HTTP/1.1 {response.status} busy\r\nContent-Type: {response.content_type}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in response.headers)
        head += f"Content-Length: {len(response.body)}\r\nConnection: close\r\n\r\n"
        self.writer.write(head.encode() + response.body)
        await asyncio.wait_for(self.writer.drain(), self.limits.write_timeout_s)

    async def _serve_one(self, wait_s: float) -> bool:
        """Serves one request; False when the connection is at its end."""
        try:
            head = await self._read_head(wait_s)
            if head is None:
                return False
            self.head_only = head.method == b"HEAD"
            if _head_bytes(head) > self.limits.head_bytes_max:  # h11 counts only heads that come in pieces
                raise _Refused(error_response(431, "head_too_large", "too many bytes of headers"))
            request = _request(head)
            route = self.server.route_for(request)
            refused = route.guard(request) if route.guard else None
            if refused is not None:
                raise _Refused(refused)
            body = await self._read_body(head)
            request = Request(request.method, request.path, request.query, request.headers, body)
            response = await self.server.answer(route, request)
        except h11.RemoteProtocolError as error:
            log.debug(
                "not a request: %s", error
            )  # its text quotes what came, which is nobody's business but ours
            response = error_response(error.error_status_hint or 400, "bad_request", NOT_HTTP)
        except _Refused as refused_error:
            response = refused_error.response
        await self._write(response)
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    async def _read_head(self, wait_s: float) -> h11.Request | None:
        try:
            async with asyncio.timeout(wait_s) as deadline:
                event = await self._next_event(deadline)
        except TimeoutError:
            if self.http.trailing_data[0] or self.http.their_state is not h11.IDLE:
                raise _Refused(_too_slow("head")) from None
            return None
        return event if isinstance(event, h11.Request) else None

    async def _read_body(self, head: h11.Request) -> bytes:
        limit = self.limits.body_bytes_max
        if _declared_bytes(head) > limit:
            raise _Refused(_too_large(limit))
        if self.http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                while isinstance(event := await self._next_event(None), h11.Data):
                    body += event.data
                    if len(body) > limit:
                        raise _Refused(_too_large(limit))
        except TimeoutError:
            raise _Refused(_too_slow("body")) from None
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError("client left within its request")
        return bytes(body)

    async def _next_event(self, deadline: asyncio.Timeout | None) -> h11.Event | type[h11.PAUSED]:
        """`deadline`, when given, is cut to the head's own once the first byte of a new request is here."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            data = await self.reader.read(READ_BYTES)
            if deadline is not None and data:
                self._tighten(deadline)
                deadline = None
            self.http.receive_data(data)
        return event  # type: ignore[return-value]

    def _tighten(self, deadline: asyncio.Timeout) -> None:
        latest = asyncio.get_running_loop().time() + self.limits.head_timeout_s
        if (when := deadline.when()) is None or when > latest:
            deadline.reschedule(latest)

    async def _write(self, response: Response) -> None:
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        headers += response.headers
        whole = self.http.their_state is h11.DONE
        if not whole:  # bytes of this request may still come: what follows it would not be a head
            headers.append(("Connection", "close"))
        self._send(h11.Response(status_code=response.status, headers=headers))
        if not self.head_only:
            self._send(h11.Data(data=response.body))
        self._send(h11.EndOfMessage())
        await asyncio.wait_for(self.writer.drain(), self.limits.write_timeout_s)
        if not whole:
            await self._linger()

    async def _linger(self) -> None:
        """Swallows what the client still sends: closing on unread bytes resets the answer away."""
        self.writer.write_eof()
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and (data := await self.reader.read(READ_BYTES)):
                    left -= len(data)
        except TimeoutError:
            return

    def _send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            self.writer.write(data)


def _address_of(peer: object) -> str:
    """Who is on the other end, as far as an address says: of IPv6 the /64, which one customer has whole."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return host
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


def _request(head: h11.Request) -> Request:
    path, _, query_text = head.target.decode("ascii", "replace").partition("?")
    try:
        query = dict(parse_qsl(query_text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX))
    except ValueError:
        raise _Refused(error_response(400, "bad_request", "too many query fields")) from None
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), path, query, headers)


def _head_bytes(head: h11.Request) -> int:
    return len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers)


def _declared_bytes(head: h11.Request) -> int:
    for name, value in head.headers:
        if name == b"content-length":
            return int(value)
    return 0


def _too_large(limit: int) -> Response:
    return error_response(413, "payload_too_large", f"a body may have {limit} bytes")


def _too_slow(part: str) -> Response:
    return error_response(408, "request_timeout", f"the request's {part} did not arrive in time")
