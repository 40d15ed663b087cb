"""Memory that a peer could make the router hold without anybody counting it: real sockets, real figures."""

from __future__ import annotations

import json
import os
import select
import signal

import pytest

from hostile.conftest import Net
from hostile.line import Line, json_frame
from hostile.meter import pss_bytes
from skep.protocol import limits
from skep.protocol import link as link_verbs
from support.wait import eventually

OFFERED = 48 << 20
ALLOWED = limits.QUEUE_BYTES_MAX + (4 << 20)


def push(line: Line, piece: bytes, size: int) -> int:
    """Write `size` bytes, or as much as is taken within half a second of silence; nothing is read. -> bytes written."""
    line.socket.setblocking(False)
    written = 0
    rest = b""
    while written < size and select.select([], [line.socket], [], 0.5)[1]:
        rest = rest or piece
        try:
            sent = line.socket.send(rest)
        except BlockingIOError:
            continue
        rest = rest[sent:]
        written += sent
    return written


def grown(net: Net, before: int) -> int:
    net.node("last").settled()
    growth = pss_bytes(net.router.pid) - before
    print(f"memory: +{growth / 2**20:.1f} MiB")
    return growth


def heard_of(sender: Line, name: str) -> bool:
    sender.say(name)
    return sender.settled() == []


@pytest.mark.goal("G8")
def test_pings_of_one_that_never_reads(net: Net) -> None:
    line = net.node("pinger")
    before = pss_bytes(net.router.pid)
    push(line, link_verbs.pack_ping(1) * 1000, OFFERED)
    assert grown(net, before) <= ALLOWED


@pytest.mark.goal("G8")
@pytest.mark.parametrize("native", [True, False], ids=["native", "json"])
def test_words_behind_hello_that_fill_the_socket_before_it_is_a_link(net: Net, native: bool) -> None:
    """What it says to itself fills its socket within the read that registers it: it counts as blocked from then on."""
    deaf, sender = net.line(), net.node("sender")
    name = net.called("early")
    hello = json_frame(deaf.hello_body(name, **({"framing": ["native/1"]} if native else {})))
    myself = deaf.frame(name) if native else json_frame(deaf.body(name, {}))
    os.kill(net.router.pid, signal.SIGSTOP)  # so that all of it is one read
    try:
        push(deaf, hello + myself * (180_000 // len(myself)), 180_000)
    finally:
        os.kill(net.router.pid, signal.SIGCONT)
    eventually(lambda: heard_of(sender, name))
    before = pss_bytes(net.router.pid)
    payload = json.dumps("x" * 60_000).encode()
    push(sender, sender.frame(name, payload) * 4, OFFERED)
    assert grown(net, before) <= ALLOWED


@pytest.mark.goal("G8")
@pytest.mark.parametrize("native", [True, False], ids=["native", "json"])
def test_a_json_consumer_that_never_reads(net: Net, native: bool) -> None:
    deaf, sender = net.node("deaf", native=False), net.node("sender", native=native)
    before = pss_bytes(net.router.pid)
    text = "x" * 60_000
    piece = sender.frame(deaf.name, json.dumps(text).encode()) if native else json_frame(sender.body(deaf.name, text))
    push(sender, piece * 4, OFFERED)
    assert grown(net, before) <= ALLOWED
