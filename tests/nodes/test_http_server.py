"""The HTTP server against clients that are correct, wrong, slow or many."""

from __future__ import annotations

import asyncio

import pytest

from nodes.web import HOST, ask, exchange, parse, serving
from skep_nodes.io.http_server import (
    HttpLimits,
    Request,
    Response,
    Route,
    _address_of,
    error_response,
    json_response,
)
from support.wait import eventually_async


async def echo(request: Request) -> Response:
    return json_response(200, {"got": len(request.body), "query": dict(request.query), "path": request.path})


async def broken(_request: Request) -> Response:
    raise ValueError("a secret detail")


ROUTES = {("POST", "/echo"): Route(echo), ("GET", "/echo"): Route(echo), ("POST", "/broken"): Route(broken)}
FAST = HttpLimits(
    head_timeout_s=0.15, body_timeout_s=0.15, idle_timeout_s=0.15, body_bytes_max=1000, head_bytes_max=2048
)


async def test_a_request_is_answered() -> None:
    async with serving(ROUTES) as (port, server):
        reply = await ask(port, "POST", "/echo?a=1&b=", b"12345")
        assert (reply.status, reply.json) == (200, {"got": 5, "query": {"a": "1", "b": ""}, "path": "/echo"})
        assert reply.headers["content-type"] == "application/json"
        assert server.counters["requests"] == 1


async def test_a_connection_is_kept_for_further_requests() -> None:
    async with serving(ROUTES, FAST) as (port, _):
        one = b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"
        data = await exchange(port, one + one)
        assert data.count(b'"got":3') == 2


async def test_chunked_bodies_and_100_continue() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
    head += b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
    async with serving(ROUTES) as (port, _):
        data = await exchange(port, head + b"4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n")
        first, _, rest = data.partition(b"\r\n\r\n")
        if first.startswith(b"HTTP/1.1 100"):
            data = rest
        assert parse(data).json["got"] == 6


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/none", 404, "not_found"),
        ("DELETE", "/echo", 405, "method_not_allowed"),
        ("POST", "/broken", 500, "internal_error"),
    ],
)
async def test_refusals_have_a_stable_code(method: str, path: str, status: int, code: str) -> None:
    async with serving(ROUTES) as (port, _):
        reply = await ask(port, method, path)
        assert (reply.status, reply.code) == (status, code)
        assert b"secret" not in reply.body
        if status == 405:
            assert reply.headers["allow"] == "get, post"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /echo?" + b"&".join(b"a=1" for _ in range(100)) + b" HTTP/1.1\r\nHost: t\r\n\r\n",
    ],
)
@pytest.mark.goal("G15")
async def test_bytes_that_are_no_request_are_refused_and_the_server_lives(data: bytes) -> None:
    async with serving(ROUTES) as (port, _):
        reply = parse(await exchange(port, data))
        assert reply.status in (400, 501)
        assert b"bytearray" not in reply.body
        assert b"GARBAGE" not in reply.body
        assert (await ask(port, "GET", "/echo")).status == 200


@pytest.mark.goal("G15")
async def test_a_body_over_the_limit_is_refused_from_its_head() -> None:
    async with serving(ROUTES, FAST) as (port, _):
        assert (await ask(port, "POST", "/echo", bytes(1000))).status == 200
        over = await ask(port, "POST", "/echo", bytes(1001))
        assert (over.status, over.code) == (413, "payload_too_large")
        claimed = await ask(port, "POST", "/echo", b"x", {"Content-Length": str(1 << 40)})
        assert claimed.status == 413


@pytest.mark.goal("G15")
async def test_a_chunked_body_over_the_limit_is_cut() -> None:
    chunk = b"200\r\n" + bytes(512) + b"\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(ROUTES, FAST) as (port, _):
        assert parse(await exchange(port, head + chunk * 3)).status == 413


