"""What a consumer is owed: the frames on their way to one connection.

Owns, per connection: the batch that the current read builds, the queue of what its socket would not take, and the
*in-flight* entries that were written but not yet reported TAKEN by the consumer's SDK. Every byte in them is charged
twice, to this hop (so that one slow consumer meets its own limit) and to the sender's account (so that one uid cannot
hold the router's memory), and both are released by the same call, `settle`.

Invariants:
  held_bytes == sum(queue) + sum(inflight);  queue is empty unless `blocked`.
  An entry's piece is immutable bytes: the transport, the entry and nobody else hold it. A view of a reused buffer
  would hand a slow reader other people's bytes.

Rejected: counting frames only (a 128 KiB frame and a 130 B frame are not the same debt); dropping what was written
but not taken (after the consumer's death nobody could say which messages it took with it).
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from skep.protocol import limits

if TYPE_CHECKING:
    from skep_router.flow import Flow
    from skep_router.link import Link, Ticket


class Port(Protocol):
    """Where a hop's bytes leave the core. The shell gives a socket's transport, a simulation gives a fake wire."""

    def write(self, data: bytes, /) -> None: ...
    def close(self, reason: int, detail: str, /) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


Held = tuple[bytes, int, "Link", "Ticket", int, int]
"""One sender's frames for one hop, out of one read: (piece, frames, sender, ticket, queued at ns, the hop's frame
ordinal after the piece once written). A bare tuple: a NamedTuple costs 0.3 us to make, and this is made for each hop of
each read."""


class Hop:
    """The outgoing side of one connection. `None` stands for an empty list: ten thousand idle hops pay nothing for
    queues that they do not use."""

    __slots__ = (
        "batch", "batch_bytes", "batch_more", "blocked", "clear", "flows_in", "frame_bytes_max", "held_bytes",
        "inflight", "native", "ordinary", "over", "paused", "port", "queue", "queued_frames", "written_frames",
    )

    def __init__(self, port: Port, native: bool, frame_bytes_max: int) -> None:
        self.port = port
        self.native = native
        self.frame_bytes_max = frame_bytes_max
        self.ordinary = native and frame_bytes_max >= limits.FRAME_BYTES_MAX  # takes any frame just as it is
        self.blocked = False
        self.clear = native  # native, alive, its socket takes bytes: a piece may be written without a question
        self.batch: list[bytes | memoryview] = []  # stays the same list: flows append to it by themselves
        self.batch_more = 0  # frames of the batch beyond one for each piece
        self.batch_bytes = 0  # counted for JSON only, whose frames are refused one by one before they are joined
        self.queue: deque[Held] | None = None
        self.queued_frames = 0
        self.inflight: list[Held] | None = None
        self.held_bytes = 0
        self.written_frames = 0
        self.over = False
        self.paused: dict[Link, set[Flow]] | None = None  # by sender: whoever is in it was told all it needs
        self.flows_in: Flow | set[Flow] | None = None

    def block(self) -> None:
        """Its socket takes no more, or it is gone."""
        self.blocked = True
        self.clear = False

    def unblock(self) -> None:
        self.blocked = False
        self.clear = self.native

    @property
    def held_frames(self) -> int:
        inflight = self.inflight
        if not inflight:
            return self.queued_frames
        oldest = inflight[0]
        return self.queued_frames + self.written_frames - oldest[5] + oldest[1]

    def has_room(self, size: int, frames: int) -> bool:
        """Would `size` bytes in `frames` frames stay within the hard limit?"""
        return (
            self.held_bytes + size <= limits.QUEUE_BYTES_MAX
            and self.held_frames + frames <= limits.QUEUE_FRAMES_MAX
        )

    def offer(self, piece: bytes, frames: int, sender: Link, ticket: Ticket, at_ns: int) -> None:
        """Write or queue what has room; the caller has asked `has_room`. One write per hop and read."""
        if not self.native and not self.blocked:
            self.written_frames += frames
            self.port.write(piece)
            sender.settle(ticket, frames)
            return
        held = self.held_bytes = self.held_bytes + len(piece)
        sender.account.held_bytes += len(piece)
        if held > limits.QUEUE_BYTES_HIGH:
            self.over = True
        if not self.blocked:
            self._write(piece, frames, sender, ticket, at_ns)
            return
        self.queued_frames += frames
        if self.queue is None:
            self.queue = deque()
        self.queue.append((piece, frames, sender, ticket, at_ns, 0))

    def _write(self, piece: bytes, frames: int, sender: Link, ticket: Ticket, at_ns: int) -> None:
        """Native only: the entry stays, charged, until the consumer reports it taken."""
        end = self.written_frames = self.written_frames + frames
        if self.inflight is None:
            self.inflight = []
        self.inflight.append((piece, frames, sender, ticket, at_ns, end))
        self.port.write(piece)

    def taken(self, ordinal: int) -> bool:
        """The consumer took every frame up to `ordinal`. False: it claims more than it was ever sent."""
        if ordinal > self.written_frames:
            return False
        inflight = self.inflight
        if not inflight:
            return True
        count = released = 0
        for piece, frames, sender, ticket, _, end in inflight:
            if end > ordinal:
                break
            count += 1
            size = len(piece)
            released += size
            sender.account.held_bytes -= size
            ticket[0] -= frames
            if not ticket[0]:  # `settle`, without the call
                sender.advance()
        self.held_bytes -= released
        if count == len(inflight):
            self.inflight = None
        else:
            del inflight[:count]
        return True

    def next_queued(self) -> Held | None:
        """The oldest queued entry, released from its charge: the caller offers what is left of it again."""
        queue = self.queue
        if not queue:
            return None
        held = queue.popleft()
        if not queue:
            self.queue = None
        size = len(held[0])
        self.held_bytes -= size
        self.queued_frames -= held[1]
        held[2].account.release(size)
        return held

    def abandon(self) -> tuple[list[Held], list[Held]]:
        """The consumer is gone: (written and not taken, never written), everything released and settled."""
        written, queued = self.inflight or [], list(self.queue or ())
        self.inflight = self.queue = None
        self.held_bytes = self.queued_frames = 0
        for piece, frames, sender, ticket, _, _ in (*written, *queued):
            sender.account.release(len(piece))
            sender.settle(ticket, frames)
        return written, queued
