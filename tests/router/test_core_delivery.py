"""Queues, credit, confirmations, deadlines, and what is said when a consumer dies: nothing is lost in silence."""

from __future__ import annotations

from collections import Counter

import pytest

from router.wire import MS, SECOND, Peer, Router
from skep.protocol import limits
from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason
from skep.protocol.header import AckLevel

KIB = bytes(1024)


@pytest.fixture
def router() -> Router:
    return Router()


def verbs(peer: Peer, kind: type) -> list:
    peer.read()
    found = [verb for verb in peer.verbs if isinstance(verb, kind)]
    peer.verbs = [verb for verb in peer.verbs if not isinstance(verb, kind)]
    return found


def fill(sender: Peer, name: str, frames: int, size: int = 4096, **facts: object) -> None:
    """Fed in reads of 16 frames, as a socket would."""
    for _ in range(frames // 16):
        sender.feed(b"".join(sender.frame(name, bytes(size), content_type=3, **facts) for _ in range(16)))


def test_confirmed_follows_what_consumers_take(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    b.auto_take = False
    for _ in range(3):
        a.send("AI.b")
    a.send("AI.nobody")
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (4, 0)
    b.feed(link_verbs.pack_taken(2))
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (4, 2)
    b.feed(link_verbs.pack_taken(3))
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (4, 4)
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed) == [], "nothing new, nothing said"


def test_an_acknowledged_message_is_confirmed_at_once(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b", ack_level=AckLevel.ROUTED)
    assert verbs(a, link_verbs.Confirmed) == [(1, 0)]
    assert len(b.read()) == 1


def test_finished_is_a_watermark_over_all_destinations(router: Router) -> None:
    a, b, c = router.node("AI.a"), router.node("AI.b"), router.node("AI.c")
    b.auto_take = False
    for name in ("AI.b", "AI.c", "AI.c"):
        a.send(name)
    c.read()
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (3, 0), "the first one is still out"
    b.feed(link_verbs.pack_taken(1))
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (3, 3)


@pytest.mark.goal("G8")
def test_pause_and_resume_name_one_destination_only(router: Router) -> None:
    a, slow, quick = router.node("AI.a"), router.node("AI.slow"), router.node("AI.quick")
    slow.auto_take = False
    router.core.blocked(slow.link)
    fill(a, "AI.slow", 512)
    assert verbs(a, link_verbs.Pause) == [(2, b"AI.slow")]
    a.send("AI.quick")
    assert len(quick.read()) == 1
    assert a.port.reading, "a native sender's socket is not paused for one destination"
    router.core.writable(slow.link, router.now)
    assert verbs(a, link_verbs.Resume) == [], "written is not taken"
    slow.read()
    slow.feed(link_verbs.pack_taken(slow.taken))
    assert verbs(a, link_verbs.Resume) == [(2, b"AI.slow")]
    assert slow.link.held_bytes == 0


@pytest.mark.goal("G8")
def test_past_the_hard_limit_each_frame_is_refused_by_name(router: Router) -> None:
    a, slow = router.node("AI.a"), router.node("AI.slow")
    slow.auto_take = False
    router.core.blocked(slow.link)
    frames = 2 * limits.QUEUE_BYTES_MAX // 4096
    fill(a, "AI.slow", frames)
    assert slow.link.held_bytes <= limits.QUEUE_BYTES_MAX
    a.auto_take = True
    refused = [m.reply_to for m in a.read() if m.verb == "UNREACHABLE"]
    assert {m.payload["reason"] for m in a.inbox} == {"QUEUE_FULL"}
    router.core.writable(slow.link, router.now)
    arrived = [m.message_id for m in slow.read()]
    assert sorted(arrived + refused) == list(range(1, frames + 1)), "sent = delivered + told"


def test_a_json_sender_is_paused_instead_and_goes_on(router: Router) -> None:
    j, slow = router.node("IO.j", native=False), router.node("AI.slow")
    slow.auto_take = False
    router.core.blocked(slow.link)
    for _ in range(40):
        j.send_json("AI.slow", "x" * 60000)
    assert not j.port.reading
    router.core.writable(slow.link, router.now)
    slow.read()
    slow.feed(link_verbs.pack_taken(slow.taken))
    assert j.port.reading


def test_a_paused_sender_is_let_go_when_the_consumer_dies(router: Router) -> None:
    j, a, slow = router.node("IO.j", native=False), router.node("AI.a"), router.node("AI.slow")
    router.core.blocked(slow.link)
    fill(a, "AI.slow", 512)
    j.send_json("AI.slow", "x")
    assert not j.port.reading
    slow.crash()
    assert j.port.reading
    assert [v.destination for v in verbs(a, link_verbs.Resume)] == [b"AI.slow"]


def test_deadlines_are_checked_and_rewritten_when_a_frame_leaves_a_queue(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    router.core.blocked(b.link)
    a.send("AI.b", b'"short"', deadline_ms=20)
    a.send("AI.b", b'"long"', deadline_ms=500)
    a.send("AI.b", b'"none"')
    router.now += 100 * MS
    router.core.writable(b.link, router.now)
    assert [(m.payload, m.deadline_ms) for m in b.read()] == [("long", 400), ("none", 0)]
    (told,) = a.read()
    assert (told.payload["reason"], told.reply_to) == ("DEADLINE_EXCEEDED", 1)
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (3, 3)


def test_a_dead_consumers_messages_are_reported_lost_or_unknown(router: Router) -> None:
    a, c, b = router.node("AI.a"), router.node("AI.c"), router.node("AI.b")
    b.auto_take = False
    for _ in range(3):
        a.send("AI.b")
    c.send("AI.b")
    b.read()
    b.feed(link_verbs.pack_taken(1))
    router.core.blocked(b.link)
    a.send("AI.b")
    b.crash()
    (report,) = verbs(a, link_verbs.Report)
    assert sorted(report.entries, key=lambda e: e[1]) == [(2, 2), (2, 3), (1, 4)]
    assert verbs(c, link_verbs.Report)[0].entries == ((2, 1),)
    router.advance(5 * MS)
    assert verbs(a, link_verbs.Confirmed)[-1] == (4, 4)
    assert a.link.account.held_bytes == 0


def test_a_dead_sender_leaves_no_charge_behind(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    router.core.blocked(b.link)
    fill(a, "AI.b", 64)
    account = a.link.account
    a.crash()
    router.core.writable(b.link, router.now)
    assert len(b.read()) == 64
    assert account.held_bytes == 0


@pytest.mark.goal("G8")
def test_every_byte_survives_a_slow_consumer(router: Router) -> None:
    """Queued, split and rejoined pieces are the bytes that were sent, in order, for every sender."""
    senders = [router.node(f"AI.s{i}") for i in range(4)]
    sink = router.node("AI.sink")
    sent: dict[bytes, list[bytes]] = {s.uuid: [] for s in senders}
    for turn in range(200):
        sender = senders[turn % 4]
        if turn % 7 == 0:
            router.core.blocked(sink.link)
        body = bytes([turn % 251]) * (1 + turn * 37 % 9000)
        frame = sender.frame("AI.sink", body, content_type=3)
        sent[sender.uuid].append(body)
        half = len(frame) // 2
        sender.feed(frame[:half])
        sender.feed(frame[half:])
        if turn % 7 == 5:
            router.core.writable(sink.link, router.now)
            sink.read()
    router.core.writable(sink.link, router.now)
    sink.read()
    got: dict[bytes, list[bytes]] = {s.uuid: [] for s in senders}
    for message in sink.inbox:
        got[message.source].append(message.payload)
    assert got == sent


def overfill(router: Router, sinks: list[Peer], sender: Peer) -> None:
    for sink in sinks:
        router.core.blocked(sink.link)
        name = sink.name.partition("@")[0]
        for _ in range(130):
            if sender.native:
                sender.send(name, bytes(60_000), content_type=3)
            else:
                sender.send_json(name, "x" * 60_000)


@pytest.mark.goal("G9")
def test_past_its_whole_quota_a_uid_is_told_and_its_takings_are_still_read(router: Router) -> None:
    a, peer = router.node("AI.a"), router.node("AI.peer")
    peer.send("AI.a")
    sinks = [router.node(f"AI.k{i}") for i in range(12)]
    overfill(router, sinks, a)
    account = a.link.account
    assert limits.UID_BYTES_MAX <= account.held_bytes <= limits.UID_BYTES_MAX + limits.QUEUE_BYTES_HIGH
    for _ in range(64):  # each refusal is a decision, and decisions are paid for in time
        router.advance(20 * MS)
    assert a.port.reading, "its TAKEN stands behind its messages"
    assert "QUEUE_FULL" in a.reasons()
    for sink in sinks:
        router.core.writable(sink.link, router.now)
        sink.read()
    router.advance(5 * MS)
    a.send("AI.peer")
    assert len(peer.read()) == 1


@pytest.mark.goal("G9")
def test_a_json_sender_past_its_quota_is_not_read(router: Router) -> None:
    j = router.node("IO.j", native=False)
    sinks = [router.node(f"AI.k{i}") for i in range(12)]
    overfill(router, sinks, j)
    assert not j.port.reading
    for sink in sinks:
        router.core.writable(sink.link, router.now)
        sink.read()
        sink.feed(link_verbs.pack_taken(sink.taken))
    router.advance(5 * MS)
    assert j.port.reading


@pytest.mark.goal("G9")
def test_misses_past_the_allowance_wait_and_nobody_else_does(router: Router) -> None:
    from skep_shm import Grant

    router.configure(grants=(Grant(2000, "AI.*"),))
    flood, other, b = router.node("AI.flood", uid=2000), router.node("AI.o"), router.node("AI.b")
    count = 3 * limits.MISSES_PER_S
    for start in range(0, count, 64):
        if flood.port.reading:
            flood.feed(b"".join(flood.frame(f"AI.no{start + i}") for i in range(64)))
    assert not flood.port.reading
    other.send("AI.b")
    assert len(b.read()) == 1
    flood.read()
    before = len(flood.inbox)
    router.advance(SECOND)
    flood.read()
    assert len(flood.inbox) > before or flood.port.reading


def test_a_sender_that_does_not_read_its_refusals_is_not_read(router: Router) -> None:
    a = router.node("AI.a")
    router.core.blocked(a.link)
    a.auto_take = False
    for _ in range(1000):
        if not a.link.held_back:
            a.feed(b"".join(a.frame("AI.nobody") for _ in range(48)))
            router.advance(SECOND // 50)
    assert a.link.held_back
    assert not a.port.reading
    assert a.link.held_bytes < 2 * limits.QUEUE_BYTES_MAX
    router.core.writable(a.link, router.now)
    a.auto_take = True
    a.read()
    assert a.port.reading


def test_drain_asks_native_nodes_to_go_and_takes_no_newcomers(router: Router) -> None:
    a = router.node("AI.a")
    router.core.drain(3000)
    assert verbs(a, link_verbs.Drain) == [(3000,)]
    late = Peer(router, "AI.late")
    assert late.connect().reason is CloseReason.DRAINING


def test_half_open_links_are_asked_and_then_cut(router: Router) -> None:
    a, quiet, j = router.node("AI.a"), router.node("AI.quiet"), router.node("IO.j", native=False)
    router.advance(31 * SECOND)
    router.advance(MS)
    (ping,) = verbs(a, link_verbs.Ping)
    a.feed(link_verbs.pack_pong(ping.nonce))
    router.advance(30 * SECOND)
    router.advance(MS)
    assert quiet.port.closed == CloseReason.UNRESPONSIVE
    assert a.port.closed is None
    assert j.port.closed is None


def test_a_router_that_slept_itself_gives_everybody_time_to_answer(router: Router) -> None:
    a = router.node("AI.a")
    router.now += 300 * SECOND
    router.advance(MS)
    router.advance(5 * MS)
    assert a.port.closed is None
    (ping,) = verbs(a, link_verbs.Ping)
    a.feed(link_verbs.pack_pong(ping.nonce))
    router.advance(29 * SECOND)
    assert a.port.closed is None


def test_tap_gets_every_turn_with_ilk_and_tenant_and_loss_is_counted(router: Router) -> None:
    channel, b = router.node("IO.c"), router.node("AI.b")
    tap = router.node("SY.tap")
    ilk = b"i" * 16
    sent = [channel.frame("AI.b", b'"%d"' % n, src_ilk=ilk) for n in range(5)]
    channel.feed(b"".join(sent))
    channel.send("AI.b", message_class=2, verb="NODE_STATUS_GET")
    tap.read()
    body = b"".join(frame.payload for frame in tap.raw)
    assert body == ilk + bytes(16) + b"".join(sent)
    assert len(b.read()) == 6
    router.core.blocked(tap.link)
    fill(channel, "AI.b", 4000)
    assert router.core.counters.tap_lost > 0
    assert Counter(m.payload for m in b.read())
    assert channel.port.reading


def test_the_enricher_gives_json_peers_the_threads_memory(router: Router) -> None:
    class Memories:
        def memory(self, thread: bytes) -> dict[str, object] | None:
            return {"thread": thread.hex()} if thread == b"m" * 32 else None

    object.__setattr__(router.core.hooks, "enricher", Memories())
    a, j = router.node("AI.a"), router.node("IO.j", native=False)
    a.send("IO.j", thread=b"m" * 32)
    a.send("IO.j", thread=b"n" * 32)
    assert [m.memory for m in j.read()] == [{"thread": (b"m" * 32).hex()}, None]


def test_bindings_redirect_what_opens_a_turn_until_they_end(router: Router) -> None:
    from skep_shm import Binding

    thread = b"b" * 32
    channel, desk, human = router.node("IO.w"), router.node("AI.desk"), router.node("IO.human")
    channel.send("AI.desk", thread=thread)
    assert len(desk.read()) == 1
    binding = Binding(thread=thread, handler="IO.human", handler_uuid=bytes(16), lease_until_ns=0, reason="took over")
    router.core.bindings([binding], [], router.now)
    channel.send("AI.desk", thread=thread)
    assert (len(desk.read()), len(human.read())) == (0, 1)
    human.send(channel.uuid, thread=thread, phase=2)
    desk.send(human.uuid, thread=thread)
    assert (len(channel.read()), len(human.read())) == (1, 1)
    human.send("AI.desk", thread=thread)
    assert len(desk.read()) == 1, "the handler's own words are not sent back to it"
    router.core.bindings([], [thread], router.now)
    channel.send("AI.desk", thread=thread)
    assert len(desk.read()) == 1
    leased = Binding(
        thread=thread, handler="IO.human", handler_uuid=bytes(16), lease_until_ns=router.now + SECOND, reason="",
    )
    router.core.bindings([leased], [], router.now)
    channel.send("AI.desk", thread=thread)
    assert len(human.read()) == 1
    router.advance(2 * SECOND)
    channel.send("AI.desk", thread=thread)
    assert len(desk.read()) == 1


def test_the_router_answers_about_itself(router: Router) -> None:
    a = router.node("AI.a")
    a.send("RT.main", message_class=2, verb="ROUTER_STATS", message_id=9)
    (answer,) = a.read()
    assert (answer.verb, answer.reply_to, answer.payload["nodes"]) == ("ROUTER_STATS_RESPONSE", 9, 1)
    a.send("RT.main", message_class=2, verb="NODE_STATUS_GET")
    assert a.read()[0].payload["health_state"] == "HEALTHY"
    a.send("RT.main")
    assert a.reasons() == ["FORBIDDEN"]
