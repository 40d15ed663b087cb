"""Threads of conversation: the next sequence number, the bound handler, and which member of a group a thread sticks
to.

Owns a bounded table of threads, and the bindings that SY.threads published, whether or not their thread has spoken
yet.

Sequence. A number is `epoch << 32 | count`; the epoch is persisted by the shell and grows at each start, so numbers
never go back across a restart. Nor do they when a thread is forgotten to make room: `_floor` is the highest number
that any forgotten thread reached, and every thread made later starts above it. Numbers of a thread therefore grow but
may jump. A flow keeps its thread object, so a thread that is forgotten while flows use it is told to `evicted` first:
two objects for one key would count twice. A thread that counts past 2**32 runs into the next epoch; `epoch_reached`
tells the shell.

Stickiness. The first choice among members is by rendezvous hashing of key and member, so that a restarted router, or
one that forgot the thread, chooses the same member again whatever the order in which the members came back. The
choice is then pinned, so that a newcomer takes no thread from a live member. A pin holds a uuid, never a link: it
outlives a reconnection and keeps nothing dead alive. Hence nobody has to clean up when a member leaves.

Forgetting is second chance over the order of arrival: a thread used since it was last looked at goes to the end once.
Rejected: moving a thread to the end at each use (a hit must not touch the table); a reverse index member -> threads
(as large as the table, to save a check that costs one comparison); a count kept for every key ever seen (unbounded).
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar
from zlib import crc32

from skep.protocol import limits

if TYPE_CHECKING:
    from skep_router.flow import Flow

# Groups that one thread may stick in; past it the oldest pin goes. Conversations span a handful.
PINS_PER_THREAD_MAX: Final = 8
# Members compared for one choice, and steps that a pinned member may have moved: bounds a miss in a huge group.
MEMBERS_COMPARED_MAX: Final = 64
# Threads looked at to find one to forget.
SECOND_CHANCES: Final = 16
_MIX: Final = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: spreads crc's linear bits over the high ones
_MASK: Final = (1 << 64) - 1


class Member(Protocol):
    uuid: bytes


M = TypeVar("M", bound=Member)


class BindingRecord(Protocol):
    """What is read of a binding in the threads region."""

    @property
    def thread(self) -> bytes: ...
    @property
    def handler(self) -> str: ...
    @property
    def lease_until_ns(self) -> int: ...


class _Bound(NamedTuple):
    handler: str
    lease_until_ns: int  # 0: no lease


class Thread:
    """One thread. `binding` is the handler's name or None; `flows` belongs to `flow.install` and `flow.drop`."""

    __slots__ = ("binding", "flows", "key", "pins", "seq", "used")

    def __init__(self, key: bytes, seq: int, binding: str | None) -> None:
        self.key = key
        self.seq = seq  # the last number given out
        self.binding = binding
        self.pins: tuple[tuple[str, bytes, int], ...] = ()  # (group name, member's uuid, where it stood)
        self.flows: Flow | set[Flow] | None = None
        self.used = False  # since it was last looked at; a thread that never speaks twice is the first to go

    def next_seq(self) -> int:
        """The number of the next frame."""
        seq = self.seq = self.seq + 1
        self.used = True
        return seq

    def next_numbers(self, count: int) -> range:
        """The numbers of the next `count` frames."""
        first = self.seq + 1
        self.seq += count
        self.used = True
        return range(first, first + count)

    def pinned(self, name: str, members: tuple[M, ...]) -> M:
        """The member of group `name` that this thread sticks to; chosen and pinned when there is none.

        `members` in join order, not empty. Call it for a group of one too: the pin must be there before a second
        member comes."""
        for pin in self.pins:
            if pin[0] == name:
                at = _position(members, pin[1], pin[2])
                if at == pin[2]:
                    return members[at]
                break
        else:
            at = -1
        if at < 0:
            at = _choice(self.key, members)
        others = tuple(pin for pin in self.pins if pin[0] != name)
        self.pins = (*others[-(PINS_PER_THREAD_MAX - 1):], (name, members[at].uuid, at))
        return members[at]


def _position(members: tuple[M, ...], uuid: bytes, hint: int) -> int:
    """Where the member is, -1 when it is gone. Departures move members down only, so the search runs down from
    `hint`; a small group is searched whole, because there a member that came back stands at the end."""
    last = min(hint, len(members) - 1)
    if members[last].uuid == uuid:
        return last
    if len(members) <= MEMBERS_COMPARED_MAX:
        candidates = range(len(members))
    else:
        candidates = range(max(0, last - MEMBERS_COMPARED_MAX), last)
    return next((at for at in candidates if members[at].uuid == uuid), -1)


