"""Who is here: rules one by one, then any sequence of joins and leaves against a naive model, then what it costs."""

from __future__ import annotations

import random
import time
import tracemalloc
from statistics import median

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.models import HIVE, FakeLink, NaiveRegistry, link
from skep_router.registry import HOLDS_PER_UID_MAX, Outcome, Registry

SECOND = 1_000_000_000
GRACE = 5 * SECOND
MINE, THEIRS = 1000, 1001


@pytest.fixture
def registry() -> Registry[FakeLink]:
    return Registry(HIVE, 5.0)


def test_a_node_is_found_by_uuid_and_by_name(registry: Registry[FakeLink]) -> None:
    one = link(1, "AI.x")
    assert registry.join(one, 0) == (Outcome.JOINED, None)
    assert registry.by_uuid(one.uuid) is one
    assert registry.group("AI.x@h") == (one,)
    assert list(registry) == [one]
    assert list(registry.names()) == ["AI.x@h"]


def test_a_group_keeps_the_order_of_joining(registry: Registry[FakeLink]) -> None:
    members = [link(number, "AI.x") for number in (3, 1, 2)]
    for member in members:
        assert registry.join(member, 0).joined
    assert registry.group("AI.x@h") == tuple(members)
    registry.leave(members[0], 0)
    assert registry.group("AI.x@h") == tuple(members[1:])
    registry.leave(members[2], 0)
    assert registry.group("AI.x@h") == (members[1],)
    assert len(registry) == 1


def test_the_same_uid_with_the_same_uuid_replaces_its_older_connection(registry: Registry[FakeLink]) -> None:
    old, new = link(1, "AI.x"), link(1, "AI.x")
    registry.join(old, 0)
    assert registry.join(new, 0) == (Outcome.REPLACED, old)
    assert registry.group("AI.x@h") == (new,)


def test_a_replaced_connection_takes_nothing_with_it_when_it_leaves(registry: Registry[FakeLink]) -> None:
    old, new = link(1, "AI.x"), link(1, "AI.x")
    registry.join(old, 0)
    registry.join(new, 0)
    assert not registry.leave(old, 0)
    assert registry.by_uuid(new.uuid) is new
    assert registry.leave(new, 0)
    assert not registry.leave(new, 0)


def test_a_replacement_may_bring_another_name(registry: Registry[FakeLink]) -> None:
    registry.join(link(1, "AI.x"), 0)
    new = link(1, "AI.y")
    assert registry.join(new, 0).outcome is Outcome.REPLACED
    assert registry.group("AI.x@h") == ()
    assert registry.group("AI.y@h") == (new,)


@pytest.mark.goal("G14")
def test_a_uuid_of_another_uid_is_refused(registry: Registry[FakeLink]) -> None:
    one = link(1, "AI.x", MINE)
    registry.join(one, 0)
    assert registry.join(link(1, "AI.y", THEIRS), 0) == (Outcome.UUID_TAKEN, None)
    assert registry.by_uuid(one.uuid) is one
    assert registry.group("AI.y@h") == ()


@pytest.mark.goal("G16")
def test_a_live_name_of_another_uid_is_refused(registry: Registry[FakeLink]) -> None:
    registry.join(link(1, "AI.x", MINE), 0)
    assert registry.join(link(2, "AI.x", THEIRS), 0).outcome is Outcome.NAME_HELD


@pytest.mark.goal("G16")
def test_a_dead_owners_name_is_held_for_its_grace_time(registry: Registry[FakeLink]) -> None:
    one = link(1, "AI.x", MINE)
    registry.join(one, 0)
    registry.leave(one, SECOND)
    assert registry.join(link(2, "AI.x", THEIRS), SECOND + GRACE - 1).outcome is Outcome.NAME_HELD
    assert registry.join(link(3, "AI.x", THEIRS), SECOND + GRACE).joined


def test_the_owner_itself_may_come_back_within_the_grace_time(registry: Registry[FakeLink]) -> None:
    one = link(1, "SY.x", MINE)
    registry.join(one, 0)
    registry.leave(one, 0)
    assert registry.join(link(2, "SY.x", MINE), 1).joined
    assert registry.holds == 0


def test_no_grace_while_a_member_is_left(registry: Registry[FakeLink]) -> None:
    members = [link(number, "AI.x") for number in (1, 2)]
    for member in members:
        registry.join(member, 0)
    registry.leave(members[0], 0)
    assert registry.holds == 0


@pytest.mark.goal("G16")
def test_a_thousand_claims_of_one_name_have_one_winner(registry: Registry[FakeLink]) -> None:
    claims = [link(number, "AI.x", 2000 + number) for number in range(1000)]
    random.Random(16).shuffle(claims)
    results = [registry.join(claim, 0).outcome for claim in claims]
    assert results.count(Outcome.JOINED) == 1
    assert results.count(Outcome.NAME_HELD) == 999
    assert registry.group("AI.x@h") == (claims[0],)


@pytest.mark.parametrize("name", ["SY.admin", "RT.main"])
def test_system_names_are_single(registry: Registry[FakeLink], name: str) -> None:
    registry.join(link(1, name), 0)
    assert registry.join(link(2, name), 0).outcome is Outcome.NAME_SINGLE
    assert registry.join(link(1, name), 0).outcome is Outcome.REPLACED


@pytest.mark.goal("G14")
def test_a_name_of_another_hive_is_refused(registry: Registry[FakeLink]) -> None:
    assert registry.join(link(1, "AI.x@elsewhere"), 0).outcome is Outcome.NAME_FOREIGN
    assert registry.join(link(1, "AI.x@h@h"), 0).outcome is Outcome.NAME_FOREIGN
    assert len(registry) == 0


