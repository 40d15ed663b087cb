"""Frames of equal lengths, a block at a time.

What follows in a stream often has the length of what came before: tokens of an answer, samples, heartbeats, a queue
being drained. Then the places of lengths and keys are known without walking from frame to frame, and one call of a
compiled `struct` cuts the keys of a whole block, another the frames: 25 and 35 ns each where the walk pays 250 and more
(CPython 3.11, 384-byte frames). Nothing is believed: a block counts only if all its lengths are the same eight bytes.

Rejected: blocks of every read whatever its lengths (there is no way to find boundaries but to walk them); columns cut
with strided slices instead of a `struct` for the lengths (20 ns a frame less, eight slices and a loop more).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from skep.protocol import limits
from skep.protocol.header import FIELDS_START, KEY_START

BLOCK: Final = (
    32  # frames; fewer are walked: half of this costs a third more a frame, twice as much gains a tenth
)
_KNOWN_MOST = 256  # shapes remembered; making one costs 40 us, as much as walking three blocks
_LENGTHS = 8  # bytes: frame_bytes (4), key_end (2), body_start (2)
_SEQ_AT = 48  # thread_seq, 8 bytes
_lengths = struct.Struct("<IHH").unpack

Cut = Callable[[bytes, int], tuple[bytes, ...]]


class Stretch:
    """Cuts blocks of frames that all have these lengths. `size`: bytes of a block."""

    __slots__ = ("_heads", "_same", "_stride", "frames", "keys", "size")

    def __init__(self, head: bytes) -> None:
        stride, key_end, _ = _lengths(head)
        self._stride: int = stride
        self.size = BLOCK * stride
        self._same = (int.from_bytes(head, "little"),) * BLOCK
        self._heads = struct.Struct("<" + f"Q{stride - _LENGTHS}x" * BLOCK).unpack_from
        key = f"{KEY_START}x{key_end - KEY_START}s{stride - key_end}x"
        self.keys: Cut = struct.Struct("<" + key * BLOCK).unpack_from
        self.frames: Cut = struct.Struct("<" + f"{stride}s" * BLOCK).unpack_from

    def is_at(self, data: bytes, pos: int) -> bool:
        """Whether a whole block of these lengths lies at `pos`."""
        return pos + self.size <= len(data) and self._heads(data, pos) == self._same

    def count(self, size: int) -> int:
        """Frames in `size` bytes."""
        return size // self._stride

    def numbered(self, run: bytes, numbers: range) -> bytes:
        """A copy of a run whose frames have these thread sequences: written by columns of bytes, 40 ns a frame."""
        copy, stride = bytearray(run), self._stride
        packed = struct.pack(f"<{len(numbers)}Q", *numbers)
        for byte in range(8):
            copy[_SEQ_AT + byte :: stride] = packed[byte::8]
        return bytes(copy)


_known: dict[bytes, Stretch | None] = {}


def stretch_at(data: bytes, pos: int, frame_bytes: int) -> Stretch | None:
    """The shape of the frame at `pos`, if a block's last frame would have the same lengths and could be plain."""
    last = pos + (BLOCK - 1) * frame_bytes
    if last + frame_bytes > len(data) or not data.startswith(head := data[pos : pos + _LENGTHS], last):
        return None
    try:
        return _known[head]
    except KeyError:
        return _learn(head)


def _learn(head: bytes) -> Stretch | None:
    if len(_known) >= _KNOWN_MOST:
        _known.clear()
    frame_bytes, key_end, body_start = _lengths(head)
    plain = FIELDS_START <= key_end == body_start <= frame_bytes <= limits.FRAME_BYTES_MAX
    _known[head] = made = Stretch(head) if plain else None
    return made
