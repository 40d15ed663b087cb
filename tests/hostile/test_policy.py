"""G14 and G17 at identity and policy: ten thousand ways of speaking for somebody else, and costly questions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from hostile.line import reason_of
from hostile.meter import p99, slowdown
from router.governed import ANA, BEN, BLUE, BOT, RED, RIVAL, TEMP, Governed, agent, human, told
from router.live import Live
from router.wire import MS
from skep.protocol.header import MessageClass, Phase
from skep_policy.documents import ilk_name
from skep_shm import Grant, IlkRecord, SealStatus, TenantRecord, TenantStatus
from support.hives import HiveFolder

ATTEMPTS = 10_000
RED_UID, BLUE_UID = 3000, 3001
SHUT = b"x" * 16
SHUT_HUMAN, OLD = b"7" * 16, b"8" * 16


class House:
    """Two tenants with a channel and an agent each, a third that is suspended, and a stranger."""

    def __init__(self) -> None:
        self.router = Governed(seals="require")
        grants = tuple(
            Grant(uid, pattern, 2 if pattern.startswith("IO") else 0, tenant=tenant)
            for uid, tenant, colour in ((RED_UID, RED, "red"), (BLUE_UID, BLUE, "blue"))
            for pattern in (f"IO.{colour}", f"IO.{colour}.json", "AI.bot" if colour == "red" else "AI.rival")
        )
        self.router.configure(grants=grants)
        self.router.change(
            human(SHUT_HUMAN, SHUT), IlkRecord(OLD, canonical=BEN), agent(b"u" * 16, "AI.bare", RED, SealStatus.NONE),
            tenants=(TenantRecord(SHUT, TenantStatus.SUSPENDED),),
        )  # fmt: skip
        self.router.govern()
        self.bot = self.router.node("AI.bot", uid=RED_UID)
        self.rival = self.router.node("AI.rival", uid=BLUE_UID)
        self.bare = self.router.node("AI.bare")
        self.web = self.router.node("IO.own")
        self.join()

    def join(self) -> None:
        self.native = self.router.node("IO.red", uid=RED_UID)
        self.json = self.router.node("IO.red.json", uid=RED_UID, native=False)

    def rejoin(self) -> None:
        """Also: a reconnected channel is no other, and what it may do is asked anew."""
        self.native.crash()
        self.json.crash()
        self.join()

    def attempts(self) -> list[tuple[str, Any]]:
        """(name, dst and facts) of everything that must not arrive, said by the red channel in both framings."""
        everywhere: list[tuple[str, Any]] = [("name", "AI.bot"), ("policy", None), ("uuid", self.bot.uuid)]
        doors: list[tuple[str, Any]] = []
        for how, dst in everywhere:
            for who, ilk in (("other tenant", BEN), ("alias of other tenant", OLD), ("agent", BOT), ("rival", RIVAL),
                             ("nobody", b"?" * 16), ("suspended", SHUT_HUMAN)):  # fmt: skip
                doors.append((f"{who} by {how}", (dst, {"src_ilk": ilk})))
        doors += [
            ("across by name", ("AI.rival", {"src_ilk": ANA})), ("across by uuid", (self.rival.uuid, {"src_ilk": ANA})),
            ("across without an ILK", ("AI.rival", {})), ("to other tenant's human", ("AI.bot", {"dst_ilk": BEN})),
            ("to suspended human", ("AI.bot", {"src_ilk": ANA, "dst_ilk": SHUT_HUMAN})),
            ("stranger by name", ("AI.bot", {"src_ilk": TEMP})),
            ("stranger by uuid", (self.bot.uuid, {"src_ilk": TEMP})),
            ("unsealed", ("AI.bare", {"src_ilk": ANA})), ("unsealed by uuid", (self.bare.uuid, {"src_ilk": ANA})),
        ]  # fmt: skip
        return doors


def json_facts(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: ilk_name(value) for name, value in facts.items()}


@pytest.mark.goal("G14")
@pytest.mark.goal("G17")
def test_ten_thousand_attempts_to_speak_for_others_through_every_door() -> None:
    house = House()
    reasons: Counter[str] = Counter()
    number = 0
    while number < ATTEMPTS:
        house.rejoin()
        for name, (dst, facts) in house.attempts():
            for peer, said in ((house.native, facts), (house.json, json_facts(facts))):
                send = peer.send if peer.native else lambda d, p=peer, **f: p.send_json(d, {}, **f)
                send(dst, **said)
                refusals = told(peer)
                assert len(refusals) == 1, name
                reasons[refusals[0]["reason"]] += 1
                number += 1
                house.router.advance(MS)
    delivered = sum(len(peer.read()) for peer in (house.bot, house.rival, house.bare))
    print(f"G14: {number} attempts, {delivered} delivered, told {dict(reasons)}")
    assert delivered == 0
    assert set(reasons) == {"ILK_FORBIDDEN", "TENANT_BLOCKED", "POLICY_DENIED", "SEAL_REQUIRED"}


@pytest.mark.goal("G14")
def test_a_warm_flow_is_no_way_round_a_change() -> None:
    """The honest flow first, then what changes under it, in each way that it can."""
    changes: dict[str, Any] = {
        "suspended": lambda r: r.change(tenants=(TenantRecord(RED, TenantStatus.SUSPENDED),)),
        "moved": lambda r: r.change(human(ANA, BLUE)),
        "back to stranger": lambda r: r.change(human(ANA, RED, registration=0)),  # type: ignore[arg-type]
        "unsealed": lambda r: r.change(agent(BOT, "AI.bot", RED, SealStatus.REVOKED)),
        "denied": lambda r: r.govern(allow=lambda _i, _d: False),
    }
    for name, change in changes.items():
        house = House()
        for peer, ilk in ((house.native, ANA), (house.json, ilk_name(ANA))):
            (peer.send if peer.native else lambda d, p=peer, **f: p.send_json(d, {}, **f))("AI.bot", src_ilk=ilk)
        assert len(house.bot.read()) == 2, name
        change(house.router)
        for peer, ilk in ((house.native, ANA), (house.json, ilk_name(ANA))):
            (peer.send if peer.native else lambda d, p=peer, **f: p.send_json(d, {}, **f))("AI.bot", src_ilk=ilk)
            assert len(told(peer)) == 1, name
        assert house.bot.read() == [], name


@pytest.mark.goal("G14")
def test_no_class_and_no_phase_opens_a_door_for_a_stranger() -> None:
    house = House()
    classes = [kind for kind in MessageClass if kind not in (0, 2, 8, 9, 15)]
    for kind in classes:
        for phase in (Phase.MESSAGE, Phase.REQUEST, Phase.CANCEL):
            answer = kind in (MessageClass.QUERY_RESPONSE, MessageClass.COMMAND_RESPONSE)
            house.native.send(house.bot.uuid, src_ilk=TEMP, message_class=kind, phase=phase)
            assert bool(told(house.native)) != answer, (kind, phase)
    assert len(house.bot.read()) == 6


EXPENSIVE = """package router

