"""Half-open connections: a native link that has been silent for long is asked, and cut when it does not answer.

A Unix socket tells of a peer's death, not of a peer that hangs while something else keeps its descriptor open. JSON
peers are never asked: upstream's clients know no PING. Links are looked at in slices, so that ten thousand idle ones
cost a tick no more than ten.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.link import Link

_SLICE = 64  # links looked at in one tick: 10,000 take less than a second


class Pulse:
    """A link that has said nothing for `ping_s` is asked, and has as long again to answer, counted from the question:
    the router itself may have slept through the silence."""

    __slots__ = ("_asked", "_ping_ns", "_round")

    def __init__(self, ping_s: float) -> None:
        self._ping_ns = int(ping_s * 1e9)
        self._round: list[Link] = []
        self._asked: dict[Link, int] = {}  # when

    def beat(self, core: Core, now: int) -> None:
        if not self._round:
            self._asked = {link: at for link, at in self._asked.items() if not link.closed}
            self._round = list(core.registry)
        for _ in range(min(_SLICE, len(self._round))):
            link = self._round.pop()
            if link.native and not link.closed:
                self._look(core, link, now)

    def _look(self, core: Core, link: Link, now: int) -> None:
        silence = now - link.heard_ns
        if silence < self._ping_ns:
            self._asked.pop(link, None)
        elif self._asked.get(link, 0) <= link.heard_ns:
            self._asked[link] = now
            core.control(link, link_verbs.pack_ping(now))
        elif now - self._asked[link] >= self._ping_ns:
            del self._asked[link]
            core.break_link(link, CloseReason.UNRESPONSIVE, f"silent for {silence // 10**9} s, and no PONG", now)
