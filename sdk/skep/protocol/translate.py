"""Between the two framings, for a router that delivers from one to the other.

JSON to native to JSON is the identity for every accepted frame (up to the order of members, and members that were null
or empty and are left out). Native to JSON can fail, and the failure is a Reason for the sender, not an exception: a
payload that is not JSON is UNTRANSLATABLE, one that its receiver cannot hold is PAYLOAD_TOO_LARGE, one that claims
to be JSON and is not is BAD_FRAME. A valid JSON payload is spliced into the envelope as it stands, without being
written anew.
"""

from __future__ import annotations

from typing import Final

import orjson

from skep.protocol import strict_json
from skep.protocol.codes import ErrorCode, Reason
from skep.protocol.errors import LocalProtocolError, RemoteProtocolError
from skep.protocol.header import ContentType, Frame, MessageClass
from skep.protocol.json_framing import envelope_of, frame_envelope
from skep.protocol.limits import PAYLOAD_DEPTH_MAX
from skep.protocol.message import Message
from skep.protocol.native_framing import frame_with_payload, message_without_payload

_NATIVE_ONLY: Final = frozenset({MessageClass.LINK, MessageClass.TAP})


def json_to_native(message: Message, source: bytes) -> bytes:
    """The native frame of a decoded JSON frame; `source` is the sender's connection.

    Facts that a node may not state are dropped: its own name (the router knows it) and a memory package (routers
    alone write it). Raises RemoteProtocolError when no native frame can say it, or it became too large.
    """
    message.memory = None
    try:
        return frame_with_payload(message, source, strict_json.dumps(message.payload))
    except LocalProtocolError as problem:
        raise RemoteProtocolError(problem.code, problem.detail, problem.limit, problem.value) from None


def native_to_json(frame: Frame, source_name: str, frame_bytes_max: int) -> bytes | Reason:
    """The JSON frame with its length word, or why it cannot be. `source_name` is the router's stamp.

    Raises RemoteProtocolError for a key or extension fields that were never valid.
    """
    return splice(message_without_payload(frame), frame.payload, source_name, frame_bytes_max)


def message_to_json(message: Message, source_name: str, frame_bytes_max: int) -> bytes | Reason:
    """The same for a decoded message, which a router may have enriched."""
    if message.content_type is not ContentType.JSON:
        return Reason.UNTRANSLATABLE
    return splice(message, message.payload_bytes, source_name, frame_bytes_max)


def splice(message: Message, payload: bytes, source_name: str, frame_bytes_max: int) -> bytes | Reason:
    """The same with the payload's bytes as they came; `message.payload` is not looked at."""
    if message.content_type is not ContentType.JSON or message.message_class in _NATIVE_ONLY:
        return Reason.UNTRANSLATABLE
    if len(payload) > frame_bytes_max:
        return Reason.PAYLOAD_TOO_LARGE
    try:
        if payload:
            strict_json.loads(payload, PAYLOAD_DEPTH_MAX)
        whole = orjson.Fragment(payload or b"null")
        return frame_envelope(envelope_of(message, source_name, whole), frame_bytes_max)
    except RemoteProtocolError:
        return Reason.BAD_FRAME
    except LocalProtocolError as problem:
        too_large = problem.code is ErrorCode.PAYLOAD_TOO_LARGE
        return Reason.PAYLOAD_TOO_LARGE if too_large else Reason.UNTRANSLATABLE