import rego.v1

default target := ["AI.desk"]

default allow := false

allow if startswith(input.meta.action, "cheap")

allow if {
	startswith(input.meta.action, "dear")
	count([1 | some x in numbers.range(1, 60); some y in numbers.range(1, 3); x * y == 7]) >= 0
}
"""


@pytest.fixture
def live(hive_folder: HiveFolder) -> Iterator[Live]:
    live = Live(hive_folder, identity=False)
    yield live
    live.close()
    assert "Traceback" not in live.router.log(), live.router.log()


@pytest.mark.slow
@pytest.mark.goal("G17")
def test_costly_questions_of_one_node_are_not_felt_by_others(live: Live) -> None:
    live.start()
    live.apply(EXPENSIVE)
    greedy, a, desk, sink = (live.node(name) for name in ("IO.greedy", "IO.a", "AI.desk", "AI.sink"))
    frame = a.frame("AI.desk", b"1", action="cheap")
    asked = [0]
    told_greedy: Counter[str] = Counter()

    def trips(beside: bool) -> float:
        times = []
        for number in range(2000):
            if beside and number % 8 == 0:  # some hundreds a second
                asked[0] += 1
                greedy.write(greedy.frame("AI.sink", b"1", action=f"dear {asked[0]}"))
            began = time.perf_counter()
            a.write(frame)
            desk.read()
            times.append(time.perf_counter() - began)
            if beside and number % 256 == 0:
                told_greedy.update(map(reason_of, greedy.settled()))
        told_greedy.update(map(reason_of, greedy.settled()))
        return p99(times)

    trips(False)
    quiet, loud, ratio = slowdown(lambda: trips(False), lambda: trips(True), rounds=3)
    answered = len(sink.settled())
    print(f"G17: p99 {quiet * 1e3:.2f} ms alone, {loud * 1e3:.2f} ms beside {asked[0]} costly questions; of those "
          f"{answered} were decided, the others told {dict(told_greedy)}")  # fmt: skip
    assert told_greedy["POLICY_BUSY"] + answered == asked[0]
    assert 0 < answered < asked[0] / 2
    assert ratio <= 2
