"""Sequences never go back, bindings end when they should, and a thread stays with its member."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.models import FakeLink, link
from skep_router.thread import MEMBERS_COMPARED_MAX, PINS_PER_THREAD_MAX, Thread, Threads

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Bind:
    """What is read of a binding."""

    thread: bytes
    handler: str
    lease_until_ns: int = 0


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def members(*numbers: int) -> tuple[FakeLink, ...]:
    return tuple(link(number, "AI.x") for number in numbers)


# -- sequences -----------------------------------------------------------------------------------------------------


def test_a_thread_counts_from_one_in_its_epoch() -> None:
    thread = Threads(3).get(key(1))
    assert [thread.next_seq() for _ in range(3)] == [(3 << 32) + 1, (3 << 32) + 2, (3 << 32) + 3]


def test_a_thread_is_the_same_object_as_long_as_it_is_known() -> None:
    threads = Threads(1)
    assert threads.get(key(1)) is threads.get(key(1))
    assert len(threads) == 1


def test_a_later_epoch_is_above_an_earlier_one() -> None:
    earlier, later = Threads(1).get(key(1)), Threads(2).get(key(1))
    assert max(earlier.next_seq() for _ in range(1000)) < later.next_seq()


@pytest.mark.parametrize("epoch", [0, -1, 1 << 31])
def test_an_impossible_epoch_is_refused(epoch: int) -> None:
    with pytest.raises(ValueError, match="epoch"):
        Threads(epoch)


def test_a_forgotten_thread_comes_back_above_where_it_was() -> None:
    threads = Threads(1, maximum=2)
    first = threads.get(key(1))
    reached = [first.next_seq() for _ in range(50)][-1]
    for number in range(2, 20):
        threads.get(key(number)).next_seq()
    again = threads.get(key(1))
    assert again is not first
    assert again.next_seq() > reached
    assert len(threads) == 2


def test_a_thread_in_use_is_kept_and_a_quiet_one_goes() -> None:
    threads = Threads(1, maximum=4)
    busy, quiet = threads.get(key(1)), threads.get(key(2))
    for number in range(3, 40):
        busy.next_seq()
        threads.get(key(number))
    assert threads.get(key(1)) is busy
    assert threads.get(key(2)) is not quiet


def test_whoever_holds_a_forgotten_thread_is_told_before_it_goes() -> None:
    told: list[tuple[bytes, bool]] = []
    threads = Threads(1, maximum=1, evicted=lambda thread: told.append((thread.key, threads.get(thread.key) is thread)))
    threads.get(key(1))
    threads.get(key(2))
    assert told == [(key(1), True)]


def test_the_epoch_that_a_long_thread_reached_is_known() -> None:
    threads = Threads(5, maximum=1)
    thread = threads.get(key(1))
    assert threads.epoch_reached() == 5
    thread.seq += 1 << 32
    assert threads.epoch_reached() == 6
    threads.get(key(2))
    assert threads.epoch_reached() == 6


class SequenceMachine(RuleBasedStateMachine):
    """Four threads in a table for three, flows that are dropped when told, restarts: numbers only grow."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.highest: dict[int, int] = {}
        self.restart()

    @rule()
    def restart(self) -> None:
        self.epoch += 1
        self.flows: dict[int, Thread] = {}
        self.threads = Threads(self.epoch, maximum=3, evicted=self.drop)

    def drop(self, thread: Thread) -> None:
        self.flows = {number: one for number, one in self.flows.items() if one is not thread}

    @rule(number=st.integers(0, 3))
    def miss(self, number: int) -> None:
        self.flows[number] = self.threads.get(key(number))
        self.send(number)

    @rule(number=st.integers(0, 3))
    def send(self, number: int) -> None:
        if number in self.flows:
            seq = self.flows[number].next_seq()
            assert seq > self.highest.get(number, 0)
            self.highest[number] = seq

    @invariant()
    def bounded(self) -> None:
        assert len(self.threads) <= 3


TestSequenceMachine = SequenceMachine.TestCase
TestSequenceMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# -- bindings ------------------------------------------------------------------------------------------------------


def test_a_binding_names_the_handler_until_it_is_removed() -> None:
    threads = Threads(1)
    thread = threads.get(key(1))
    handlers = [thread.binding]
    for handler in ("IO.terminal@h", ""):
        assert threads.bind(Bind(key(1), handler), 0) == (thread,)
        handlers.append(thread.binding)
    assert handlers == [None, "IO.terminal@h", None]
    assert threads.unbind(key(1)) == ()


