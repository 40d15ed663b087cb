"""What a fresh reader tried in order to break the router's core, each with what must hold instead."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from router.wire import BROADCAST, MS, SECOND, Peer, Router, uuid_of
from skep.protocol import limits
from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason
from skep.protocol.header import pack_extensions
from skep.protocol.json_framing import encode_body
from skep.protocol.message import Message
from skep_shm import Binding, Route, RouteAction

TRACE = "22222222-2222-4222-8222-222222222222"
THREAD = b"t" * 32


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def pair(router: Router) -> tuple[Peer, Peer]:
    return router.node("AI.a"), router.node("AI.b")


def in_json(peer: Peer, dst: Any, payload: Any = None, **facts: Any) -> bytes:
    return encode_body(Message(payload, dst, source=peer.uuid, trace_id=TRACE, **facts), source_name="")


def said(router: Router, peer: Peer, data: bytes) -> None:
    """Feed, and give its uid all the time that its decisions cost."""
    peer.feed(data)
    while peer.link.tail:
        router.advance(5 * MS)


def length_changed(frame: bytes, size: int) -> bytes:
    return struct.pack("<I", size) + frame[4:] + bytes(size - len(frame))


# -- framing -------------------------------------------------------------------------------------------------------


def test_frames_cut_at_every_byte_arrive_whole_and_once(router: Router) -> None:
    a, b, j = router.node("AI.a"), router.node("AI.b"), router.node("IO.j", native=False)
    frames = a.frame("AI.b", b"1") + link_verbs.pack_ping(1) + a.frame("AI.b", b"2", verb="x")
    bodies = in_json(j, "AI.b", "one") + in_json(j, "AI.b", "two")
    for speaker, data in ((a, frames), (j, bodies)):
        for cut in range(len(data) + 1):
            speaker.feed(data[:cut])
            speaker.feed(data[cut:])
            assert len(b.read()) == 2, cut
        for byte in data:
            speaker.feed(bytes((byte,)))
        assert len(b.read()) == 2
    assert (a.port.closed, j.port.closed) == (None, None)


def test_link_frames_between_messages_do_not_count(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    for _ in range(3):
        a.feed(a.frame("AI.b") + link_verbs.pack_ping(1) + a.frame("AI.b") + link_verbs.pack_taken(0) + a.frame("AI.b"))
    assert len(b.read()) == 9
    assert (a.link.accepted, a.port.closed) == (9, None)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_frame_above_the_limit_is_refused_though_it_came_in_one_read(pair: tuple[Peer, Peer], warm: bool) -> None:
    a, b = pair
    if warm:
        a.send("AI.b")
        b.read()
    a.feed(length_changed(a.frame("AI.b"), limits.FRAME_BYTES_MAX + 1))
    assert a.port.closed == CloseReason.FRAME_TOO_LARGE
    assert b.read() == []


def test_key_end_and_body_start_cannot_move_a_warm_flow(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    frame = a.frame("AI.b", b"{}")
    key_end = struct.unpack_from("<H", frame, 4)[0]
    a.feed(frame)
    b.read()
    size = len(frame)
    for words in ((key_end, key_end + 4), (key_end, size + 1), (key_end, key_end - 1), (key_end + 1, key_end + 1)):
        liar = a.router.node(f"AI.liar{words[0]}.{words[1]}", uuid=uuid_of("liar"))
        liar.feed(struct.pack("<IHH", len(frame), *words) + frame[8:72] + liar.uuid + frame[88:])
        assert b.read() == []


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_extension_fields_past_their_end(pair: tuple[Peer, Peer], warm: bool) -> None:
    a, b = pair
    if warm:
        a.send("AI.b")
        b.read()
    for area in (b"\1", b"\x63\0\xff\xff", struct.pack("<HH", 99, 5) + b"four", pack_extensions({99: b""}) + b"\0\0\0"):
        a.send("AI.b", extensions=area)
        assert a.reasons() == ["BAD_FRAME"], area
    assert b.read() == []


# -- words of another ----------------------------------------------------------------------------------------------


def test_taken_lies_free_nothing_of_others(router: Router) -> None:
    a, b, c = (router.node(name) for name in ("AI.a", "AI.b", "AI.c"))
    b.auto_take = c.auto_take = False
    a.send("AI.b", b"x" * 1000)
    a.send("AI.c", b"x" * 1000)
    held = a.link.account.held_bytes
    b.feed(link_verbs.pack_taken(1))
    b.feed(link_verbs.pack_taken(0))  # going back is no news
    assert 0 < a.link.account.held_bytes < held
    b.feed(link_verbs.pack_taken(2))
    assert b.port.closed == CloseReason.LINK_INVALID
    assert a.link.account.held_bytes == c.link.held_bytes > 0


def test_a_doorbell_is_for_system_nodes(pair: tuple[Peer, Peer]) -> None:
    a, _ = pair
    a.feed(link_verbs.pack_doorbell(1))
    assert (a.router.notes.doorbells, a.port.closed) == ([], CloseReason.LINK_INVALID)


def test_the_routers_own_uuid_and_name_are_not_to_be_had(router: Router) -> None:
    thief = Peer(router, "AI.thief", uuid=router.core.uuid)
    assert thief.connect().reason == CloseReason.UUID_TAKEN  # type: ignore[union-attr]
    assert Peer(router, "RT.main").connect().reason == CloseReason.NAME_TAKEN  # type: ignore[union-attr]


# -- last words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["WITHDRAW", "HELLO"])
def test_what_was_said_before_a_farewell_in_the_same_read_is_delivered(router: Router, last: str) -> None:
    b, j = router.node("AI.b"), router.node("IO.j", native=False)
    j.feed(in_json(j, "AI.b", 1) + in_json(j, None, type="system", verb=last) + in_json(j, "AI.b", 2))
    assert [message.payload for message in b.read()] == [1]
    assert j.port.closed in (CloseReason.WITHDRAWN, CloseReason.HELLO_REPEATED)


def test_what_was_said_before_the_last_bad_frame_is_delivered(router: Router) -> None:
    b, j = router.node("AI.b"), router.node("IO.j", native=False)
    bad = b"\0\0\0\1{"
    j.feed(in_json(j, "AI.b", 1) + bad * (limits.BAD_FRAMES_PER_LINK + 1) + in_json(j, "AI.b", 2))
    assert [message.payload for message in b.read()] == [1]
    assert j.port.closed == CloseReason.TOO_MANY_BAD_FRAMES


def test_bye_after_frames_delivers_them(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    a.feed(a.frame("AI.b") * 3 + link_verbs.pack_bye(1) + a.frame("AI.b"))
    assert len(b.read()) == 3


# -- memory that nobody counts -------------------------------------------------------------------------------------


def test_pings_of_one_that_does_not_read_stop_its_reading(pair: tuple[Peer, Peer]) -> None:
    a, _ = pair
    a.router.core.blocked(a.link)
    a.feed(link_verbs.pack_ping(1))
    assert not a.port.reading
    a.router.core.writable(a.link, a.router.now)
    assert a.port.reading
    a.read()
    assert link_verbs.Pong(1) in a.verbs


def test_confirmations_wait_for_a_reader_and_then_say_all(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    a.router.core.blocked(a.link)
    for _ in range(100):
        a.send("AI.b")
        b.read()
        a.router.advance(5 * MS)
    assert a.port.written == []
    a.router.core.writable(a.link, a.router.now)
    a.router.advance(5 * MS)
    a.read()
    assert a.verbs[-1] == link_verbs.Confirmed(100, 100)


def test_reports_to_one_that_does_not_read_stop_its_reading(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    b.auto_take = False
    a.send("AI.b")
    a.router.core.blocked(a.link)
    b.crash()
    assert not a.port.reading
    a.router.core.writable(a.link, a.router.now)
    assert a.port.reading
    a.read()
    assert link_verbs.Report(((link_verbs.Outcome.UNKNOWN, 1),)) in a.verbs


def test_refusals_to_one_that_does_not_read_stop_its_reading(router: Router) -> None:
    for native in (True, False):
        a = router.node("AI.a" if native else "IO.a", native=native)
        router.core.blocked(a.link)
        asked = 0
        while a.port.reading and asked < 100_000:
            data = a.frame("AI.nobody") if native else in_json(a, "AI.nobody")
            a.feed(data * 500)
            router.advance(SECOND)
            asked += 500
        assert not a.port.reading
        assert a.link.held_bytes < limits.QUEUE_BYTES_MAX * 1.1


# -- routing -------------------------------------------------------------------------------------------------------


def bound(handler: str) -> Binding:
    return Binding(thread=THREAD, handler=handler, handler_uuid=bytes(16), lease_until_ns=0, reason="", revision=1)


def test_a_thread_bound_to_its_own_sender_does_not_loop(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    a.router.core.bindings([bound("AI.a@bee")], [], a.router.now)
    a.send("AI.b", thread=THREAD)
    assert (len(b.read()), a.read()) == (1, [])
    b.send("AI.a", thread=THREAD)
    b.send("AI.b", thread=THREAD)
    assert len(a.read()) == 2


def test_a_binding_to_nobody_is_told_and_a_chain_is_not_followed(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    for handler in ("AI.gone@bee", "AI.x@elsewhere", "not a name", "*"):
        a.router.core.bindings([bound(handler)], [], a.router.now)
        a.send("AI.b", thread=THREAD)
        assert len(a.reasons()) == 1, handler
    a.router.core.bindings([], [THREAD], a.router.now)
    a.send("AI.b", thread=THREAD)
    assert len(b.read()) == 1


def test_routes_that_lead_in_a_circle_end(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    ring = (("AI.a", "AI.b"), ("AI.b", "AI.c"), ("AI.c", "AI.a"), ("AI.self", "AI.self"))
    routes = tuple(
        Route(prefix=one, match_kind=0, action=RouteAction.FORWARD, next_hop_hive="", next_hop_name=other,
              metric=0, priority=0, installed_at_ms=0)  # type: ignore[arg-type]
        for one, other in ring
    )  # fmt: skip
    a.router.configure(routes=routes)
    for name in ("AI.a", "AI.b", "AI.c", "AI.self"):
        a.send(name)
    assert len(a.read()) + len(b.read()) == 4


def test_a_member_dies_with_threads_pinned_to_it(router: Router) -> None:
    members = [router.node("AI.g", uuid=uuid_of(f"g{number}")) for number in range(4)]
    a = router.node("AI.a")
    turns = [a.frame("AI.g", thread=bytes((number,)) * 32) for number in range(64)]
    said(router, a, b"".join(turns))
    assert sum(len(member.read()) for member in members) == 64
    members[0].crash()
    said(router, a, b"".join(turns))
    assert sum(len(member.read()) for member in members[1:]) == 64
    assert [message for message in a.read() if message.type == "system"] == []


def test_replaced_while_frames_wait_for_it(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    a.router.core.blocked(b.link)
    for number in range(10):
        a.send("AI.b", message_id=100 + number)
    newer = a.router.node("AI.b", uuid=b.uuid)
    a.read()
    told = {entry[1] for verb in a.verbs if isinstance(verb, link_verbs.Report) for entry in verb.entries}
    assert told == set(range(100, 110))
    a.send("AI.b", message_id=1)
    assert len(newer.read()) == 1
    assert a.link.account.held_bytes == 0


def test_a_broadcast_storm_is_charged_to_its_sender_and_spares_the_others(router: Router) -> None:
    storm, other, b = router.node("AI.storm", uid=1000), router.node("AI.o", uid=1000), router.node("AI.b", uid=1000)
    crowd = [router.node(f"AI.c{number}") for number in range(50)]
    for peer in crowd:
        router.core.blocked(peer.link)
    sent = 0
    while storm.port.reading and sent < 2000:
        storm.send(dst_kind=BROADCAST, destination=b"", payload=b"x" * 60_000, content_type=3)
        sent += 1
    assert not storm.port.reading
    router.advance(5 * MS)
    held = sum(peer.link.held_bytes for peer in crowd)
    assert held <= limits.UID_BYTES_MAX + 50 * 61_000
    assert other.port.closed is None
    assert b.link.held_bytes == 0 or b.read()


def test_a_giant_group_gives_every_frame_to_one_member(router: Router) -> None:
    group = [router.node("AI.g", uuid=uuid_of(f"g{number}")) for number in range(300)]
    a = router.node("AI.a")
    for _ in range(300):
        a.send("AI.g")
    said(router, a, b"".join(a.frame("AI.g", thread=struct.pack("<I", n) * 8) for n in range(300)))
    counts = [len(member.read()) for member in group]
    assert sum(counts) == 600
    assert min(counts) >= 1


@pytest.mark.parametrize("facts", [{"deadline_ms": limits.U32_MAX}, {"ttl": 255}, {"budget": limits.U32_MAX}])
def test_largest_numbers_pass_untouched(pair: tuple[Peer, Peer], facts: dict[str, int]) -> None:
    a, b = pair
    a.router.core.blocked(b.link)
    a.send("AI.b", message_id=limits.U64_MAX, **facts)
    a.router.now += 3600 * SECOND
    a.router.core.writable(b.link, a.router.now)
    (message,) = b.read()
    assert message.message_id == limits.U64_MAX
    (name, value), *_ = facts.items()
    assert getattr(message, name) == (value - 3_600_000 if name == "deadline_ms" else value)


def test_never_repeated_selectors_wait_for_their_allowance_and_arrive(pair: tuple[Peer, Peer]) -> None:
    a, b = pair
    total = limits.MISSES_PER_S
    a.feed(b"".join(a.frame("AI.b", context=b'{"n":%d}' % number) for number in range(total)))
    assert not a.port.reading
    first = len(b.read())
    for _ in range(400):
        a.router.advance(5 * MS)
        b.read()
    assert first <= limits.MISSES_PER_S + 1
    assert len(b.inbox) == total
    assert a.port.reading
    assert len(a.link.flows) <= limits.FLOWS_PER_LINK


def test_a_json_flood_of_broken_escapes_and_numbers_never_raises(router: Router) -> None:
    j = router.node("IO.j", native=False)
    for value in (b"null", b"true", b"1e400", b"-0", b'"\\ud83d"', b"[]", b"{}", b"1.0", b'""', b"9" * 20):
        for member in ("message_id", "part", "ttl", "deadline_ms", "thread_seq", "budget", "labels", "reply_to"):
            where = b'"routing":{' if member == "ttl" else b'"meta":{'
            body = in_json(j, "AI.nobody")[4:].replace(where, where + b'"%s":%s,' % (member.encode(), value), 1)
            j.feed(len(body).to_bytes(4, "big") + body)
        if j.port.closed is not None:
            j = router.node(f"IO.j{value.hex()[:6]}", native=False)
    assert router.core.counters.bad_frames > 40
