"""docs/vectors/frames.json against the code: a client author may believe every byte of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol import vectors
from skep.protocol import link, translate
from skep.protocol.header import parse_frame
from skep.protocol.json_framing import JsonFramer, decode_body, encode_body
from skep.protocol.limits import FRAME_BYTES_MAX
from skep.protocol.native_framing import NativeFramer, frame_to_message, message_to_frame

FILE: dict[str, Any] = json.loads(vectors.PATH.read_text())
FRAMES: list[dict[str, Any]] = FILE["frames"]


def named(entries: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", entries, ids=[entry["name"] for entry in entries])


def test_the_file_is_what_the_code_writes() -> None:
    assert json.loads(json.dumps(vectors.build())) == FILE, (
        "run tests/protocol/vectors.py and say why the wire changed"
    )
    assert len(FRAMES) >= 12


@named(FRAMES)
def test_a_frame_in_both_framings(vector: dict[str, Any]) -> None:
    (body,) = JsonFramer().receive_data(bytes.fromhex(vector["json_hex"]))
    assert json.loads(body) == vector["json"]
    message = decode_body(body)
    native = bytes.fromhex(vector["native_hex"])
    assert message_to_frame(message, message.source) == native
    (frame,) = NativeFramer().receive_data(native)
    assert frame_to_message(frame) == message
    arrived = translate.native_to_json(frame, "", FRAME_BYTES_MAX)
    assert isinstance(arrived, bytes)
    assert decode_body(arrived[4:]) == message
    assert encode_body(message, source_name="").hex() == vector["json_hex"]


@named(FILE["native_only"])
def test_payloads_of_other_content_types(vector: dict[str, Any]) -> None:
    native = bytes.fromhex(vector["native_hex"])
    message = frame_to_message(parse_frame(native, 0, len(native)))
    assert message_to_frame(message, message.source) == native


@named(FILE["link"])
def test_link_frames(vector: dict[str, Any]) -> None:
    (frame,) = NativeFramer().receive_data(bytes.fromhex(vector["native_hex"]))
    assert frame.key == link.LINK_KEY
    assert link.Verb(frame.payload[0]).name == vector["name"].split()[0]
    link.parse_link(frame.payload)


@named(FILE["handshake"])
def test_handshake_frames(vector: dict[str, Any]) -> None:
    (body,) = JsonFramer().receive_data(bytes.fromhex(vector["json_hex"]))
    assert json.loads(body) == vector["json"]
    assert decode_body(body).verb == vector["name"].split()[0]


@named(FILE["bad"])
def test_frames_to_refuse(vector: dict[str, Any]) -> None:
    assert vectors.refusal(vector["framing"], bytes.fromhex(vector["hex"])) == vector["code"]
