"""Bindings on disk: a journal that only grows, each line with its own checksum.

Owns `state/sy-threads.journal`. A bind or unbind is one line, written and synced before it is acknowledged. At
start the lines are replayed; a torn last line was never acknowledged and is dropped, a damaged line elsewhere is
copied to `….damaged` and said loudly, and all other lines still count. When the journal holds many more lines
than bindings it is replaced by a fresh one, atomically.

Leases are CLOCK_BOOTTIME, which restarts with the machine; a line therefore names the boot it was written in, and
after a reboot a lease starts again at full length. Wall time decides nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from skep.protocol.limits import THREADS_MAX
from skep_nodes.sy.durable import Disk, StoreBroken, replace_file, write_all
from skep_nodes.sy.thread_table import Bound, thread_digest

FILE_NAME = "sy-threads.journal"
LINE_BYTES_MAX = 4096
# Rewriting costs one pass over the live bindings, so let the journal grow to a multiple of them first.
COMPACT_FACTOR, COMPACT_MIN_LINES = 4, 1024


@dataclass(slots=True)
class Restored:
    """What a replay found."""

    bindings: dict[bytes, Bound] = field(default_factory=dict)
    line_count: int = 0
    damaged: list[bytes] = field(default_factory=list)
    is_torn: bool = False


class ThreadJournal:
    """Appends changes durably; after one failed write or fsync it refuses all others until a restart."""

    def __init__(self, folder: Path, boot_id: str, disk: Disk | None = None) -> None:
        self.path = folder / FILE_NAME
        self._boot_id, self._disk = boot_id, disk or Disk()
        self._fd = -1
        self._lines = 0
        self._broken = ""

    def open(self, now_ns: int) -> Restored:
        """Replay what is there, then start a clean journal that holds exactly the live bindings."""
        data = self.path.read_bytes() if self.path.exists() else b""
        restored = replay(data, self._boot_id, now_ns)
        if restored.damaged:
            self._quarantine(restored.damaged)
        self._start_fresh(list(restored.bindings.values()))
        return restored

    def bind(self, bound: Bound) -> None:
        """Make one binding durable. Raises OSError, StoreBroken."""
        self._append(_line(_facts(bound, self._boot_id)))

    def unbind(self, bound: Bound) -> None:
        """Make one unbinding durable. Raises OSError, StoreBroken."""
        self._append(_line({"op": "unbind", "thread_id": bound.thread_id}))

    def compact_if_long(self, bindings: list[Bound]) -> bool:
        """Replace a journal that is mostly history."""
        if self._lines < max(COMPACT_MIN_LINES, COMPACT_FACTOR * len(bindings)):
            return False
        self._start_fresh(bindings)
        return True

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        if self._broken:
            raise StoreBroken(self._broken)
        try:
            write_all(self._disk, self._fd, line)
            self._disk.fsync(self._fd)
        except OSError as error:
            self._broken = (
                f"the journal of bindings could not be written ({error.strerror}); free space and restart"
            )
            self.close()
            raise StoreBroken(self._broken) from error
        self._lines += 1

    def _start_fresh(self, bindings: list[Bound]) -> None:
        replace_file(
            self._disk, self.path, b"".join(_line(_facts(bound, self._boot_id)) for bound in bindings)
        )
        self.close()
        self._fd = self._disk.open_append(self.path)
        self._lines = len(bindings)

    def _quarantine(self, damaged: list[bytes]) -> None:
        with open(self.path.with_name(FILE_NAME + ".damaged"), "ab") as file:
            file.write(b"".join(line + b"\n" for line in damaged))


def replay(data: bytes, boot_id: str, now_ns: int) -> Restored:
    """Read a journal's bytes; never raises on damage."""
    restored = Restored()
    lines = data.split(b"\n")
    restored.is_torn = lines.pop() != b""
    for line in lines:
        facts = _facts_of(line)
        if facts is None:
            restored.damaged.append(line[:LINE_BYTES_MAX])
            continue
        restored.line_count += 1
        _carry_out(restored.bindings, facts, boot_id, now_ns)
    return restored


def _carry_out(bindings: dict[bytes, Bound], facts: dict[str, Any], boot_id: str, now_ns: int) -> None:
    thread = thread_digest(facts["thread_id"])
    bindings.pop(thread, None)
    if facts["op"] == "bind" and len(bindings) < THREADS_MAX:
        bound = _bound(facts, thread, boot_id, now_ns)
        if not bound.lease_until_ns or bound.lease_until_ns > now_ns:
            bindings[thread] = bound


def _bound(facts: dict[str, Any], thread: bytes, boot_id: str, now_ns: int) -> Bound:
    lease_s, until = int(facts["lease_s"]), int(facts["lease_until_ns"])
    if lease_s and facts["boot_id"] != boot_id:
        until = now_ns + lease_s * 1_000_000_000
    return Bound(
        facts["thread_id"], thread, facts["handler"], lease_s, until, facts["reason"], facts["bound_by"]
    )


def _facts(bound: Bound, boot_id: str) -> dict[str, Any]:
    return {
        "op": "bind",
        "thread_id": bound.thread_id,
        "handler": bound.handler,
        "lease_s": bound.lease_s,
        "lease_until_ns": bound.lease_until_ns,
        "boot_id": boot_id,
        "reason": bound.reason,
        "bound_by": bound.bound_by,
    }


def _line(facts: dict[str, Any]) -> bytes:
    body = json.dumps(facts, ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(body), body)


def _facts_of(line: bytes) -> dict[str, Any] | None:
    """The facts of one line, or None when its checksum does not fit."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % crc32(body):
        return None
    facts = json.loads(body)
    return facts if isinstance(facts, dict) else None
