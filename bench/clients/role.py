"""One process of a client benchmark: `broker`, `responder` or `client` of one peer.

Every adapter carries the same four kinds of payload, told apart by the first byte: `E` echo me, `S` count me, `F`
that was the last, and `A` (from the responder: count and time of arrival). Round trip: one message in flight. One
way: the client keeps at most a window of messages unacknowledged and the responder answers every quarter of it; the
rate is what the responder counted over the time from the first send to the last arrival, and the count must be what
was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import uvloop

from bench.machine import cpu_s

ECHO, SINK, LAST, ACK = b"E", b"S", b"F", b"A"
ACKED = struct.Struct("<QQB")  # counted, time of arrival, is it the last
IN_FLIGHT_BYTES = 512 * 1024
IN_FLIGHT_MAX = 1000
BATCH = 50  # messages sent between two looks at the event loop

Handler = Callable[[bytes], "bytes | None"]


class Adapter(Protocol):
    """A peer's own way to do it, as its documentation shows. A handler's bytes are the reply to a request."""

    window_max: int

    async def open(self, address: str, me: str, handler: Handler) -> None: ...

    async def request(self, data: bytes) -> bytes: ...

    def post(self, to: str, data: bytes) -> Awaitable[object] | None: ...


def window(size: int, adapter_max: int) -> int:
    return max(8, min(IN_FLIGHT_MAX, IN_FLIGHT_BYTES // size, adapter_max))


class Responder:
    """Counts and answers; the same for every peer."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.counted = 0
        self.every = 1
        self.tasks: set[asyncio.Task[object]] = set()

    def handle(self, data: bytes) -> bytes | None:
        kind = data[:1]
        if kind == ECHO:
            return data
        if kind == SINK:
            self.counted += 1
            if self.counted % self.every == 0:
                self._acknowledge(last=False)
        elif kind == LAST:
            self._acknowledge(last=True)
            self.counted = 0
        elif kind == ACK:
            self.every = int(data[1:])
        return None

    def _acknowledge(self, *, last: bool) -> None:
        sent = self.adapter.post("client", ACK + ACKED.pack(self.counted, time.monotonic_ns(), last))
        if sent is not None:
            task = asyncio.ensure_future(sent)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


class Client:
    """Measures; the same for every peer."""

    def __init__(self, adapter: Adapter, size: int) -> None:
        self.adapter = adapter
        self.size = size
        self.window = window(size, adapter.window_max)
        self.acked = 0
        self.last: tuple[int, int] | None = None
        self.news = asyncio.Event()

    def handle(self, data: bytes) -> bytes | None:
        counted, arrived, last = ACKED.unpack(data[1:])
        self.acked = counted
        if last:
            self.last = (counted, arrived)
        self.news.set()
        return None

    async def trips(self, warm_s: float, seconds: float) -> list[int]:
        data = ECHO + bytes(self.size - 1)
        latencies: list[int] = []
        warm = time.monotonic_ns() + int(warm_s * 1e9)
        end = warm + int(seconds * 1e9)
        while (started := time.monotonic_ns()) < end:
            answer = await self.adapter.request(data)
            if started >= warm:
                latencies.append(time.monotonic_ns() - started)
            assert len(answer) == self.size, "the echo came back changed"
        return sorted(latencies)

    async def one_way(self, seconds: float) -> tuple[int, int, float]:
        await self._post(ACK + str(max(1, self.window // 4)).encode())
        data = SINK + bytes(self.size - 1)
        batch = min(BATCH, self.window // 4)
        first = time.monotonic_ns()
        end, sent = first + int(seconds * 1e9), 0
        while time.monotonic_ns() < end:
            while sent - self.acked > self.window - batch:
                await self._news()
            for _ in range(batch):
                await self._post(data)
            sent += batch
            await asyncio.sleep(0)
        await self._post(LAST)
        while self.last is None:
            await self._news()
        counted, arrived = self.last
        return sent, counted, counted * 1e9 / (arrived - first)

    async def _post(self, data: bytes) -> None:
        waiting = self.adapter.post("responder", data)
        if waiting is not None:
            await waiting

    async def _news(self) -> None:
        self.news.clear()
        await asyncio.wait_for(self.news.wait(), 20)


def adapter_named(peer: str) -> Adapter:
    """Imports one peer's client library, no other."""
    if peer == "skep":
        from bench.clients.skep_client import SkepAdapter

        return SkepAdapter()
    if peer == "nats":
        from bench.clients.nats_client import NatsAdapter

        return NatsAdapter()
    if peer == "dbus-broker":
        from bench.clients.dbus_client import DBusAdapter

        return DBusAdapter()
    from bench.clients.raw_client import RawAdapter

    return RawAdapter(direct=peer == "raw1")


async def respond(peer: str, address: str) -> None:
    adapter = adapter_named(peer)
    responder = Responder(adapter)
    await adapter.open(address, "responder", responder.handle)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def measure(
    peer: str, address: str, size: int, warm_s: float, seconds: float, others: list[int]
) -> None:
    adapter = adapter_named(peer)
    client = Client(adapter, size)
    await adapter.open(address, "client", client.handle)
    latencies = await client.trips(warm_s, seconds)
    before = cpu_of(others)
    sent, received, rate = await client.one_way(seconds)
    report(latencies, sent, received, rate, cpu_of(others) - before)


def cpu_of(others: list[int]) -> float:
    """CPU seconds of this process, the responder and the broker."""
    return sum(map(cpu_s, others)) + time.process_time()


def report(latencies: list[int], sent: int, received: int, rate: float, cpu: float) -> None:
    def at(quantile: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(len(latencies) * quantile))] / 1000, 2)

    figures = {"p50_us": at(0.5), "p99_us": at(0.99), "sent": sent, "received": received, "rate": round(rate)}
    print(json.dumps(figures | {"cpu_s": round(cpu, 3), "per_cpu_s": round(received / cpu)}))
    sys.stdout.flush()
    os._exit(0)  # some client libraries linger at exit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("part", choices=("broker", "responder", "client"))
    parser.add_argument("address")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warm", type=float, default=0.1)
    parser.add_argument(
        "--others", type=int, nargs="*", default=[], help="pids whose CPU counts beside the client's"
    )
    a = parser.parse_args()
    if a.peer == "zmq":
        from bench.clients import zmq_client

        zmq_client.run(a.part, a.address, a.size, a.warm, a.seconds, a.others)
    elif a.part == "broker":
        from bench.clients.raw_client import relay

        uvloop.run(relay(a.address))
    elif a.part == "responder":
        uvloop.run(respond(a.peer, a.address))
    else:
        uvloop.run(measure(a.peer, a.address, a.size, a.warm, a.seconds, a.others))


if __name__ == "__main__":
    main()
