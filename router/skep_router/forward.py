"""The hot path: one read of native frames in, one write per next hop out.

What a plain frame costs (CPython 3.11, profiled at 256 B): unpack of three lengths 70 ns, key slice 45 ns, one
dictionary look-up 60 ns, the loop's arithmetic 90 ns; a change of next hop adds a slice, an append and two counters,
170 ns. Frames that follow each other to the same flow leave as one slice of the read, and a read that holds nothing
else leaves as the very object that came in; from the third on they are told by comparing the key where it lies, which
saves the slice and the look-up, 80 ns. Lessons kept from profiling: a call per run costs 120 ns, so closing a run
stands in the loop; an `int.from_bytes` per length costs more than one `unpack_from` for all three; a counter per frame
on the flow costs 35 ns, so runs are counted; `memoryview` slices are dearer than `bytes` slices below 1 KiB; joining a
read of 200 KB to the tail before it costs 15 us.

A thread's sequence is written into a copy of the read, made when its first threaded frame is met, so that threaded
frames form runs too (slicing around each number cost 0.5 us a frame). The copy belongs to this read alone and is
joined into bytes before anything is written: no transport ever sees a buffer that could change.

Only three things here look at a frame beyond its key: the lengths (a frame may not reach into its neighbour),
extension fields (they are outside the key, so they are checked frame by frame) and special flows.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from skep.protocol import limits
from skep.protocol.codes import CloseReason
from skep.protocol.header import FIELDS_START, KEY_START

if TYPE_CHECKING:
    from skep_router.core import Core
    from skep_router.flow import Flow
    from skep_router.link import Link
    from skep_router.thread import Thread

_lengths = struct.Struct("<IHH").unpack_from  # frame_bytes, key_end, body_start
_seq = struct.Struct("<Q").pack
_put_seq = struct.Struct("<Q").pack_into
_SEQ_AT, _SEQ_END = 48, 56
_HIGH, _MOST = limits.QUEUE_BYTES_HIGH, limits.FRAME_BYTES_MAX
_NO_RUN = -1  # no frame's key ends there; a frame of zero lengths says 0
_JOINED_MOST = 16 << 10  # copying less than this is cheaper than avoiding it


def forward(core: Core, link: Link, data: bytes, now: int) -> None:
    """Forward every whole frame of `tail + data`; what is left over becomes the link's tail."""
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
        link.account.bytes += size
        core.finish(link, accepted, now)
    if tail:
        _keep_tail(core, link, tail, now)


def _walk(core: Core, link: Link, data: bytes, pos: int, now: int) -> tuple[int, int]:
    """Give every whole frame from `pos` on to its hop's batch. -> where it stopped, how many were accepted

    After two frames of one flow the next is recognised by its key where it lies: no slice, no look-up. Not after one:
    traffic that is interleaved over destinations would pay for a comparison that fails each time."""
    find, again = link.flows.get, data.startswith
    touched = core.touched
    size, start = len(data), pos
    last_start = size - FIELDS_START
    count = accepted = 0
    key, run_key_end = b"", _NO_RUN
    none = last = core.no_flow  # a miss looks like None, so the absence of a run cannot
    thread: Thread | None = None
    source: bytes | memoryview = data
    copy = bytearray()
    while pos <= last_start:
        frame_bytes, key_end, body_start = _lengths(data, pos)
        end = pos + frame_bytes
        if end > size:
            break
        if key_end == run_key_end == body_start <= frame_bytes <= _MOST and again(key, pos + KEY_START):
            count += 1
            if thread is not None:
                thread.seq = seq = thread.seq + 1
                _put_seq(copy, pos + _SEQ_AT, seq)
            pos = end
            continue
        flow = find(key := data[pos + KEY_START:pos + key_end])
        odd = not key_end == body_start <= frame_bytes <= _MOST
        if flow is last and not odd:
            count += 1
            run_key_end = key_end  # two in a row: look for more of them first
            if thread is not None:
                thread.seq = seq = thread.seq + 1
                _put_seq(copy, pos + _SEQ_AT, seq)
            pos = end
            continue
        if count:  # close_run, spelled out
            hop: Link = last.hop  # type: ignore[assignment]  # a plain flow has a hop
            if hop.batch is None:
                hop.batch = []
                touched.append(hop)
            hop.batch.append(run := source[start:pos])
            hop.batch_frames += count
            last.frames += count
            if last.extra:
                core.attend(last, run)
            accepted += count
        if flow is not None and flow.plain and not odd:
            last, start, count, thread, run_key_end = flow, pos, 1, flow.thread, _NO_RUN
            if thread is not None:
                if not copy:
                    copy = bytearray(data)
                    source = memoryview(copy)
                _put_seq(copy, pos + _SEQ_AT, thread.next_seq())
        else:
            last, count, run_key_end = none, 0, _NO_RUN
            taken = _single(core, link, None if odd else flow, data, pos, end, now)
            accepted += max(taken, 0)
            if taken < 0 or link.closed:
                break
        pos = end
    if count:
        large = source is data and pos - start > _JOINED_MOST
        close_run(core, last, (memoryview(data) if large else source)[start:pos], count)  # copied where it is joined
    return pos, accepted + count


