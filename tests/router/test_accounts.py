"""What each uid holds: charges come back to whom they were charged, and nothing buys a fresh allowance."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skep.protocol import limits
from skep_router.accounts import ACCOUNTS_KEPT, MISS_BURST_NS, NS_PER_MISS, Account, Accounts

SECOND = 1_000_000_000


@pytest.fixture
def account() -> Account:
    return Accounts().get(1000)


def test_a_uid_has_one_account() -> None:
    accounts = Accounts()
    assert accounts.get(1) is accounts.get(1)
    assert accounts.get(1) is not accounts.get(2)
    assert len(accounts) == 2


def test_what_is_charged_is_released(account: Account) -> None:
    account.charge(100)
    account.charge(20)
    account.release(100)
    assert account.held_bytes == 20


def test_releasing_more_than_was_charged_is_our_own_mistake(account: Account) -> None:
    account.charge(1)
    with pytest.raises(AssertionError, match="released more"):
        account.release(2)


def test_a_uid_over_its_quota_rests_until_it_is_under_it(account: Account) -> None:
    seen = []
    for change in (limits.UID_BYTES_MAX, 1, -1):
        account.charge(change)
        seen.append(account.over_quota)
    assert seen == [False, True, False]


@pytest.mark.goal("G11")
def test_strangers_are_bounded_per_uid(account: Account) -> None:
    assert all(account.open() for _ in range(limits.UNAUTHENTICATED_PER_UID))
    assert not account.open()
    account.register()
    assert account.open()
    assert not account.open()
    account.close(registered=False)
    assert account.open()
    assert account.statistics().connections_refused == 2


def test_a_connection_counts_once(account: Account) -> None:
    account.open()
    account.register()
    assert (account.unauthenticated, account.connections) == (0, 1)
    account.close(registered=True)
    assert (account.unauthenticated, account.connections) == (0, 0)
    with pytest.raises(AssertionError, match="closed more"):
        account.close(registered=True)


@pytest.mark.goal("G9")
def test_decisions_come_at_the_allowed_rate(account: Account) -> None:
    now, granted = 7 * SECOND, 0
    while account.charge_miss(now):
        granted += 1
    assert abs(granted - MISS_BURST_NS // NS_PER_MISS) <= 1
    assert account.misses_deferred == 1
    assert not account.charge_miss(now)
    later = account.may_miss_at_ns()
    assert now < later <= now + MISS_BURST_NS
    assert account.charge_miss(later)


def test_over_a_long_time_no_more_than_the_rate_and_one_burst(account: Account) -> None:
    now, granted = 0, 0
    for _ in range(40_000):
        if now >= account.may_miss_at_ns():
            granted += account.charge_miss(now)
        now += NS_PER_MISS // 4
    assert granted <= (now + MISS_BURST_NS) // NS_PER_MISS + 1


def test_one_costly_decision_may_overdraw_and_is_paid_off_afterwards(account: Account) -> None:
    assert account.charge_miss(SECOND, work=3 * limits.MISSES_PER_S)
    assert not account.charge_miss(2 * SECOND)
    assert 3 * SECOND < account.may_miss_at_ns() < 4 * SECOND
    assert account.charge_miss(account.may_miss_at_ns())


def test_a_deferred_decision_is_not_charged(account: Account) -> None:
    while account.charge_miss(0):
        pass
    before = account.statistics()
    for _ in range(1000):
        account.charge_miss(0)
    assert account.statistics().misses == before.misses
    assert account.may_miss_at_ns() <= MISS_BURST_NS


@pytest.mark.goal("G9")
def test_a_turn_is_shared_by_all_connections_of_a_uid(account: Account) -> None:
    account.take_turn(1, limits.TURN_BYTES - 10)
    assert account.turn_room(1) == 10
    account.take_turn(1, 10)
    assert not account.turn_room(1)
    assert account.turn_room(2) == limits.TURN_BYTES


def test_statistics_are_a_frozen_snapshot(account: Account) -> None:
    account.charge(5)
    account.add_traffic(3, 300)
    before = account.statistics()
    account.charge(5)
    assert (before.uid, before.held_bytes, before.frames, before.bytes) == (1000, 5, 3, 300)
    with pytest.raises(AttributeError):
        before.held_bytes = 0  # type: ignore[misc]


def test_idle_accounts_are_forgotten_past_a_bound_and_their_counters_kept() -> None:
    accounts = Accounts()
    for uid in range(ACCOUNTS_KEPT + 100):
        accounts.get(uid).add_traffic(1, 10)
    for _ in range(100):
        accounts.expire(SECOND)
    assert len(accounts) == ACCOUNTS_KEPT
    assert sum(one.frames for one in accounts.statistics()) == ACCOUNTS_KEPT + 100
    assert accounts.statistics()[-1].uid == -1


def _hold_bytes(account: Account) -> None:
    account.charge(1)


def _connect(account: Account) -> None:
    account.open()


def _owe(account: Account) -> None:
    account.charge_miss(SECOND, work=10)


@pytest.mark.parametrize("use", [_hold_bytes, _connect, _owe])
def test_an_account_in_use_or_in_debt_is_never_forgotten(use: object) -> None:
    accounts = Accounts()
    used = accounts.get(1)
    use(used)  # type: ignore[operator]
    for uid in range(2, 2 * ACCOUNTS_KEPT):
        accounts.get(uid)
    for _ in range(200):
        accounts.expire(SECOND)
    assert accounts.get(1) is used


def test_charging_allocates_nothing(account: Account) -> None:
    account.charge(1 << 40)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            account.charge(4096)
            account.release(4096)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 256


class AccountMachine(RuleBasedStateMachine):
    """Senders' bytes in hops that die in any order: every account ends where its holders say."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts = Accounts()
        self.held: list[tuple[Account, int]] = []

    @rule(uid=st.integers(0, 3), size=st.integers(1, 1000))
    def hold(self, uid: int, size: int) -> None:
        account = self.accounts.get(uid)
        account.charge(size)
        self.held.append((account, size))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1 << 16))
    def let_go(self, which: int) -> None:
        account, size = self.held.pop(which % len(self.held))
        account.release(size)

    @rule()
    def tick(self) -> None:
        self.accounts.expire(SECOND)

    @invariant()
    def agree(self) -> None:
        for uid in range(4):
            owed = sum(size for account, size in self.held if account.uid == uid)
            assert self.accounts.get(uid).held_bytes == owed


TestAccountMachine = AccountMachine.TestCase
TestAccountMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
