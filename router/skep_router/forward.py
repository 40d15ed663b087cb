"""The hot path: one read of native frames in, one write per next hop out.

What a frame costs (CPython 3.11, 256 B): unpack of three lengths 70 ns, key slice 45 ns, one dictionary look-up 60 ns,
the loop's arithmetic 90 ns, slice and append 100 ns. Frames that follow each other to the same flow leave as one slice
of the read, and a read that holds nothing else leaves as the very object that came in; they are told by comparing the
key where it lies, which saves the slices and the look-up. Frames of equal lengths go a block of 32 at a time
(`stretch`), to one destination or to many, for half of that and less. Lessons kept from profiling: what counts is the
number of bytecodes (30 instructions each), so three bounds are one comparison (`bound`), nothing is counted that can be
summed up when asked, and a hop's batch stands in the flow; a call costs 120 ns, so a run may have one and a frame may
not; an `int.from_bytes` per length costs more than one `unpack_from` for all three; `memoryview` slices are dearer than
`bytes` slices below 1 KiB; joining a read of 200 KB to the tail before it costs 15 us.

A thread's sequence is written into a copy of the run, which is made into bytes before anything is written: no transport
ever sees a buffer that could change.

Only three things here look at a frame beyond its key: the lengths (a frame may not reach into its neighbour),
extension fields (they are outside the key, so they are checked frame by frame) and special flows.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from skep.protocol import limits
from skep.protocol.codes import CloseReason
from skep.protocol.header import FIELDS_START, KEY_START
from skep.protocol.link import pack_taken
from skep_router.stretch import BLOCK, stretch_at

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.flow import Flow
    from skep_router.link import Link
    from skep_router.stretch import Stretch

_lengths = struct.Struct("<IHH").unpack_from  # frame_bytes, key_end, body_start
_seq = struct.Struct("<Q").pack
_put_seq = struct.Struct("<Q").pack_into
_SEQ_AT, _SEQ_END = 48, 56
_VERB_AT = 112
_TAKEN = pack_taken(0)
_TAKEN_LENGTHS, _TAKEN_KEY = _TAKEN[:8], _TAKEN[KEY_START : _VERB_AT + 1]
_HIGH, _MOST = limits.QUEUE_BYTES_HIGH, limits.FRAME_BYTES_MAX
_JOINED_MOST = 16 << 10  # copying less than this is cheaper than avoiding it
_STRETCH_LEAST = BLOCK * FIELDS_START  # a read of fewer bytes has no block in it
_batch_of = attrgetter("batch")
_repeat = itertools.repeat
_each = deque[None](maxlen=0).extend  # runs an iterator to its end without a turn of the interpreter's loop


def forward(core: Core, link: Link, data: bytes, now: int) -> None:
    """Forward every whole frame of `tail + data`; what is left over becomes the link's tail."""
    if len(data) == len(_TAKEN) and not link.tail and is_taken(data, 0):
        ordinal = int.from_bytes(data[-8:], "little")  # all that a consumer says after a read
        if link.over or link.held_back or not link.taken(ordinal):
            core.taken(link, ordinal, now)
        return
    pos = accepted = 0
    if link.tail:
        first, pos = _completed(link.tail, data)
        link.tail = b""
        done, accepted = _walk(core, link, first, 0, now)
        if pos == len(data) or done < len(first):
            data, pos = first[done:] + data[pos:], 0
            _end_of_read(core, link, data, len(first), accepted, now)
            return
    done, count = _walk(core, link, data, pos, now)
    _end_of_read(core, link, data[done:] if done < len(data) else b"", done, accepted + count, now)


def is_taken(data: bytes, pos: int) -> bool:
    """Whether the frame at `pos` is the one LINK verb that comes with every few reads."""
    return data.startswith(_TAKEN_LENGTHS, pos) and data.startswith(_TAKEN_KEY, pos + KEY_START)


def _completed(tail: bytes, data: bytes) -> tuple[bytes, int]:
    """The frame that began in the last read, and how much of `data` completes it. A large read is then walked where it
    lies: joining it to its tail would copy all of it, a twelfth of the router's time at 1 KiB a frame. A small one is
    joined, and so is one whose length is not to be believed."""
    if len(data) > _JOINED_MOST and len(tail) >= 4:
        missing = int.from_bytes(tail[:4], "little") - len(tail)
        if 0 < missing <= len(data):
            return tail + data[:missing], missing
    return tail + data, len(data)


def _end_of_read(core: Core, link: Link, tail: bytes, size: int, accepted: int, now: int) -> None:
    if accepted or core.touched:
        account = link.account
        account.bytes += size
        account.frames += accepted
        core.finish(link, accepted, now)
    if tail:
        _keep_tail(core, link, tail, now)


