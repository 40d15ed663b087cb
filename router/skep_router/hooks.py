"""The core's ways out, besides its links' ports: a directory, a recorder, an enricher. And its counters.

Each hook is one question or one piece of news; the shell gives the real ones (regions in shared memory), a simulation
gives lists.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from skep.protocol.codes import CloseReason
    from skep_router.link import Link


class Directory(Protocol):
    """Publishes who is here (the node table)."""

    def joined(self, link: Link) -> int:
        """-> the slot under which `left` will find it again."""

    def left(self, slot: int) -> None: ...


class Recorder(Protocol):
    """Takes hop records of sampled messages, and the hive's events."""

    def hop(self, kind: int, frame: bytes, source_name: str, dest: bytes, dest_name: str, code: str) -> None: ...
    def event(self, kind: int, link_uuid: bytes, link_name: str, code: str, detail: str) -> None: ...


class Enricher(Protocol):
    """Gives JSON peers the memory package of a thread; SDK peers read it themselves, lazily."""

    def memory(self, thread: bytes) -> dict[str, object] | None: ...


class Log(Protocol):
    """What an operator should read. Never called per message."""

    def closed(self, link: Link, reason: CloseReason, detail: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    directory: Directory
    recorder: Recorder
    log: Log
    doorbell: Callable[[int], None]  # a region's owner says that its revision has moved
    enricher: Enricher | None = None


@dataclass(slots=True)
class Counters:
    """What flows do not count themselves. One list for every counter: `statistics()` is all of them."""

    joined: int = 0
    left: int = 0
    replaced: int = 0
    refused: int = 0  # messages that were told why they did not go
    abandoned: int = 0  # messages that a dead consumer took with it, reported
    misses: int = 0
    broadcasts: int = 0
    loops_suppressed: int = 0
    bad_frames: int = 0
    hello_refused: int = 0
    tapped: int = 0
    tap_lost: int = 0
    translated: int = 0
    unsealed: int = 0  # decisions in which an agent's node had no valid seal
    told: int = 0  # decisions handed to the decision log

    def statistics(self) -> dict[str, int]:
        return asdict(self)
