"""What an operator reads: one JSON object a line on stderr, never per message, never more than LINES_PER_S."""
from __future__ import annotations

import sys
import time

import orjson

LINES_PER_S = 10  # a flood of bad connections must not fill a disk; what was left out is counted in the next line


class Log:
    """Rate-limited. Keys and values are facts; secrets never reach it, because nothing here is handed one."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def write(self, event: str, **facts: object) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= LINES_PER_S:
            self._left_out += 1
            return
        self._lines += 1
        if self._left_out:
            facts["left_out"] = self._left_out
            self._left_out = 0
        line = orjson.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts})
        sys.stderr.buffer.write(line + b"\n")
        sys.stderr.buffer.flush()