@pytest.mark.goal("G15")
async def test_a_head_over_the_limit_is_refused() -> None:
    async with serving(ROUTES, FAST) as (port, _):
        reply = parse(
            await exchange(port, b"GET /echo HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 8000 + b"\r\n\r\n")
        )
        assert reply.status == 431


@pytest.mark.goal("G11")
async def test_a_trickled_head_is_cut_at_its_deadline() -> None:
    async with serving(ROUTES, FAST) as (port, _):
        reader, writer = await asyncio.open_connection(HOST, port)
        trickle = asyncio.create_task(
            _trickle(writer, b"GET /echo HTTP/1.1\r\nHost: t\r\nX-A: aaaaaaaaaaaaaaaaaaaaaaaaaa")
        )
        data = await asyncio.wait_for(reader.read(-1), 5)
        trickle.cancel()
        writer.close()
        assert parse(data).status == 408


async def _trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One byte each few turns of the loop, for ever: bytes alone must not extend the deadline."""
    loop = asyncio.get_running_loop()
    for index in range(100_000):
        writer.write(data[index : index + 1] or b"a")
        turn = loop.create_future()
        loop.call_later(0.01, turn.set_result, None)
        await turn


@pytest.mark.goal("G11")
async def test_a_body_that_does_not_come_is_cut_at_its_deadline() -> None:
    async with serving(ROUTES, FAST) as (port, _):
        reply = parse(await exchange(port, b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc"))
        assert (reply.status, reply.code) == (408, "request_timeout")


@pytest.mark.goal("G11")
async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with serving(ROUTES, FAST) as (port, _):
        assert await exchange(port, b"") == b""


@pytest.mark.goal("G11")
async def test_connections_and_requests_are_bounded() -> None:
    gate = asyncio.Event()

    async def wait(_request: Request) -> Response:
        await gate.wait()
        return json_response(200, {})

    limits = HttpLimits(connections_max=3, requests_max=1)
    async with serving({("GET", "/wait"): Route(wait)}, limits) as (port, server):
        first = asyncio.create_task(ask(port, "GET", "/wait"))
        await eventually_async(lambda: server.requests_open == 1)
        busy = await ask(port, "GET", "/wait")
        assert (busy.status, busy.code, busy.headers["retry-after"]) == (503, "busy", "1")
        idle = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        await eventually_async(lambda: len(server._tasks) == 3)
        refused = await ask(port, "GET", "/wait")
        assert refused.status == 503
        assert server.counters["connections_refused"] == 1
        gate.set()
        assert (await first).status == 200
        for _, writer in idle:
            writer.close()


@pytest.mark.goal("G11")
async def test_one_address_full_of_idle_connections_locks_nobody_else_out() -> None:
    limits = HttpLimits(connections_max=8, connections_per_address_max=3)
    async with serving(ROUTES, limits) as (port, server):
        idle = [await asyncio.open_connection(HOST, port) for _ in range(3)]
        await eventually_async(lambda: len(server._tasks) == 3)
        refused = await ask(port, "GET", "/echo")
        assert (refused.status, refused.code) == (503, "busy")
        assert "one address" in refused.json["error"]["message"]
        reader, writer = await asyncio.open_connection(HOST, port, local_addr=("127.0.0.2", 0))
        writer.write(b"GET /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert parse(await reader.read(-1)).status == 200
        for each in (writer, *(writer for _, writer in idle)):
            each.close()
        await eventually_async(lambda: not server._addresses)
        assert (await ask(port, "GET", "/echo")).status == 200


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("1.2.3.4", 5), "1.2.3.4"),
        (("::ffff:1.2.3.4", 5, 0, 0), "1.2.3.4"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (None, ""),
        ("", ""),
    ],
)
def test_whose_connection_it_is(peer: object, address: str) -> None:
    assert _address_of(peer) == address


@pytest.mark.goal("G11")
async def test_a_guard_refuses_before_the_body_is_read() -> None:
    route = Route(echo, lambda request: error_response(401, "unauthorized", "no"))
    async with serving({("POST", "/echo"): route}) as (port, server):
        head = b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\n\r\n"
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(head)  # and no body
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()
        assert server.counters["requests"] == 0


async def test_closing_lets_a_running_request_finish() -> None:
    entered = asyncio.Event()
    gate = asyncio.Event()

    async def wait(_request: Request) -> Response:
        entered.set()
        await gate.wait()
        return json_response(200, {})

    async with serving({("GET", "/wait"): Route(wait)}) as (port, server):
        asked = asyncio.create_task(ask(port, "GET", "/wait"))
        await entered.wait()
        closing = asyncio.create_task(server.close(grace_s=5))
        gate.set()
        assert (await asked).status == 200
        await closing
