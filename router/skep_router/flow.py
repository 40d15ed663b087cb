"""Flows: decisions already made, found again by the bytes that they were made from.

A flow's key is `source uuid + selector + thread` as it stands in the frame (wire.md, offsets [72, key_end)), the idea
of an exact-match cache in front of a classifier (Open vSwitch's EMC). A hit therefore means that source, ILK, grants,
binding, routes, VPN, tenant and policy were all asked. Whatever they depended on knows its flows: the destination's hop
(`flows_in`), the thread (`flows`) and, where policy and identity had a say, `rests`; when one of those changes exactly
its flows are dropped, and the next frame decides again.

A flow is *plain* when its frames can leave in runs, as they came but for a thread's sequence. Whatever needs a look at
each frame (hop records, a JSON consumer, a group without a thread) makes it special, and only special flows pay. It is
*simple* when its frames need nothing but copying: no number to write, nobody who wants to see them.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from skep.protocol import limits

if TYPE_CHECKING:
    from skep_router.link import Link
    from skep_router.rests import Rest
    from skep_router.thread import Thread


class Flow:
    """One decision of one connection."""

    __slots__ = (
        "ack", "batch", "dst_name", "extra", "group", "hop", "key", "link", "paused", "plain",
        "rest", "sampled", "tap", "thread", "turn",
    )

    def __init__(self, link: Link, key: bytes, hop: Link | None) -> None:
        self.link = link
        self.key = key
        self.hop = hop  # None: a static DROP
        self.group: tuple[Link, ...] | None = None  # more than one member, and no thread that would stick
        self.turn = 0
        self.thread: Thread | None = None
        self.rest: Rest | None = None  # what a policy or an identity had to do with it
        self.tap: bytes | None = None  # canonical ILK + tenant, the head of this flow's turn records
        self.sampled = False
        self.ack = 0
        self.plain = True
        self.extra = False  # its runs are tapped, or somebody waits for their confirmation
        self.paused = False
        self.dst_name = ""
        self.batch: list[bytes | memoryview] | None = None  # its hop's, while it is simple

    def seal(self) -> None:
        """Work out what its frames need besides copying."""
        self.plain = self.hop is not None and self.hop.ordinary and self.group is None and not self.sampled
        self.extra = self.tap is not None or self.ack > 0
        simple = self.plain and not self.extra and self.thread is None
        self.batch = self.hop.batch if simple and self.hop is not None else None


def install(flow: Flow, evict: Callable[[Flow], None]) -> None:
    """Put a decided flow where hits find it; the oldest of a full table makes room."""
    flow.seal()
    table = flow.link.flows
    if len(table) >= limits.FLOWS_PER_LINK:
        evict(table[next(iter(table))])
    table[flow.key] = flow
    for hop in flow.group or ((flow.hop,) if flow.hop is not None else ()):
        hop.flows_in = joined(hop.flows_in, flow)
    if flow.thread is not None:
        flow.thread.flows = joined(flow.thread.flows, flow)


def drop(flow: Flow) -> None:
    """Forget one flow everywhere."""
    if flow.link.flows.pop(flow.key, None) is None:
        return
    flow.link.account.flows -= 1
    for hop in flow.group or ((flow.hop,) if flow.hop is not None else ()):
        hop.flows_in = without(hop.flows_in, flow)
        _unpaused(hop, flow)
    if flow.thread is not None:
        flow.thread.flows = without(flow.thread.flows, flow)


def _unpaused(hop: Link, flow: Flow) -> None:
    told = hop.paused.get(flow.link) if hop.paused else None
    if told is not None:
        told.discard(flow)
        if not told:
            del hop.paused[flow.link]  # type: ignore[union-attr]  # it was found there


def each(holder: Flow | set[Flow] | None) -> tuple[Flow, ...]:
    """The members of an index cell, safe against changes while they are visited."""
    if holder is None:
        return ()
    return (holder,) if isinstance(holder, Flow) else tuple(holder)


def joined(holder: Flow | set[Flow] | None, flow: Flow) -> Flow | set[Flow]:
    """Most hops and threads have one flow, and a set of one costs 216 bytes: a lone flow stands for itself."""
    if holder is None:
        return flow
    if isinstance(holder, Flow):
        return {holder, flow}
    holder.add(flow)
    return holder


def without(holder: Flow | set[Flow] | None, flow: Flow) -> Flow | set[Flow] | None:
    if holder is flow:
        return None
    if isinstance(holder, set):
        holder.discard(flow)
        return holder or None
    return holder
