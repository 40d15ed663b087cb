"""Fairness between uids: each gets a share of every loop turn, whatever the number of its connections.

Where one uid is alone there is nothing to share, and reads go straight to the core. Where there are several, a uid
may have `limits.TURN_BYTES` handled in one turn of the loop, or fewer where its bytes are dear (frames that are
translated to JSON cost fifty times what is only copied): a share is also at most `SHARE_NS`, by what its last bytes
cost; what its connections handed in beyond that is kept, they are not read again, and the next turns take from them
in the order in which they stopped. So a flood from fifty connections costs another uid's message the same wait as
one from a single connection: one share.

What is kept is at most one read for each connection that was stopped (the transport reads no more of it), and a
read is at most READ_BYTES. Rejected: stopping all connections of a uid as soon as its share is used (a uid with
thousands of them would make each turn cost thousands of calls).
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING

from skep.protocol import limits

if TYPE_CHECKING:
    from skep_router.accounts import Account
    from skep_router.shell import Port


class Turns:
    """Shares of the turn that is under way, and who waits for the next."""

    __slots__ = ("_kept", "_open", "_turn", "_waiting")

    def __init__(self) -> None:
        self._turn = 0
        self._open = False
        self._waiting: dict[Account, deque[Port]] = {}
        self._kept: dict[Port, bytes] = {}

    @property
    def kept_bytes(self) -> int:
        return sum(map(len, self._kept.values()))

    def take(self, account: Account, port: Port, data: bytes) -> None:
        """One read of a connection: what its uid may still have handled in this turn, now; the rest later."""
        room = account.turn_room(self._turn)
        if account in self._waiting or not room:
            self._keep(account, port, data)
            return
        self._end_later()
        self._handle(account, port, data[:room])
        if len(data) > room:
            self._keep(account, port, data[room:])

    def _handle(self, account: Account, port: Port, data: bytes) -> None:
        begun = monotonic_ns()
        account.take_turn(self._turn, len(data) or 1)
        port.handle(data)
        account.learn_cost(len(data), monotonic_ns() - begun)

    def _keep(self, account: Account, port: Port, rest: bytes) -> None:
        self._end_later()
        if port in self._kept:
            self._kept[port] += rest
            return
        self._kept[port] = rest
        port.stop_reading()
        self._waiting.setdefault(account, deque()).append(port)

    def forget(self, port: Port) -> None:
        """The connection is gone; what it had said before is of no consequence any more."""
        self._kept.pop(port, None)

    def _end_later(self) -> None:
        if not self._open:
            self._open = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """A new turn: every uid that waits gets its share, each connection at most one slice of it."""
        self._open = False
        self._turn += 1
        for account in tuple(self._waiting):
            self._serve(account, self._waiting[account])
        if self._waiting:
            self._end_later()

    def _serve(self, account: Account, waiting: deque[Port]) -> None:
        while waiting and (room := account.turn_room(self._turn)):
            port = waiting.popleft()
            data = self._kept.pop(port, b"")
            self._handle(account, port, data[:room])
            if len(data) > room and not port.gone:
                self._kept[port] = data[room:]
                waiting.append(port)
            else:
                port.start_reading()
        if not waiting:
            del self._waiting[account]


assert limits.TURN_BYTES <= limits.READ_BYTES, "a share is less than a read, or a read is never cut"
