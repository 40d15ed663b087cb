"""The HTTP client, and what is tried again."""

from __future__ import annotations

import asyncio

import pytest

from nodes.web import HOST, Recorder, serving
from skep_nodes.io import http_client
from skep_nodes.io.http_client import HttpFailure, HttpReply, Retry, post, post_until_accepted
from skep_nodes.io.http_server import HttpLimits, Request, Response, Route


async def test_a_post_brings_back_status_headers_and_body() -> None:
    recorder = Recorder(statuses=[201], headers=(("X-Extra", "1"),), answer=b'{"a":1}')
    async with recorder.at("/in") as base:
        reply = await post(f"{base}/in", b"hello", {"Content-Type": "text/plain"})
    assert (reply.status, reply.ok, reply.body, reply.headers["x-extra"]) == (201, True, b'{"a":1}', "1")
    assert recorder.requests[0].body == b"hello"
    assert recorder.requests[0].headers["content-type"] == "text/plain"


async def test_no_whole_answer_is_a_failure() -> None:
    gate = asyncio.Event()

    async def never(_request: Request) -> Response:
        await gate.wait()
        return Response(200)

    async with serving({("POST", "/"): Route(never)}) as (port, _):
        with pytest.raises(HttpFailure, match="within"):
            await post(f"http://{HOST}:{port}/", b"", {}, timeout_s=0.05)
    with pytest.raises(HttpFailure, match=HOST):
        await post(f"http://{HOST}:{port}/", b"", {})
    with pytest.raises(HttpFailure, match="not an http"):
        await post("file:///etc/passwd", b"", {})


async def test_an_answer_over_the_limit_is_a_failure() -> None:
    recorder = Recorder(answer=bytes(http_client.RESPONSE_BYTES_MAX + 1))
    async with recorder.at("/") as base:
        with pytest.raises(HttpFailure, match="may have"):
            await post(base + "/", b"", {})


async def test_a_server_that_hangs_up_is_a_failure() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(HttpFailure):
            await post(f"http://{HOST}:{port}/", b"", {})
    finally:
        server.close()


class Script:
    """Plays answers (a status, or None for no answer) and remembers the pauses."""

    def __init__(self, *answers: int | None, retry_after: str = "") -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []
        self.headers = {"retry-after": retry_after} if retry_after else {}

    async def send(self) -> HttpReply:
        status = self.answers.pop(0)
        if status is None:
            raise HttpFailure("nobody there")
        return HttpReply(status, self.headers, b"")

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.mark.parametrize(
    ("answers", "status", "pauses"),
    [
        ((200,), 200, 0),
        ((429, 200), 200, 1),
        ((None, 503, 200), 200, 2),
        ((400, 200), 400, 0),
        ((500, 500, 500), 500, 2),
    ],
)
async def test_only_what_may_pass_is_tried_again(
    answers: tuple[int | None, ...], status: int, pauses: int
) -> None:
    script = Script(*answers)
    reply = await post_until_accepted(script.send, Retry(3, 1.0, 30.0), script.sleep)
    assert (reply.status, len(script.pauses)) == (status, pauses)


async def test_the_last_failure_is_raised() -> None:
    script = Script(None, None)
    with pytest.raises(HttpFailure):
        await post_until_accepted(script.send, Retry(2), script.sleep)


async def test_pauses_double_up_to_a_bound_and_a_server_may_ask_for_one() -> None:
    retry = Retry(10, 1.0, 8.0)
    for attempt, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (9, 8.0)):
        assert longest * 0.8 <= retry.delay_s(attempt) <= longest
    assert retry.delay_s(1, HttpReply(429, {"retry-after": "7"}, b"")) == 7.0
    assert retry.delay_s(1, HttpReply(429, {"retry-after": "999999"}, b"")) == http_client.RETRY_AFTER_S_MAX
    assert retry.delay_s(1, HttpReply(429, {"retry-after": "Wed, 21 Oct 2015"}, b"")) <= 1.0


async def test_the_client_and_the_server_agree_on_a_large_body() -> None:
    recorder = Recorder()
    limits = HttpLimits(body_bytes_max=1 << 20)
    async with serving({("POST", "/"): Route(recorder.handle)}, limits) as (port, _):
        assert (await post(f"http://{HOST}:{port}/", bytes(1 << 20), {})).status == 200
    assert len(recorder.requests[0].body) == 1 << 20
