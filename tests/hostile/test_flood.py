"""G9: one uid sends as fast as it can, from one connection and from fifty; another uid hardly notices.

The flood comes from a child process under its own uid. The other uid's round trips and throughput are measured in turns
with and without it, on the cores that the flood and the router use too: what is asserted leaves room for that, what was
measured is printed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from hostile.conftest import FOREIGN, Net
from hostile.line import Line
from hostile.meter import p99, slowdown, timed
from skep.protocol import link as link_verbs
from skep.protocol.header import FIELDS_START

PROBES = 150
WINDOW = 64  # frames under way in the measure of throughput
RATE_S = 0.2  # of sending, for one figure of throughput
WRITE_BYTES = 256 << 10
JSON_PEER = "AI.json.g"
NICE = 5  # the flood is about the router's fairness, not the scheduler's
KINDS = ("plain", "unknown names", "never-repeated selectors", "to a JSON peer")


def plain(line: Line, peer: str) -> Iterator[bytes]:
    frame = line.frame(peer, b"x" * 40, content_type=3)
    piece = frame * (WRITE_BYTES // len(frame))
    while True:
        yield piece


def unknown(line: Line, peer: str) -> Iterator[bytes]:
    frame = line.frame("AI.nobody")
    piece = frame * 500
    while True:
        yield piece


def never_repeated(line: Line, peer: str) -> Iterator[bytes]:
    number = 0
    template = line.frame(peer, context=b'{"n":"%016d"}' % 0)
    while True:
        number += 500
        yield b"".join(template.replace(b"0" * 16, b"%016d" % n, 1) for n in range(number, number + 500))


def translated(line: Line, peer: str) -> Iterator[bytes]:
    frame = line.frame(JSON_PEER, b"1")
    piece = frame * 2000
    while True:
        yield piece


SPEECH = dict(zip(KINDS, (plain, unknown, never_repeated, translated), strict=True))


def flood(path: object, kind: str, connections: int, said: int) -> NoReturn:
    """The child: joins, says so, and writes for ever. Everybody reads, and reports what it took."""
    os.nice(NICE)
    lines = [Line(path, FOREIGN).hello(f"AI.flood{n}.g") for n in range(connections)]  # type: ignore[arg-type]
    lines.append(Line(path, FOREIGN).hello(JSON_PEER, native=False))  # type: ignore[arg-type]
    talk = {line: SPEECH[kind](line, line.name) for line in lines if line.native}
    rest: dict[Line, bytes] = dict.fromkeys(talk, b"")
    by_socket = {line.socket: line for line in lines}
    writing = [line.socket for line in talk]
    for line in lines:
        line.socket.setblocking(False)
    os.write(said, b"!")
    while True:
        readable, writable, _ = select.select(by_socket, writing, [])
        for sock in readable:
            drained(by_socket[sock])
        for sock in writable:
            line = by_socket[sock]
            piece = rest[line] or link_verbs.pack_taken(line.taken) + next(talk[line])
            with contextlib.suppress(BlockingIOError):
                rest[line] = piece[sock.send(piece) :]


def drained(line: Line) -> None:
    """Reads what is there, and counts its frames without looking into them."""
    data = line.socket.recv(1 << 20)
    assert data, "the router ended a flooding connection"
    if not line.native:
        return
    line.buffer += data
    buffer, at = line.buffer, 0
    while len(buffer) - at >= FIELDS_START:
        size = int.from_bytes(buffer[at : at + 4], "little")
        if at + size > len(buffer):
            break
        line.taken += buffer[at + 89] != 0
        at += size
    del buffer[:at]


@contextlib.contextmanager
def flooding(net: Net, kind: str, connections: int) -> Iterator[None]:
    ready, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            flood(net.path, kind, connections, said)
        finally:
            os._exit(1)
    os.close(said)
    try:
        assert os.read(ready, 1) == b"!", "the flood ended before it began"
        yield
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the flood ended early"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)


def round_trips(a: Line, b: Line) -> Callable[[], float]:
    frame = a.frame(b.name, b"1")

    def once() -> None:
        a.write(frame)
        b.read()

    return lambda: p99(timed(once, PROBES))


def rate(a: Line, b: Line) -> float:
    """Frames a second through a window."""
    batch = a.frame(b.name, b"1") * WINDOW
    began = time.perf_counter()
    frames = 0
    while time.perf_counter() - began < RATE_S:
        a.write(batch)
        for _ in range(WINDOW):
            b.read()
        frames += WINDOW
    return frames / (time.perf_counter() - began)


@pytest.mark.slow
@pytest.mark.goal("G9")
@pytest.mark.needs("root")
@pytest.mark.parametrize(("kind", "connections"), [*((kind, n) for kind in KINDS[:3] for n in (1, 50)), (KINDS[3], 1)])
def test_a_flood_of_one_uid_leaves_another_its_share(net: Net, kind: str, connections: int) -> None:
    a, b = net.pair()
    trips = round_trips(a, b)
    trips()

    def loaded() -> float:
        with flooding(net, kind, connections):
            rates.append(rate(a, b))
            return trips()

    rates: list[float] = []
    free = rate(a, b)
    alone, beside, ratio = slowdown(trips, loaded, rounds=3)
    share = sorted(rates)[1] / free
    print(f"G9: {kind} from {connections}: p99 {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside the flood "
          f"(ratio {ratio:.2f}, below 5 ms counts as 5 ms); throughput {share:.0%} of {free:,.0f}/s")  # fmt: skip
    assert ratio <= 3
    assert share >= 0.25
