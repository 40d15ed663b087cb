"""What the registrar ever did: an append-only journal in which every line vouches for all lines before it.

Owns `state/degrees/history` and its copy `history.bak`. A line is the SHA-256 of (the previous line's digest, the
event's bytes), a space, and the event as JSON. So a line that was changed, taken out or put in between breaks the chain
there. An event is synced before anything else happens because of it. Keys, revocations and graduations are what the
events say; the public key file and the agents' folders are only their image, and are written anew from here.

At start a torn last line is dropped: nobody was told of it. A chain that breaks elsewhere is a damaged file; the copy
then stands in if it tells at least as much. Without one the registrar does not start: revocations may be missing, and
a registrar that forgets them would bless what was forbidden.

Rejected: going on after a damaged line, as the journal of bindings does (a lost binding is a nuisance, a lost
revocation is not).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from skep_nodes.degrees.refusal import DegreeRefusal
from skep_nodes.degrees.shelf import make_folder
from skep_nodes.sy.durable import Disk, StoreBroken, replace_file, write_all

EVENTS_MAX = 100_000  # about 80 MB; a graduation every hour for eleven years
LINE_BYTES_MAX = 8192
_START = "0" * 64


class HistoryDamaged(Exception):
    """Neither the journal nor its copy can be trusted; says where it breaks."""


@dataclass(slots=True)
class Told:
    """What one file tells: its events, the digest of the last, and how much of the file is whole."""

    events: list[dict[str, Any]] = field(default_factory=list)
    digest: str = _START
    whole_bytes: int = 0
    damage: str = ""


class History:
    """The journal; after one failed write or sync it takes no event until a restart."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self.copy = path, path.with_name(path.name + ".bak")
        self._disk = disk or Disk()
        self._fd = self._copy_fd = -1
        self._told = Told()
        self._broken = ""
        self.warnings: list[str] = []

    def open(self) -> list[dict[str, Any]]:
        """Every event, oldest first. Raises HistoryDamaged, OSError, StoreBroken."""
        make_folder(self._disk, self.path.parent)
        data = self._trusted()
        self._told = replay(data)
        for path in (self.path, self.copy):
            if not path.exists() or path.read_bytes() != data:
                replace_file(self._disk, path, data)
        self._fd, self._copy_fd = self._disk.open_append(self.path), self._disk.open_append(self.copy)
        return self._told.events

    def read(self) -> list[dict[str, Any]]:
        """Every event, oldest first; nothing is written. Raises HistoryDamaged, OSError."""
        return replay(self._trusted()).events

    @property
    def events(self) -> list[dict[str, Any]]:
        """All there are, oldest first."""
        return self._told.events

    def append(self, event: dict[str, Any]) -> None:
        """Make one event durable. Raises DegreeRefusal HISTORY_FULL, StoreBroken."""
        if self._broken:
            raise StoreBroken(self._broken)
        line, digest = line_of(self._told.digest, event)
        if len(self._told.events) >= EVENTS_MAX or len(line) > LINE_BYTES_MAX:
            raise DegreeRefusal("HISTORY_FULL", f"{EVENTS_MAX} events of {LINE_BYTES_MAX} bytes at most; put "
                                f"{self.path.name} aside, rotate the key and graduate the agents again")  # fmt: skip
        self._write(line)
        self._told.digest = digest
        self._told.events.append(event)

    def close(self) -> None:
        """Release the files."""
        for fd in (self._fd, self._copy_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._copy_fd = -1

    def _write(self, line: bytes) -> None:
        try:
            write_all(self._disk, self._fd, line)
            self._disk.fsync(self._fd)
        except OSError as error:
            self._broken = f"{self.path.name} could not be written ({error.strerror}); free space, then restart"
            raise StoreBroken(self._broken) from error
        with suppress(OSError):  # the copy is best effort: the event is safe already, and start repairs the copy
            write_all(self._disk, self._copy_fd, line)

    def _trusted(self) -> bytes:
        """The bytes to go on from."""
        own, own_data = _read(self.path)
        copy, copy_data = _read(self.copy)
        if not own.damage and len(own.events) >= len(copy.events):
            return own_data[: own.whole_bytes]
        if not copy.damage and len(copy.events) >= len(own.events):
            what = own.damage or f"{self.path.name} has {len(own.events)} events, its copy {len(copy.events)}"
            self.warnings.append(f"{what}; using the copy {self.copy.name}")
            return copy_data[: copy.whole_bytes]
        raise HistoryDamaged(
            f"{own.damage}, and {copy.damage or self.copy.name + ' tells less'}: restore both from a backup"
        )


def replay(data: bytes, name: str = "history") -> Told:
    """Read a journal's bytes; never raises on damage."""
    told = Told()
    lines = data.split(b"\n")
    lines.pop()  # empty, or torn: never acknowledged
    for number, line in enumerate(lines, 1):
        body = line[65:]
        digest = _digest(told.digest, body)
        if line[:65] != digest.encode() + b" ":
            told.damage = f"{name}, line {number}: the chain breaks"
            return told
        told.events.append(orjson.loads(body))
        told.digest = digest
        told.whole_bytes += len(line) + 1
    return told


def line_of(previous: str, event: dict[str, Any]) -> tuple[bytes, str]:
    """One line after the line with digest `previous`, and its digest."""
    body = orjson.dumps(event)
    digest = _digest(previous, body)
    return digest.encode() + b" " + body + b"\n", digest


def _digest(previous: str, body: bytes) -> str:
    return sha256(previous.encode() + body).hexdigest()


def _read(path: Path) -> tuple[Told, bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    return replay(data, path.name), data
