"""Hypothesis strategies for frames: JSON envelopes as a client may write them, selectors, payloads, chunks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from skep.protocol.header import (
    AckLevel,
    ActionClass,
    ContentType,
    DstKind,
    MessageClass,
    Phase,
    Scope,
    Selector,
)
from skep.protocol.json_framing import ACK_LEVELS, ACTION_CLASSES, PHASES
from skep.protocol.message import META_FACTS, ROUTING_FACTS, format_uuid
from skep.protocol.strict_json import dumps_canonical

FACTS = META_FACTS | ROUTING_FACTS

uuid_bytes = st.binary(min_size=16, max_size=16)
uuids = uuid_bytes.map(format_uuid)
ilks = uuids.map("ilk:{}".format)
digests = st.binary(min_size=32, max_size=32)
short = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=30)
names = st.from_regex(r"\A(AI|IO|WF|SY|RT)(\.[A-Za-z0-9_-]{1,8}){1,4}@[a-z][a-z0-9]{0,6}\Z")
u32 = st.integers(1, 2**32 - 1)
u64 = st.integers(1, 2**64 - 1)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
)
keys = st.text(st.characters(codec="utf-8"), max_size=10)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
small_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(keys, scalars, max_size=3)
contexts = small_values.filter(lambda value: value not in (None, "") and len(dumps_canonical(value)) <= 1024)
extras = st.dictionaries(keys.filter(lambda key: key not in FACTS), small_values, max_size=3)
types = st.sampled_from(
    ["user", "system", "admin", "query", "query_response", "command", "command_response", "receipt"]
) | short.filter(lambda text: text not in ("link", "tap"))
threads = short | digests.map(lambda digest: f"thread:sha256:{digest.hex()}")
traces = uuids | st.just("") | short

routings = st.builds(
    lambda facts, more: {**facts, **more},
    st.fixed_dictionaries(
        {
            "src": uuids,
            "dst": st.none() | uuids | names | st.just("broadcast") | st.just("AI.desk@*"),
            "ttl": st.integers(0, 255),
            "trace_id": traces,
        }
    ),
    extras,
)
metas = st.builds(
    lambda facts, more: {**facts, **more},
    st.fixed_dictionaries(
        {"type": types},
        optional={
            "msg": short,
            "src_ilk": ilks,
            "dst_ilk": ilks,
            "thread_id": threads,
            "thread_seq": u64,
            "scope": st.sampled_from(["vpn", "global"]),
            "target": short,
            "action": short,
            "action_class": st.sampled_from(sorted(ACTION_CLASSES)),
            "context": contexts,
            "message_id": u64,
            "reply_to": u64,
            "phase": st.sampled_from(sorted(PHASES)),
            "part": u32,
            "deadline_ms": u32,
            "ack": st.sampled_from(sorted(ACK_LEVELS)),
            "span_id": st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex),
            "labels": u32,
            "budget": u32,
            "sampled": st.just(True),
        },
    ),
    extras,
)
envelopes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"routing": routings, "meta": metas, "payload": json_values}
)


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    """Any selector that a frame may have, LINK excepted."""
    dst_kind = draw(st.sampled_from(DstKind))
    message_class = draw(st.sampled_from([member for member in MessageClass if member]))
    destination = b""
    if dst_kind is DstKind.UUID:
        destination = draw(uuid_bytes)
    elif dst_kind is DstKind.NAME:
        destination = draw(names).encode()
    thread_is_text = draw(st.booleans())
    thread = draw(short).encode() if thread_is_text else draw(st.just(b"") | digests)
    known = {"receipt", "tap", "link", "user", "system", "admin", "query", "command"}
    return Selector(
        message_class=message_class,
        flags=draw(st.integers(0, 1)),
        ttl=draw(st.integers(0, 255)),
        hops=draw(st.integers(0, 255)),
        phase=draw(st.sampled_from(Phase)),
        content_type=draw(st.sampled_from(ContentType)),
        ack_level=draw(st.sampled_from(AckLevel)),
        dst_kind=dst_kind,
        scope=draw(st.sampled_from(Scope)),
        action_class=draw(st.sampled_from(ActionClass)),
        destination=destination,
        src_ilk=draw(st.none() | uuid_bytes),
        dst_ilk=draw(st.none() | uuid_bytes),
        verb=draw(st.just("") | short),
        action=draw(st.just("") | short),
        type=draw(short.filter(lambda text: text not in known))
        if message_class is MessageClass.OTHER
        else "",
        target=draw(st.just("") | short),
        context=draw(st.just(b"") | contexts.map(dumps_canonical)),
        thread=thread,
        thread_is_text=thread_is_text,
    )


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """The data in pieces, cut at these points."""
    marks = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]
