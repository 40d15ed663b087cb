"""What each uid holds: connections, bytes in queues, decisions per second, bytes per loop turn.

A uid, not a connection, is who pays (dbus-broker's `user`): fifty connections of one uid have one share. An account
is found once, when a connection is accepted, and then hangs on the link; every charge is an addition on it, without
look-up and without allocation.

Invariants:
  what is released was charged by the same holder: a hop's entry keeps its sender's link, the link keeps the account,
  so a consumer's death returns the bytes to whoever sent them;
  no figure is ever negative;
  an account with anything in it, or with decisions still to be paid off, is never forgotten: hanging up and coming
  back does not buy a fresh allowance.

The allowance of decisions is one integer, the instant at which all decisions asked for so far would have been paid at
the allowed rate (GCRA, the leaky bucket of ATM). Rejected: a token count refilled by a timer (a sweep over all
accounts); resetting turn bytes of every account at each turn (the turn's number in the account does it when it is
next used).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from skep.protocol import limits

# A share of a loop turn in time, what others wait for at most; and the fewest bytes that it is, which makes progress.
SHARE_NS: Final = 250_000
SHARE_BYTES_MIN: Final = 1024
NS_PER_MISS: Final = 1_000_000_000 // limits.MISSES_PER_S
# What may be decided at once: a node that starts asks for some dozens of flows together. A larger burst would be felt
# by everybody else: at 40 us a decision these are three milliseconds.
MISS_BURST_NS: Final = 64 * NS_PER_MISS
# Idle accounts are kept up to this many (a host has far fewer uids), so that their counters stay readable by uid.
ACCOUNTS_KEPT: Final = 1024
# Accounts looked at in one `expire`: at some milliseconds a tick, all of a crowded table within seconds.
LOOKED_AT: Final = 16


@dataclass(frozen=True, slots=True)
class AccountStatistics:
    """One uid at one moment; the second half only grows."""

    uid: int
    connections: int
    unauthenticated: int
    held_bytes: int
    frames: int
    bytes: int
    misses: int
    misses_deferred: int
    connections_refused: int


class Account:
    """One uid's figures. `held_bytes` is read by the core to decide whether its sockets rest (`over_quota`)."""

    __slots__ = (
        "bytes", "connections", "connections_refused", "flows", "frames", "held_bytes", "misses", "misses_deferred",
        "paid_at_ns", "share", "turn", "turn_bytes", "uid", "unauthenticated",
    )

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.connections = 0  # after HELLO
        self.unauthenticated = 0  # before it
        self.flows = 0  # decisions kept for its connections
        self.held_bytes = 0
        self.paid_at_ns = 0  # when the decisions asked for so far are paid off
        self.turn = 0
        self.turn_bytes = 0
        self.share = limits.TURN_BYTES
        self.frames = 0
        self.bytes = 0
        self.misses = 0
        self.misses_deferred = 0
        self.connections_refused = 0

    def charge(self, size: int) -> None:
        """`size` bytes of this uid's frames are now held somewhere. Never refuses: the hop asked `has_room`."""
        self.held_bytes += size

    def release(self, size: int) -> None:
        """They are no longer. Called by the holder that charged them, once."""
        self.held_bytes -= size
        assert self.held_bytes >= 0, "released more than was charged"

    @property
    def over_quota(self) -> bool:
        """Its sockets rest until this is False."""
        return self.held_bytes > limits.UID_BYTES_MAX

    def add_traffic(self, frames: int, size: int) -> None:
        """Counters of a flow that is being forgotten."""
        self.frames += frames
        self.bytes += size

    def charge_miss(self, now_ns: int, work: int = 1) -> bool:
        """Pay for `work` slow-path decisions. False: nothing was charged, read on at `may_miss_at_ns`.

        Whoever still has any allowance may overdraw it with one costly decision, and waits longer afterwards: what a
        decision costs is known only when it was made."""
        owed_from = max(self.paid_at_ns, now_ns)
        if owed_from - now_ns >= MISS_BURST_NS:
            self.misses_deferred += 1
            return False
        self.paid_at_ns = owed_from + work * NS_PER_MISS
        self.misses += work
        return True

    def may_miss_at_ns(self) -> int:
        """When an eighth of the allowance is back: reading on at the first free nanosecond would be one frame a turn,
        and waiting for more would make everybody else wait for more at once."""
        return self.paid_at_ns - MISS_BURST_NS * 7 // 8

    def turn_room(self, turn: int) -> int:
        """How many bytes this uid may still have handled in loop turn number `turn`."""
        if self.turn != turn:
            self.turn = turn
            self.turn_bytes = 0
        return max(0, self.share - self.turn_bytes)  # the share may have shrunk within the turn

    def learn_cost(self, size: int, ns: int) -> None:
        """Handling `size` bytes took so long: the next share is what SHARE_NS would buy at that price, half of the way
        there. Small reads say little about a price, and are not asked."""
        if size >= SHARE_BYTES_MIN:
            affordable = SHARE_NS * size // max(ns, 1)
            wanted = (self.share + affordable) // 2
            self.share = max(SHARE_BYTES_MIN, min(limits.TURN_BYTES, wanted))

    def take_turn(self, turn: int, size: int) -> None:
        """Count `size` bytes handled in loop turn number `turn`; the caller has asked `turn_room`."""
        self.turn = turn
        self.turn_bytes += size

    def open(self) -> bool:
        """A connection was accepted that has not said HELLO. False: this uid has too many of those, close it."""
        if self.unauthenticated >= limits.UNAUTHENTICATED_PER_UID:
            self.connections_refused += 1
            return False
        self.unauthenticated += 1
        return True

    def register(self) -> None:
        """An open connection has become a node's."""
        assert self.unauthenticated > 0, "registered a connection that was not open"
        self.unauthenticated -= 1
        self.connections += 1

    def close(self, registered: bool) -> None:
        """A connection ended, before (`registered` False) or after it became a node's."""
        if registered:
            self.connections -= 1
        else:
            self.unauthenticated -= 1
        assert self.connections >= 0, "closed more node connections than were registered"
        assert self.unauthenticated >= 0, "closed more unregistered connections than were open"

    def idle(self, now_ns: int) -> bool:
        """Nothing is held and nothing is owed: forgetting it changes nothing but its counters."""
        return (
            not self.connections and not self.unauthenticated and not self.held_bytes
            and self.paid_at_ns <= now_ns
        )

    def statistics(self) -> AccountStatistics:
        return AccountStatistics(
            self.uid, self.connections, self.unauthenticated, self.held_bytes, self.frames, self.bytes,
            self.misses, self.misses_deferred, self.connections_refused,
        )