def _walk(core: Core, link: Link, data: bytes, pos: int, now: int) -> tuple[int, int]:
    """Give every whole frame from `pos` on to its hop's batch. -> where it stopped, how many were accepted

    A frame that needs nothing but copying is given at once; when another of its flow follows, `_run` finds how many do,
    and all of them take its place as one piece. `bound` is where somebody has to look up: at the end of the read, where
    a frame might be longer than any may be, and every so often for a stretch of equal lengths."""
    find, touched = link.flows.get, core.touched
    none = last = core.no_flow
    size, start = len(data), pos
    last_start = size - FIELDS_START
    bound = pos if size - pos >= _STRETCH_LEAST else min(size, _MOST)
    accepted = 0
    while pos <= last_start:
        frame_bytes, key_end, body_start = _lengths(data, pos)
        end = pos + frame_bytes
        if end > bound:
            if end > size:
                break
            bound = min(size, pos + min(BLOCK * frame_bytes, _MOST))
            if frame_bytes > _MOST:
                body_start = -1  # no plain frame
            elif (blocks_end := _blocks(core, link, data, pos, frame_bytes)) > pos:
                accepted += (blocks_end - pos) // frame_bytes
                last, pos, bound = none, blocks_end, min(size, bound + blocks_end - pos)
                continue
        flow = find(data[pos + KEY_START : pos + key_end], none)
        if not key_end == body_start <= frame_bytes:
            flow = none
        elif (batch := flow.batch) is not None:
            if flow is not last:
                if not batch:
                    touched.append(flow.hop)  # type: ignore[arg-type]  # whoever has a batch has a hop
                batch.append(data[pos:end])
                accepted += 1
                last, start, pos = flow, pos, end
            else:
                pos, count = _run(data, start, flow.key)
                batch[-1] = _piece(data, start, pos)
                flow.hop.batch_more += count - 1  # type: ignore[union-attr]
                accepted += count - 1
                last = none
            continue
        last = none
        if flow is not none:
            if flow.plain and data.startswith(flow.key, end + KEY_START):
                pos, count = _numbered_run(core, flow, data, pos)
                accepted += count
            else:
                special(core, flow, data, pos, end, now)
                accepted, pos = accepted + 1, end
            continue
        taken = core.exceptional(link, data, pos, end, now)
        accepted += max(taken, 0)
        if taken < 0 or link.closed:
            break
        pos = end
    return pos, accepted


def _run(data: bytes, pos: int, key: bytes, marks: list[int] | None = None) -> tuple[int, int]:
    """Frames of one flow that follow each other from `pos` on. -> where they end, how many they are

    They are told by comparing the key where it lies, which saves the slice and the look-up. `marks`: takes the place of
    each."""
    again, size, key_ends = data.startswith, len(data), KEY_START + len(key)
    last_start, count = size - FIELDS_START, 0
    while pos <= last_start:
        frame_bytes, key_end, body_start = _lengths(data, pos)
        end = pos + frame_bytes
        if (
            end > size
            or not key_ends == key_end == body_start <= frame_bytes <= _MOST
            or not again(key, pos + KEY_START)
        ):
            break
        if marks is not None:
            marks.append(pos)
        count += 1
        pos = end
    return pos, count


def _piece(data: bytes, start: int, end: int) -> bytes | memoryview:
    """A run as it lies in the read; the whole of the read is the very object that came in."""
    if end - start > _JOINED_MOST and end - start < len(data):
        return memoryview(data)[start:end]  # copied where it is joined
    return data[start:end]


def _numbered_run(core: Core, flow: Flow, data: bytes, start: int) -> tuple[int, int]:
    """A run of a plain flow that has a thread or that somebody wants to see. -> where it ends, how many frames"""
    thread = flow.thread
    if thread is None:
        pos, count = _run(data, start, flow.key)
        _give(core, flow, _piece(data, start, pos), count)
        return pos, count
    marks: list[int] = []
    pos, count = _run(data, start, flow.key, marks)
    copy = bytearray(data[start:pos])
    for mark, number in zip(marks, thread.next_numbers(count), strict=True):
        _put_seq(copy, mark - start + _SEQ_AT, number)
    _give(core, flow, bytes(copy), count)
    return pos, count


