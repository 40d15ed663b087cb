"""Shares of a loop turn: cut reads, order among connections, prices, and who has gone meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from skep.protocol import limits
from skep_router import turns
from skep_router.accounts import SHARE_BYTES_MIN, SHARE_NS, Account, Accounts
from skep_router.turns import Turns


class FakePort:
    """Remembers what was handled, and what that cost in nanoseconds of the test's clock."""

    def __init__(self, clock: Clock, ns_per_byte: float = 0.0) -> None:
        self.clock, self.ns_per_byte = clock, ns_per_byte
        self.handled: list[int] = []
        self.data = b""
        self.reading = True
        self.gone = False

    def handle(self, data: bytes) -> None:
        self.handled.append(len(data))
        self.data += data
        self.clock.now += int(len(data) * self.ns_per_byte)

    def stop_reading(self) -> None:
        self.reading = False

    def start_reading(self) -> None:
        self.reading = True


class Clock:
    now = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns, "monotonic_ns", lambda: clock.now)
    return clock


@pytest.fixture
def account() -> Account:
    return Accounts().get(7)


async def until(fact: Callable[[], object]) -> int:
    """Turns of the loop until `fact` holds."""
    for count in range(1000):
        if fact():
            return count
        await asyncio.sleep(0)
    raise AssertionError("a thousand turns were not enough")


async def test_a_read_is_cut_into_shares_and_every_byte_is_handled_once(clock: Clock, account: Account) -> None:
    fair, port = Turns(), FakePort(clock)
    data = bytes(range(256)) * (limits.TURN_BYTES // 64)
    fair.take(account, port, data)  # type: ignore[arg-type]
    assert (port.handled, port.reading) == ([limits.TURN_BYTES], False)
    await until(lambda: port.reading)
    assert port.data == data
    assert max(port.handled) <= limits.TURN_BYTES
    assert fair.kept_bytes == 0


async def test_connections_of_one_uid_share_one_share_in_turn(clock: Clock, account: Account) -> None:
    fair, ports = Turns(), [FakePort(clock) for _ in range(5)]
    for port in ports:
        fair.take(account, port, bytes(2 * limits.TURN_BYTES))  # type: ignore[arg-type]
    assert [len(p.handled) for p in ports] == [1, 0, 0, 0, 0]
    count = await until(lambda: all(p.reading for p in ports))
    assert count >= 9
    assert [sum(p.handled) for p in ports] == [2 * limits.TURN_BYTES] * 5


async def test_dear_bytes_make_a_small_share_and_cheap_ones_a_large_one(clock: Clock, account: Account) -> None:
    fair, dear = Turns(), FakePort(clock, ns_per_byte=100.0)
    fair.take(account, dear, bytes(20 * limits.TURN_BYTES))  # type: ignore[arg-type]
    await until(lambda: dear.reading)
    assert dear.handled[-2] <= 2 * SHARE_NS // 100
    assert min(dear.handled[:-1]) >= SHARE_BYTES_MIN
    cheap = FakePort(clock, ns_per_byte=1.0)
    fair.take(account, cheap, bytes(20 * limits.TURN_BYTES))  # type: ignore[arg-type]
    await until(lambda: cheap.reading)
    assert limits.TURN_BYTES // 2 < max(cheap.handled) <= limits.TURN_BYTES


async def test_one_that_has_gone_is_forgotten(clock: Clock, account: Account) -> None:
    fair, gone, stays = Turns(), FakePort(clock), FakePort(clock)
    for port in (gone, stays):
        fair.take(account, port, bytes(3 * limits.TURN_BYTES))  # type: ignore[arg-type]
    gone.gone = True
    fair.forget(gone)  # type: ignore[arg-type]
    await until(lambda: stays.reading)
    assert sum(stays.handled) == 3 * limits.TURN_BYTES
    assert fair.kept_bytes == 0
