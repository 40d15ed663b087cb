"""Writes docs/vectors/frames.json: frames in both framings, LINK frames, handshakes, and frames to refuse.

    python tests/protocol/vectors.py

A client author compares bytes with the file; `test_vectors` compares the file with the code. So the file changes
only when somebody runs this and says in the commit why the wire changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import orjson

from skep.protocol import link, system, translate
from skep.protocol.codes import CloseReason, Reason
from skep.protocol.errors import ProtocolError
from skep.protocol.header import ContentType, DstKind, Selector, pack_frame, pack_key, parse_frame, unpack_key
from skep.protocol.json_framing import decode_body, encode_body
from skep.protocol.message import format_uuid
from skep.protocol.names import (
    fnv1a64,
    thread_id_channel,
    thread_id_native,
    thread_id_pair,
    thread_id_v3,
)
from skep.protocol.native_framing import NativeFramer, frame_to_message

PATH = Path(__file__).resolve().parents[2] / "docs" / "vectors" / "frames.json"

SOURCE = bytes.fromhex("00112233445546778899aabbccddeeff")
OTHER = bytes.fromhex("c0ffee00000040008000000000000001")
TRACE = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"
ILK = "ilk:7d444840-9dc0-41d1-b245-5ffdce74fad2"
TENANT_ILK = "ilk:6ba7b810-9dad-41d1-80b4-00c04fd430c8"
THREAD = thread_id_native("slack", "T123", "C789", "171234.567")


def envelope(dst: str | None, meta: dict[str, Any], payload: Any, **routing: Any) -> dict[str, Any]:
    facts = {"src": format_uuid(SOURCE), "dst": dst, "ttl": 16, "trace_id": TRACE}
    return {"routing": {**facts, **routing}, "meta": meta, "payload": payload}


HELLO_TEXT = {"type": "text", "content": "Grüezi, how much is the fish?"}
ENVELOPES: dict[str, dict[str, Any]] = {
    "minimal": envelope(None, {"type": "user"}, None, trace_id=""),
    "text to a name": envelope("AI.desk@alpha", {"type": "user"}, HELLO_TEXT),
    "to a uuid": envelope(format_uuid(OTHER), {"type": "user"}, [1, 2.5, True, None, "x"]),
    "to any hive": envelope("AI.desk@*", {"type": "user"}, "hi"),
    "broadcast": envelope("broadcast", {"type": "user", "scope": "vpn", "target": "AI.*"}, {"n": 1}, ttl=2),
    "thread and interlocutors": envelope(
        "AI.desk@alpha",
        {
            "type": "user",
            "src_ilk": ILK,
            "dst_ilk": TENANT_ILK,
            "thread_id": THREAD,
            "thread_seq": 4294967297,
        },
        HELLO_TEXT,
    ),
    "thread that is text": envelope("AI.desk@alpha", {"type": "user", "thread_id": "counter-7"}, HELLO_TEXT),
    "context and action": envelope(
        None,
        {
            "type": "command",
            "action": "refund",
            "action_class": "external_action",
            "context": {"amount": 12, "currency": "CHF", "path": ["a", "b"]},
        },
        {"order": 9007199254740993},
    ),
    "request": envelope(
        "AI.desk@alpha",
        {"type": "user", "message_id": 42, "phase": "request", "deadline_ms": 30000, "ack": "processed"},
        HELLO_TEXT,
    ),
    "reply": envelope(
        format_uuid(OTHER), {"type": "user", "message_id": 7, "reply_to": 42, "phase": "reply"}, HELLO_TEXT
    ),
    "part of a stream": envelope(
        format_uuid(OTHER),
        {"type": "user", "message_id": 8, "reply_to": 42, "phase": "part", "part": 3},
        "fish",
    ),
    "error": envelope(
        format_uuid(OTHER),
        {"type": "user", "reply_to": 42, "phase": "error"},
        {"type": "error", "code": "NO_STOCK", "message": "no fish today", "retryable": True},
    ),
    "every number": envelope(
        "SY.x@alpha",
        {
            "type": "query",
            "msg": "PRICE_GET",
            "message_id": 2**64 - 1,
            "reply_to": 1,
            "thread_id": "t",
            "thread_seq": 2**64 - 1,
            "deadline_ms": 2**32 - 1,
            "labels": 3,
            "budget": 4,
            "part": 5,
            "span_id": "00f067aa0ba902b7",
            "sampled": True,
        },
        {"a": -9223372036854775808, "b": 18446744073709551615},
        ttl=255,
    ),
    "trace that is no uuid": envelope("AI.desk@alpha", {"type": "user"}, 1, trace_id="order-4711"),
    "type without a class": envelope("WF.orders@alpha", {"type": "workflow_event"}, {"step": 2}),
    "members without a field": envelope(
        "AI.desk@alpha",
        {
            "type": "user",
            "priority": "high",
            "ich": "ich:1b4e28ba-2fa1-41d2-883f-0016d3cca427",
            "z": {"b": 1, "a": 2},
        },
        HELLO_TEXT,
        region="eu",
    ),
    "configuration change": envelope(
        "broadcast",
        {"type": "system", "msg": "CONFIG_CHANGED", "scope": "global"},
        {"subsystem": "routes", "version": 3, "config": {"routes": [], "vpns": []}},
    ),
    "withdraw": envelope(None, {"type": "system", "msg": "WITHDRAW"}, {"uuid": format_uuid(SOURCE)}, ttl=1),
    "unreachable": envelope(
        format_uuid(OTHER),
        {"type": "system", "msg": "UNREACHABLE", "reply_to": 42},
        system.unreachable("AI.gone@alpha", Reason.NODE_NOT_FOUND),
    ),
}


def frame_vector(name: str, sent: dict[str, Any]) -> dict[str, Any]:
    message = decode_body(orjson.dumps(sent))
    native = translate.json_to_native(message, SOURCE)
    return {
        "name": name,
        "json": sent,
        "json_hex": encode_body(message, source_name="").hex(),
        "native": fields_of(native),
        "native_hex": native.hex(),
    }


def fields_of(native: bytes) -> dict[str, Any]:
    """A frame's fields as a reader sees them; bytes as hex, fields with their default left out."""
    frame = parse_frame(native, 0, len(native))
    source, selector = unpack_key(frame.key)
    found: dict[str, Any] = {"source": source.hex()}
    for name in Selector.__dataclass_fields__:
        value = getattr(selector, name)
        if value != getattr(Selector(), name) or name == "message_class":
            found[name] = value.hex() if isinstance(value, bytes) else value
    for name in frame._fields:
        value = getattr(frame, name)
        if name != "key" and value and value != bytes(len(value) if isinstance(value, bytes) else 0):
            found[name] = value.hex() if isinstance(value, bytes) else value
    return found


