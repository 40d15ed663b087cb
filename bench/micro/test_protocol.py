"""Micro benchmarks of the protocol: packing, parsing, the flow key, both framings and the way between them."""

from __future__ import annotations

from typing import Any

from skep.protocol.header import (
    ContentType,
    DstKind,
    MessageClass,
    Selector,
    pack_frame,
    pack_key,
    parse_frame,
    unpack_key,
)
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.message import Message
from skep.protocol.native_framing import NativeFramer, frame_to_message, message_to_frame
from skep.protocol.translate import json_to_native, native_to_json

SOURCE = bytes(range(16))
SELECTOR = Selector(
    message_class=MessageClass.USER,
    ttl=16,
    dst_kind=DstKind.NAME,
    destination=b"AI.desk@bench",
    content_type=ContentType.BYTES,
)
KEY = pack_key(SOURCE, SELECTOR)
FRAME = pack_frame(KEY, bytes(256), message_id=7)
LIMIT = 131072


def message() -> Message:
    """A JSON message as an agent would send it."""
    body = encode_body(
        Message(source=SOURCE, destination="AI.desk@bench", payload={"text": "where is my order?" * 12}),
        source_name="IO.x@bench",
    )
    return decode_body(body[4:])


def test_pack_frame_256(benchmark: Any) -> None:
    payload = bytes(256)
    assert benchmark(lambda: pack_frame(KEY, payload, message_id=7)) == FRAME


def test_parse_frame_256(benchmark: Any) -> None:
    assert benchmark(lambda: parse_frame(FRAME, 0, len(FRAME))).key == KEY


def test_pack_key(benchmark: Any) -> None:
    assert benchmark(lambda: pack_key(SOURCE, SELECTOR)) == KEY


def test_unpack_key(benchmark: Any) -> None:
    assert benchmark(lambda: unpack_key(KEY)) == (SOURCE, SELECTOR)


def test_native_framer_64_frames(benchmark: Any) -> None:
    framer, read = NativeFramer(LIMIT), FRAME * 64
    assert len(benchmark(lambda: framer.receive_data(read))) == 64


def test_json_encode(benchmark: Any) -> None:
    sent = message()
    assert benchmark(lambda: encode_body(sent, source_name="IO.x@bench"))


def test_json_decode(benchmark: Any) -> None:
    body = encode_body(message(), source_name="IO.x@bench")
    framed = JsonFramer(LIMIT).receive_data(body)[0]
    assert benchmark(lambda: decode_body(framed)).destination == "AI.desk@bench"


def test_message_to_frame_and_back(benchmark: Any) -> None:
    sent = message()

    def both_ways() -> Message:
        frame = message_to_frame(sent, SOURCE)
        return frame_to_message(parse_frame(frame, 0, len(frame)))

    assert benchmark(both_ways).payload == sent.payload


def test_translate_both_ways(benchmark: Any) -> None:
    sent = message()

    def both_ways() -> object:
        frame = json_to_native(sent, SOURCE)
        return native_to_json(parse_frame(frame, 0, len(frame)), "IO.x@bench", LIMIT)

    assert isinstance(benchmark(both_ways), bytes)
