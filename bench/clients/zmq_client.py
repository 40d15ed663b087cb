"""ZeroMQ over ipc: a ROUTER in Python as the broker, blocking DEALERs as clients, pyzmq's fastest form.

High-water marks are lifted on every socket: at the default of 1,000 a ROUTER drops without a word.
"""

from __future__ import annotations

import time

import zmq

from bench.clients.role import ACK, ACKED, BATCH, ECHO, LAST, SINK, cpu_of, report, window

HELLO = b"hello"


def run(part: str, path: str, size: int, warm_s: float, seconds: float, others: list[int]) -> None:
    if part == "broker":
        route(path)
    elif part == "responder":
        respond(path)
    else:
        measure(path, size, warm_s, seconds, others)


def route(path: str) -> None:
    router: zmq.Socket[bytes] = zmq.Context().socket(zmq.ROUTER)
    router.set_hwm(0)
    router.bind(f"ipc://{path}")
    while True:
        source, to, data = router.recv_multipart()
        router.send_multipart([source, HELLO] if to == HELLO else [to, data])


def _dealer(path: str, me: bytes) -> zmq.Socket[bytes]:
    dealer: zmq.Socket[bytes] = zmq.Context().socket(zmq.DEALER)
    dealer.set_hwm(0)
    dealer.setsockopt(zmq.IDENTITY, me)
    dealer.connect(f"ipc://{path}")
    dealer.send_multipart([HELLO, b""])
    dealer.recv_multipart()  # the router answers a greeting: registered
    return dealer


def respond(path: str) -> None:
    dealer = _dealer(path, b"responder")
    print("ready", flush=True)
    counted, every = 0, 1
    while True:
        data = dealer.recv_multipart()[-1]
        kind = data[:1]
        if kind == ECHO:
            dealer.send_multipart([b"client", data])
        elif kind == SINK:
            counted += 1
            if counted % every == 0:
                dealer.send_multipart([b"client", ACK + ACKED.pack(counted, time.monotonic_ns(), False)])
        elif kind == LAST:
            dealer.send_multipart([b"client", ACK + ACKED.pack(counted, time.monotonic_ns(), True)])
            counted = 0
        else:
            every = int(data[1:])


def measure(path: str, size: int, warm_s: float, seconds: float, others: list[int]) -> None:
    dealer = _dealer(path, b"client")
    latencies = _trips(dealer, size, warm_s, seconds)
    before = cpu_of(others)
    report(latencies, *_one_way(dealer, size, seconds), cpu_of(others) - before)


def _trips(dealer: zmq.Socket[bytes], size: int, warm_s: float, seconds: float) -> list[int]:
    data, latencies = ECHO + bytes(size - 1), []
    warm = time.monotonic_ns() + int(warm_s * 1e9)
    end = warm + int(seconds * 1e9)
    while (started := time.monotonic_ns()) < end:
        dealer.send_multipart([b"responder", data])
        answer = dealer.recv_multipart()[-1]
        if started >= warm:
            latencies.append(time.monotonic_ns() - started)
        assert len(answer) == size, "the echo came back changed"
    return sorted(latencies)


def _one_way(dealer: zmq.Socket[bytes], size: int, seconds: float) -> tuple[int, int, float]:
    most = window(size, 1000)
    batch = min(BATCH, most // 4)
    dealer.send_multipart([b"responder", ACK + str(max(1, most // 4)).encode()])
    data, sent, acked = SINK + bytes(size - 1), 0, 0
    first = time.monotonic_ns()
    while time.monotonic_ns() < first + seconds * 1e9:
        while sent - acked > most - batch or dealer.poll(0):
            acked = ACKED.unpack(dealer.recv_multipart()[-1][1:])[0]
        for _ in range(batch):
            dealer.send_multipart([b"responder", data])
        sent += batch
    dealer.send_multipart([b"responder", LAST])
    while True:
        counted, arrived, last = ACKED.unpack(dealer.recv_multipart()[-1][1:])
        if last:
            return sent, counted, counted * 1e9 / (arrived - first)