def link_vectors() -> list[dict[str, Any]]:
    frames = {
        "TAKEN 7": link.pack_taken(7),
        "CONFIRMED 9 accepted, 7 finished": link.pack_confirmed(9, 7),
        "PAUSE AI.desk@alpha": link.pack_pause(DstKind.NAME, b"AI.desk@alpha"),
        "RESUME of a uuid": link.pack_resume(DstKind.UUID, OTHER),
        "PING 1": link.pack_ping(1),
        "PONG 1": link.pack_pong(1),
        "DRAIN in 1500 ms": link.pack_drain(1500),
        "BYE DRAINED": link.pack_bye(CloseReason.DRAINED, "restarting"),
        "REPORT 5 LOST, 6 UNKNOWN": link.pack_report([(1, 5), (2, 6)]),
        "DOORBELL 1": link.pack_doorbell(1),
    }
    return [{"name": name, "native_hex": frame.hex()} for name, frame in frames.items()]


def handshake_vectors() -> list[dict[str, Any]]:
    hello = system.hello(SOURCE, "AI.desk", "1.0")
    native = system.hello(SOURCE, "AI.desk", "1.0", framings=("native/1",), frame_bytes_max=131072)
    plain = system.announce(SOURCE, "AI.desk@alpha", 0, "RT.main@alpha")
    chosen = system.announce(
        SOURCE,
        "AI.desk@alpha",
        0,
        "RT.main@alpha",
        framing="native/1",
        frame_bytes_max=131072,
        router_epoch=3,
    )
    frames = {
        "HELLO": system.system_frame("HELLO", hello, source=SOURCE, destination=None, ttl=1, trace_id=TRACE),
        "HELLO offering native": system.system_frame(
            "HELLO", native, source=SOURCE, destination=None, ttl=1, trace_id=TRACE
        ),
        "ANNOUNCE": system.system_frame(
            "ANNOUNCE", plain, source=OTHER, destination=SOURCE, ttl=1, trace_id=TRACE
        ),
        "ANNOUNCE native": system.system_frame(
            "ANNOUNCE", chosen, source=OTHER, destination=SOURCE, ttl=1, trace_id=TRACE
        ),
        "CLOSING": system.closing_frame(
            CloseReason.NAME_NOT_GRANTED,
            "SY.admin@alpha is not granted to uid 1000",
            source=OTHER,
            destination=SOURCE,
        ),
    }
    return [
        {"name": name, "json": orjson.loads(frame[4:]), "json_hex": frame.hex()}
        for name, frame in frames.items()
    ]