def test_a_binding_may_come_before_its_thread() -> None:
    threads = Threads(1)
    assert threads.bind(Bind(key(1), "IO.terminal@h"), 0) == ()
    assert threads.get(key(1)).binding == "IO.terminal@h"


def test_a_binding_outlives_the_thread_object() -> None:
    threads = Threads(1, maximum=1)
    threads.get(key(1))
    threads.bind(Bind(key(1), "IO.terminal@h"), 0)
    threads.get(key(2))
    assert threads.get(key(1)).binding == "IO.terminal@h"


def test_a_binding_that_says_the_same_again_touches_no_flow() -> None:
    threads = Threads(1)
    threads.get(key(1))
    threads.bind(Bind(key(1), "IO.terminal@h", SECOND), 0)
    assert threads.bind(Bind(key(1), "IO.terminal@h", 2 * SECOND), 0) == ()


def test_a_lease_ends_at_its_time() -> None:
    threads = Threads(1)
    thread = threads.get(key(1))
    threads.bind(Bind(key(1), "IO.terminal@h", 5 * SECOND), 0)
    assert threads.expire(5 * SECOND - 1) == ()
    assert threads.expire(5 * SECOND) == (thread,)
    assert thread.binding is None
    assert threads.bindings == 0


def test_a_renewed_lease_does_not_end_at_the_old_time() -> None:
    threads = Threads(1)
    thread = threads.get(key(1))
    threads.bind(Bind(key(1), "IO.terminal@h", SECOND), 0)
    threads.bind(Bind(key(1), "IO.terminal@h", 3 * SECOND), 0)
    assert threads.expire(2 * SECOND) == ()
    assert threads.expire(3 * SECOND) == (thread,)


def test_a_lease_that_became_a_binding_without_end_stays() -> None:
    threads = Threads(1)
    threads.get(key(1))
    threads.bind(Bind(key(1), "IO.terminal@h", SECOND), 0)
    threads.bind(Bind(key(1), "IO.terminal@h"), 0)
    assert threads.expire(9 * SECOND) == ()


def test_a_binding_whose_lease_is_over_is_no_binding() -> None:
    threads = Threads(1)
    thread = threads.get(key(1))
    threads.bind(Bind(key(1), "IO.terminal@h"), 0)
    assert threads.bind(Bind(key(1), "IO.late@h", SECOND), SECOND) == (thread,)
    assert thread.binding is None


def test_renewals_do_not_pile_up() -> None:
    threads = Threads(1)
    for until in range(1, 10_000):
        threads.bind(Bind(key(1), "IO.terminal@h", until), 0)
    assert len(threads._leases) <= 2 + 64


def test_bindings_are_bounded() -> None:
    threads = Threads(1, maximum=2)
    threads.bind(Bind(key(1), "IO.a@h"), 0)
    threads.bind(Bind(key(2), "IO.a@h"), 0)
    threads.bind(Bind(key(2), "IO.b@h"), 0)
    with pytest.raises(ValueError, match="more than 2"):
        threads.bind(Bind(key(3), "IO.a@h"), 0)


