"""What flows rest on besides hops and threads: interlocutors, tenants, names that may appear, entry points of a policy,
and time.

A decision that asked the policy or read an identity has a `Rest`: the things that, should they change, make it another
decision. Each thing knows its flows, so a change drops exactly those. Keys are what they are: 16 bytes for an ILK or a
tenant, a full name for a candidate that is not here yet or for whose node somebody is, `router/target` or
`router/allow` for the policy's data. Flows of a hive without policy and identity have no Rest and pay nothing.

Bounded by the flow tables: every entry belongs to a flow that stands in one. Ends lie in a heap; an entry whose flow is
gone is passed over, and swept before such entries outnumber the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

from skep_router.flow import each, joined, without

if TYPE_CHECKING:
    from skep_router.flow import Flow

_STALE_MAX: Final = 64  # ends of forgotten flows that are always tolerated


class Rest(NamedTuple):
    """What one decision rests on. `until_ns` 0: it does not end by itself. Not `lasting`: it is made for one frame,
    because the policy reads clock or dice, or named a pattern."""

    keys: tuple[Hashable, ...]
    until_ns: int = 0
    lasting: bool = True


class Rests:
    """Of all flows of one router."""

    __slots__ = ("_by", "_count", "_ends", "_ending")

    def __init__(self) -> None:
        self._by: dict[Hashable, Flow | set[Flow]] = {}
        self._ends: list[tuple[int, int, Flow]] = []
        self._ending = 0  # flows that stand and have an end
        self._count = 0  # breaks ties in the heap

    def __len__(self) -> int:
        """Things that something rests on."""
        return len(self._by)

    def keep(self, flow: Flow) -> None:
        """The flow was installed."""
        rest = flow.rest
        assert rest is not None  # asked for those alone
        for key in rest.keys:
            self._by[key] = joined(self._by.get(key), flow)
        if rest.until_ns:
            self._count += 1
            self._ending += 1
            heappush(self._ends, (rest.until_ns, self._count, flow))

    def forget(self, flow: Flow) -> None:
        """The flow was dropped."""
        rest, flow.rest = flow.rest, None
        assert rest is not None
        for key in rest.keys:
            left = without(self._by.get(key), flow)
            if left is None:
                self._by.pop(key, None)
            else:
                self._by[key] = left
        if rest.until_ns:
            self._ending -= 1
            self._sweep()

    def _sweep(self) -> None:
        if len(self._ends) > 2 * self._ending + _STALE_MAX:
            self._ends = [end for end in self._ends if end[2].rest is not None]
            heapify(self._ends)

    def on(self, key: Hashable) -> tuple[Flow, ...]:
        """The flows that rest on this."""
        return each(self._by.get(key))

    def on_any(self, keys: Iterable[Hashable]) -> Iterator[Flow]:
        for key in keys:
            yield from self.on(key)

    def ended(self, now_ns: int) -> Iterator[Flow]:
        """The flows whose time is over; each once."""
        while self._ends and self._ends[0][0] <= now_ns:
            flow = heappop(self._ends)[2]
            if flow.rest is not None:
                yield flow