def native_only_vectors() -> list[dict[str, Any]]:
    payloads = {
        "msgpack": (ContentType.MSGPACK, msgpack.packb({"a": [1, None, b"\x00"]})),
        "text": (ContentType.TEXT, "grüezi".encode()),
        "bytes": (ContentType.BYTES, bytes(range(8))),
    }
    return [
        {
            "name": f"payload of {name}",
            "native_hex": pack_frame(
                pack_key(SOURCE, Selector(content_type=kind)), payload, message_id=1
            ).hex(),
        }
        for name, (kind, payload) in payloads.items()
    ]


def bad_vectors() -> list[dict[str, Any]]:
    good = orjson.dumps(ENVELOPES["text to a name"])
    key = pack_key(SOURCE, Selector(dst_kind=DstKind.NAME, destination=b"AI.desk@alpha"))
    frame = pack_frame(key, b"1")
    extended = pack_frame(key, b"1", extensions=b"\x63\x80\x00\x00")
    json_bodies = {
        "a key twice": good.replace(b'"ttl":16', b'"ttl":16,"ttl":16'),
        "a fact of meta in routing": good.replace(b'"ttl":16', b'"ttl":16,"type":"user"'),
        "33 levels": good.replace(b'"ttl":16', b'"ttl":' + b"[" * 33 + b"]" * 33),
        "an integer of 65 bits": good.replace(b'"ttl":16', b'"ttl":16,"x":18446744073709551616'),
        "a lone surrogate": good.replace(b"fish", b"\\ud83d"),
        "no destination": good.replace(b'"dst"', b'"to"'),
        "an upper-case source": good.replace(b"aabbccddeeff", b"AABBCCDDEEFF"),
        "an unknown action class": good.replace(b'"type":"user"', b'"type":"user","action_class":"x"'),
    }
    frames = {
        "version 2": frame[:88] + b"\x02" + frame[89:],
        "an unknown class": frame[:89] + b"\x0a" + frame[90:],
        "an unknown flag": frame[:90] + b"\x02" + frame[91:],
        "padding that is not zero": frame[:110] + b"\x01" + frame[111:],
        "a key with a byte too many": frame[:104] + b"\x0c\x00" + frame[106:],
        "key_end past body_start": frame[:6] + b"\x70\x00" + frame[8:],
        "a length above the limit": b"\x01\x00\x02\x00" + frame[4:],
        "the name broadcast": frame[:104] + b"\x09\x00" + frame[106:112] + b"broadcast" + frame[125:],
        "a critical extension nobody knows": extended,
    }
    frames["the name broadcast"] = resized(frames["the name broadcast"])
    return [bad("json", *item) for item in json_bodies.items()] + [
        bad("native", *item) for item in frames.items()
    ]


def bad(framing: str, name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "framing": framing, "hex": data.hex(), "code": refusal(framing, data)}


def resized(frame: bytes) -> bytes:
    """The frame with lengths that fit a destination four bytes shorter."""
    end = 121
    return len(frame).to_bytes(4, "little") + end.to_bytes(2, "little") * 2 + frame[8:]


def refusal(framing: str, data: bytes) -> str:
    """The code with which the bytes are refused."""
    try:
        if framing == "json":
            decode_body(data)
        else:
            frame_to_message(NativeFramer().receive_data(data)[0])
    except ProtocolError as problem:
        return problem.code.value
    raise AssertionError("a vector that must be refused was accepted")


def build() -> dict[str, Any]:
    return {
        "schema": "skep.vectors/1",
        "frames": [frame_vector(name, sent) for name, sent in ENVELOPES.items()],
        "native_only": native_only_vectors(),
        "link": link_vectors(),
        "handshake": handshake_vectors(),
        "bad": bad_vectors(),
        "thread_ids": {
            "native slack T123 C789 171234.567": THREAD,
            "channel slack none C789": thread_id_channel("slack", None, "C789"),
            "pair email tenant-a alice@example.com bob@example.com": thread_id_pair(
                "email", "tenant-a", "alice@example.com", "bob@example.com"
            ),
            "v3 tnt:1 sms +1 +2": thread_id_v3("tnt:1", "sms", "+1", "+2"),
        },
        "fnv1a64": {"SY.test": f"{fnv1a64(b'SY.test'):016x}"},
    }


def main() -> None:
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_bytes(orjson.dumps(build(), option=orjson.OPT_INDENT_2) + b"\n")
    print(f"wrote {PATH.name}")


if __name__ == "__main__":
    main()
