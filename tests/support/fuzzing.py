"""Mutated inputs for the parsers, and what must hold for each of them.

A check takes any bytes and returns; the only exception it lets a parser raise is ProtocolError, and what a parser
accepts must survive a round trip. Everything else it lets through is a finding. Used by tools/fuzz.py, where a mutator
or a coverage-guided engine chooses the bytes, and by the tests of a commit with a small number of mutations.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from skep.protocol import link
from skep.protocol.codes import Reason
from skep.protocol.errors import ProtocolError
from skep.protocol.handshake import ClientHandshake, ServerHandshake
from skep.protocol.header import AckLevel, ContentType, DstKind, Phase, Scope, parse_frame
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.limits import FRAME_BYTES_MAX
from skep.protocol.message import BROADCAST, Message
from skep.protocol.native_framing import (
    NativeFramer,
    frame_to_message,
    message_to_frame,
    message_without_payload,
)
from skep.protocol.translate import json_to_native, native_to_json

SOURCE = bytes(range(16))
SOURCE_NAME = "AI.fuzz@test"
SECONDS_MAX = 0.05  # G13: no input may take longer; measured with the process's own CPU clock
SLOW_TRIES = 4  # a slow input is slow each time
EDGES = (0, 1, 2, 15, 16, 17, 31, 32, 71, 72, 88, 111, 112, 127, 128, 255)
NUMBERS = (
    0,
    1,
    0x7FFF,
    0x8000,
    0xFFFF,
    FRAME_BYTES_MAX,
    FRAME_BYTES_MAX + 1,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)
WORDS = tuple(
    [struct.pack("<H", number & 0xFFFF) for number in NUMBERS]
    + [struct.pack(order, number) for number in NUMBERS for order in ("<I", ">I")]
)
LENGTH_FIELDS = (
    0,
    4,
    6,
    104,
    106,
    108,
)  # of header v1: frame_bytes, key_end, body_start, dst, target, context
CHECK_EVERY = 16  # of many inputs, the share whose whole round trip is checked
TEXTS = (
    b'"', b"\\u0000", b"\\ud800", b"\xff", b"null", b"[" * 40, b"}" * 3, b"1e999", b"-0", b'"ttl":256',
    b'"type":"user",',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test: valid inputs to start from, the whole check, and the parse alone (for large numbers)."""

    name: str
    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], None]
    parse: Callable[[bytes], None]


class SlowInputError(AssertionError):
    """An input took longer than any may take."""


def messages() -> list[Message]:
    """Valid messages that between them use every field."""
    ilk = "ilk:00000000-0000-4000-8000-000000000001"
    trace = "0af76519-16cd-43dd-8448-eb211c80319c"
    return [
        Message(payload={"text": "hello"}, destination="AI.echo@test", trace_id=trace),
        Message(payload=[1, 2.5, None, True, "ü"], destination=SOURCE, trace_id="not a uuid", ttl=1, hops=1),
        Message(payload="x" * 300, destination=BROADCAST, target="AI.*", scope=Scope.GLOBAL, trace_id=trace),
        Message(payload=None, destination=None, type="system", verb="NODE_STATUS_GET", trace_id=trace, sampled=True),
        Message(
            payload={"a": {"b": {"c": []}}}, destination="SY.threads@test", type="query", action="read", src_ilk=ilk,
            dst_ilk=ilk, thread_id="thread:sha256:" + "ab" * 32, thread_seq=1 << 40, context={"k": [1]},
            phase=Phase.REQUEST, ack_level=AckLevel.PROCESSED, message_id=7, reply_to=3, part=2, deadline_ms=5000,
            label_set=4, budget=9, span_id=b"\1" * 8, trace_id=trace, meta={"priority": "high"}, routing={"x": 1},
        ),
        Message(payload={"t": 1}, destination="AI.echo@test", type="workflow", thread_id="plain text", trace_id=trace),
    ]  # fmt: skip


def native_seeds() -> list[bytes]:
    other = Message(payload=b"\0\1", destination="AI.b@test", content_type=ContentType.BYTES)
    return [message_to_frame(message, SOURCE) for message in [*messages(), other]]


def json_seeds() -> list[bytes]:
    return [encode_body(message, source_name=SOURCE_NAME) for message in messages()]


def link_seeds() -> list[bytes]:
    frames = [
        link.pack_taken(5), link.pack_confirmed(9, 7), link.pack_pause(DstKind.NAME, b"AI.x@test"), link.pack_ping(1),
        link.pack_resume(DstKind.UUID, SOURCE), link.pack_drain(500), link.pack_report([(1, 2), (2, 3)]),
        link.pack_doorbell(1),
    ]  # fmt: skip
    return [parse_frame(frame, 0, len(frame)).payload for frame in frames]


def hello_seeds() -> list[bytes]:
    client = ClientHandshake(SOURCE, "AI.fuzz@test", "1")
    client.start()
    return [client.data_to_send()]


def check_json(data: bytes) -> None:
    """What is accepted is the same message after JSON → native → JSON."""
    for body in JsonFramer().receive_data(data):
        message = decode_body(body)
        try:
            native = json_to_native(message, SOURCE)
        except ProtocolError:
            continue  # no native frame can say it, and the sender is told so
        again = native_to_json(parse_frame(native, 0, len(native)), SOURCE_NAME, FRAME_BYTES_MAX)
        if isinstance(again, Reason):
            assert again is Reason.PAYLOAD_TOO_LARGE, f"accepted JSON became {again}"
            continue
        twice = json_to_native(decode_body(again[4:]), SOURCE)
        assert twice == native, "JSON -> native -> JSON is not the identity"