def _blocks(core: Core, link: Link, data: bytes, pos: int, frame_bytes: int) -> int:
    """Give whole blocks of frames as long as the one at `pos` to their hops' batches. -> where they end, which is `pos`
    if there are none, or if the first has a frame that is nobody's or that wants more than copying."""
    stretch = stretch_at(data, pos, frame_bytes)
    if stretch is None:
        return pos
    find, none, start = link.flows.get, core.no_flow, pos
    last = none
    mixed: set[Flow] = set()
    while stretch.is_at(data, pos):
        flows = [*map(find, stretch.keys(data, pos), _repeat(none))]
        kinds = set(flows)
        flow = flows[0] if len(kinds) == 1 else none
        if last is not flow and last is not none:
            _give_blocks(core, last, stretch, data, start, pos)
            last = none
        if flow.plain:
            if last is none:
                last, start = flow, pos
        elif any(flow.batch is None for flow in kinds):
            break
        else:
            mixed |= kinds
            _each(map(list.append, map(_batch_of, flows), stretch.frames(data, pos)))
        pos += stretch.size
    if last is not none:
        _give_blocks(core, last, stretch, data, start, pos)
    if mixed:
        core.touched.extend({flow.hop for flow in mixed}.difference(core.touched))  # type: ignore[arg-type]
    return pos


def _give_blocks(core: Core, flow: Flow, stretch: Stretch, data: bytes, start: int, end: int) -> None:
    count = stretch.count(end - start)
    if flow.thread is None:
        _give(core, flow, _piece(data, start, end), count)
    else:
        _give(core, flow, stretch.numbered(data[start:end], flow.thread.next_numbers(count)), count)


def _give(core: Core, flow: Flow, run: bytes | memoryview, count: int) -> None:
    """A run of frames of one plain flow, to its hop's batch."""
    hop = flow.hop
    assert hop is not None  # a plain flow has a hop
    if not hop.batch:
        core.touched.append(hop)
    hop.batch.append(run)
    hop.batch_more += count - 1
    if flow.extra:
        core.attend(flow, run)


def _keep_tail(core: Core, link: Link, tail: bytes, now: int) -> None:
    """An unfinished frame waits, unless its first word already says that it can never be accepted."""
    if link.closed:
        return
    link.tail = tail
    if len(tail) >= 4:
        frame_bytes = int.from_bytes(tail[:4], "little")
        if not FIELDS_START <= frame_bytes <= limits.FRAME_BYTES_MAX:
            core.break_link(
                link,
                CloseReason.FRAME_TOO_LARGE
                if frame_bytes > limits.FRAME_BYTES_MAX
                else CloseReason.FRAME_INVALID,
                f"a frame says it has {frame_bytes} bytes; {FIELDS_START} to {limits.FRAME_BYTES_MAX} are accepted",
                now,
            )


def special(core: Core, flow: Flow, data: bytes, pos: int, end: int, now: int) -> None:
    """One frame of a flow that wants more than copying, or one that came outside its run."""
    hop = flow.hop
    if hop is None:
        return  # a static DROP: silent, counted as accepted
    if flow.group is not None:
        hop = core.next_member(flow)
    if flow.thread is None:
        frame = data[pos:end]
    else:
        frame = data[pos : pos + _SEQ_AT] + _seq(flow.thread.next_seq()) + data[pos + _SEQ_END : end]
    if flow.extra:
        core.attend(flow, frame)
    if not hop.ordinary or flow.sampled:
        translated = core.decorate(flow, hop, frame, now)
        if translated is None:
            return
        frame = translated
    if not hop.batch:
        core.touched.append(hop)
    hop.batch.append(frame)


def finish(core: Core, link: Link, accepted: int, now: int) -> None:
    """End of a read: one write per touched hop, one ticket for all of it."""
    link.accepted += accepted
    touched = core.touched
    deliveries = 0
    for hop in touched:
        deliveries += len(hop.batch) + hop.batch_more
    ticket = link.open_ticket(deliveries)
    charged = 0
    for hop in touched:
        batch = hop.batch
        piece = batch[0]
        frames = len(batch) + hop.batch_more
        if len(batch) > 1 or type(piece) is not bytes:
            piece = b"".join(batch)
        batch.clear()
        hop.batch_more = hop.batch_bytes = 0
        size = len(piece)
        if hop.clear and hop.held_bytes + size <= _HIGH:  # `offer` without its questions
            hop.held_bytes += size
            charged += size
            end = hop.written_frames = hop.written_frames + frames
            if hop.inflight is None:
                hop.inflight = [(piece, frames, link, ticket, now, end)]
            else:
                hop.inflight.append((piece, frames, link, ticket, now, end))
            hop.port.write(piece)
        elif not hop.closed and hop.has_room(size, frames):
            hop.offer(piece, frames, link, ticket, now)
            if hop.over:
                core.pause(hop, link)
        else:
            core.overflow(hop, (piece, frames, link, ticket, now, 0))
    touched.clear()
    link.account.held_bytes += charged
    core.after_read(link)
