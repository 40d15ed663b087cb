"""Every row of docs/wire.md, section 10: what is sent, and what its sender gets. One test a row, named after it.

Against a real router, but for rows that need its clock, its tickets or its end: those ask the core on the fake wire.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest

from hostile import core_rows
from hostile.conftest import FOREIGN, OTHER_ILK, RIVAL, UNGRANTED, Net
from hostile.line import TRACE, EndedError, Line, json_frame, reason_of
from router.wire import MS, Router
from skep.protocol import limits
from skep.protocol import link as link_verbs
from skep.protocol.header import DstKind, MessageClass, Tag, pack_extensions

LENGTH_4GIB = b"\xff" * 4
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "json"])
ROOT = pytest.mark.needs("root")


@pytest.fixture
def sender(net: Net) -> Line:
    return net.node("sender")


@pytest.fixture
def talker(net: Net) -> Line:
    """A JSON node."""
    return net.node("talker", native=False)


@pytest.fixture
def witness(net: Net) -> Iterator[Line]:
    """Whom the bad frames are for, called AI.t<n>.w; it must never see one."""
    witness = net.node("w")
    yield witness
    assert witness.settled() == []


def cut(net: Net, data: bytes, registered: bool = False, native: bool = True) -> str:
    """How a connection that sends these bytes is ended."""
    line = net.node("cut", native=native) if registered else net.line()
    line.write(data)
    return line.ended()


def told_json(talker: Line, body: Any) -> str:
    talker.write(json_frame(body))
    return talker.told()


def told_native(sender: Line, frame: bytes) -> str:
    sender.write(frame)
    return sender.told()


def edited(frame: bytes, at: int, *values: int) -> bytes:
    return frame[:at] + bytes(values) + frame[at + len(values) :]


def with_meta(line: Line, dst: Any, **meta: Any) -> bytes:
    return json_frame(line.body(dst, {}, **meta))


# -- before registration -------------------------------------------------------------------------------------------


def test_before_hello_native(net: Net) -> None:
    frame = net.line().frame("AI.x", b"x" * 300)
    assert cut(net, frame) in ("HELLO_TOO_LARGE", "HELLO_INVALID")


def test_before_hello_message(net: Net, witness: Line) -> None:
    assert cut(net, json_frame(net.line().body(witness.name, {}))) == "HELLO_EXPECTED"


def test_hello_malformed(net: Net) -> None:
    for body in (b"hello", b"", b"\xff\xfe", {}, {"payload": {"uuid": str(uuid4())}}, [1], None):
        assert cut(net, json_frame(body)) == "HELLO_INVALID"


def test_hello_deep(net: Net) -> None:
    assert cut(net, json_frame(b"[" * 4000)) == "HELLO_INVALID"


def test_hello_limit_exact(net: Net) -> None:
    line = net.line()
    hello = line.hello_body(net.called("exact"), pad="")
    hello["payload"]["pad"] = "x" * (limits.HELLO_BYTES_MAX + 4 - len(json_frame(hello)))
    line.write(json_frame(hello))
    assert len(json_frame(hello)) == limits.HELLO_BYTES_MAX + 4
    assert line.welcomed().name.startswith(net.called("exact"))


def test_hello_limit_over(net: Net) -> None:
    assert cut(net, (limits.HELLO_BYTES_MAX + 1).to_bytes(4, "big")) == "HELLO_TOO_LARGE"


def test_hello_length_4gib(net: Net) -> None:
    assert cut(net, LENGTH_4GIB) == "HELLO_TOO_LARGE"


def test_hello_half_for_ever() -> None:
    assert core_rows.patience([b"\0\0\1\0{"]) == ("HELLO_TIMEOUT", 2)


def test_hello_one_byte_a_second() -> None:
    assert core_rows.patience([bytes((byte,)) for byte in b"\0\0\1\0{}"]) == ("HELLO_TIMEOUT", 2)


@ROOT
def test_hello_65th_stranger(net: Net) -> None:
    strangers = [net.line(UNGRANTED) for _ in range(65)]
    assert strangers[64].ended() == ""
    strangers[0].write(json_frame(b"x"))
    assert strangers[0].ended() == "HELLO_INVALID"
    assert net.node("g", uid=FOREIGN).settled() == []


def test_hello_src_differs(net: Net) -> None:
    assert net.line().refused(net.called("a"), uuid=str(uuid4())) == "HELLO_INVALID"


def test_hello_key_twice(net: Net) -> None:
    raw = json_frame(net.line().hello_body(net.called("a")))[4:]
    assert cut(net, json_frame(raw.replace(b'"name":', b'"name": "AI.first", "name":'))) == "HELLO_INVALID"


def test_hello_uuid_spelling(net: Net) -> None:
    line = net.line()
    line.uuid = UUID("ABCDEFAB-CDEF-4BCD-8BCD-ABCDEFABCDEF")
    for spelling in (str(line.uuid).upper(), line.uuid.hex, f"{{{line.uuid}}}"):
        hello = line.hello_body(net.called("a"), uuid=spelling)
        hello["routing"]["src"] = spelling
        assert cut(net, json_frame(hello)) == "HELLO_INVALID"


def test_hello_name_lookalike(net: Net) -> None:
    for name in ("sy.admin", "SУ.admin", "SY admin", "SY.adm\0in", "SY.a" + ".b" * 10, "SY..a", "SY.a.", "", "SY"):
        assert net.line().refused(name) in ("NAME_INVALID", "HELLO_INVALID"), name
    for name in ("sy.admin", "SУ.admin", "SY .admin", "AI." + ".".join("abcdefghij")):
        assert net.line().refused(name) == "NAME_INVALID", name


def test_hello_name_other_hive(net: Net) -> None:
    for name in ("AI.a@other", "AI.a@test@other", "AI.a@", "AI.a@TEST", "RT.main@other"):
        assert net.line().refused(name) == "NAME_INVALID", name


@ROOT
def test_hello_name_not_granted(net: Net) -> None:
    assert net.line(UNGRANTED).refused(net.called("a")) == "NAME_NOT_GRANTED"
    assert net.line(FOREIGN).refused(net.called("a")) == "NAME_NOT_GRANTED"
    assert net.line(FOREIGN).refused(net.called("g")) == "registered"


@ROOT
def test_hello_system_name(net: Net) -> None:
    for name in ("SY.admin", "RT.main", "SY.config.routes", "RT.other"):
        assert net.line(FOREIGN).refused(name) == "NAME_NOT_GRANTED"


@ROOT
def test_hello_name_taken(net: Net) -> None:
    owner = net.node("g", uid=FOREIGN)
    assert net.line(RIVAL).refused(net.called("g")) == "NAME_TAKEN"
    owner.write(link_verbs.pack_bye(1))
    assert owner.ended() == ""
    assert net.line(RIVAL).refused(net.called("g")) == "NAME_TAKEN"
    assert net.line(FOREIGN).refused(net.called("g")) == "registered"


def test_hello_system_name_live(net: Net) -> None:
    net.node(f"SY.t{net.number}")
    assert net.line().refused(f"SY.t{net.number}") == "NAME_TAKEN"
    assert net.line().refused("RT.main") == "NAME_TAKEN"


@BOTH
def test_hello_uuid_same_uid(net: Net, native: bool) -> None:
    old, new = net.node("a", native=native), net.line()
    new.uuid = old.uuid
    new.hello(net.called("a"))
    assert old.ended() == "REPLACED"
    assert new.settled() == []


@ROOT
def test_hello_uuid_other_uid(net: Net, sender: Line) -> None:
    thief = net.line(FOREIGN)
    thief.uuid = sender.uuid
    assert thief.refused(net.called("g")) == "UUID_TAKEN"
    own = net.line()
    own.uuid = UUID(bytes=sender.router_uuid)
    assert own.refused(net.called("router")) == "UUID_TAKEN"
    assert sender.settled() == []


def test_hello_ticket_wrong(net: Net) -> None:
    assert net.line().refused(net.called("a"), ticket="guess") == "TICKET_INVALID"
    tickets = frozenset({("SY.x@bee", sha256(b"good").hexdigest())})
    router = Router(tickets=tickets)
    assert core_rows.hello_outcome(router, "SY.y", uid=FOREIGN, ticket="good") == "TICKET_INVALID"
    assert core_rows.hello_outcome(router, "SY.x", uid=FOREIGN, ticket="good") == "registered"


def test_hello_again(net: Net, talker: Line) -> None:
    talker.write(json_frame(talker.hello_body(net.called("talker"))))
    assert talker.ended() == "HELLO_REPEATED"


def test_hello_while_draining() -> None:
    router = Router()
    router.core.drain(1000)
    assert core_rows.hello_outcome(router, "AI.late") == "DRAINING"


# -- where frames begin and end ------------------------------------------------------------------------------------


@BOTH
def test_frame_limit_exact(net: Net, native: bool) -> None:
    a, b = net.pair(native)
    if native:
        a.write(a.frame(b.name, b"x" * (limits.FRAME_BYTES_MAX - len(a.frame(b.name, b""))), content_type=3))
    else:
        room = limits.FRAME_BYTES_MAX + 4 - len(json_frame(a.body(b.name, "")))
        a.write(json_frame(a.body(b.name, "x" * room)))
    assert a.settled() == []
    (message,) = b.settled()
    assert len(message.payload) > limits.FRAME_BYTES_MAX - 1000


def test_frame_limit_over(net: Net) -> None:
    assert cut(net, (limits.FRAME_BYTES_MAX + 1).to_bytes(4, "little"), True) == "FRAME_TOO_LARGE"
    assert cut(net, (limits.FRAME_BYTES_MAX + 1).to_bytes(4, "big"), True, native=False) == "FRAME_TOO_LARGE"


@BOTH
def test_frame_length_4gib(net: Net, native: bool) -> None:
    assert cut(net, LENGTH_4GIB, True, native) == "FRAME_TOO_LARGE"


@BOTH
def test_frame_half_for_ever(net: Net, native: bool) -> None:
    a, b = net.pair()
    half = net.node("half", native=native)
    frame = half.frame(b.name) if native else json_frame(half.body(b.name))
    half.write(frame[:-1])
    assert a.settled() == b.settled() == []
    half.write(frame[-1:])
    assert half.settled() == []
    assert len(b.settled()) == 1


def test_frame_lengths(net: Net, witness: Line) -> None:
    good = net.line().frame(witness.name, b"12345678")
    size, key_end = len(good), struct.unpack_from("<H", good, 4)[0]
    for words in ((size, key_end, key_end - 1), (size, 71, 71), (size, 0, 0), (size, key_end, size + 1), (100, 72, 72),
                  (size, size + 9, size + 9), (0, 0, 0), (111, 111, 111)):  # fmt: skip
        assert cut(net, struct.pack("<IHH", *words) + good[8:] + bytes(120), True) == "FRAME_INVALID", words


def test_frame_into_neighbour(net: Net, sender: Line, witness: Line) -> None:
    first, second = sender.frame(witness.name), sender.frame(witness.name)
    reach = struct.pack("<HH", len(first) + 40, len(first) + 40)
    assert cut(net, first[:4] + reach + first[8:] + second, True) == "FRAME_INVALID"


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_json_not_json(talker: Line, witness: Line) -> None:
    text = json_frame(talker.body(witness.name, "@"))[4:]
    damaged = text.replace(b"@", b"\xff"), text.replace(b"@", rb"\ud800"), b"\xef\xbb\xbf" + text
    for raw in (b"{", b"", b"nonsense", *damaged):
        assert told_json(talker, raw) == "BAD_FRAME JSON_INVALID", raw


def test_json_key_twice(talker: Line, witness: Line) -> None:
    text = json_frame(talker.body(witness.name, {"a": 1}))[4:]
    for old, new in ((b'"payload"', b'"payload":1,"payload"'), (b'"ttl"', b'"ttl":1,"ttl"'), (b'"a"', b'"a":0,"a"'),
                     (b'"type"', b'"type":"system","type"'), (b'"dst"', rb'"\u0064st":"AI.x","dst"')):  # fmt: skip
        assert told_json(talker, text.replace(old, new)) == "BAD_FRAME JSON_DUPLICATE_KEY", new


def test_json_deep(talker: Line, witness: Line) -> None:
    text = json_frame(talker.body(witness.name, "@"))[4:]
    for levels in (32, 60_000):
        deep = text.replace(b'"@"', b"[" * levels + b"]" * levels)
        assert told_json(talker, deep) == "BAD_FRAME JSON_TOO_DEEP"


def test_json_number(talker: Line, witness: Line) -> None:
    for number in (2**64, -(2**63) - 1):
        assert told_json(talker, talker.body(witness.name, number)) == "BAD_FRAME JSON_NUMBER", number
    for number in (10**400, float("nan"), float("-inf")):
        told = told_json(talker, talker.body(witness.name, number))
        assert told in ("BAD_FRAME JSON_NUMBER", "BAD_FRAME JSON_INVALID"), number


def test_json_field_missing(talker: Line, witness: Line) -> None:
    for member in ("src", "dst", "ttl", "trace_id", "type"):
        section = "meta" if member == "type" else "routing"
        body = talker.body(witness.name)
        del body[section][member]
        assert told_json(talker, body) == "BAD_FRAME FIELD_MISSING", member


def test_json_field_type(talker: Line, witness: Line) -> None:
    for member, value in (("ttl", "16"), ("ttl", True), ("ttl", 1.0), ("trace_id", 5), ("msg", 1), ("thread_id", []),
                          ("message_id", "1"), ("message_id", True), ("part", False)):  # fmt: skip
        assert told_json(talker, talker.body(witness.name, {}, **{member: value})) == "BAD_FRAME FIELD_TYPE", member
    assert told_json(talker, talker.body(7)) == "BAD_FRAME FIELD_TYPE"


def test_json_field_range(talker: Line, witness: Line) -> None:
    for member, value in (("ttl", 256), ("ttl", -1), ("context", {"k": "x" * 1017}), ("deadline_ms", 2**32),
                          ("msg", "x" * 256), ("target", "x" * 257), ("part", -1)):  # fmt: skip
        assert told_json(talker, talker.body(witness.name, {}, **{member: value})) == "BAD_FRAME FIELD_RANGE", member
    assert told_json(talker, talker.body("AI." + "x" * 254)) == "BAD_FRAME FIELD_RANGE"


def test_json_action_class(talker: Line, witness: Line) -> None:
    assert told_json(talker, talker.body(witness.name, {}, action_class="launch")) == "BAD_FRAME ENUM_UNKNOWN"


def test_json_meta_large(talker: Line, witness: Line) -> None:
    assert told_json(talker, talker.body(witness.name, {}, note="x" * 65_536)) == "BAD_FRAME META_TOO_LARGE"


def test_json_fact_twice(talker: Line, witness: Line) -> None:
    for section, member, value in (("meta", "dst", "AI.x"), ("routing", "type", "system"), ("meta", "src", TRACE)):
        body = talker.body(witness.name)
        body[section][member] = value
        assert told_json(talker, body) == "BAD_FRAME FACT_TWICE", member


def test_json_reserved_type(talker: Line, witness: Line) -> None:
    for kind in ("link", "tap"):
        assert told_json(talker, talker.body(witness.name, {}, type=kind)) == "BAD_FRAME FIELD_RANGE"


# -- native --------------------------------------------------------------------------------------------------------


def test_native_version(sender: Line, witness: Line) -> None:
    assert told_native(sender, edited(sender.frame(witness.name), 88, 2)) == "BAD_FRAME VERSION_UNKNOWN"


def test_native_enum(sender: Line, witness: Line) -> None:
    for at, value in ((89, 10), (89, 14), (89, 16), (93, 8), (94, 4), (95, 5), (96, 4), (97, 3), (98, 10), (97, 255)):
        assert told_native(sender, edited(sender.frame(witness.name), at, value)) == "BAD_FRAME ENUM_UNKNOWN", at


def test_native_flags(sender: Line, witness: Line) -> None:
    for at, value in ((90, 2), (90, 128), (99, 8), (99, 128)):
        assert told_native(sender, edited(sender.frame(witness.name), at, value)) == "BAD_FRAME FLAGS_UNKNOWN", at


def test_native_padding(sender: Line, witness: Line) -> None:
    for at in (110, 111):
        assert told_native(sender, edited(sender.frame(witness.name), at, 1)) == "BAD_FRAME PADDING_NOT_ZERO"


def test_native_key_lengths(sender: Line, witness: Line) -> None:
    frame = sender.frame(witness.name, verb="v")
    for at, value in ((100, 0), (100, 2), (101, 1), (103, 31), (103, 32), (104, 1), (106, 1), (108, 1)):
        assert told_native(sender, edited(frame, at, value)) == "BAD_FRAME FRAME_LENGTHS", at


def test_native_text(sender: Line, witness: Line) -> None:
    for bad in (b"a\0b", b"\x1b[2", b"a\xffb", "a\u2028".encode()[:3], b"\xc2\x85b", b"\xed\xa0\x80"):
        frame = sender.frame(witness.name, verb="@@@").replace(b"@@@", bad)
        assert told_native(sender, frame) == "BAD_FRAME TEXT_INVALID", bad


def test_native_name_is_other_kind(sender: Line) -> None:
    frames = [sender.frame("AI.broadc").replace(b"AI.broadc", b"broadcast")]
    frames.append(sender.frame("A" * 36).replace(b"A" * 36, TRACE.encode()))
    for frame in frames:
        assert told_native(sender, frame) == "BAD_FRAME FACT_TWICE"


def test_native_type_has_class(sender: Line, witness: Line) -> None:
    frame = sender.frame(witness.name, message_class=MessageClass.OTHER, type="sYstem").replace(b"sYstem", b"system")
    assert told_native(sender, frame) == "BAD_FRAME FACT_TWICE"


def test_native_context(sender: Line, witness: Line) -> None:
    frame = sender.frame(witness.name, context=b'{"a":1,"b":2}')
    for bad in (b'{"b":1,"a":2}', b'{"a":1,"b":2 ', b'{"a":1.0,"b" ', b'{ "a":1,"b":}'):
        code = told_native(sender, frame.replace(b'{"a":1,"b":2}', bad))
        assert code in ("BAD_FRAME NOT_CANONICAL", "BAD_FRAME JSON_INVALID"), bad
    assert told_native(sender, frame.replace(b'"b":2', b'"a":2')) == "BAD_FRAME JSON_DUPLICATE_KEY"


def extended(sender: Line, dst: str, *fields: tuple[int, bytes]) -> str:
    extensions = b"".join(pack_extensions({tag: value}) for tag, value in fields)
    return told_native(sender, sender.frame(dst, extensions=extensions))


def test_native_extension_twice(sender: Line, witness: Line) -> None:
    assert extended(sender, witness.name, (77, b""), (77, b"x")) == "BAD_FRAME FACT_TWICE"
    twice = (Tag.META, b'{"a":1}'), (0x8000 | Tag.META, b'{"a":1}')
    assert extended(sender, witness.name, *twice) == "BAD_FRAME FACT_TWICE"


def test_native_extension_critical(sender: Line, witness: Line) -> None:
    assert extended(sender, witness.name, (0x8000 | 77, b"")) == "BAD_FRAME EXTENSION_UNKNOWN"


def test_native_extension_of_routers(sender: Line, net: Net) -> None:
    witness = net.node("w")
    for _ in ("cold", "warm"):
        for tag in (Tag.SRC_NAME, Tag.MEMORY):
            assert extended(sender, witness.name, (tag, b"{}")) == "BAD_FRAME EXTENSION_FORBIDDEN"
        sender.say(witness.name)
        assert sender.settled() == []
    assert len(witness.settled()) == 2


def test_native_extension_repeats(sender: Line, witness: Line) -> None:
    assert extended(sender, witness.name, (Tag.META, b'{"thread_id":"x"}')) == "BAD_FRAME FACT_TWICE"


def test_native_hops(sender: Line, witness: Line) -> None:
    assert told_native(sender, sender.frame(witness.name, hops=1)).startswith("BAD_FRAME")


def test_native_payload_is_not_json(sender: Line, net: Net) -> None:
    witness = net.node("w", native=False)
    for payload in (b"{", b"\xff", b"[1,]", b"[" * 40 + b"]" * 40, b'{"a":1,"a":2}'):
        assert told_native(sender, sender.frame(witness.name, payload)).startswith("BAD_FRAME"), payload
    assert witness.settled() == []


# -- who may say what ----------------------------------------------------------------------------------------------


@BOTH
def test_bad_frames_101(net: Net, native: bool) -> None:
    line = net.node("bad", native=native)
    bad = edited(line.frame("AI.x"), 88, 9) if native else json_frame(b"{")
    line.write(bad * limits.BAD_FRAMES_PER_LINK)
    assert len(line.settled()) == limits.BAD_FRAMES_PER_LINK
    line.write(bad)
    assert line.ended() == "TOO_MANY_BAD_FRAMES"


@BOTH
def test_source_forged(net: Net, witness: Line, native: bool) -> None:
    a, other = net.pair(native)
    victim = net.node("victim")
    for _ in ("cold", "warm"):
        if native:
            a.write(a.frame(witness.name, source=victim.uuid.bytes))
        else:
            a.write(json_frame(a.body(witness.name, src=str(victim.uuid))))
        assert a.told() == "SOURCE_FORGED"
        for speaker in (a, victim):
            speaker.say(other.name)
            assert speaker.settled() == []


@BOTH
def test_source_name_forged(net: Net, talker: Line, native: bool) -> None:
    b = net.node("b", native=native)
    talker.write(with_meta(talker, b.name, src_l2_name="SY.admin@test"))
    assert talker.settled() == []
    (message,) = b.settled()
    assert message.source_name == ("" if native else talker.name)


@ROOT
@BOTH
def test_ilk_foreign(net: Net, witness: Line, native: bool) -> None:
    node = net.node("g", native=native, uid=FOREIGN)
    node.say(witness.name, src_ilk=OTHER_ILK if native else f"ilk:{UUID(bytes=OTHER_ILK)}")
    assert node.told() == "ILK_FORBIDDEN"


@ROOT
@BOTH
def test_tenant_foreign(net: Net, native: bool) -> None:
    red, blue = net.node("red", native=native, uid=FOREIGN), net.node("blue", uid=FOREIGN)
    red.say(blue.name)
    assert red.told() == "TENANT_BLOCKED"
    red.say(blue.uuid.bytes)
    assert red.told() == "TENANT_BLOCKED"
    assert blue.settled() == []


@BOTH
def test_vpn_foreign(net: Net, witness: Line, native: bool) -> None:
    inside = net.node("vpn7", native=native)
    for dst in (witness.name, witness.uuid.bytes):
        inside.say(dst)
        assert inside.told() == "VPN_BLOCKED"


@BOTH
def test_system_scope_global(net: Net, witness: Line, native: bool) -> None:
    inside = net.node("vpn7", native=native)
    if native:
        inside.say(witness.name, message_class=MessageClass.SYSTEM, verb="PING", scope=2)
    else:
        inside.say(witness.name, type="system", msg="PING", scope="global")
    assert inside.told() == "VPN_BLOCKED"


def system_word(line: Line, dst: str, verb: str) -> str:
    if line.native:
        line.say(dst, message_class=MessageClass.SYSTEM, verb=verb)
    else:
        line.say(dst, type="system", msg=verb)
    return line.told()


@BOTH
def test_verb_not_owned(net: Net, witness: Line, native: bool) -> None:
    node = net.node("x", native=native)
    for verb in ("CONFIG_CHANGED", "OPA_RELOAD", "TIME_SYNC"):
        assert system_word(node, witness.name, verb) == "FORBIDDEN"


@BOTH
def test_verb_of_router(net: Net, witness: Line, native: bool) -> None:
    node, system = net.node("x", native=native), net.node(f"SY.v{net.number}", native=native)
    for verb in ("UNREACHABLE", "TTL_EXCEEDED", "ANNOUNCE", "CLOSING"):
        assert system_word(node, witness.name, verb) == "FORBIDDEN"
        assert system_word(system, witness.name, verb) == "FORBIDDEN"


@BOTH
def test_tap_from_node(net: Net, witness: Line, native: bool) -> None:
    node = net.node("x", native=native)
    node.say(witness.name, **({"message_class": MessageClass.TAP, "content_type": 3} if native else {"type": "tap"}))
    assert node.told() in ("FORBIDDEN", "BAD_FRAME FIELD_RANGE")


@BOTH
def test_ack_stored(net: Net, witness: Line, native: bool) -> None:
    node = net.node("x", native=native)
    node.say(witness.name, **({"ack_level": 3} if native else {"ack": "stored"}))
    assert node.told() == "FORBIDDEN"


def test_memory_from_node(net: Net, talker: Line) -> None:
    for native in (True, False):
        b = net.node(f"b{native}", native=native)
        talker.write(with_meta(talker, b.name, memory_package={"secret": 1}, kept=2))
        assert talker.settled() == []
        (message,) = b.settled()
        assert (message.memory, message.meta) == (None, {"kept": 2})


@BOTH
def test_thread_seq_from_node(net: Net, native: bool) -> None:
    a, b = net.pair(native)
    thread: dict[str, Any] = {"thread": b"t", "thread_is_text": True} if native else {"thread_id": "t"}
    for _ in range(2):
        a.say(b.name, thread_seq=2**63, **thread)
    assert a.settled() == []
    first, second = (message.thread_seq for message in b.settled())
    assert (second - first, first < 2**62) == (1, True)


# -- where it would go ---------------------------------------------------------------------------------------------


@BOTH
def test_not_ready(native: bool) -> None:
    router = Router(ready=False)
    a, _ = router.node("AI.a", native=native), router.node("AI.b")
    a.send("AI.b") if native else a.send_json("AI.b", {})
    assert a.reasons() == ["NOT_READY"]


@BOTH
def test_destination_unknown(net: Net, native: bool) -> None:
    a = net.node("a", native=native)
    for dst in ("AI.nobody", uuid4().bytes, "no name", "AI.nobody@*", "AI.nobody*@*", "ai.nobody"):
        a.say(dst)
        assert a.told() == "NODE_NOT_FOUND", dst


@BOTH
def test_destination_null(net: Net, native: bool) -> None:
    a = net.node("a", native=native)
    a.say(None)
    assert a.told() == "OPA_ERROR"


@BOTH
def test_ttl_zero(net: Net, witness: Line, native: bool) -> None:
    a = net.node("a", native=native)
    a.say(witness.name, ttl=0)
    assert a.told() == "TTL_EXCEEDED"


@BOTH
def test_deadline_passed(native: bool) -> None:
    router = Router()
    a, b = router.node("AI.a", native=native), router.node("AI.b")
    router.core.blocked(b.link)
    a.send("AI.b", deadline_ms=50) if native else a.send_json("AI.b", {}, deadline_ms=50)
    router.now += 51 * MS
    router.core.writable(b.link, router.now)
    assert (a.reasons(), b.read()) == (["DEADLINE_EXCEEDED"], [])


def test_to_json_untranslatable(net: Net, sender: Line) -> None:
    b = net.node("b", native=False)
    for content_type in (1, 2, 3):
        assert told_native(sender, sender.frame(b.name, b"\xc0", content_type=content_type)) == "UNTRANSLATABLE"
    assert b.settled() == []


def test_to_json_too_large(net: Net, sender: Line) -> None:
    b = net.node("b", native=False)
    payload = b'"' + b"x" * (limits.FRAME_BYTES_MAX - 150 - len(b.name)) + b'"'
    assert told_native(sender, sender.frame(b.name, payload)) == "PAYLOAD_TOO_LARGE"
    assert b.settled() == []


@BOTH
def test_to_small_receiver(net: Net, native: bool) -> None:
    a, small = net.node("a", native=native), net.node("small", native=native, frame_bytes_max=4096)
    a.say(small.name, "x" * 5000)
    assert a.told() == "PAYLOAD_TOO_LARGE"
    a.say(small.name, "x" * 1000)
    assert (a.settled(), len(small.settled())) == ([], 1)


def test_queue_full(net: Net, sender: Line) -> None:
    deaf = net.node("deaf")
    frame = sender.frame(deaf.name, b"x" * 60_000, content_type=3)
    fits = limits.QUEUE_BYTES_MAX // len(frame)
    sender.write(frame * fits)
    assert sender.settled() == []
    began = time.monotonic()
    sender.write(frame * 3)
    assert [reason_of(sender.read()) for _ in range(3)] == ["QUEUE_FULL"] * 3
    assert time.monotonic() - began < 0.1


# -- LINK frames ---------------------------------------------------------------------------------------------------


def link_frame(payload: bytes) -> bytes:
    head = bytearray(link_verbs.pack_ping(0)[: link_verbs.LINK_HEAD_BYTES])
    struct.pack_into("<I", head, 0, len(head) + len(payload))
    return bytes(head) + payload


def test_link_unknown_verb(net: Net) -> None:
    for payload in (b"", b"\0", b"\x0b" + bytes(8), b"\1", b"\1" + bytes(7), b"\1" + bytes(9), b"\5" + bytes(4)):
        assert cut(net, link_frame(payload), True) == "LINK_INVALID", payload


def test_link_of_router(net: Net) -> None:
    to = (DstKind.NAME, b"AI.b")
    for frame in (link_verbs.pack_confirmed(1, 1), link_verbs.pack_pause(*to), link_verbs.pack_resume(*to),
                  link_verbs.pack_drain(0), link_verbs.pack_report([(1, 7)])):  # fmt: skip
        assert cut(net, frame, True) == "LINK_INVALID"


def test_link_taken_too_much(net: Net, sender: Line) -> None:
    victim = net.node("v")
    sender.say(victim.name)
    assert sender.settled() == []
    victim.write(link_verbs.pack_taken(2))
    assert victim.ended() == "LINK_INVALID"
    assert cut(net, link_verbs.pack_taken(2**64 - 1), True) == "LINK_INVALID"


def test_link_other_key(net: Net) -> None:
    for good in (link_verbs.pack_taken(0), link_verbs.pack_ping(1), link_verbs.pack_bye(1)):
        for at in (72, 87, 88, 90, 91, 94, 98, 111):
            line = net.node(f"k{at}")
            line.write(edited(good, at, good[at] ^ 1))
            try:
                outcome = line.told()
            except EndedError as end:
                outcome = end.reason
            assert outcome.startswith(("LINK_INVALID", "BAD_FRAME")), at
            line.close()


def test_link_in_json(talker: Line) -> None:
    talker.write(link_verbs.pack_taken(1))
    assert talker.ended() == "FRAME_TOO_LARGE"


@BOTH
def test_broadcast_repeated(net: Net, native: bool) -> None:
    a, b = net.pair(native)
    trace = uuid4()
    for _ in range(3):
        target = net.called("b") + "@test"
        a.say("broadcast", target=target, **({"trace_id": trace.bytes} if native else {"trace_id": str(trace)}))
        assert a.settled() == []
    assert len(b.settled()) == 1