def check_native(data: bytes) -> None:
    """What is accepted can be written again and then reads the same."""
    for frame in NativeFramer().receive_data(data):
        message = frame_to_message(frame)
        written = message_to_frame(message, frame.source)
        again = frame_to_message(parse_frame(written, 0, len(written)))
        again.source_name = (
            message.source_name
        )  # a router's stamp: read from a frame, never written by this end
        assert repr(again) == repr(message), "a frame reads differently after it was written again"
        native_to_json(frame, SOURCE_NAME, FRAME_BYTES_MAX)


def parse_json(data: bytes) -> None:
    for body in JsonFramer().receive_data(data):
        decode_body(body)


def parse_native(data: bytes) -> None:
    for frame in NativeFramer().receive_data(data):
        message_without_payload(frame, from_node=True)


def parse_hello(data: bytes) -> None:
    server = ServerHandshake("test", SOURCE)
    server.receive_data(data)
    server.data_to_send()


def check_link(data: bytes) -> None:
    link.parse_link(data)


def check_handshake(data: bytes) -> None:
    """Both ends take any bytes, in two reads; a handshake never raises, it refuses."""
    half = len(data) // 2
    server = ServerHandshake("test", SOURCE)
    client = ClientHandshake(SOURCE, "AI.fuzz@test", "1")
    client.start()
    for end in (server, client):
        for piece in (data[:half], data[half:]):
            end.receive_data(piece)
        end.receive_eof()
        end.data_to_send()


TARGETS = {
    target.name: target
    for target in (
        Target("json", json_seeds, check_json, parse_json),
        Target("native", native_seeds, check_native, parse_native),
        Target("link", link_seeds, check_link, check_link),
        Target("handshake", hello_seeds, check_handshake, parse_hello),
    )
}


def run_one(target: Target, data: bytes) -> None:
    """Raises AssertionError (or whatever a parser should not have raised) when `data` is a finding.

    What a parser needs is its best of a few tries: a collection of the whole test process's garbage, which lands on
    whatever runs just then, can take a tenth of a second once and says nothing about the input."""
    taken = _seconds_of(target, data)
    tries = 1
    while taken > SECONDS_MAX and tries < SLOW_TRIES:
        taken = min(taken, _seconds_of(target, data))
        tries += 1
    if taken > SECONDS_MAX:
        raise SlowInputError(f"{target.name}: {taken:.3f} s for {len(data)} bytes")


def _seconds_of(target: Target, data: bytes) -> float:
    started = time.thread_time()
    try:
        target.check(data)
    except ProtocolError:
        pass  # refused, as it should be
    return time.thread_time() - started


def run_many(target: Target, inputs: list[bytes]) -> list[bytes]:
    """The findings among `inputs`: every one is parsed, every CHECK_EVERY-th one wholly checked.

    The clock is read once for all: only a batch that took too long is looked at one by one.
    """
    parse, findings = target.parse, []
    started = time.thread_time()
    for data in inputs:
        try:
            parse(data)
        except ProtocolError:
            pass
        except Exception:  # whatever else a parser raises is what is looked for
            findings.append(data)
    slow = time.thread_time() - started > SECONDS_MAX
    suspects = inputs if slow else inputs[::CHECK_EVERY]
    return findings + [data for data in suspects if data not in findings and is_finding(target, data)]


def is_finding(target: Target, data: bytes) -> bool:
    try:
        run_one(target, data)
    except Exception:
        return True
    return False


def mutated(data: bytes, random_: random.Random) -> bytes:
    """One to three small changes: bits, edge values, lengths, cuts, repeats and fragments of JSON."""
    out = bytearray(data)
    draw = random_.random
    for _ in range(1 + int(draw() * 3)):
        CHANGES[int(draw() * len(CHANGES))](out, draw)
    return bytes(out)


Draw = Callable[[], float]


def _flip(out: bytearray, draw: Draw) -> None:
    if out:
        out[int(draw() * len(out))] ^= 1 << int(draw() * 8)


def _edge(out: bytearray, draw: Draw) -> None:
    if out:
        out[int(draw() * min(len(out), 160))] = EDGES[int(draw() * len(EDGES))]


def _word(out: bytearray, draw: Draw) -> None:
    """A suspicious length or number, mostly where a native frame has one."""
    at = LENGTH_FIELDS[int(draw() * len(LENGTH_FIELDS))] if draw() < 0.7 else int(draw() * (len(out) + 1))
    word = WORDS[int(draw() * len(WORDS))]
    out[at : at + len(word)] = word


def _cut(out: bytearray, draw: Draw) -> None:
    at = int(draw() * (len(out) + 1))
    del out[at : at + 1 + int(draw() * 16)]


def _repeat(out: bytearray, draw: Draw) -> None:
    at = int(draw() * (len(out) + 1))
    out[at:at] = out[at : at + 1 + int(draw() * 32)]


def _text(out: bytearray, draw: Draw) -> None:
    at = int(draw() * (len(out) + 1))
    out[at:at] = TEXTS[int(draw() * len(TEXTS))]


def _length(out: bytearray, _: Draw) -> None:
    """Makes the JSON length word right again, so that deeper checks are reached."""
    if len(out) >= 4:
        out[:4] = (len(out) - 4).to_bytes(4, "big")


def _frame_length(out: bytearray, _: Draw) -> None:
    """The same for a native frame."""
    if len(out) >= 4:
        out[:4] = len(out).to_bytes(4, "little")


CHANGES = (_flip, _flip, _flip, _edge, _edge, _word, _cut, _repeat, _text, _length, _frame_length)
