"""The policy in the core: who gets what names nobody, what is allowed, what a change drops, what is refused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from policy.engines import UNDEFINED, Found
from router.governed import ANA, BEN, MANIFEST, READS_ALL, RED, Governed, agent, human, outcome, told
from router.wire import MS, OWN_UID, SECOND, Router
from skep.protocol.header import ContentType, MessageClass, Phase
from skep_policy.decider import RECORDS_MAX
from skep_policy.manifest import ALLOW, TARGET, Manifest
from skep_router.case import RETRY_NS, WAITING_MAX
from skep_router.policies import SLOW_BURST_NS, SLOW_SHARE
from skep_shm import Grant, MatchKind, Route, RouteAction, VpnRule


def crowd(router: Governed, *names: str) -> list[Any]:
    return [router.node(name) for name in names]


def test_without_policy_and_identity_the_router_decides_as_before() -> None:
    router = Router()
    sender, bot = router.node("IO.web"), router.node("AI.bot")
    assert outcome(sender, bot, src_ilk=ANA) == "OPA_ERROR"
    assert outcome(sender, bot, dst="AI.bot", src_ilk=ANA) == "AI.bot"
    assert not router.core.governed
    assert all(flow.rest is None for flow in sender.link.flows.values())


def test_a_hive_that_is_told_to_have_a_policy_waits_for_it() -> None:
    router = Governed(people=None, policy_required=True)
    sender, bot, system = crowd(router, "IO.web", "AI.bot", "SY.x")
    assert outcome(sender, bot) == "NOT_READY"
    assert outcome(sender, bot, dst="AI.bot") == "NOT_READY"
    assert outcome(sender, bot, dst="AI.bot", message_class=MessageClass.SYSTEM, verb="PING") == "AI.bot"
    assert outcome(system, bot, dst="AI.bot") == "AI.bot"
    router.govern()
    assert outcome(sender, bot) == "AI.bot"


def test_a_hive_that_is_told_to_have_identities_waits_for_them() -> None:
    router = Governed(people=None, identity_required=True)
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern()
    assert outcome(sender, bot) == "NOT_READY"
    assert outcome(sender, bot, dst="AI.bot") == "AI.bot"


def test_the_first_candidate_that_lives_gets_it_and_a_better_one_that_joins_takes_over() -> None:
    router = Governed()
    sender, second = crowd(router, "IO.web", "AI.second")
    router.govern(target=lambda _i, _d: ["AI.first", "AI.second", "AI.third"])
    assert outcome(sender, second) == "AI.second"
    assert len(sender.link.flows) == 1
    third = router.node("AI.third")
    assert len(sender.link.flows) == 1, "a worse candidate changes nothing"
    first = router.node("AI.first")
    assert not sender.link.flows
    assert outcome(sender, first, second, third) == "AI.first"
    first.crash()
    assert outcome(sender, second, third) == "AI.second"
    second.crash()
    assert outcome(sender, third) == "AI.third"
    assert router.asked(TARGET) == 1, "liveness is no business of the policy"


def test_nobody_lives() -> None:
    router = Governed()
    sender = router.node("IO.web")
    router.govern(target=lambda _i, _d: [f"AI.n{number}" for number in range(7)])
    sender.send()
    (payload,) = told(sender)
    assert payload["reason"] == "NODE_NOT_FOUND"
    assert "AI.n0 (NODE_NOT_FOUND)" in payload["detail"]
    assert "and 2 more" in payload["detail"]
    assert str(UUID(payload["decision_id"])) == payload["decision_id"]


def test_ten_thousand_candidates_and_a_bounded_wait() -> None:
    router = Governed()
    sender, last = crowd(router, "IO.web", "AI.n9999")
    router.govern(target=lambda _i, _d: [f"AI.n{number}" for number in range(10_000)])
    assert outcome(sender, last) == "AI.n9999"
    (flow,) = sender.link.flows.values()
    assert len(flow.rest.keys) <= WAITING_MAX + 4
    router.advance(SECOND)  # the walk over so many names was charged to its sender
    awaited, forgotten = router.node("AI.n3"), router.node("AI.n5000")
    assert outcome(sender, last, awaited, forgotten) == "AI.n3"
    router.advance(SECOND)
    awaited.crash()
    assert outcome(sender, last, forgotten) == "AI.n5000"
    better = router.node("AI.n4000")
    router.advance(RETRY_NS + SECOND)
    assert outcome(sender, better, last, forgotten) == "AI.n4000"


def test_a_candidate_may_be_an_ilk_and_may_be_out_of_reach() -> None:
    router = Governed()
    router.configure(vpns=(VpnRule("AI.apart", MatchKind.PREFIX, 7),))
    sender, apart, bot = crowd(router, "IO.web", "AI.apart", "AI.bot")
    names = ["ilk:nonsense", "AI.apart", "ilk:04040404-0404-0404-0404-040404040404"]
    router.govern(target=lambda _i, _d: names)
    assert outcome(sender, apart, bot) == "AI.bot"
    names.pop()
    router.core.policies.decider.forget_all()
    router.configure()  # VPNs are gone: the flow goes, and the candidate is in reach
    assert outcome(sender, apart, bot) == "AI.apart"


def test_only_out_of_reach_says_so() -> None:
    router = Governed()
    router.configure(vpns=(VpnRule("AI.apart", MatchKind.PREFIX, 7),))
    sender, apart = crowd(router, "IO.web", "AI.apart")
    router.govern(target=lambda _i, _d: ["AI.gone", "AI.apart"])
    assert outcome(sender, apart) == "VPN_BLOCKED"


def test_static_routes_hold_for_candidates() -> None:
    router = Governed()
    away = Route("AI.away", MatchKind.PREFIX, RouteAction.DROP, "", "", 0, 0, 0)
    over = Route("AI.old", MatchKind.PREFIX, RouteAction.FORWARD, "", "AI.bot@bee", 0, 0, 0)
    router.configure(routes=(away, over))
    sender, gone, bot = crowd(router, "IO.web", "AI.away", "AI.bot")
    router.govern(target=lambda _i, _d: ["AI.away", "AI.old"])
    assert outcome(sender, gone, bot) == "AI.bot"


@pytest.mark.parametrize(
    ("result", "reason"),
    [(UNDEFINED, "OPA_NO_TARGET"), ([], "OPA_NO_TARGET"), (7, "OPA_ERROR"), (Found(error="FUEL"), "OPA_ERROR"),
     (Found(error="CONFLICT", detail="policy.rego:3"), "OPA_ERROR"), ("AI.nobody", "NODE_NOT_FOUND")],
)  # fmt: skip
def test_every_refusal_of_a_target_has_its_decision(result: Any, reason: str) -> None:
    router = Governed()
    sender = router.node("IO.web")
    router.govern(target=lambda _i, _d: result)
    sender.send()
    sender.send()
    first, second = told(sender)
    assert (first["reason"], second["reason"]) == (reason, reason)
    assert first["decision_id"] == second["decision_id"]
    assert router.asked(TARGET) == 1
    assert router.core.policies.decider.take_records()[0]["decision_id"] == first["decision_id"]


@pytest.mark.goal("G14")
@pytest.mark.parametrize("native", [True, False])
def test_allow_is_asked_for_every_new_flow_and_no_is_told(native: bool) -> None:
    router = Governed()
    sender, bot = router.node("IO.web", native=native), router.node("AI.bot")
    router.govern(allow=lambda document, _d: document["meta"].get("action") != "fire")
    sends = (lambda **f: sender.send("AI.bot", **f)) if native else (lambda **f: sender.send_json("AI.bot", {}, **f))
    sends(action="hire")
    sends(action="fire")
    sends()
    assert len(bot.read()) == 2
    (payload,) = told(sender)
    assert (payload["reason"], payload["retryable"]) == ("POLICY_DENIED", False)
    assert payload["decision_id"]
    assert router.asked(ALLOW) == 3


def test_allow_is_asked_for_uuids_broadcasts_and_targets() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern(allow=lambda _i, _d: False)
    assert outcome(sender, bot, dst=bot.uuid) == "POLICY_DENIED"
    assert outcome(sender, bot) == "POLICY_DENIED"
    assert outcome(sender, bot, dst="broadcast") == "POLICY_DENIED"
    assert router.engine.asked[0][1]["routing"]["dst"] == str(UUID(bytes=bot.uuid))


def test_the_system_is_never_asked() -> None:
    router = Governed()
    system, sender, bot = crowd(router, "SY.admin", "IO.web", "AI.bot")
    router.govern(allow=lambda _i, _d: False)
    assert outcome(system, bot, dst="AI.bot", action="anything") == "AI.bot"
    assert outcome(sender, bot, dst="AI.bot", message_class=MessageClass.SYSTEM, verb="PING") == "AI.bot"
    bot.send(sender.uuid, b"\2", message_class=MessageClass.RECEIPT, content_type=ContentType.BYTES)
    assert [message.type for message in sender.read()] == ["receipt"]
    assert outcome(sender, system, dst="SY.admin") == "POLICY_DENIED", "what others say to the system is asked"
    assert router.asked(ALLOW) == 1


def test_an_answer_to_a_system_node_may_pass_and_nothing_else() -> None:
    """`skep msg req` under a policy that denies everything hears the answer instead of waiting for its timeout."""
    router = Governed()
    bot, cli, other = crowd(router, "AI.bot", "SY.cli.1", "AI.other")
    router.govern(allow=lambda _i, _d: False)
    assert outcome(cli, bot, dst="AI.bot", phase=Phase.REQUEST) == "AI.bot"
    assert outcome(bot, cli, dst=cli.uuid, phase=Phase.REPLY) == "SY.cli.1"
    assert outcome(bot, cli, dst=cli.uuid) == "POLICY_DENIED"
    assert outcome(bot, cli, dst=cli.uuid, phase=Phase.REQUEST) == "POLICY_DENIED"
    assert outcome(bot, other, dst=other.uuid, phase=Phase.REPLY) == "POLICY_DENIED"


def test_a_warm_flow_asks_nothing() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern()
    for _ in range(5):
        sender.send()
    assert len(bot.read()) == 5
    assert router.asked(TARGET) == router.asked(ALLOW) == 1
    assert router.core.counters.misses == 1


def test_ten_thousand_selectors_are_kept_warm() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern()
    for _ in range(2):
        for number in range(10_000):
            router.now += MS  # so that the allowance of misses is not what is tested
            sender.send(action=f"a{number}")
        bot.read()
    assert router.core.counters.misses == 10_000
    assert router.asked(TARGET) == 10_000


def test_a_new_policy_decides_from_the_next_frame_on() -> None:
    router = Governed()
    sender, bot, other = crowd(router, "IO.web", "AI.bot", "AI.other")
    old = router.govern()
    assert outcome(sender, bot, other) == "AI.bot"
    router.govern(target=lambda _i, _d: "AI.other")
    assert old.closed
    assert outcome(sender, bot, other) == "AI.other"


def test_a_first_policy_drops_flows_that_were_never_asked() -> None:
    router = Governed(people=None)
    sender, bot = crowd(router, "IO.web", "AI.bot")
    assert outcome(sender, bot, dst="AI.bot") == "AI.bot"
    router.govern(allow=lambda _i, _d: False)
    assert outcome(sender, bot, dst="AI.bot") == "POLICY_DENIED"


def test_a_change_of_data_drops_the_flows_that_read_it_and_no_others() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern()
    sender.send()
    sender.send("AI.bot", action="x")
    router.change(agent(b"n" * 16, "AI.newcomer", capabilities=("billing",)))
    kept = [flow.dst_name for flow in sender.link.flows.values()]
    assert kept == ["AI.bot@bee"], "allow reads no data, so the flow by name stands"
    sender.send()
    assert router.asked(TARGET) == 2
    assert router.asked(ALLOW) == 2
    assert len(bot.read()) == 3


def test_a_changed_record_drops_the_flows_of_that_interlocutor_and_no_others() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern(READS_ALL, allow=lambda document, _d: "barred" not in document["src"]["roles"])
    for ilk in (ANA, b"\6" * 16):
        sender.send("AI.bot", src_ilk=ilk)
    assert len(sender.link.flows) == 2
    router.change(human(ANA, roles=("barred",)))
    assert len(sender.link.flows) == 1
    assert outcome(sender, bot, dst="AI.bot", src_ilk=ANA) == "POLICY_DENIED"
    router.change(human(ANA, roles=("vip",)))
    assert outcome(sender, bot, dst="AI.bot", src_ilk=ANA) == "AI.bot"


def test_an_uncacheable_policy_makes_no_flow() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern(Manifest(reads=MANIFEST.reads, cacheable={TARGET: False, ALLOW: True}))
    for _ in range(3):
        sender.send()
    assert len(bot.read()) == 3
    assert router.asked(TARGET) == 3
    assert not sender.link.flows


def test_a_policy_that_fails_on_everything_stops_nobody_elses_repair() -> None:
    router = Governed()
    sender, admin, rules = crowd(router, "IO.web", "SY.admin", "SY.opa.rules")
    router.govern(target=lambda _i, _d: Found(error="TRAP"), allow=lambda _i, _d: Found(error="TRAP"))
    assert outcome(sender, admin, dst="SY.admin") == "OPA_ERROR"
    assert outcome(admin, rules, dst="SY.opa.rules") == "SY.opa.rules"


def busy(router: Governed, sender: Any, number: int) -> list[str]:
    for one in range(number):
        sender.send("AI.bot", action=f"never seen {sender.name} {router.now} {one}")
    return [payload["reason"] for payload in told(sender)]


def test_slow_decisions_have_an_allowance_of_their_own() -> None:
    router = Governed()
    greedy, modest, bot = crowd(router, "IO.greedy", "IO.modest", "AI.bot")
    modest.send("AI.bot", action="warm")
    router.govern(ns=1_000_000)
    modest.send("AI.bot", action="warm")
    reasons = busy(router, greedy, 10)
    assert reasons == ["POLICY_BUSY"] * 7, "two milliseconds of burst, and one that overdrew it"
    modest.send("AI.bot", action="warm")
    assert told(modest) == []
    assert busy(router, modest, 1) == [], "each node of the hive's own account has its own"
    router.advance(SLOW_BURST_NS + 2 * SLOW_SHARE * MS)
    assert busy(router, greedy, 1) == []
    assert router.core.policies.busy == 7
    assert len(bot.read()) == 3 + 3 + 1 + 1


def test_a_busy_spell_is_recorded_once() -> None:
    router = Governed()
    sender, _ = crowd(router, "IO.greedy", "AI.bot")
    router.govern(ns=10_000_000)
    for one in range(20):
        sender.send("AI.bot", action=f"a{one}")
    ids = {payload["decision_id"] for payload in told(sender)}
    records = router.core.policies.decider.take_records()
    assert len(ids) == 1
    assert [record["outcome"] for record in records] == ["ALLOWED", "POLICY_BUSY"]
    assert records[1]["decision_id"] in ids


def test_another_uid_pays_as_one_whatever_its_nodes_and_cheap_decisions_are_free() -> None:
    router = Governed()
    router.configure(grants=(Grant(4000, "AI.*"),))
    one, two = router.node("AI.one", uid=4000), router.node("AI.two", uid=4000)
    own = router.node("AI.bot", uid=OWN_UID)
    router.govern(ns=2_500_000)
    assert busy(router, one, 1) + busy(router, two, 1) == ["POLICY_BUSY"]
    assert busy(router, own, 1) == []
    cheap = Governed()
    sender, _ = crowd(cheap, "IO.web", "AI.bot")
    cheap.govern(ns=90_000)
    assert busy(cheap, sender, 60) == []


def test_the_router_says_what_policy_it_has() -> None:
    router = Governed()
    asker = router.node("SY.admin")
    router.govern()
    router.core.policies.refused("SIGNATURE_INVALID: altered")
    asker.send("RT.main", message_class=MessageClass.SYSTEM, verb="ROUTER_STATS")
    (answer,) = asker.read()
    policy = answer.payload["policy"]
    assert (policy["version"], policy["load_status"], policy["hash"]) == (1, 1, "h")
    assert "SIGNATURE_INVALID" in policy["error"]
    assert answer.payload["identity"] == {"there": True, "remembered": 3, "handlers": 3, "tenants": 2}


def test_decisions_are_handed_to_the_node_that_keeps_them() -> None:
    router = Governed()
    sender, _ = crowd(router, "IO.web", "AI.bot")
    router.govern()
    sender.send(src_ilk=ANA, trace_id=b"t" * 16)
    keeper = router.node("SY.decisions")
    router.advance(MS)
    (frame,) = (item for item in keeper.read() if item.verb == "DECISIONS")
    lines = frame.payload_bytes.splitlines()
    assert len(lines) == 2
    assert frame.source == router.core.uuid
    keeper.crash()
    for number in range(RECORDS_MAX + 10):
        router.now += MS
        sender.send(action=f"a{number}")
    assert router.core.policies.decider.records_waiting == RECORDS_MAX
    back = router.node("SY.decisions")
    router.advance(MS)
    (frame,) = (item for item in back.read() if item.verb == "DECISIONS")
    assert b'{"lost":' in frame.payload_bytes.splitlines()[-1]


def test_tables_shrink_to_nothing() -> None:
    router = Governed()
    sender, bot = crowd(router, "IO.web", "AI.bot")
    router.govern(target=lambda _i, _d: ["AI.better", "AI.bot"])
    for ilk in (ANA, BEN, None):
        sender.send(src_ilk=ilk, dst_ilk=ANA)
    assert router.core.rests
    sender.crash()
    bot.crash()
    assert len(router.core.rests) == 0
    assert RED not in list(router.core.rests._by)
