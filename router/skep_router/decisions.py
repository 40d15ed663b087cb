"""The decision stream: what was decided, for the node that keeps the decision log.

Decisions wait in the decider's bounded list and leave by the tick, a few at a time, as frames of JSON lines to
`SY.decisions`: nothing about a message waits for its record. What does not fit is lost to the log, and the next line
says how much. While nobody keeps the log the list fills up, so the log of a node that comes back begins before it came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from skep.protocol.header import ContentType, DstKind, MessageClass, Selector, pack_frame, pack_key

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.link import Link

NODE: Final = "SY.decisions"
VERB: Final = "DECISIONS"
RECORDS_PER_TICK: Final = 32  # a fifth of a millisecond; with a tick of 5 ms more than all uids may miss in a second
BODY_BYTES_MAX: Final = 64 << 10  # of one frame; a single record that is larger is lost, and counted


class Decisions:
    """Hands decisions to the live SY.decisions, if there is one."""

    __slots__ = ("_key", "_lost", "link")

    def __init__(self) -> None:
        self.link: Link | None = None
        self._key = b""
        self._lost = 0

    def joined(self, core: Core, link: Link) -> None:
        if link.name != core.full_name(NODE) or not link.native:
            return
        selector = Selector(
            message_class=MessageClass.SYSTEM, content_type=ContentType.BYTES, dst_kind=DstKind.UUID,
            destination=link.uuid, verb=VERB,
        )  # fmt: skip
        self.link = link
        self._key = pack_key(core.uuid, selector)

    def left(self, link: Link) -> None:
        if self.link is link:
            self.link = None

    def flush(self, core: Core, now: int) -> None:
        """By the tick: what waits, as far as its reader has room."""
        link, decider = self.link, core.policies.decider
        if link is None or decider is None or not link.has_room(2 * BODY_BYTES_MAX, 2):
            return
        lines = [orjson.dumps(record) for record in decider.take_records(RECORDS_PER_TICK)]
        core.counters.told += len(lines)
        fitting = [line for line in lines if len(line) < BODY_BYTES_MAX]
        self._lost += decider.take_lost() + len(lines) - len(fitting)
        if self._lost:
            fitting.append(orjson.dumps({"lost": self._lost}))
            self._lost = 0
        self._send(core, link, fitting, now)

    def _send(self, core: Core, link: Link, lines: list[bytes], now: int) -> None:
        body: list[bytes] = []
        size = 0
        for line in lines:
            if size + len(line) + 1 > BODY_BYTES_MAX:
                self._offer(core, link, body, now)
                body, size = [], 0
            body.append(line)
            size += len(line) + 1
        if body:
            self._offer(core, link, body, now)

    def _offer(self, core: Core, link: Link, body: list[bytes], now: int) -> None:
        frame = pack_frame(self._key, b"\n".join(body) + b"\n")
        link.offer(frame, 1, core.me, core.me.open_ticket(1), now)
