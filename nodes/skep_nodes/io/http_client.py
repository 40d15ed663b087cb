"""One HTTP request out: POST a body, get a bounded answer; and the retries around it.

Owns: nothing between calls. A call opens one connection and closes it, because a channel node speaks seldom and to
few hosts, and a kept connection that died is the classic source of a message sent twice.

Why h11 and not httpx2: importing httpx2 costs about 90 ms of a process's start, and h11 is loaded for the server
anyway. No redirects (a webhook that moves is a configuration to change) and no proxies.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

import h11

READ_BYTES = 65536
HEAD_BYTES_MAX = 32768
RESPONSE_BYTES_MAX = 1 << 20  # the largest answer a caller here reads is a model's, far below
RETRY_AFTER_S_MAX = 60.0  # a server that asks for more than a minute is treated as down
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpFailure(Exception):
    """No usable answer: connection refused, timed out, cut, or larger than allowed."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Retry:
    """Bounds of trying again: delays double from `initial_s` to `max_s`, each shortened by up to a fifth."""

    attempts: int = 5
    initial_s: float = 1.0
    max_s: float = 30.0

    def delay_s(self, attempt: int, reply: HttpReply | None = None) -> float:
        """Seconds before attempt number `attempt` + 1; a server's Retry-After wins within its bound."""
        asked = _retry_after_s(reply)
        if asked is not None:
            return min(asked, RETRY_AFTER_S_MAX)
        doubled: float = min(self.max_s, self.initial_s * 2.0 ** (attempt - 1))
        return doubled * random.uniform(0.8, 1.0)


Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[HttpReply]]
Sleep = Callable[[float], Awaitable[None]]


async def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float = 10.0) -> HttpReply:
    """POSTs `body`. Raises HttpFailure when no whole answer came within `timeout_s`."""
    target = urlsplit(url)
    if target.scheme not in ("http", "https") or not target.hostname:
        raise HttpFailure(f"not an http(s) URL: {url[:200]}")
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(target, body, headers)
    except TimeoutError:
        raise HttpFailure(f"no answer from {target.hostname} within {timeout_s} s") from None
    except (OSError, h11.ProtocolError, asyncio.IncompleteReadError) as error:
        raise HttpFailure(f"{target.hostname}: {error}") from error


async def post_until_accepted(
    send: Callable[[], Awaitable[HttpReply]], retry: Retry, sleep: Sleep = asyncio.sleep
) -> HttpReply:
    """Calls `send` until it answers with something final (2xx, or an error that trying again cannot mend).

    Returns the last answer; raises HttpFailure when the last attempt had none.
    """
    for attempt in range(1, retry.attempts + 1):
        reply: HttpReply | None = None
        try:
            reply = await send()
            if reply.status not in RETRYABLE_STATUS or attempt == retry.attempts:
                return reply
        except HttpFailure:
            if attempt == retry.attempts:
                raise
        await sleep(retry.delay_s(attempt, reply))
    raise AssertionError("a Retry has at least one attempt")


async def _exchange(target: SplitResult, body: bytes, headers: Mapping[str, str]) -> HttpReply:
    secure = target.scheme == "https"
    port = target.port or (443 if secure else 80)
    context = _tls() if secure else None
    reader, writer = await asyncio.open_connection(target.hostname, port, ssl=context, limit=READ_BYTES)
    try:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        writer.write(_request_bytes(http, target, body, headers))
        await writer.drain()
        return await _read_reply(http, reader)
    finally:
        writer.close()


def _request_bytes(
    http: h11.Connection, target: SplitResult, body: bytes, headers: Mapping[str, str]
) -> bytes:
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    host = target.netloc.rpartition("@")[2]
    fields = [("Host", host), ("Content-Length", str(len(body))), ("Connection", "close"), *headers.items()]
    parts = (
        http.send(h11.Request(method="POST", target=path, headers=fields)),
        http.send(h11.Data(data=body)),
        http.send(h11.EndOfMessage()),
    )
    return b"".join(part for part in parts if part)


async def _read_reply(http: h11.Connection, reader: asyncio.StreamReader) -> HttpReply:
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > RESPONSE_BYTES_MAX:
                raise HttpFailure(f"an answer may have {RESPONSE_BYTES_MAX} bytes")
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            names = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            return HttpReply(head.status_code, names, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise HttpFailure("the server left before its answer was whole")


def _retry_after_s(reply: HttpReply | None) -> float | None:
    text = reply.headers.get("retry-after", "") if reply else ""
    return float(text) if text.isascii() and text.isdigit() else None


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Made once and late: loading the system's authorities takes longer than a local request."""
    return ssl.create_default_context()
