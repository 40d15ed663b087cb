"""A real router process: bundles it takes and refuses, a switch under load, identities that change under it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile.line import Line, reason_of
from router.governed import ANA, RED, TEMP, agent, human
from router.live import Live, log_of, rules
from skep_policy.bundle import pack
from skep_policy.compiler import compile_policy
from skep_shm import IlkRecord, PolicyState, PolicyStatus, TenantRecord, TenantStatus
from support.hives import HIVE_ID, HiveFolder
from support.tools import need
from support.wait import eventually

BOT = b"b" * 16


@pytest.fixture
def live(hive_folder: HiveFolder) -> Iterator[Live]:
    live = Live(hive_folder)
    yield live
    live.close()
    if live.router is not None:  # not where the test needed something that this machine lacks
        assert "Traceback" not in live.router.log(), live.router.log()


def bot(**facts: Any) -> IlkRecord:
    return agent(BOT, "AI.desk", **facts)._replace(handler=f"AI.desk@{HIVE_ID}")


def outcome(sender: Line, dst: Any = None, **facts: Any) -> str:
    """What becomes of one message: a reason, or "" when nobody refused it."""
    sender.say(dst, {}, **facts)
    refusals = [reason_of(message) for message in sender.settled() if message.verb == "UNREACHABLE"]
    return refusals[0] if refusals else ""


@pytest.mark.goal("G17")
def test_the_default_policy_finds_the_agent_and_a_change_is_seen_within_ten_ms(live: Live) -> None:
    live.ilks.put(bot(capabilities=("default",)))
    live.start()
    live.until_known()
    live.apply()
    web, desk = live.node("IO.web"), live.node("AI.desk")
    web.say(None, {"n": 1}, src_ilk=ANA)
    assert desk.read().payload == {"n": 1}
    delays = []
    for turn in range(20):
        ready = turn % 2 == 1
        live.ilks.put(bot(capabilities=("default",) if ready else ("other",)))
        began = time.perf_counter()
        wanted = "" if ready else "OPA_NO_TARGET"
        while outcome(web, src_ilk=ANA) != wanted:
            assert time.perf_counter() - began < 5
        delays.append(time.perf_counter() - began)
        desk.settled()
    delays.sort()
    print(f"a change of identity decides after {delays[10] * 1e3:.1f} ms p50, {delays[-1] * 1e3:.1f} ms at most")
    assert delays[10] <= 0.010 * 3  # the goal is 10 ms on an idle machine


def test_a_stranger_meets_the_front_desk_and_is_known_the_moment_it_is_registered(live: Live) -> None:
    live.ilks.put(bot(capabilities=("default",)))
    live.start()
    live.until_known()
    live.apply()
    web, desk, front = live.node("IO.web", native=False), live.node("AI.desk"), live.node("SY.frontdesk.gov")
    web.say(None, {"n": 1}, src_ilk="ilk:03030303-0303-0303-0303-030303030303")
    assert front.read().payload == {"n": 1}
    assert outcome(web, "AI.desk", src_ilk="ilk:03030303-0303-0303-0303-030303030303") == "POLICY_DENIED"
    live.ilks.put(human(TEMP))
    eventually(lambda: outcome(web, src_ilk="ilk:03030303-0303-0303-0303-030303030303") == "" and desk.settled(), 5)


def test_tenants_are_suspended_and_ilks_removed_under_a_running_router(live: Live) -> None:
    live.start()
    live.until_known()
    web, desk = live.node("IO.web"), live.node("AI.desk")
    assert outcome(web, "AI.desk", src_ilk=ANA) == ""
    live.tenants.put(TenantRecord(RED, TenantStatus.SUSPENDED))
    eventually(lambda: outcome(web, "AI.desk", src_ilk=ANA) == "POLICY_DENIED", 5)
    live.tenants.put(TenantRecord(RED, TenantStatus.ACTIVE))
    eventually(lambda: outcome(web, "AI.desk", src_ilk=ANA) == "", 5)
    asker = live.asker()
    before = live.stats(asker)["identity"]["remembered"]
    live.ilks.put(bot())
    eventually(lambda: live.stats(asker)["identity"]["remembered"] == before + 1, 5)
    live.ilks.remove(BOT)
    eventually(lambda: live.stats(asker)["identity"]["remembered"] == before, 5)
    desk.settled()


@pytest.mark.goal("G17")
def test_a_bundle_that_is_not_signed_is_refused_and_the_old_policy_stays(live: Live) -> None:
    live.start()
    live.until_known()
    live.apply(rules("AI.desk"))
    web, desk = live.node("IO.web"), live.node("AI.desk")
    assert outcome(web) == ""
    live.apply(rules("AI.other"), spoil=True, wait=False)
    live.until(load_status=1, version=1, refused_version=2)
    assert outcome(web) == ""
    assert len(desk.settled()) == 2
    (line,) = log_of(live.router, "policy refused")
    assert "SIGNATURE_INVALID" in json.loads(line)["reason"]
    live.apply(rules("AI.third"))
    assert outcome(web) == "NODE_NOT_FOUND"


def test_a_staged_policy_is_compiled_before_it_is_applied(live: Live) -> None:
    live.start()
    live.until_known()
    live.apply()
    web, desk = live.node("IO.web"), live.node("AI.desk")
    staged = live.root.joinpath("state", "opa", "staged", "bundle")
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"no bundle")
    need("opa")
    compiled = compile_policy(rules("AI.desk"))
    fresh = staged.with_name("new")
    fresh.write_bytes(pack(compiled, 7, live.hive, live.authority))
    fresh.replace(staged)
    eventually(lambda: log_of(live.router, "policy prepared"), 10, "a staged policy compiled")
    assert [json.loads(line)["hash"] for line in log_of(live.router, "policy prepared")] == [
        compiled.manifest.wasm_sha256
    ]
    assert outcome(web, src_ilk=ANA) == "OPA_NO_TARGET", "it is not in force"
    began = time.perf_counter()
    live.publish_policy(compiled)
    print(f"the switch took {time.perf_counter() - began:.3f} s")
    assert outcome(web, src_ilk=ANA) == ""
    assert desk.settled()


@pytest.mark.goal("G17")
def test_an_older_version_is_refused(live: Live) -> None:
    live.start()
    live.version = 5
    live.apply(rules("AI.desk"))
    live.version = 3
    live.apply(rules("AI.other"), wait=False)
    live.until(load_status=1, version=6, refused_version=4)
    assert "BUNDLE_OLD" in log_of(live.router, "policy refused")[0]


def test_a_first_policy_that_is_refused_leaves_nothing_allowed(live: Live) -> None:
    live.apply(None, spoil=True, wait=False)
    live.start()
    web = live.node("IO.web")
    assert outcome(web, "AI.desk") == "NOT_READY"
    live.until(load_status=1)
    assert outcome(web, "AI.desk") == "NOT_READY"


def test_a_router_that_starts_beside_a_policy_never_lets_through_what_it_forbids(live: Live) -> None:
    live.apply(rules("AI.desk", allow="false"), wait=False)
    live.start()
    web, _ = live.node("IO.web"), live.node("AI.desk")
    heard = {outcome(web, "AI.desk") for _ in range(200)}
    assert heard <= {"NOT_READY", "POLICY_DENIED"}
    eventually(lambda: outcome(web, "AI.desk") == "POLICY_DENIED", 10)


def test_a_damaged_region_changes_nothing(live: Live) -> None:
    live.start()
    live.apply(rules("AI.desk"))
    web, desk = live.node("IO.web"), live.node("AI.desk")
    live.policy.publish(PolicyState(9, PolicyStatus.OK, b"no bundle at all"))
    live.until(load_status=1)
    assert outcome(web) == ""
    assert len(desk.settled()) == 1


def test_a_switch_under_load_loses_and_misroutes_nothing(live: Live) -> None:
    live.start()
    live.until_known()
    live.apply(rules("AI.even"))
    web, even, odd = live.node("IO.web"), live.node("AI.even"), live.node("AI.odd")
    sent = [0]

    def burst() -> None:
        web.write(b"".join(web.frame(None, str(sent[0] + n).encode()) for n in range(64)))
        sent[0] += 64

    switched = []
    for turn in range(6):
        version = live.apply(rules("AI.odd" if turn % 2 == 0 else "AI.even"), wait=False)
        asker = live.asker()
        began = time.perf_counter()
        while live.stats(asker)["policy"]["version"] != version:
            burst()
            even.settled()
            odd.settled()
        switched.append(time.perf_counter() - began)
        burst()
        asker.close()
    even.settled()
    odd.settled()
    assert [message for message in web.settled() if message.verb == "UNREACHABLE"] == []
    got = [message.payload for line in (even, odd) for message in line.inbox]
    print(f"{sent[0]} messages over six switches of {max(switched) * 1e3:.0f} ms at most: {len(got)} delivered")
    assert sorted(got) == list(range(sent[0]))
    assert sorted(switched)[3] < 3.0  # the goal is one second on a machine with nothing else to do
    for line in (even, odd):  # order of one sender at one receiver
        mine = [message.payload for message in line.inbox]
        assert mine == sorted(mine)


def test_a_shadow_reports_and_changes_nothing(live: Live) -> None:

    live.start()
    live.apply(rules("AI.desk"))
    web, desk, keeper = live.node("IO.web"), live.node("AI.desk"), live.node("SY.decisions")
    bundle = pack(compile_policy(rules("AI.desk")), 2, live.hive, live.authority)
    shadow = pack(compile_policy(rules("AI.other")), 3, live.hive, live.authority)
    live.policy.publish(PolicyState(2, PolicyStatus.OK, bundle, shadow))
    live.until(version=2, shadow_version=3)
    assert outcome(web) == ""
    assert len(desk.settled()) == 1
    lines = [json.loads(line) for line in keeper.read().payload_bytes.splitlines()]
    target = next(line for line in lines if line["path"] == "router/target" and line.get("shadow"))
    assert target["shadow"]["differs"] is True
    assert target["shadow"]["version"] == 3
    assert target["chosen"] == f"AI.desk@{HIVE_ID}"


def test_without_regions_no_engine_is_loaded(hive_folder: HiveFolder) -> None:
    live = Live(hive_folder, identity=False)
    router = live.start()
    maps = Path(f"/proc/{router.pid}/maps").read_text()
    live.close()
    assert "wasmtime" not in maps
