"""Header v1: one reading and one encoding of every frame, and refusal of everything else."""

from __future__ import annotations

from dataclasses import replace
from struct import pack_into

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.strategies import cut, selectors, uuid_bytes
from skep.protocol import header
from skep.protocol.codes import ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import (
    AckLevel,
    DstKind,
    MessageClass,
    Selector,
    pack_extensions,
    pack_frame,
    pack_key,
    parse_frame,
    unpack_extensions,
    unpack_key,
)
from skep.protocol.limits import CONTEXT_BYTES_MAX, FRAME_BYTES_MAX, NAME_BYTES_MAX, TARGET_BYTES_MAX
from skep.protocol.native_framing import NativeFramer

SOURCE = bytes(range(16))
NAMED = Selector(dst_kind=DstKind.NAME, destination=b"AI.echo@hive", verb="V", thread=bytes(32))

OFFSETS = {
    "FRAME_BYTES_AT": 0,
    "KEY_END_AT": 4,
    "BODY_START_AT": 6,
    "MESSAGE_ID_AT": 8,
    "REPLY_TO_AT": 16,
    "TRACE_ID_AT": 24,
    "SPAN_ID_AT": 40,
    "THREAD_SEQ_AT": 48,
    "DEADLINE_AT": 56,
    "LABEL_SET_AT": 60,
    "BUDGET_AT": 64,
    "PART_AT": 68,
    "KEY_START": 72,
    "SELECTOR_START": 88,
    "FLAGS_AT": 90,
    "TTL_AT": 91,
    "HOPS_AT": 92,
    "PHASE_AT": 93,
    "FIELDS_START": 112,
}


@pytest.mark.parametrize(("name", "offset"), OFFSETS.items())
def test_offsets_are_those_of_the_wire_document(name: str, offset: int) -> None:
    assert getattr(header, name) == offset


def test_every_field_stands_at_its_offset() -> None:
    frame = pack_frame(
        pack_key(SOURCE, NAMED), b"PAY", message_id=0x0102, reply_to=3, trace_id=b"t" * 16, span_id=b"s" * 8,
        thread_seq=4, deadline_ms=5, label_set=6, budget=7, part=8, extensions=b"",
    )  # fmt: skip
    assert frame[0:4] == len(frame).to_bytes(4, "little")
    assert frame[8:16] == b"\x02\x01\0\0\0\0\0\0"
    assert frame[24:40] == b"t" * 16
    assert frame[40:48] == b"s" * 8
    assert [int.from_bytes(frame[at : at + 4], "little") for at in (56, 60, 64, 68)] == [5, 6, 7, 8]
    assert frame[72:88] == SOURCE
    assert frame[88:90] == b"\x01\x01"
    assert frame[96] == DstKind.NAME
    assert frame[112:124] == b"AI.echo@hive"
    assert frame.endswith(b"V" + bytes(32) + b"PAY")


@given(uuid_bytes, selectors())
def test_a_key_reads_back_and_packs_again_to_the_same_bytes(source: bytes, selector: Selector) -> None:
    key = pack_key(source, selector)
    assert unpack_key(key) == (source, selector)
    assert pack_key(*unpack_key(key)) == key


