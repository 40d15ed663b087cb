"""What the core does with frames that may not go: each refusal is told, by name, and the connection lives on."""

from __future__ import annotations

import pytest

from router.wire import HIVE, MS, SECOND, Peer, Router, uuid_of
from skep.protocol import limits
from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason
from skep.protocol.handshake import Refused
from skep.protocol.header import AckLevel, MessageClass, Phase, Tag, pack_extensions
from skep_shm import Grant, MatchKind, VpnRule

ILK, OTHER_ILK = b"i" * 16, b"o" * 16
TENANT, RIVAL = b"t" * 16, b"r" * 16
STRANGER = 2000


@pytest.fixture
def router() -> Router:
    return Router()


def told(peer: Peer) -> tuple[str, bytes]:
    (message,) = peer.read()
    assert message.verb in ("UNREACHABLE", "TTL_EXCEEDED")
    return message.payload.get("reason", message.verb), message.reply_to


def test_refusal_names_the_message_and_its_trace(router: Router) -> None:
    a = router.node("AI.a")
    a.send("AI.nobody", message_id=41, trace_id=b"q" * 16)
    (answer,) = a.read()
    assert answer.payload["reason"] == "NODE_NOT_FOUND"
    assert answer.payload["original_dst"] == "AI.nobody"
    assert (answer.reply_to, answer.trace_id.replace("-", "")) == (41, (b"q" * 16).hex())


def test_json_refusal_has_upstreams_shape(router: Router) -> None:
    j = router.node("IO.j", native=False)
    j.send_json("AI.nobody", {}, trace_id="not a uuid at all")
    (answer,) = j.read()
    assert (answer.type, answer.verb, answer.trace_id) == ("system", "UNREACHABLE", "not a uuid at all")
    assert answer.payload["original_dst"] == "AI.nobody"
    j.send_json(uuid_of("nobody"), {})
    assert j.reasons() == ["NODE_NOT_FOUND"]
    j.send_json(None, {})
    assert j.reasons() == ["OPA_ERROR"]


def test_ttl_zero(router: Router) -> None:
    a = router.node("AI.a")
    router.node("AI.b")
    a.send("AI.b", ttl=0)
    (answer,) = a.read()
    assert answer.verb == "TTL_EXCEEDED"
    assert answer.payload["last_hop"].startswith("router:")


@pytest.mark.goal("G14")
def test_forged_source_is_refused_on_cold_and_warm_flows_and_in_both_framings(router: Router) -> None:
    a, b, victim = router.node("AI.a"), router.node("AI.b"), router.node("AI.victim")
    j = router.node("IO.j", native=False)
    a.send("AI.b", source=victim.uuid)
    assert told(a)[0] == "SOURCE_FORGED"
    victim.send("AI.b")
    assert len(b.read()) == 1
    a.send("AI.b", source=victim.uuid)
    assert told(a)[0] == "SOURCE_FORGED"
    j.send_json("AI.b", {}, source=victim.uuid)
    assert j.reasons() == ["SOURCE_FORGED"]
    assert b.read() == []


@pytest.mark.goal("G14")
def test_ilk_needs_a_grant(router: Router) -> None:
    router.configure(grants=(Grant(STRANGER, "AI.x", 1, ILK), Grant(STRANGER, "IO.*", 2)))
    b = router.node("AI.b")
    x, channel, plain = (router.node(n, uid=STRANGER) for n in ("AI.x", "IO.c", "IO.d"))
    own = router.node("AI.own")
    x.send("AI.b", src_ilk=ILK)
    channel.send("AI.b", src_ilk=OTHER_ILK)
    assert len(b.read()) == 2
    x.send("AI.b", src_ilk=OTHER_ILK)
    own.send("AI.b", src_ilk=ILK)
    assert x.reasons() == ["ILK_FORBIDDEN"]
    assert own.reasons() == ["ILK_FORBIDDEN"]
    plain.send("AI.b")
    assert len(b.read()) == 1