class Accounts:
    """The accounts of everyone who is, or was lately, connected."""

    __slots__ = ("_by_uid", "_forgotten")

    def __init__(self) -> None:
        self._by_uid: dict[int, Account] = {}
        self._forgotten = Account(-1)

    def __len__(self) -> int:
        return len(self._by_uid)

    def get(self, uid: int) -> Account:
        """The account of a uid, made if need be. Hold on to it: it stays the uid's as long as anything is charged."""
        account = self._by_uid.get(uid)
        if account is None:
            account = self._by_uid[uid] = Account(uid)
        return account

    def statistics(self) -> tuple[AccountStatistics, ...]:
        """Every account, and, where any was forgotten, uid -1 with the sums of those: totals never shrink."""
        known = tuple(account.statistics() for account in self._by_uid.values())
        gone = self._forgotten
        lost = gone.frames or gone.misses or gone.misses_deferred or gone.connections_refused
        return (*known, gone.statistics()) if lost else known

    def expire(self, now_ns: int) -> None:
        """Forget idle accounts past ACCOUNTS_KEPT. Those looked at and kept go to the end of the line."""
        for _ in range(min(LOOKED_AT, len(self._by_uid) - ACCOUNTS_KEPT)):
            uid = next(iter(self._by_uid))
            account = self._by_uid.pop(uid)
            if account.idle(now_ns):
                self._forget(account)
            else:
                self._by_uid[uid] = account

    def _forget(self, account: Account) -> None:
        gone = self._forgotten
        gone.add_traffic(account.frames, account.bytes)
        gone.misses += account.misses
        gone.misses_deferred += account.misses_deferred
        gone.connections_refused += account.connections_refused