class BindingMachine(RuleBasedStateMachine):
    """Bindings against a dictionary; every thread whose handler changes must be named, no other."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = Threads(1)
        self.model: dict[int, tuple[str, int]] = {}
        self.now = 1

    def expected(self, number: int) -> str | None:
        handler, until = self.model.get(number, ("", 0))
        return handler if handler and (not until or self.now < until) else None

    def check(self, before: dict[int, str | None], touched: tuple[Thread, ...]) -> None:
        changed = {number for number, was in before.items() if self.expected(number) != was}
        assert {int.from_bytes(thread.key, "big") for thread in touched} == changed
        assert len(touched) == len(changed)

    def bindings(self) -> dict[int, str | None]:
        return {number: self.threads.get(key(number)).binding for number in range(4)}

    @rule(number=st.integers(0, 3), handler=st.sampled_from(["", "a", "b"]), lease=st.sampled_from([0, 1, 5]))
    def bind(self, number: int, handler: str, lease: int) -> None:
        before, until = self.bindings(), self.now + lease if lease else 0
        touched = self.threads.bind(Bind(key(number), handler, until), self.now)
        self.model[number] = (handler, until)
        self.check(before, touched)

    @rule(passed=st.integers(1, 6))
    def wait(self, passed: int) -> None:
        before = self.bindings()
        self.now += passed
        self.check(before, self.threads.expire(self.now))

    @invariant()
    def agree(self) -> None:
        assert self.bindings() == {number: self.expected(number) for number in range(4)}


TestBindingMachine = BindingMachine.TestCase
TestBindingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- stickiness ----------------------------------------------------------------------------------------------------


def test_a_thread_stays_with_its_member_when_others_come_and_go() -> None:
    thread, group = Threads(1).get(key(1)), members(1, 2, 3)
    chosen = thread.pinned("AI.x@h", group)
    for others in ((), (4,), (4, 5, 6)):
        group = (*(one for one in group if one is chosen or others), *members(*others))
        assert thread.pinned("AI.x@h", group) is chosen


def test_a_lone_member_keeps_its_threads_when_a_second_comes() -> None:
    threads, (first, second) = Threads(1), members(1, 2)
    for number in range(50):
        threads.get(key(number)).pinned("AI.x@h", (first,))
    assert all(threads.get(key(number)).pinned("AI.x@h", (first, second)) is first for number in range(50))


def test_a_thread_whose_member_is_gone_goes_to_another_and_stays_there() -> None:
    thread, group = Threads(1).get(key(1)), members(1, 2, 3)
    gone = thread.pinned("AI.x@h", group)
    left = tuple(one for one in group if one is not gone)
    heir = thread.pinned("AI.x@h", left)
    assert heir is not gone
    assert thread.pinned("AI.x@h", (*left, gone)) is heir


def test_a_member_that_reconnected_at_once_has_its_threads_back() -> None:
    thread, group = Threads(1).get(key(1)), members(1, 2, 3)
    chosen = thread.pinned("AI.x@h", group)
    back = FakeLink(chosen.uuid, chosen.name)
    assert thread.pinned("AI.x@h", (*(one for one in group if one is not chosen), back)) is back


def test_a_restarted_router_chooses_the_same_member_whatever_the_order() -> None:
    group = list(members(*range(10)))
    before = [Threads(1).get(key(number)).pinned("AI.x@h", tuple(group)).uuid for number in range(50)]
    random.Random(1).shuffle(group)
    after = [Threads(2).get(key(number)).pinned("AI.x@h", tuple(group)).uuid for number in range(50)]
    assert before == after


def test_threads_spread_over_the_members() -> None:
    threads, chance = Threads(1), random.Random(2)
    group = tuple(FakeLink(chance.randbytes(16), "AI.x@h") for _ in range(8))
    share = Counter(threads.get(chance.randbytes(32)).pinned("AI.x@h", group).uuid for _ in range(4000))
    assert len(share) == 8
    assert min(share.values()) > 400
    assert max(share.values()) < 600


def test_each_group_has_its_own_pin_and_pins_are_bounded() -> None:
    thread, group = Threads(1).get(key(1)), members(1, 2, 3)
    for number in range(3 * PINS_PER_THREAD_MAX):
        thread.pinned(f"AI.g{number}@h", group)
    assert len(thread.pins) == PINS_PER_THREAD_MAX


def test_a_huge_group_is_not_searched_whole() -> None:
    """Entries that count how often they are asked who they are."""
    asked = 0

    class Counting(FakeLink):
        def __getattribute__(self, name: str) -> object:
            nonlocal asked
            asked += name == "uuid"
            return super().__getattribute__(name)

    group = tuple(Counting(number.to_bytes(16, "big"), "AI.x@h") for number in range(5000))
    thread = Threads(1).get(key(1))
    chosen = thread.pinned("AI.x@h", group)
    at = group.index(chosen)
    for now in (group, group[:at] + group[at + 1:], group[10:]):
        asked = 0
        thread.pinned("AI.x@h", now)
        assert asked <= 4 * MEMBERS_COMPARED_MAX


def test_departures_before_it_do_not_unpin_a_member_of_a_huge_group() -> None:
    group = members(*range(1000))
    thread = Threads(1).get(key(1))
    chosen = thread.pinned("AI.x@h", group)
    at = group.index(chosen)
    shifted = tuple(one for one in group if one is chosen or group.index(one) >= min(at, 40))
    assert thread.pinned("AI.x@h", shifted) is chosen
