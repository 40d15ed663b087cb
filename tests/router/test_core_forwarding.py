"""What the core does with frames that may go: hits, misses, both framings, groups, threads, broadcasts."""

from __future__ import annotations

import pytest

from router.wire import HIVE, SECOND, Router, uuid_of
from skep.protocol.header import AckLevel, Phase
from skep_shm import MatchKind, Route, RouteAction


@pytest.fixture
def router() -> Router:
    return Router()


def test_by_name_and_by_uuid(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b", b'"by base name"')
    a.send(f"AI.b@{HIVE}", b'"by full name"')
    a.send(b.uuid, b'"by uuid"')
    assert [m.payload for m in b.read()] == ["by base name", "by full name", "by uuid"]
    assert all(m.source == a.uuid for m in b.inbox)
    assert a.read() == []


def test_a_hit_is_the_same_flow_and_counts(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.feed(b"".join(a.frame("AI.b") for _ in range(64)))
    assert len(b.read()) == 64
    (flow,) = a.link.flows.values()
    assert (a.link.account.frames, router.core.counters.misses) == (64, 1)
    assert flow.plain


def test_one_write_per_next_hop_per_read_and_order_kept(router: Router) -> None:
    a = router.node("AI.a")
    sinks = [router.node(f"AI.s{i}") for i in range(4)]
    a.feed(b"".join(a.frame(f"AI.s{i % 4}", b"%d" % i) for i in range(40)))
    for number, sink in enumerate(sinks):
        assert len(sink.port.written) == 1
        assert [m.payload for m in sink.read()] == list(range(number, 40, 4))


@pytest.mark.parametrize("cut", [1, 7, 71, 72, 111, 112, 150])
def test_frames_in_any_pieces(router: Router, cut: int) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    stream = b"".join(a.frame("AI.b", b'"%d"' % i * 1) for i in range(9))
    for at in range(0, len(stream), cut):
        a.feed(stream[at:at + cut])
    assert [m.payload for m in b.read()] == [str(i) for i in range(9)]


def test_json_to_json_native_to_json_and_back(router: Router) -> None:
    j, k, n = router.node("IO.j", native=False), router.node("IO.k", native=False), router.node("AI.n")
    j.send_json("IO.k", {"text": "ñ"}, meta={"priority": "high"})
    (got,) = k.read()
    assert (got.payload, got.source_name, got.meta) == ({"text": "ñ"}, f"IO.j@{HIVE}", {"priority": "high"})
    assert got.action_class.name == "SEND_MESSAGE"
    j.send_json("AI.n", [1, 2])
    assert n.read()[0].payload == [1, 2]
    n.send(j.uuid, b'{"answer":1}')
    assert j.read()[0].payload == {"answer": 1}


def test_group_takes_turns_and_a_thread_sticks(router: Router) -> None:
    a = router.node("IO.a")
    members = [router.node("AI.pool", uuid=uuid_of(f"pool{i}")) for i in range(3)]
    for _ in range(9):
        a.send("AI.pool")
    assert [len(m.read()) for m in members] == [3, 3, 3]
    for _ in range(9):
        a.send("AI.pool", thread=b"t" * 32)
    counts = sorted(len(m.read()) for m in members)
    assert counts == [0, 0, 9]


def test_group_that_grows_and_shrinks(router: Router) -> None:
    a, first = router.node("IO.a"), router.node("AI.pool", uuid=uuid_of("p1"))
    a.send("AI.pool")
    assert len(first.read()) == 1
    second = router.node("AI.pool", uuid=uuid_of("p2"))
    for _ in range(4):
        a.send("AI.pool")
    assert (len(first.read()), len(second.read())) == (2, 2)
    first.crash()
    for _ in range(4):
        a.send("AI.pool")
    assert len(second.read()) == 4


def test_thread_seq_is_the_routers_and_grows_over_senders(router: Router) -> None:
    a, b, c = router.node("IO.a"), router.node("IO.b"), router.node("AI.c")
    for sender in (a, b, a):
        sender.send("AI.c", thread=b"k" * 32, thread_seq=999)
    assert [m.thread_seq for m in c.read()] == [(1 << 32) + n for n in (1, 2, 3)]


def test_broadcast_by_target_never_to_the_sender_once_per_trace(router: Router) -> None:
    a, b, c = router.node("SY.a"), router.node("AI.b"), router.node("IO.c", native=False)
    trace = b"T" * 16
    a.send("broadcast", trace_id=trace)
    a.send("broadcast", trace_id=trace)
    assert (len(b.read()), len(c.read()), len(a.read())) == (1, 1, 0)
    assert router.core.counters.loops_suppressed == 1
    a.send("broadcast", trace_id=b"U" * 16, target="AI.*")
    assert (len(b.read()), len(c.read())) == (1, 0)
    router.advance(31 * SECOND)
    a.send("broadcast", trace_id=trace)
    assert len(b.read()) == 1


def test_static_routes_override_live_names(router: Router) -> None:
    a, b, c = router.node("AI.a"), router.node("AI.b"), router.node("AI.c")
    a.send("AI.b")
    assert len(b.read()) == 1
    router.configure(routes=(Route(f"AI.b@{HIVE}", MatchKind.EXACT, next_hop_name="AI.c"),))
    a.send("AI.b")
    assert (len(b.read()), len(c.read())) == (0, 1)
    router.configure(routes=(Route("AI.b", MatchKind.PREFIX, RouteAction.DROP),))
    a.send("AI.b")
    assert (len(b.read()), len(c.read()), len(a.read())) == (0, 0, 0)
    router.configure(routes=(Route(f"AI.b@{HIVE}", MatchKind.EXACT, next_hop_hive="other"),))
    a.send("AI.b")
    assert a.reasons() == ["GATEWAY_UNAVAILABLE"]


def test_any_hive_pattern_is_asked_each_time(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.one.x")
    a.send("AI.one.*@*")
    a.send("AI.one.x@*")
    assert len(b.read()) == 2
    longer = router.node("AI.one.longer")
    a.send("AI.one.*@*")
    assert (len(b.read()), len(longer.read())) == (0, 1)


def test_a_leaver_takes_its_flows_along(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b")
    b.crash()
    assert not a.link.flows
    a.send("AI.b")
    assert a.reasons() == ["NODE_NOT_FOUND"]
    again = router.node("AI.b")
    a.send("AI.b")
    assert len(again.read()) == 1


def test_ack_routed_is_confirmed_and_json_consumer_yields_routed(router: Router) -> None:
    a, j = router.node("AI.a"), router.node("IO.j", native=False)
    a.send("IO.j", ack_level=AckLevel.PROCESSED, phase=Phase.REQUEST, message_id=77)
    assert len(j.read()) == 1
    a.read()
    (receipt,) = a.raw
    assert (receipt.reply_to, receipt.payload) == (77, bytes((AckLevel.ROUTED,)))


def test_sampled_frames_leave_hop_records(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b", flags=1, trace_id=b"Z" * 16)
    a.send("AI.nobody", flags=1, trace_id=b"Z" * 16)
    assert len(b.read()) == 1
    assert [(h[0], h[2], h[4]) for h in router.notes.hops] == [
        (2, f"AI.a@{HIVE}", f"AI.b@{HIVE}"),
        (4, f"AI.a@{HIVE}", ""),
    ]