@given(uuid_bytes, selectors(), st.data())
def test_a_changed_key_is_refused_or_reads_as_something_else(
    source: bytes, selector: Selector, data: st.DataObject
) -> None:
    """No two keys have the same reading, so a flow table keyed by bytes never holds one decision twice."""
    key = bytearray(pack_key(source, selector))
    key[data.draw(st.integers(0, len(key) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = unpack_key(bytes(key))
    except RemoteProtocolError:
        return
    assert read != (source, selector)
    assert pack_key(*read) == bytes(key)


@given(selectors(), st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_a_frame_reads_back(selector: Selector, payload: bytes, number: int, word: int) -> None:
    key = pack_key(SOURCE, selector)
    packed = pack_frame(
        key, payload, message_id=number, reply_to=number, thread_seq=number, deadline_ms=word, label_set=word,
        budget=word, part=word, extensions=pack_extensions({9: b"abc"}),
    )  # fmt: skip
    frame = parse_frame(b"xx" + packed + b"yy", 2, 2 + len(packed))
    assert (frame.key, frame.payload, frame.source) == (key, payload, SOURCE)
    assert {frame.message_id, frame.reply_to, frame.thread_seq} == {number}
    assert {frame.deadline_ms, frame.label_set, frame.budget, frame.part} == {word}
    assert unpack_extensions(frame.extensions) == {9: b"abc"}


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_chunks_of_any_size_give_the_same_frames(payloads: list[bytes], points: list[int]) -> None:
    key = pack_key(SOURCE, NAMED)
    stream = b"".join(pack_frame(key, payload, message_id=at) for at, payload in enumerate(payloads))
    framer = NativeFramer()
    frames = [frame for piece in cut(stream, points) for frame in framer.receive_data(piece)]
    assert [frame.payload for frame in frames] == payloads
    assert [frame.message_id for frame in frames] == list(range(len(payloads)))
    assert framer.buffered_bytes == 0


def refused(key: bytes) -> ErrorCode:
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_key(key)
    return caught.value.code


def changed(at: int, value: int, selector: Selector = NAMED) -> bytes:
    key = bytearray(pack_key(SOURCE, selector))
    key[at - 72] = value
    return bytes(key)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (b"", ErrorCode.FRAME_LENGTHS),
        (bytes(39), ErrorCode.FRAME_LENGTHS),
        (changed(88, 0), ErrorCode.VERSION_UNKNOWN),
        (changed(88, 2), ErrorCode.VERSION_UNKNOWN),
        (changed(89, 10), ErrorCode.ENUM_UNKNOWN),
        (changed(90, 2), ErrorCode.FLAGS_UNKNOWN),
        (changed(93, 8), ErrorCode.ENUM_UNKNOWN),
        (changed(94, 4), ErrorCode.ENUM_UNKNOWN),
        (changed(95, 5), ErrorCode.ENUM_UNKNOWN),
        (changed(96, 4), ErrorCode.ENUM_UNKNOWN),
        (changed(97, 3), ErrorCode.ENUM_UNKNOWN),
        (changed(98, 10), ErrorCode.ENUM_UNKNOWN),
        (changed(99, 8), ErrorCode.FLAGS_UNKNOWN),
        (changed(110, 1), ErrorCode.PADDING_NOT_ZERO),
        (changed(111, 1), ErrorCode.PADDING_NOT_ZERO),
        (changed(100, 2), ErrorCode.FRAME_LENGTHS),
        (changed(100, 0), ErrorCode.FRAME_LENGTHS),
        (pack_key(SOURCE, NAMED) + b"x", ErrorCode.FRAME_LENGTHS),
        (changed(96, DstKind.UUID), ErrorCode.FRAME_LENGTHS),
        (changed(96, DstKind.BROADCAST), ErrorCode.FRAME_LENGTHS),
        (changed(96, DstKind.POLICY), ErrorCode.FRAME_LENGTHS),
        (changed(112, 0xFF), ErrorCode.TEXT_INVALID),
        (changed(112, 0), ErrorCode.TEXT_INVALID),
        (changed(112, 10), ErrorCode.TEXT_INVALID),
        (changed(124, 0xFF), ErrorCode.TEXT_INVALID),
        (changed(89, MessageClass.OTHER), ErrorCode.FACT_TWICE),
        (changed(89, MessageClass.LINK), ErrorCode.NOT_CANONICAL),
    ],
)
def test_keys_that_are_refused(key: bytes, code: ErrorCode) -> None:
    assert refused(key) is code


@pytest.mark.parametrize(
    ("selector", "code"),
    [
        (replace(NAMED, destination=b"broadcast"), ErrorCode.FACT_TWICE),
        (replace(NAMED, destination=b"00000000-0000-4000-8000-000000000001"), ErrorCode.FACT_TWICE),
        (replace(NAMED, destination=b""), ErrorCode.FRAME_LENGTHS),
        (replace(NAMED, destination=b"A" * (NAME_BYTES_MAX + 1)), ErrorCode.FRAME_LENGTHS),
        (replace(NAMED, thread=b"short"), ErrorCode.FRAME_LENGTHS),
        (replace(NAMED, thread=b"", thread_is_text=True), ErrorCode.FRAME_LENGTHS),
        (replace(NAMED, thread=b"a\x1b[2J", thread_is_text=True), ErrorCode.TEXT_INVALID),
        (replace(NAMED, thread=b"\xff\xfe", thread_is_text=True), ErrorCode.TEXT_INVALID),
        (replace(NAMED, thread=b"thread:sha256:" + b"ab" * 32, thread_is_text=True), ErrorCode.FACT_TWICE),
        (replace(NAMED, message_class=MessageClass.OTHER), ErrorCode.FACT_TWICE),
        (replace(NAMED, message_class=MessageClass.OTHER, type="user"), ErrorCode.FACT_TWICE),
        (replace(NAMED, type="x"), ErrorCode.FACT_TWICE),
        (replace(NAMED, context=b'{"b":1,"a":2}'), ErrorCode.NOT_CANONICAL),
        (replace(NAMED, context=b'{"a": 1}'), ErrorCode.NOT_CANONICAL),
        (replace(NAMED, context=b'{"a":1,"a":1}'), ErrorCode.JSON_DUPLICATE_KEY),
        (replace(NAMED, context=b"{"), ErrorCode.JSON_INVALID),
        (replace(NAMED, context=b"null"), ErrorCode.FACT_TWICE),
        (replace(NAMED, context=b"[" * 31 + b"]" * 31), ErrorCode.JSON_TOO_DEEP),
        (replace(NAMED, context=b'"' + b"x" * CONTEXT_BYTES_MAX + b'"'), ErrorCode.FIELD_RANGE),
        (replace(NAMED, target="x" * (TARGET_BYTES_MAX + 1)), ErrorCode.FIELD_RANGE),
        (replace(NAMED, verb="x" * 256), ErrorCode.FIELD_RANGE),
        (replace(NAMED, verb="a\nb"), ErrorCode.TEXT_INVALID),
        (replace(NAMED, ttl=256), ErrorCode.FIELD_RANGE),
        (replace(NAMED, src_ilk=b"short"), ErrorCode.FIELD_RANGE),
    ],
)
def test_selectors_that_cannot_be_packed(selector: Selector, code: ErrorCode) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        pack_key(SOURCE, selector)
    assert caught.value.code is code


def raw_key(**lengths: bytes) -> bytes:
    """A key of a policy frame with only these fields, whatever they are."""
    order = ("verb", "action", "type", "thread", "dst", "target", "context")
    sizes = [len(lengths.get(name, b"")) for name in order]
    head = SOURCE + bytes((1, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0)) + bytes(sizes[:4])
    head += b"".join(size.to_bytes(2, "little") for size in (*sizes[4:], 0))
    return head + b"".join(
        lengths.get(name, b"") for name in ("dst", "verb", "action", "type", "target", "context")
    )


def test_a_key_of_another_hand_is_held_to_the_limits_too() -> None:
    assert unpack_key(raw_key(verb=b"V", target=b"x" * 256))[1].verb == "V"
    assert refused(raw_key(target=b"x" * 257)) is ErrorCode.FIELD_RANGE
    assert refused(raw_key(context=b'"' + b"x" * 1023 + b'"')) is ErrorCode.FIELD_RANGE
    assert refused(raw_key(dst=b"x")) is ErrorCode.FRAME_LENGTHS


def test_texts_that_are_not_unicode_are_refused_here() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        pack_key(SOURCE, replace(NAMED, verb="\ud800"))
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_the_name_of_a_destination() -> None:
    assert NAMED.destination_name == "AI.echo@hive"
    assert Selector().destination_name == ""


def test_no_extension_fields_are_no_fields() -> None:
    assert unpack_extensions(b"") == {}


def test_an_unknown_ack_level_is_not_taken_for_none() -> None:
    assert unpack_key(changed(95, 4))[1].ack_level is AckLevel.PROCESSED


@pytest.mark.goal("G15")
def test_a_frame_of_exactly_the_limit_is_packed_and_one_byte_more_is_not() -> None:
    key = pack_key(SOURCE, NAMED)
    room = FRAME_BYTES_MAX - 72 - len(key)
    whole = pack_frame(key, bytes(room))
    assert len(whole) == FRAME_BYTES_MAX
    assert len(NativeFramer().receive_data(whole)) == 1
    with pytest.raises(LocalProtocolError) as caught:
        pack_frame(key, bytes(room + 1))
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert (caught.value.limit, caught.value.value) == (FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1)


@pytest.mark.goal("G15")
@pytest.mark.parametrize("frame_bytes", [FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
def test_an_oversize_frame_is_refused_from_its_first_eight_bytes(frame_bytes: int) -> None:
    head = bytearray(8)
    pack_into("<IHH", head, 0, frame_bytes, 112, 112)
    framer = NativeFramer()
    with pytest.raises(RemoteProtocolError) as caught:
        framer.receive_data(bytes(head))
    assert caught.value.code is ErrorCode.FRAME_TOO_LARGE
    assert framer.buffered_bytes <= 8


@pytest.mark.parametrize(
    "words", [(0, 0, 0), (111, 112, 112), (112, 111, 112), (112, 112, 111), (200, 150, 140), (112, 112, 113)]
)
def test_header_words_that_do_not_add_up(words: tuple[int, int, int]) -> None:
    head = bytearray(256)
    pack_into("<IHH", head, 0, *words)
    with pytest.raises(RemoteProtocolError) as caught:
        NativeFramer().receive_data(bytes(head))
    assert caught.value.code is ErrorCode.FRAME_LENGTHS
    with pytest.raises(RemoteProtocolError):
        parse_frame(bytes(head), 0, words[0])


@pytest.mark.parametrize("field", ["message_id", "thread_seq", "deadline_ms", "part"])
def test_a_number_that_does_not_fit_is_refused_here(field: str) -> None:
    key = pack_key(SOURCE, NAMED)
    for value in (-1, 1 << 64):
        with pytest.raises(LocalProtocolError) as caught:
            pack_frame(key, b"", **{field: value})
        assert caught.value.code is ErrorCode.FIELD_RANGE


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x01", ErrorCode.EXTENSION_INVALID),
        (b"\x01\x00\x05\x00ab", ErrorCode.EXTENSION_INVALID),
        (b"\x09\x00\x00\x00\x09\x00\x00\x00", ErrorCode.FACT_TWICE),
        (b"\x09\x00\x00\x00\x09\x80\x00\x00", ErrorCode.FACT_TWICE),
        (b"\x09\x80\x00\x00", ErrorCode.EXTENSION_UNKNOWN),
        (b"\x00\x00\x00\x00", ErrorCode.EXTENSION_UNKNOWN),
        (bytes(61441), ErrorCode.META_TOO_LARGE),
    ],
)
def test_extension_fields_that_are_refused(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_extensions(data)
    assert caught.value.code is code


@pytest.mark.goal("G14")
@pytest.mark.parametrize("tag", [3, 5, 0x8003, 0x8005])
def test_extension_fields_of_routers_are_refused_from_a_node(tag: int) -> None:
    data = tag.to_bytes(2, "little") + b"\x01\x00x"
    assert unpack_extensions(data) == {tag & 0x7FFF: b"x"}
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_extensions(data, from_node=True)
    assert caught.value.code is ErrorCode.EXTENSION_FORBIDDEN


def test_an_unknown_extension_that_is_not_critical_is_kept() -> None:
    assert unpack_extensions(pack_extensions({77: b"later"})) == {77: b"later"}


def test_extension_fields_that_are_too_large_are_not_packed() -> None:
    for fields in ({1: bytes(70_000)}, {1: bytes(31_000), 2: bytes(31_000)}):
        with pytest.raises(LocalProtocolError) as caught:
            pack_extensions(fields)
        assert caught.value.code is ErrorCode.META_TOO_LARGE
