"""Frames inside a piece: where each begins and ends. The router has cut these pieces itself, so nothing is checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_frame_bytes = struct.Struct("<I").unpack_from


def frames_of(piece: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each native frame in a piece that the router itself has cut."""
    pos, size = 0, len(piece)
    while pos < size:
        end = pos + _frame_bytes(piece, pos)[0]
        yield pos, end
        pos = end
