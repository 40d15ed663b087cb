"""LINK frames: one key, a reader for every verb, refusal of every other body."""

from __future__ import annotations

from typing import Any

import pytest

from skep.protocol import link
from skep.protocol.codes import CloseReason, ErrorCode
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import ZERO16, DstKind, MessageClass, parse_frame, unpack_key
from skep.protocol.limits import REPORT_ENTRIES_MAX
from skep.protocol.link import Outcome, Verb, parse_link

FRAMES = {
    Verb.TAKEN: (link.pack_taken(7), link.Taken(7)),
    Verb.CONFIRMED: (link.pack_confirmed(9, 7), link.Confirmed(9, 7)),
    Verb.PAUSE: (link.pack_pause(DstKind.NAME, b"AI.x@hive"), link.Pause(DstKind.NAME, b"AI.x@hive")),
    Verb.RESUME: (link.pack_resume(DstKind.UUID, b"u" * 16), link.Resume(DstKind.UUID, b"u" * 16)),
    Verb.PING: (link.pack_ping(2**64 - 1), link.Ping(2**64 - 1)),
    Verb.PONG: (link.pack_pong(1), link.Pong(1)),
    Verb.DRAIN: (link.pack_drain(1500), link.Drain(1500)),
    Verb.BYE: (link.pack_bye(CloseReason.DRAINED, "grüezi"), link.Bye(CloseReason.DRAINED, "grüezi")),
    Verb.REPORT: (
        link.pack_report([(Outcome.LOST, 1), (Outcome.UNKNOWN, 2)]),
        link.Report(((Outcome.LOST, 1), (Outcome.UNKNOWN, 2))),
    ),
    Verb.DOORBELL: (link.pack_doorbell(3), link.Doorbell(3)),
}


@pytest.mark.parametrize("verb", Verb)
def test_each_verb_reads_back(verb: Verb) -> None:
    packed, expected = FRAMES[verb]
    frame = parse_frame(packed, 0, len(packed))
    assert frame.payload[0] == verb
    assert parse_link(frame.payload) == expected


@pytest.mark.parametrize("verb", Verb)
def test_all_link_frames_have_the_same_valid_key(verb: Verb) -> None:
    packed, _ = FRAMES[verb]
    frame = parse_frame(packed, 0, len(packed))
    assert frame.key == link.LINK_KEY
    assert frame.body_start == link.LINK_HEAD_BYTES
    source, selector = unpack_key(frame.key)
    assert (source, selector.message_class) == (ZERO16, MessageClass.LINK)


@pytest.mark.parametrize("kind", [DstKind.POLICY, DstKind.BROADCAST])
def test_pauses_without_a_name(kind: DstKind) -> None:
    packed = link.pack_pause(kind, b"")
    assert parse_link(packed[link.LINK_HEAD_BYTES :]) == link.Pause(kind, b"")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\x0b",
        b"\xff" * 9,
        b"\x01" + bytes(7),
        b"\x01" + bytes(9),
        b"\x02" + bytes(15),
        b"\x02" + (1).to_bytes(8, "little") + (2).to_bytes(8, "little"),
        b"\x03",
        b"\x03\x01" + bytes(15),
        b"\x03\x02",
        b"\x03\x00x",
        b"\x03\x09",
        b"\x04\x02" + b"x" * 257,
        b"\x05",
        b"\x07" + bytes(3),
        b"\x08",
        b"\x08\x01",
        b"\x08\xff\xff",
        b"\x08\x01\x00\xff",
        b"\x08\x01\x00" + b"x" * 1025,
        b"\x09" + bytes(8),
        b"\x09" + bytes(9),
        b"\x09\x03" + bytes(8),
        b"\x0a",
        b"\x0a\x01\x02",
    ],
)
def test_link_payloads_that_are_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_link(payload)
    assert caught.value.code is ErrorCode.LINK_INVALID


@pytest.mark.parametrize("name", [b"broadcast", b"\xff\xfe", b"a\nb"])
def test_a_pause_for_what_is_no_name_is_refused(name: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_link(b"\x03\x02" + name)


def test_a_report_is_bounded() -> None:
    entries: Any = [(Outcome.LOST, at) for at in range(REPORT_ENTRIES_MAX)]
    packed = link.pack_report(entries)
    assert parse_link(packed[link.LINK_HEAD_BYTES :]) == link.Report(tuple(entries))
    with pytest.raises(LocalProtocolError):
        link.pack_report([*entries, (Outcome.LOST, 0)])


def test_a_long_farewell_is_cut_between_characters() -> None:
    packed = link.pack_bye(CloseReason.INTERNAL, "ü" * 1000)
    farewell = parse_link(packed[link.LINK_HEAD_BYTES :])
    assert isinstance(farewell, link.Bye)
    assert farewell.detail == "ü" * 512
