"""The two framings and the way between them: one meaning, whatever the bytes."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.strategies import cut, envelopes, json_values, selectors
from skep.protocol import strict_json, translate
from skep.protocol.codes import ErrorCode, Reason
from skep.protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from skep.protocol.header import ContentType, MessageClass, Selector, pack_frame, pack_key, parse_frame
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.limits import FRAME_BYTES_MAX
from skep.protocol.message import BROADCAST, Message, decode_payload, encode_payload, parse_uuid
from skep.protocol.native_framing import (
    check_extensions,
    frame_to_message,
    message_to_frame,
    message_without_payload,
)

UUID = "00112233-4455-4677-8899-aabbccddeeff"
SOURCE = bytes.fromhex(UUID.replace("-", ""))


def envelope(routing: dict[str, Any] | None = None, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "routing": {"src": UUID, "dst": "AI.echo@hive", "ttl": 16, "trace_id": UUID, **(routing or {})},
        "meta": {"type": "user", **(meta or {})},
        "payload": {"type": "text", "content": "hi"},
    }


def refused(body: bytes) -> ErrorCode:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_body(body)
    return caught.value.code


def as_frame(data: bytes) -> Any:
    return parse_frame(data, 0, len(data))


@pytest.mark.goal("G13")
@given(envelopes)
def test_json_to_native_to_json_is_the_identity(sent: dict[str, Any]) -> None:
    body = orjson.dumps(sent)
    message = decode_body(body)
    frame = as_frame(translate.json_to_native(message, message.source))
    arrived = translate.native_to_json(frame, "IO.sender@hive", FRAME_BYTES_MAX)
    assert isinstance(arrived, bytes)
    received = orjson.loads(arrived[4:])
    assert received["routing"].pop("src_l2_name") == "IO.sender@hive"
    assert received == sent


@given(envelopes)
def test_both_framings_read_the_same_message(sent: dict[str, Any]) -> None:
    message = decode_body(orjson.dumps(sent))
    native = frame_to_message(as_frame(message_to_frame(message, message.source)))
    assert native == message
    assert decode_body(encode_body(message, source_name="")[4:]) == message


@given(envelopes)
def test_spaces_and_escapes_change_nothing(sent: dict[str, Any]) -> None:
    assert decode_body(json.dumps(sent, indent=1).encode()) == decode_body(orjson.dumps(sent))


@given(selectors(), st.binary(max_size=60))
def test_a_native_frame_reads_and_writes_back(selector: Selector, payload: bytes) -> None:
    frame = as_frame(pack_frame(pack_key(SOURCE, selector), payload, message_id=7))
    message = message_without_payload(frame)
    try:
        message.payload = decode_payload(message.content_type, payload)
    except ProtocolError:
        return
    again = frame_to_message(as_frame(message_to_frame(message, SOURCE)))
    assert again == message


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 1000), max_size=20))
def test_chunks_of_any_size_give_the_same_bodies(bodies: list[bytes], points: list[int]) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    framer = JsonFramer()
    assert [body for piece in cut(stream, points) for body in framer.receive_data(piece)] == bodies
    assert framer.take_tail() == b""


@pytest.mark.goal("G15")
@pytest.mark.parametrize("length", [FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
def test_an_oversize_body_is_refused_from_its_length_word(length: int) -> None:
    framer = JsonFramer()
    whole = b"\0\0\0\x02{}"
    assert framer.receive_data(whole + length.to_bytes(4, "big")) == [b"{}"]
    assert framer.error is not None
    assert (framer.error.code, framer.error.value) == (ErrorCode.FRAME_TOO_LARGE, length)
    assert framer.receive_data(whole) == []
    assert framer.buffered_bytes == 0


@pytest.mark.goal("G15")
def test_a_body_of_exactly_the_limit_is_read() -> None:
    sent = envelope()
    sent["payload"] = ""
    sent["payload"] = "x" * (FRAME_BYTES_MAX - len(orjson.dumps(sent)))
    body = orjson.dumps(sent)
    assert len(body) == FRAME_BYTES_MAX
    assert JsonFramer().receive_data(len(body).to_bytes(4, "big") + body) == [body]
    assert decode_body(body).payload == sent["payload"]
    assert refused(body + b" ") is ErrorCode.FRAME_TOO_LARGE


def text(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value)


DUPLICATES = {
    "envelope": b'{"routing":{},"meta":{},"payload":1,"payload":2}',
    "routing": text(envelope()).replace(b'"ttl":16', b'"ttl":16,"ttl":16'),
    "meta": text(envelope()).replace(b'"type":"user"', b'"type":"user","type":"system"'),
    "payload": text(envelope()).replace(b'"content":"hi"', b'"content":"hi","content":"ho"'),
    "escaped": text(envelope()).replace(b'"content":"hi"', b'"content":"hi","c\\u006fntent":"ho"'),
    "deep": text(envelope()).replace(b'"hi"', b'[[{"a":1,"b":2,"a":3}]]'),
}


@pytest.mark.parametrize("body", DUPLICATES.values(), ids=DUPLICATES)
def test_duplicate_keys_are_refused_at_every_level(body: bytes) -> None:
    assert refused(body) is ErrorCode.JSON_DUPLICATE_KEY
    assert refused(body.replace(b",", b" , ")) is ErrorCode.JSON_DUPLICATE_KEY


def with_payload(payload: bytes) -> bytes:
    return text(envelope()).replace(b'{"type":"text","content":"hi"}', payload)


@pytest.mark.goal("G15")
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"[" * 31 + b"]" * 31, None),
        (b"[" * 32 + b"]" * 32, ErrorCode.JSON_TOO_DEEP),
        (b"[" * 60_000 + b"]" * 60_000, ErrorCode.JSON_TOO_DEEP),
        (b'{"a":' * 20_000, ErrorCode.JSON_TOO_DEEP),
        (b'"' + b"[" * 1000 + b'"', None),
        (b'"\\"' + b"[{" * 1000 + b'"', None),
        (b'"' + b'\\"' * 60_000, ErrorCode.JSON_INVALID),
        (b"[" * 33 + b'"' + b'\\"' * 60_000, ErrorCode.JSON_TOO_DEEP),
        (b"[1," * 0 + b"[" + b"[]," * 40_000 + b"[]]", None),
        (b"18446744073709551615", None),
        (b"18446744073709551616", ErrorCode.JSON_NUMBER),
        (b"-9223372036854775808", None),
        (b"-9223372036854775809", ErrorCode.JSON_NUMBER),
        (b"9" * 100_000, ErrorCode.JSON_INVALID),
        (b"9" * 300, ErrorCode.JSON_NUMBER),
        (b"1e400", ErrorCode.JSON_INVALID),
        (b"NaN", ErrorCode.JSON_INVALID),
        (b"Infinity", ErrorCode.JSON_INVALID),
        (b'"\\ud800"', ErrorCode.JSON_INVALID),
        (b'"\xed\xa0\x80"', ErrorCode.JSON_INVALID),
        (b'"\xff"', ErrorCode.JSON_INVALID),
        (b'"\x00"', ErrorCode.JSON_INVALID),
        (b'"\\u0000"', None),
        (b"1.50", None),
        (b"1E2", None),
        (b"", ErrorCode.JSON_INVALID),
        (b"1 2", ErrorCode.JSON_INVALID),
    ],
)
def test_payloads_that_are_read_or_refused(payload: bytes, code: ErrorCode | None) -> None:
    if code is None:
        assert decode_body(with_payload(payload)).payload == json.loads(payload)
    else:
        found = refused(with_payload(payload))
        assert found is code or (found is ErrorCode.JSON_INVALID and payload.startswith(b"9" * 300))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ErrorCode.JSON_INVALID),
        (b"null", ErrorCode.FIELD_TYPE),
        (b"[]", ErrorCode.FIELD_TYPE),
        (b"{}", ErrorCode.FIELD_MISSING),
        (b'{"routing":{},"meta":[]}', ErrorCode.FIELD_TYPE),
        (b'{"routing":{},"meta":{}}', ErrorCode.FIELD_MISSING),
        (text({**envelope(), "more": 1}), ErrorCode.FIELD_UNKNOWN),
        (text(envelope({"src": UUID.upper()})), ErrorCode.FIELD_RANGE),
        (text(envelope({"src": 1})), ErrorCode.FIELD_TYPE),
        (text(envelope({"dst": ""})), ErrorCode.FIELD_RANGE),
        (text(envelope({"dst": 1})), ErrorCode.FIELD_TYPE),
        (text(envelope({"dst": "x" * 257})), ErrorCode.FIELD_RANGE),
        (text(envelope({"dst": "AI.a\x00b"})), ErrorCode.TEXT_INVALID),
        (text(envelope({"ttl": 256})), ErrorCode.FIELD_RANGE),
        (text(envelope({"ttl": -1})), ErrorCode.FIELD_RANGE),
        (text(envelope({"ttl": True})), ErrorCode.FIELD_TYPE),
        (text(envelope({"ttl": 1.0})), ErrorCode.FIELD_TYPE),
        (text(envelope({"trace_id": 5})), ErrorCode.FIELD_TYPE),
        (text(envelope({"type": "user"})), ErrorCode.FACT_TWICE),
        (text(envelope({"thread_id": "t"})), ErrorCode.FACT_TWICE),
        (text(envelope(meta={"dst": "AI.other@hive"})), ErrorCode.FACT_TWICE),
        (text(envelope(meta={"src": UUID})), ErrorCode.FACT_TWICE),
        (text(envelope(meta={"ttl": 16})), ErrorCode.FACT_TWICE),
        (text(envelope(meta={"type": ""})), ErrorCode.FIELD_MISSING),
        (text(envelope(meta={"type": "link"})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"type": "tap"})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"type": "x" * 256})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"msg": 5})), ErrorCode.FIELD_TYPE),
        (text(envelope(meta={"src_ilk": UUID})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"src_ilk": f"ilk:{UUID.upper()}"})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"scope": "hive"})), ErrorCode.ENUM_UNKNOWN),
        (text(envelope(meta={"action_class": "destroy"})), ErrorCode.ENUM_UNKNOWN),
        (text(envelope(meta={"phase": "message"})), ErrorCode.ENUM_UNKNOWN),
        (text(envelope(meta={"ack": {}})), ErrorCode.ENUM_UNKNOWN),
        (text(envelope(meta={"context": "x" * 1024})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"target": "x" * 257})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"span_id": "00"})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"sampled": 1})), ErrorCode.FIELD_TYPE),
        (text(envelope(meta={"message_id": -1})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"deadline_ms": 2**32})), ErrorCode.FIELD_RANGE),
        (text(envelope(meta={"memory_package": "x"})), ErrorCode.FIELD_TYPE),
        (text(envelope(meta={"notes": "x" * 70_000})), ErrorCode.META_TOO_LARGE),
    ],
)
def test_bodies_that_are_refused(body: bytes, code: ErrorCode) -> None:
    assert refused(body) is code


def test_members_that_are_null_or_empty_are_absent() -> None:
    empty = {"msg": None, "thread_id": "", "context": None, "scope": None, "src_ilk": ""}
    assert decode_body(text(envelope(meta=empty))) == decode_body(text(envelope()))


def test_a_sender_cannot_name_itself_nor_supply_a_memory_package() -> None:
    body = text(envelope({"src_l2_name": "SY.admin@hive"}, {"memory_package": {"x": 1}}))
    frame = as_frame(translate.json_to_native(decode_body(body), SOURCE))
    arrived = translate.native_to_json(frame, "", FRAME_BYTES_MAX)
    assert isinstance(arrived, bytes)
    received = orjson.loads(arrived[4:])
    assert "src_l2_name" not in received["routing"]
    assert "memory_package" not in received["meta"]


@pytest.mark.goal("G14")
def test_the_source_of_a_translated_frame_is_its_connection() -> None:
    frame = as_frame(translate.json_to_native(decode_body(text(envelope())), bytes(15) + b"\x01"))
    assert frame.source == bytes(15) + b"\x01"


def native(content_type: ContentType, payload: bytes, **selector: Any) -> Any:
    key = pack_key(SOURCE, Selector(content_type=content_type, **selector))
    return as_frame(pack_frame(key, payload))


@pytest.mark.parametrize(
    ("frame", "limit", "reason"),
    [
        (native(ContentType.MSGPACK, b"\x01"), FRAME_BYTES_MAX, Reason.UNTRANSLATABLE),
        (native(ContentType.TEXT, b"hi"), FRAME_BYTES_MAX, Reason.UNTRANSLATABLE),
        (native(ContentType.BYTES, b"hi"), FRAME_BYTES_MAX, Reason.UNTRANSLATABLE),
        (
            native(ContentType.JSON, b"1", message_class=MessageClass.TAP),
            FRAME_BYTES_MAX,
            Reason.UNTRANSLATABLE,
        ),
        (native(ContentType.JSON, b"{"), FRAME_BYTES_MAX, Reason.BAD_FRAME),
        (native(ContentType.JSON, b'{"a":1,"a":2}'), FRAME_BYTES_MAX, Reason.BAD_FRAME),
        (native(ContentType.JSON, b"[" * 32 + b"]" * 32), FRAME_BYTES_MAX, Reason.BAD_FRAME),
        (native(ContentType.JSON, b'"' + b"x" * 5000 + b'"'), 4096, Reason.PAYLOAD_TOO_LARGE),
        (native(ContentType.JSON, b'"' + b"x" * 4000 + b'"'), 4096, Reason.PAYLOAD_TOO_LARGE),
    ],
)
def test_native_frames_that_a_json_peer_cannot_get(frame: Any, limit: int, reason: Reason) -> None:
    assert translate.native_to_json(frame, "AI.x@hive", limit) is reason


def test_empty_json_is_null() -> None:
    arrived = translate.native_to_json(native(ContentType.JSON, b""), "", FRAME_BYTES_MAX)
    assert isinstance(arrived, bytes)
    assert orjson.loads(arrived[4:])["payload"] is None


@pytest.mark.goal("G15")
def test_a_translated_frame_that_became_too_large_is_refused_to_its_sender() -> None:
    """`1E9` takes three bytes from its sender and twelve once it is written again."""
    body = with_payload(b"[" + b"1E9," * 30_000 + b"1]")
    with pytest.raises(RemoteProtocolError) as caught:
        translate.json_to_native(decode_body(body), SOURCE)
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(
    ("content_type", "payload"),
    [
        (ContentType.JSON, {"a": [1, None, "ü"]}),
        (ContentType.MSGPACK, {"a": [1, b"\x00", None]}),
        (ContentType.TEXT, "grüezi"),
        (ContentType.BYTES, b"\x00\xff"),
    ],
)
def test_each_content_type_reads_back(content_type: ContentType, payload: Any) -> None:
    assert decode_payload(content_type, encode_payload(content_type, payload)) == payload


@pytest.mark.parametrize(
    ("content_type", "payload"),
    [
        (ContentType.JSON, {1: 2}),
        (ContentType.JSON, 2**64),
        (ContentType.JSON, "\ud800"),
        (ContentType.JSON, object()),
        (ContentType.MSGPACK, 2**65),
        (ContentType.MSGPACK, object()),
        (ContentType.TEXT, b"bytes"),
        (ContentType.TEXT, "\ud800"),
        (ContentType.BYTES, "text"),
    ],
)
def test_payloads_that_cannot_be_sent(content_type: ContentType, payload: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode_payload(content_type, payload)
    assert caught.value.code is ErrorCode.PAYLOAD_INVALID


@pytest.mark.goal("G15")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 40 + b"\x01",
        b"\x91" * 5000 + b"\x01",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\x91\x01\x01",
        b"\xa2\xff\xff",
    ],
)
def test_msgpack_that_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_payload(ContentType.MSGPACK, data)
    assert caught.value.code is ErrorCode.PAYLOAD_INVALID


@pytest.mark.parametrize("meta", [{"src": 1}, {"thread_id": "t"}, {"type": "x"}, {"ttl": 1}, {"context": 1}])
def test_an_extension_may_not_repeat_a_fact(meta: dict[str, Any]) -> None:
    draft = Message(1, "AI.x@hive", meta=meta)
    with pytest.raises(RemoteProtocolError) as caught:
        message_to_frame(draft, SOURCE)
    assert caught.value.code is ErrorCode.FACT_TWICE
    key = pack_key(SOURCE, Selector())
    value = orjson.dumps(meta)
    extensions = b"\x01\x00" + len(value).to_bytes(2, "little") + value
    with pytest.raises(RemoteProtocolError) as caught:
        frame_to_message(as_frame(pack_frame(key, b"1", extensions=extensions)))
    assert caught.value.code is ErrorCode.FACT_TWICE


@pytest.mark.parametrize(
    ("tag", "value", "code"),
    [
        (1, b"{}", ErrorCode.NOT_CANONICAL),
        (1, b"[]", ErrorCode.FIELD_TYPE),
        (1, b'{"b":1,"a":1}', ErrorCode.NOT_CANONICAL),
        (2, b'{"x":1,"x":1}', ErrorCode.JSON_DUPLICATE_KEY),
        (3, b"", ErrorCode.FIELD_RANGE),
        (3, b"\xff", ErrorCode.TEXT_INVALID),
        (4, b"not the digest", ErrorCode.FACT_TWICE),
        (5, b"1", ErrorCode.FIELD_TYPE),
    ],
)
def test_extension_values_that_are_refused(tag: int, value: bytes, code: ErrorCode) -> None:
    extensions = tag.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
    frame = as_frame(pack_frame(pack_key(SOURCE, Selector()), b"1", extensions=extensions))
    with pytest.raises(RemoteProtocolError) as caught:
        frame_to_message(frame)
    assert caught.value.code is code


def test_a_memory_package_of_a_router_reaches_both_framings() -> None:
    message = Message("hi", BROADCAST, source=SOURCE, memory={"contexts": []})
    assert frame_to_message(as_frame(message_to_frame(message, SOURCE))) == message
    encoded = translate.message_to_json(message, "AI.x@hive", FRAME_BYTES_MAX)
    assert isinstance(encoded, bytes)
    assert decode_body(encoded[4:]).memory == {"contexts": []}


@pytest.mark.parametrize(
    "trace", ["", UUID, "00000000-0000-0000-0000-000000000000", "my-trace", UUID.upper()]
)
def test_every_trace_id_survives(trace: str) -> None:
    message = Message(None, None, source=SOURCE, trace_id=trace)
    frame = as_frame(message_to_frame(message, SOURCE))
    assert frame_to_message(frame).trace_id == trace
    assert (frame.trace_id == bytes(16)) == (not trace)


@given(json_values)
def test_any_json_payload_survives_translation(payload: Any) -> None:
    frame = as_frame(message_to_frame(Message(payload, None, source=SOURCE), SOURCE))
    arrived = translate.native_to_json(frame, "", FRAME_BYTES_MAX)
    assert isinstance(arrived, bytes)
    assert decode_body(arrived[4:]).payload == payload


def test_messages_that_json_framing_cannot_say() -> None:
    for message in (Message(b"x", None, content_type=ContentType.BYTES), Message(1, None, type="tap")):
        with pytest.raises(LocalProtocolError) as caught:
            encode_body(message, source_name="")
        assert caught.value.code is ErrorCode.PAYLOAD_INVALID
        assert translate.message_to_json(message, "", FRAME_BYTES_MAX) is Reason.UNTRANSLATABLE


def test_a_destination_that_is_no_unicode_is_refused_here() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        message_to_frame(Message(1, "AI.\ud800@hive"), SOURCE)
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_a_context_that_json_cannot_say_is_refused_here() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        message_to_frame(Message(1, None, context={"x": object()}), SOURCE)
    assert caught.value.code is ErrorCode.PAYLOAD_INVALID


@pytest.mark.goal("G14")
def test_extension_fields_can_be_judged_without_reading_the_message() -> None:
    key = pack_key(SOURCE, Selector())
    check_extensions(as_frame(pack_frame(key, b"{")), from_node=True)
    check_extensions(as_frame(pack_frame(key, b"{", extensions=b'\x01\x00\x07\x00{"a":1}')), from_node=True)
    for extensions in (b"\x03\x00\x01\x00x", b'\x01\x00\x0b\x00{"dst":null}', b"\x04\x00\x01\x00x"):
        with pytest.raises(RemoteProtocolError):
            check_extensions(as_frame(pack_frame(key, b"{", extensions=extensions)), from_node=True)


def test_the_second_reading_has_the_last_word_on_what_is_json() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        strict_json._read_slowly(b"[1,]")
    assert caught.value.code is ErrorCode.JSON_INVALID


def test_only_the_canonical_spelling_of_a_uuid_is_one() -> None:
    assert parse_uuid(UUID) == SOURCE
    for other in (UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}", UUID + "\n", ""):
        assert parse_uuid(other) is None