def _single(core: Core, link: Link, flow: Flow | None, data: bytes, pos: int, end: int, now: int) -> int:
    """A frame that cannot be part of a run. -> frames accepted, or less than 0: this frame and the rest must wait."""
    if flow is None:
        return core.exceptional(link, data, pos, end, now)
    special(core, flow, data, pos, end, now)
    return 1


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
                CloseReason.FRAME_TOO_LARGE if frame_bytes > limits.FRAME_BYTES_MAX else CloseReason.FRAME_INVALID,
                f"a frame says it has {frame_bytes} bytes; {FIELDS_START} to {limits.FRAME_BYTES_MAX} are accepted",
                now,
            )


def close_run(core: Core, flow: Flow, run: bytes | memoryview, count: int) -> None:
    """Give a run of frames of one plain flow to its hop's batch."""
    hop = flow.hop
    assert hop is not None  # a plain flow has a hop
    if hop.batch is None:
        hop.batch = [run]
        core.touched.append(hop)
    else:
        hop.batch.append(run)
    hop.batch_frames += count
    flow.frames += count
    if flow.extra:
        core.attend(flow, run)


def special(core: Core, flow: Flow, data: bytes, pos: int, end: int, now: int) -> None:
    """One frame of a flow that wants more than copying, or one that came outside its run."""
    flow.frames += 1
    hop = flow.hop
    if hop is None:
        return  # a static DROP: silent, counted by its flow
    if flow.group is not None:
        hop = core.next_member(flow)
    frame = data[pos:end]
    if flow.thread is not None:
        frame = frame[:_SEQ_AT] + _seq(flow.thread.next_seq()) + frame[_SEQ_END:]
    if flow.extra:
        core.attend(flow, frame)
    if not hop.ordinary or flow.sampled:
        translated = core.decorate(flow, hop, frame, now)
        if translated is None:
            return
        frame = translated
    if hop.batch is None:
        hop.batch = [frame]
        core.touched.append(hop)
    else:
        hop.batch.append(frame)
    hop.batch_frames += 1


def finish(core: Core, link: Link, accepted: int, now: int) -> None:
    """End of a read: one write per touched hop, one ticket for all of it."""
    link.accepted += accepted
    touched = core.touched
    deliveries = 0
    for hop in touched:
        deliveries += hop.batch_frames
    ticket = link.open_ticket(deliveries)
    charged = 0
    for hop in touched:
        batch: list[bytes | memoryview] = hop.batch  # type: ignore[assignment]  # touched means that it has one
        frames = hop.batch_frames
        hop.batch = None
        hop.batch_frames = hop.batch_bytes = 0
        piece = batch[0]
        if len(batch) > 1 or type(piece) is not bytes:
            piece = b"".join(batch)
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
