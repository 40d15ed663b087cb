"""G8: a consumer that never reads costs its senders that flow, and nobody anything else."""

from __future__ import annotations

import select
import time

import pytest

from hostile.conftest import Net
from hostile.line import Line, reason_of
from hostile.meter import p99, pss_bytes, slowdown
from skep.protocol import limits

FRAME_BYTES = 4096
BURST = 10  # frames of 4 KiB every millisecond: 10,000 a second
PROBES = 300
SLACK = 4 << 20  # allocator's arenas, tables of flows, what a start leaves for later


class Flood:
    """Sends bursts to a deaf node, and counts what it is told."""

    def __init__(self, sender: Line, deaf: str) -> None:
        self.sender = sender
        self.burst = sender.frame(deaf, b"x" * (FRAME_BYTES - 150), content_type=3) * BURST
        self.sent = self.told = 0

    def go(self) -> None:
        self.sender.write(self.burst)
        self.sent += BURST
        self.drain()

    def drain(self) -> None:
        while select.select([self.sender.socket], [], [], 0)[0]:
            self.settle_one()

    def settle_one(self) -> None:
        message = self.sender.read_any()
        if message is not None:
            assert reason_of(message) == "QUEUE_FULL"
            self.told += 1


@pytest.mark.goal("G8")
def test_a_consumer_that_never_reads_slows_no_other_flow_of_its_sender(net: Net) -> None:
    sender, other, deaf = net.node("sender"), net.node("other"), net.node("deaf")
    before = pss_bytes(net.router.pid)
    flood = Flood(sender, deaf.name)
    probe = sender.frame(other.name, b"1")

    def latency(load: bool) -> float:
        samples = []
        for _ in range(PROBES):
            due = time.perf_counter() + 0.001
            if load:
                flood.go()
            began = time.perf_counter()
            sender.write(probe)
            other.read()
            samples.append(time.perf_counter() - began)
            select.select([], [], [], max(0.0, due - time.perf_counter()))
        return p99(samples)

    alone, loaded, ratio = slowdown(lambda: latency(False), lambda: latency(True))
    grown = pss_bytes(net.router.pid) - before
    sender.settled()
    flood.told += sum(1 for message in sender.inbox if reason_of(message) == "QUEUE_FULL")
    delivered = 0
    while delivered < flood.sent - flood.told:  # a PONG overtakes the queue
        delivered += len(deaf.settled())
    print(f"G8: p99 alone {alone * 1e3:.2f} ms, with a deaf consumer {loaded * 1e3:.2f} ms, ratio {ratio:.2f}; "
          f"memory +{grown / 2**20:.1f} MiB; sent {flood.sent} = delivered {delivered} + told {flood.told}")
    assert ratio <= 1.25
    assert grown <= limits.QUEUE_BYTES_MAX * 1.1 + SLACK
    assert flood.sent == delivered + flood.told
    assert flood.told > 0


@pytest.mark.goal("G8")
def test_queue_full_is_told_within_100_ms_of_the_limit(net: Net) -> None:
    sender, deaf = net.node("sender"), net.node("deaf")
    frame = sender.frame(deaf.name, b"x" * (FRAME_BYTES - 150), content_type=3)
    fits = limits.QUEUE_BYTES_MAX // len(frame)
    sender.write(frame * fits)
    assert sender.settled() == []
    began = time.perf_counter()
    sender.write(frame)
    assert reason_of(sender.read()) == "QUEUE_FULL"
    seconds = time.perf_counter() - began
    print(f"G8: QUEUE_FULL {seconds * 1e3:.2f} ms after the limit")
    assert seconds < 0.1