def test_a_refusal_leaves_the_older_connection_in_place(registry: Registry[FakeLink]) -> None:
    old, other = link(1, "AI.x"), link(2, "SY.x")
    registry.join(old, 0)
    registry.join(other, 0)
    assert registry.join(link(1, "SY.x"), 0).outcome is Outcome.NAME_SINGLE
    assert registry.by_uuid(old.uuid) is old
    assert registry.group("AI.x@h") == (old,)


def test_a_flood_of_names_pushes_out_only_its_own_holds(registry: Registry[FakeLink]) -> None:
    victim = link(0, "AI.victim", MINE)
    registry.join(victim, 0)
    registry.leave(victim, 0)
    for number in range(1, HOLDS_PER_UID_MAX + 100):
        flood = link(number, f"AI.n{number}", THEIRS)
        registry.join(flood, 1)
        registry.leave(flood, 1)
    assert registry.holds == HOLDS_PER_UID_MAX + 1
    assert registry.join(link(7, "AI.victim", THEIRS), 2).outcome is Outcome.NAME_HELD


def test_expired_holds_are_swept_by_whoever_comes_next(registry: Registry[FakeLink]) -> None:
    for number in range(100):
        one = link(number, f"AI.n{number}")
        registry.join(one, 0)
        registry.leave(one, 0)
    assert registry.holds == 100
    late = link(500, "AI.late")
    for _ in range(50):
        registry.join(late, GRACE)
        registry.leave(late, GRACE)
    assert registry.holds == 1  # the last visitor's own


class RegistryMachine(RuleBasedStateMachine):
    """Few uuids, names and uids, so that every collision happens."""

    def __init__(self) -> None:
        super().__init__()
        self.real: Registry[FakeLink] = Registry(HIVE, 5.0)
        self.model = NaiveRegistry(HIVE, GRACE)
        self.seen: list[FakeLink] = []
        self.now = 0

    @rule(
        number=st.integers(0, 5),
        name=st.sampled_from(["AI.a", "AI.b", "SY.a", "RT.a", "AI.a@other"]),
        uid=st.sampled_from([MINE, THEIRS]),
    )
    def join(self, number: int, name: str, uid: int) -> None:
        entry = link(number, name, uid)
        self.seen.append(entry)
        assert tuple(self.real.join(entry, self.now)) == self.model.join(entry, self.now)

    @rule(which=st.integers(0, 1 << 16))
    def leave(self, which: int) -> None:
        if self.seen:
            entry = self.seen[which % len(self.seen)]
            assert self.real.leave(entry, self.now) == self.model.leave(entry, self.now)

    @rule(passed=st.sampled_from([1, SECOND, GRACE - 1, GRACE]))
    def wait(self, passed: int) -> None:
        self.now += passed

    @invariant()
    def agree(self) -> None:
        assert len(self.real) == len(self.model.entries)
        assert list(self.real.names()) == self.model.names
        assert set(map(id, self.real)) == set(map(id, self.model.entries))
        for name in ("AI.a@h", "AI.b@h", "SY.a@h", "RT.a@h", "AI.a@other"):
            group = self.model.group(name)
            assert self.real.group(name) == group
            assert self.real.first(name) is (group[0] if group else None)
        for number in range(6):
            uuid = number.to_bytes(16, "big")
            assert self.real.by_uuid(uuid) is self.model.find(uuid)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _joined(count: int) -> Registry[FakeLink]:
    registry: Registry[FakeLink] = Registry(HIVE, 5.0)
    for number in range(count):
        registry.join(link(number, f"AI.node.n{number}"), 0)
    return registry


def _visit_ns(registry: Registry[FakeLink], name: str) -> float:
    """Median of one join and one leave at this size. The median leaves out the rare growth of a dictionary."""
    visits = []
    for number in range(1 << 20, (1 << 20) + 400):
        guest = link(number, name)
        started = time.perf_counter_ns()
        registry.join(guest, 0)
        registry.leave(guest, 0)
        visits.append(time.perf_counter_ns() - started)
    return median(visits)


@pytest.mark.goal("G12")
@pytest.mark.parametrize("name", ["AI.guest", "AI.node.n7"], ids=["its own name", "into a group"])
def test_joining_the_ten_thousandth_costs_as_the_hundredth(name: str) -> None:
    small, large = _joined(100), _joined(10_000)
    costs = [(_visit_ns(small, name), _visit_ns(large, name)) for _ in range(5)]
    assert median(big for _, big in costs) <= 2 * median(few for few, _ in costs)


@pytest.mark.goal("G12")
def test_joining_a_group_of_ten_thousand_costs_as_a_group_of_a_hundred() -> None:
    costs = {}
    for count in (100, 10_000):
        registry: Registry[FakeLink] = Registry(HIVE, 5.0)
        for number in range(count):
            registry.join(link(number, "AI.x"), 0)
        costs[count] = median(_visit_ns(registry, "AI.x") for _ in range(5))
    assert costs[10_000] <= 2 * costs[100]


@pytest.mark.goal("G12")
def test_an_entry_costs_at_most_400_bytes_here() -> None:
    entries = [link(number, f"AI.node.n{number}") for number in range(10_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        registry: Registry[FakeLink] = Registry(HIVE, 5.0)
        for entry in entries:
            registry.join(entry, 0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(registry) == 10_000
    assert (after - before) / 10_000 <= 400
