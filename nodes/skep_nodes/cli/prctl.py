"""What the kernel is asked about a process: whose orphans it takes, with whom it dies, what `ps` shows of it.

A process that was forked has the command line of the one it was forked from, and nobody could tell the children of
`skep up` apart. The words of a command line stand in the process's own memory, where the kernel reads them for `ps`;
so they are written over, within the room that there is, after a look that they stand where the kernel says.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from pathlib import Path

_PDEATHSIG, _NAME, _CHILD_SUBREAPER = 1, 15, 36
_ARG_START, _ARG_END = 45, 46  # fields 48 and 49 of stat(5), counted after the command in brackets
_libc = ctypes.CDLL(None, use_errno=True)


def take_orphans(*, ours: bool) -> None:
    """Whether what our children leave behind becomes ours. Raises OSError."""
    _prctl(_CHILD_SUBREAPER, int(ours))


def die_with_parent() -> None:
    """A SIGTERM when the parent dies; not if it is dead already."""
    _prctl(_PDEATHSIG, int(signal.SIGTERM))


def show_as(name: str, words: Sequence[str]) -> None:
    """From now on `ps` shows this name (15 bytes) and this command line, as much as there is room for."""
    short = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(_NAME, short, 0, 0, 0)
    room = _room()
    if room is not None:
        start, size = room
        text = b"\0".join(os.fsencode(word) for word in words)[: size - 1]
        ctypes.memmove(start, text.ljust(size, b"\0"), size)


def _room() -> tuple[int, int] | None:
    """Where our command line stands and how long it may be; None where a kernel does not say so."""
    try:
        facts = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        shown = Path("/proc/self/cmdline").read_bytes()
        start, size = int(facts[_ARG_START]), int(facts[_ARG_END]) - int(facts[_ARG_START])
    except (OSError, IndexError, ValueError):
        return None
    there = start > 0 and size == len(shown) and ctypes.string_at(start, size) == shown
    return (start, size) if there else None


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