@pytest.mark.goal("G14")
def test_tenants_do_not_meet_unless_one_is_neutral(router: Router) -> None:
    grants = (Grant(STRANGER, "AI.t", tenant=TENANT), Grant(STRANGER, "AI.r", tenant=RIVAL), Grant(STRANGER, "AI.n"))
    router.configure(grants=grants)
    t, r, n = (router.node(name, uid=STRANGER) for name in ("AI.t", "AI.r", "AI.n"))
    t.send("AI.r")
    t.send(r.uuid)
    assert t.reasons() == ["TENANT_BLOCKED", "TENANT_BLOCKED"]
    t.send("AI.n")
    n.send("AI.r")
    assert (len(n.read()), len(r.read())) == (1, 1)
    t.send("broadcast", trace_id=b"x" * 16)
    assert (len(n.read()), r.read()) == (1, [])


def test_vpn_parts_nodes_and_not_the_system(router: Router) -> None:
    router.configure(vpns=(VpnRule("AI.red.*", MatchKind.GLOB, 1), VpnRule("AI.blue.*", MatchKind.GLOB, 2)))
    red, blue, system = router.node("AI.red.a"), router.node("AI.blue.a"), router.node("SY.x")
    red.send("AI.blue.a")
    assert red.reasons() == ["VPN_BLOCKED"]
    red.send("AI.blue.a", message_class=MessageClass.SYSTEM, verb="PING", scope=2)
    assert red.reasons() == ["VPN_BLOCKED"], "system and global must not be a way around a VPN"
    system.send("AI.blue.a")
    blue.send("SY.x")
    assert (len(blue.read()), len(system.read())) == (1, 1)
    router.configure()
    red.send("AI.blue.a")
    assert len(blue.read()) == 1


def test_a_change_of_vpn_reaches_warm_flows(router: Router) -> None:
    a, b = router.node("AI.red.a"), router.node("AI.b")
    a.send("AI.b")
    assert len(b.read()) == 1
    router.configure(vpns=(VpnRule("AI.red.*", MatchKind.GLOB, 1),))
    a.send("AI.b")
    assert a.reasons() == ["VPN_BLOCKED"]


@pytest.mark.parametrize("verb", ["UNREACHABLE", "TTL_EXCEEDED", "ANNOUNCE", "CLOSING", "CONFIG_CHANGED", "OPA_RELOAD"])
def test_system_verbs_belong_to_their_owners(router: Router, verb: str) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b", message_class=MessageClass.SYSTEM, verb=verb)
    a.send("broadcast", message_class=MessageClass.SYSTEM, verb=verb, trace_id=b"v" * 16)
    assert a.reasons() == ["FORBIDDEN", "FORBIDDEN"]
    assert b.read() == []


def test_not_ready_until_configured_except_for_the_system() -> None:
    router = Router(ready=False)
    a, b, s, t = router.node("AI.a"), router.node("AI.b"), router.node("SY.s"), router.node("SY.t")
    a.send("AI.b")
    (answer,) = a.read()
    assert (answer.payload["reason"], answer.payload["retryable"]) == ("NOT_READY", True)
    s.send("SY.t")
    assert len(t.read()) == 1
    s.send("AI.a", phase=Phase.REQUEST)
    (asked,) = a.read()
    a.send(asked.source, phase=Phase.REPLY)
    assert len(s.read()) == 1, "who may ask must hear the answer"
    a.send(asked.source)
    assert a.reasons() == ["NOT_READY"]
    router.configure()
    a.send("AI.b")
    assert len(b.read()) == 1


