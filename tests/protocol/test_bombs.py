"""Bodies made to cost much: each is read or refused in little time and little memory.

Mutated input is the business of tests/test_fuzz.py; these are the inputs that chance does not find.
"""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import pytest

from skep.protocol.errors import ProtocolError
from support.fuzzing import SECONDS_MAX, TARGETS

MEMORY_MAX = 16 << 20
HEAD = (
    b'{"routing":{"src":"00112233-4455-4677-8899-aabbccddeeff","dst":null,"ttl":1,"trace_id":""},'
    b'"meta":{"type":"user"},"payload":'
)
BOMBS = {
    "deep": b"[" * 120_000,
    "deep and closed": b"[" * 60_000 + b"]" * 60_000,
    "wide": b"[" + b"[]," * 40_000 + b"[]]",
    "quotes": b"[" * 40 + b'"' + b'\\"' * 60_000,
    "open quotes": b"[" * 40 + b'"\\' * 60_000,
    "objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "braces and brackets": b"[{" * 50_000 + b"}]" * 10_000,
    "digits": b"[" + b"9" * 120_000 + b"]",
    "long fraction": b"[0." + b"9" * 120_000 + b"]",
    "spaces": b"[" + b" " * 120_000 + b"1]",
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(10_000)) + b"}",
    "keys and spaces": b"{" + b", ".join(b'"%d": 1' % number for number in range(9_000)) + b"}",
    "numbers that grow": b"[" + b"1E9," * 30_000 + b"1]",
    "escapes": b'"' + b"\\u0041" * 20_000 + b'"',
}


def seconds(data: bytes) -> float:
    """Of this thread. The best of a few: a collection of the whole test run's garbage is not the parser's."""
    started = time.thread_time()
    with suppress(ProtocolError):
        TARGETS["json"].parse(data)
    return time.thread_time() - started


@pytest.mark.goal("G15")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little(name: str) -> None:
    """No input takes 50 ms, none makes the parser hold 16 MiB."""
    body = HEAD + BOMBS[name] + b"}"
    data = len(body).to_bytes(4, "big") + body
    assert min(seconds(data) for _ in range(3)) < SECONDS_MAX
    tracemalloc.start()
    with suppress(ProtocolError):
        TARGETS["json"].parse(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_MAX