def _choice(key: bytes, members: tuple[M, ...]) -> int:
    """Rendezvous: each member draws a number from the key, the highest wins. Huge groups draw in one window."""
    seed = crc32(key)
    start = 0
    if len(members) > MEMBERS_COMPARED_MAX:
        start = seed % (len(members) - MEMBERS_COMPARED_MAX + 1)
    window = range(start, min(len(members), start + MEMBERS_COMPARED_MAX))
    return max(window, key=lambda at: (_draw(members[at].uuid, seed), members[at].uuid))


def _draw(uuid: bytes, seed: int) -> int:
    mixed = ((crc32(uuid) << 32 | seed) * _MIX) & _MASK
    return ((mixed ^ mixed >> 29) * _MIX) & _MASK


def _nothing(_thread: Thread) -> None:
    """Nobody holds threads."""


class Threads:
    """The threads of one router and the bindings of its hive. Times are nanoseconds of one monotonic clock, the
    region's (CLOCK_BOOTTIME)."""

    __slots__ = ("_bound", "_by_key", "_floor", "_leases", "_line", "epoch", "evicted", "maximum")

    def __init__(
        self, epoch: int, maximum: int = limits.THREADS_MAX, evicted: Callable[[Thread], None] = _nothing
    ) -> None:
        if not 0 < epoch < 1 << 31:
            raise ValueError(f"epoch {epoch} is not in 1..2**31-1; take the persisted one, or 1 on the first start")
        self.epoch = epoch
        self.maximum = maximum
        self.evicted = evicted  # called while the thread is still whole; must drop its flows
        self._floor = epoch << 32
        self._by_key: dict[bytes, Thread] = {}
        self._line: deque[Thread] = deque()  # every thread once; the next to be looked at stands first
        self._bound: dict[bytes, _Bound] = {}
        self._leases: list[tuple[int, bytes]] = []  # a heap; entries that no longer agree with _bound are stale

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def bindings(self) -> int:
        return len(self._bound)

    def get(self, key: bytes) -> Thread:
        """The thread of a key, made if need be. May forget another (`evicted`)."""
        thread = self._by_key.get(key)
        if thread is None:
            if len(self._by_key) >= self.maximum:
                self._forget_one()
            bound = self._bound.get(key)
            thread = self._by_key[key] = Thread(key, self._floor, bound.handler if bound else None)
            self._line.append(thread)
        else:
            thread.used = True
        return thread

    def epoch_reached(self) -> int:
        """The highest epoch in use. Persist at least this. A walk over all threads: ask once a minute."""
        highest = max((thread.seq for thread in self._by_key.values()), default=0)
        return max(highest, self._floor) >> 32

    def bind(self, binding: BindingRecord, now_ns: int) -> tuple[Thread, ...]:
        """Take over a binding as published; an empty handler removes it. The threads whose flows must be dropped.

        Raises ValueError past `maximum` bindings: the region cannot be right, its writer has the same bound."""
        key, until = binding.thread, binding.lease_until_ns
        if not binding.handler or 0 < until <= now_ns:
            return self.unbind(key)
        if key not in self._bound and len(self._bound) >= self.maximum:
            raise ValueError(f"more than {self.maximum} thread bindings; SY.threads must refuse them first")
        self._bound[key] = _Bound(binding.handler, until)
        if until:
            self._lease(until, key)
        return self._rebound(key, binding.handler)

    def unbind(self, key: bytes) -> tuple[Thread, ...]:
        """Remove a binding, if there is one. The threads whose flows must be dropped."""
        if self._bound.pop(key, None) is None:
            return ()
        return self._rebound(key, None)

    def expire(self, now_ns: int) -> tuple[Thread, ...]:
        """End the leases that are over. The threads whose flows must be dropped."""
        ended: list[Thread] = []
        while self._leases and self._leases[0][0] <= now_ns:
            until, key = heappop(self._leases)
            bound = self._bound.get(key)
            if bound is not None and bound.lease_until_ns == until:
                ended += self.unbind(key)
        return tuple(ended)

    def _rebound(self, key: bytes, handler: str | None) -> tuple[Thread, ...]:
        thread = self._by_key.get(key)
        if thread is None or thread.binding == handler:
            return ()
        thread.binding = handler
        return (thread,)

    def _lease(self, until: int, key: bytes) -> None:
        """Renewals leave stale entries behind; they are swept before they outnumber the live ones."""
        heappush(self._leases, (until, key))
        if len(self._leases) > 2 * len(self._bound) + 64:
            self._leases = [(b.lease_until_ns, k) for k, b in self._bound.items() if b.lease_until_ns]
            heapify(self._leases)

    def _forget_one(self) -> None:
        """The first thread in line that was not used since its last turn; after enough of them, the next."""
        line = self._line
        for _ in range(SECOND_CHANCES):
            if not line[0].used:
                break
            line[0].used = False
            line.rotate(-1)
        thread = line.popleft()
        self.evicted(thread)
        del self._by_key[thread.key]
        self._floor = max(self._floor, thread.seq)