def test_reserved_and_router_made_things(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b", ack_level=AckLevel.STORED)
    a.send("AI.b", message_class=MessageClass.TAP)
    a.send("AI.b", message_class=MessageClass.RECEIPT)
    a.send("AI.b", hops=1)
    assert a.reasons() == ["FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "BAD_FRAME"]
    for tag in (Tag.SRC_NAME, Tag.MEMORY):
        a.send("AI.b", extensions=pack_extensions({tag: b"{}"}))
    a.send("AI.b", extensions=pack_extensions({0x8000 | 77: b"?"}))
    assert a.reasons() == ["BAD_FRAME"] * 3
    a.send("AI.b", extensions=pack_extensions({77: b"?"}))
    assert len(b.read()) == 1


def test_payload_that_json_cannot_say(router: Router) -> None:
    a, j = router.node("AI.a"), router.node("IO.j", native=False)
    a.send("IO.j", b"\x00\x01", content_type=3)
    a.send("IO.j", b"{not json")
    assert a.reasons() == ["UNTRANSLATABLE", "BAD_FRAME"]
    assert j.read() == []


def test_size_is_checked_against_the_receivers_limit_after_translation(router: Router) -> None:
    a, j = router.node("AI.a"), router.node("IO.j", native=False)
    small = router.node("AI.small", frame_bytes_max=4096)
    body = b'"' + b"x" * (limits.FRAME_BYTES_MAX - 300) + b'"'
    a.send("IO.j", body)
    assert (a.reasons(), len(j.read())) == ([], 1)
    tight = b'"' + b"x" * (limits.FRAME_BYTES_MAX - 130) + b'"'
    a.send("IO.j", tight)
    assert a.reasons() == ["PAYLOAD_TOO_LARGE"]
    a.send("AI.small", b'"' + b"x" * 5000 + b'"')
    assert a.reasons() == ["PAYLOAD_TOO_LARGE"]
    assert small.read() == []


def test_bad_lengths_end_the_connection(router: Router) -> None:
    for bad in (b"\x10\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\0"):
        a = router.node("AI.a")
        a.feed(bad + bytes(200))
        a.read()
        assert a.link.closed
        assert isinstance(a.verbs[-1], link_verbs.Bye)
        assert a.port.closed in (CloseReason.FRAME_TOO_LARGE, CloseReason.FRAME_INVALID)


def test_a_frame_may_not_reach_into_its_neighbour(router: Router) -> None:
    a, b = router.node("AI.a"), router.node("AI.b")
    frame = a.frame("AI.b", b'"first"')
    a.feed(frame)
    b.read()
    short = (len(frame) - 7).to_bytes(4, "little") + frame[4:-7]
    lying = short[:6] + (len(frame)).to_bytes(2, "little") + short[8:]
    a.feed(lying + a.frame("AI.b", b'"second"'))
    assert a.link.closed
    assert b.read() == []


def test_a_stream_of_bad_frames_is_cut_in_the_end(router: Router) -> None:
    a = router.node("AI.a")
    router.node("AI.b")
    for _ in range(limits.BAD_FRAMES_PER_LINK + 1):
        a.send("AI.b", hops=1)
    assert not a.link.closed, "hops is a refusal, not a malformed frame"
    frame = bytearray(a.frame("AI.b"))
    frame[110] = 1
    for _ in range(limits.BAD_FRAMES_PER_LINK + 1):
        router.advance(SECOND // 20)
        if not a.link.closed:
            a.feed(bytes(frame))
    assert a.port.closed == CloseReason.TOO_MANY_BAD_FRAMES


def test_taken_more_than_sent_is_a_lie(router: Router) -> None:
    a = router.node("AI.a")
    a.feed(link_verbs.pack_taken(1))
    assert a.port.closed == CloseReason.LINK_INVALID


def test_hello_again_and_withdraw_in_json(router: Router) -> None:
    j = router.node("IO.j", native=False)
    j.send_json(None, {"uuid": "x"}, type="system", verb="HELLO")
    assert j.port.closed == CloseReason.HELLO_REPEATED
    k = router.node("IO.k", native=False)
    k.send_json(None, {}, type="system", verb="WITHDRAW")
    assert (k.port.closed, len(router.core.registry)) == (CloseReason.WITHDRAWN, 0)


@pytest.mark.goal("G16")
def test_names_are_granted_held_and_single(router: Router) -> None:
    router.configure(grants=(Grant(STRANGER, "AI.*"), Grant(3000, "AI.*")))

    def answer(name: str, uid: int, uuid: bytes) -> str:
        reply = router.node(name, uid=uid, uuid=uuid).answer
        return reply.reason.name if isinstance(reply, Refused) else "ok"

    assert answer("SY.evil", STRANGER, uuid_of("1")) == "NAME_NOT_GRANTED"
    assert answer("RT.evil", STRANGER, uuid_of("2")) == "NAME_NOT_GRANTED"
    assert answer("IO.x", STRANGER, uuid_of("3")) == "NAME_NOT_GRANTED"
    mine = router.node("AI.mine", uid=STRANGER)
    assert answer("AI.mine", 3000, uuid_of("4")) == "NAME_TAKEN"
    assert answer("AI.other", 3000, mine.uuid) == "UUID_TAKEN"
    mine.crash()
    assert answer("AI.mine", 3000, uuid_of("5")) == "NAME_TAKEN"
    router.advance(6 * SECOND)
    assert answer("AI.mine", 3000, uuid_of("6")) == "ok"
    router.node("SY.one")
    assert answer("SY.one", 1000, uuid_of("7")) == "NAME_TAKEN"


def test_the_same_uuid_again_replaces_the_older_connection(router: Router) -> None:
    a, first = router.node("AI.a"), router.node("AI.b")
    a.send("AI.b")
    second = router.node("AI.b")
    assert first.port.closed == CloseReason.REPLACED
    first.crash()
    a.send("AI.b")
    assert (len(second.read()), len(router.core.registry)) == (1, 2)
    assert sorted(router.notes.live.values()) == [f"AI.a@{HIVE}", f"AI.b@{HIVE}"]


@pytest.mark.goal("G11")
def test_strangers_are_bounded_and_timed(router: Router) -> None:
    silent = [Peer(router, f"AI.s{i}") for i in range(limits.UNAUTHENTICATED_PER_UID)]
    for peer in silent:
        assert router.core.greet(peer.port, OWN, 1, router.now) is not None
    assert router.core.greet(Peer(router, "AI.late").port, OWN, 1, router.now) is None
    router.advance(int(limits.HELLO_TIMEOUT_S * SECOND) + MS)
    assert all(peer.port.closed == CloseReason.HELLO_TIMEOUT for peer in silent)
    router.node("AI.now")
    assert len(router.core.registry) == 1


@pytest.mark.goal("G9")
def test_one_uid_cannot_take_the_connections_of_all_others() -> None:
    router = Router(links_of_others=limits.LINKS_PER_UID + 8)
    router.configure(grants=(Grant(STRANGER, "AI.*"), Grant(3000, "AI.*")))
    first = [router.node(f"AI.n{i}", uid=STRANGER) for i in range(limits.LINKS_PER_UID)]
    late = router.node("AI.late", uid=STRANGER).answer
    assert isinstance(late, Refused)
    assert late.reason is CloseReason.TABLE_FULL
    others = [router.node(f"AI.o{i}", uid=3000) for i in range(8)]
    assert all(peer.link is not None for peer in others)
    assert isinstance(router.node("AI.o9", uid=3000).answer, Refused)
    assert router.node("AI.own").link is not None, "the hive's own account is never crowded out"
    first[0].crash()
    assert router.node("AI.again", uid=STRANGER).link is not None


@pytest.mark.goal("G9")
def test_flows_of_a_uid_are_bounded_and_a_message_past_the_bound_still_goes(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FLOWS_PER_UID", 3)
    router.configure(grants=(Grant(STRANGER, "AI.*"),))
    sinks = [router.node(f"AI.k{i}") for i in range(6)]
    stranger = router.node("AI.s", uid=STRANGER)
    for i in range(6):
        stranger.send(f"AI.k{i}")
    assert [len(s.read()) for s in sinks] == [1] * 6
    assert (len(stranger.link.flows), stranger.link.account.flows) == (3, 3)
    stranger.crash()
    assert stranger.link.account.flows == 0


OWN = 1000
