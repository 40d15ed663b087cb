"""The tap: a copy of each turn for whoever keeps the record, without slowing the turn.

A flow that is tapped gives the slices of its frames, as they are sent, to the node `SY.tap`. A TAP frame holds one
run of frames of the same interlocutor: `canonical ILK (16) | tenant (16) | native frames`; the frames carry the
original ILK themselves. The tap's queue is bounded like any other; what does not fit is lost to the record,
counted, and nobody waits for it. Without a live `SY.tap` tapping costs one comparison.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep.protocol import limits
from skep.protocol.header import ContentType, DstKind, MessageClass, Selector, pack_frame, pack_key
from skep_router.frames import frames_of

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.link import Link

TAP_NAME = "SY.tap"
_ZERO = bytes(16)
_ROOM = limits.FRAME_BYTES_MAX - 512  # what a TAP frame's own header may take is far below this


class Tap:
    """Builds the TAP frames of one read. `link` is the live SY.tap, if there is one."""

    __slots__ = ("_key", "_size", "link", "pending")

    def __init__(self) -> None:
        self.link: Link | None = None
        self._key = b""
        self.pending: list[tuple[bytes, list[bytes | memoryview]]] = []
        self._size = 0

    def attach(self, core: Core, link: Link) -> None:
        selector = Selector(
            message_class=MessageClass.TAP, content_type=ContentType.BYTES, dst_kind=DstKind.UUID,
            destination=link.uuid,
        )
        self.link = link
        self._key = pack_key(core.uuid, selector)

    def detach(self) -> None:
        self.link = None
        self.pending.clear()

    def prefix(self, link: Link, ilk: bytes | None, tenant: bytes) -> bytes | None:
        """What stands before the turns of a flow: whose they are. `ilk` is the canonical one, or what the frame says
        where the hive has no identity; the frames keep the ILK that spoke. The interlocutor's tenant counts before its
        channel's."""
        if self.link is None or link is self.link:
            return None
        return (ilk or _ZERO) + (tenant if tenant != _ZERO else link.tenant or _ZERO)

    def add(self, prefix: bytes, run: bytes | memoryview) -> None:
        pending = self.pending
        size = len(run)
        if pending and pending[-1][0] == prefix and self._size + size <= _ROOM:
            pending[-1][1].append(run)
            self._size += size
        elif size <= _ROOM:
            pending.append((prefix, [prefix, run]))
            self._size = size
        else:
            self._add_split(prefix, bytes(run))

    def _add_split(self, prefix: bytes, run: bytes) -> None:
        """A run longer than a TAP frame is cut between frames."""
        start = 0
        for pos, end in frames_of(run):
            if end - start > _ROOM and pos > start:
                self.pending.append((prefix, [prefix, run[start:pos]]))
                start = pos
        self.pending.append((prefix, [prefix, run[start:]]))
        self._size = len(run) - start

    def flush(self, core: Core, now: int) -> None:
        """End of the read. A frame too large to be wrapped, or a full queue, is a loss that is counted."""
        pending, self.pending = self.pending, []
        link = self.link
        if link is None:
            return
        for _, pieces in pending:
            body = b"".join(pieces)
            if len(body) > _ROOM + 32 or not link.has_room(len(body), 1):
                core.counters.tap_lost += 1
                continue
            core.counters.tapped += 1
            link.offer(pack_frame(self._key, body), 1, core.me, core.me.open_ticket(1), now)
