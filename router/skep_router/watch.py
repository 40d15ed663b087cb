"""The router's side of shared memory: it publishes who is here, and follows configuration and thread bindings; policy
and identity have watchers of their own, which this one takes along.

A revision word is one load from memory, so the shell looks at both in every tick; a doorbell only makes it look now.
A reader that fails (no region yet, its writer died in the middle, an overrun of the change ring, no descriptor left to
open it with) changes nothing: the core goes on with the last valid configuration, and the next tick tries again.
"""
from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from os.path import exists
from pathlib import Path

from skep.protocol.codes import CloseReason
from skep_router.core import Core
from skep_router.link import Link
from skep_router.log import Log
from skep_router.watch_identity import IdentityWatcher
from skep_router.watch_policy import PolicyWatcher
from skep_shm import (
    Binding,
    ConfigReader,
    NodeRecord,
    NodesWriter,
    Record,
    RecordsWriter,
    RegionError,
    ThreadsReader,
    region_path,
)

_RETRY_NS = 50_000_000  # between two attempts to attach a region that is not there
_HEARTBEAT_NS = 1_000_000_000
KIND_NODE_JOINED, KIND_NODE_LEFT, KIND_LINK_CLOSED, KIND_CONFIG, KIND_BINDING = 5, 6, 7, 8, 9


class NodeTable:
    """`hooks.Directory` on the nodes region."""

    def __init__(self, root: Path, uuid: bytes, name: str, hive: str) -> None:
        self._writer = NodesWriter.create(root, uuid, name, hive)
        self._beat_at = 0
        self._log = Log()

    def joined(self, link: Link) -> int:
        """-> its slot; -1 when the table cannot grow now (no descriptor, no memory): the node works, unlisted."""
        try:
            return self._writer.add(NodeRecord(
                uuid=link.uuid, name=link.name, uid=link.uid, pid=link.pid, vpn_id=link.vpn_id,
                framing=1 if link.native else 0, connected_at_ms=time.time_ns() // 1_000_000,
                tenant=link.tenant or bytes(16), ilk=bytes(16), flags=1,
            ))
        except (RegionError, OSError) as error:
            self._log.write("node not listed", name=link.name, reason=str(error), hint="free memory or descriptors")
            return -1

    def left(self, slot: int) -> None:
        self._writer.remove(slot)

    def heartbeat(self, now: int) -> bool:
        """-> whether a beat was due: other work of once a second goes with it."""
        if now < self._beat_at:
            return False
        self._beat_at = now + _HEARTBEAT_NS
        self._writer.heartbeat(now)
        return True

    def close(self) -> None:
        self._writer.close()


class RecordRing:
    """`hooks.Recorder` and `hooks.Log` on the records region."""

    def __init__(self, root: Path, uuid: bytes, log: Log) -> None:
        self._writer = RecordsWriter.create(root, uuid)
        self._log = log

    def hop(self, kind: int, frame: bytes, source_name: str, dest: bytes, dest_name: str, code: str) -> None:
        self._append(
            kind, frame[24:40], int.from_bytes(frame[8:16], "little"), frame[72:88], source_name, dest, dest_name,
            code, "",
        )

    def event(self, kind: int, link_uuid: bytes, link_name: str, code: str, detail: str) -> None:
        self._append(kind, bytes(16), 0, link_uuid, link_name, bytes(16), "", code, detail)

    def closed(self, link: Link, reason: CloseReason, detail: str) -> None:
        self.event(KIND_LINK_CLOSED, link.uuid, link.name, reason.name, detail)
        self._log.write("link closed", name=link.name, uid=link.uid, reason=reason.name, detail=detail)

    def _append(
        self, kind: int, trace: bytes, message_id: int, source: bytes, source_name: str, dest: bytes, dest_name: str,
        code: str, detail: str,
    ) -> None:
        self._writer.append(Record(
            kind=kind, at_ms=time.time_ns() // 1_000_000, mono_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            trace_id=trace, message_id=message_id, source=source, source_name=source_name, dest=dest or bytes(16),
            dest_name=dest_name, code=code, detail=detail,
        ))

    def heartbeat(self, now: int) -> None:
        self._writer.heartbeat(now)

    def close(self) -> None:
        self._writer.close()


class Watcher:
    """Follows the regions that others write. `look` is called every tick, and costs five loads when nothing moved."""

    def __init__(self, root: Path, core: Core, log: Log) -> None:
        self._root = root
        self._threads_anchor = region_path(root, "threads")
        self._log = log
        self._core = core
        self._config: ConfigReader | None = None
        self._threads: ThreadsReader | None = None
        self._config_seen = self._threads_seen = -1
        self._slots: dict[int, Binding] = {}
        self._bound: dict[bytes, int] = {}  # thread -> slot
        self._retry_at = 0
        self._pool = ThreadPoolExecutor(1, "skep-load")  # one at a time: what waits is started anew by the next look
        self._identity = IdentityWatcher(root, core, log, self._pool)
        self._policy = PolicyWatcher(root, core, log, self._pool, self._identity)

    def look_again(self, now: int) -> None:
        """A doorbell: somebody's region is there, or has moved."""
        self._retry_at = 0
        self.look(now)

    def look(self, now: int) -> None:
        self._identity.look(now)
        self._policy.look(now)
        if self._config is None or self._threads is None:
            self._attach(now)
        if self._config is not None and self._config.revision != self._config_seen:
            self._read_config(self._config, now)
        if self._threads is not None and self._threads.revision != self._threads_seen:
            self._read_threads(self._threads, now)

    def _attach(self, now: int) -> None:
        if now < self._retry_at:
            return
        self._retry_at = now + _RETRY_NS
        try:
            if self._config is None:
                self._config = ConfigReader.attach(self._root)
            if self._threads is None and exists(self._threads_anchor):
                self._threads = ThreadsReader.attach(self._root)
        except (RegionError, OSError):
            return  # not there yet, or not fit to be read: the core stays as it is, NOT_READY or on its last state

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._policy.close()
        self._identity.close()

    def _read_config(self, reader: ConfigReader, now: int) -> None:
        revision = reader.revision
        try:
            state = reader.read()
        except (RegionError, OSError):
            self._config = None
            return
        self._config_seen = revision
        self._core.configure(state, now)

    def _read_threads(self, reader: ThreadsReader, now: int) -> None:
        """Follow the change ring; after an overrun, or for the first time, read the whole table."""
        revision = reader.revision
        try:
            changes = reader.changes(self._threads_seen) if self._threads_seen >= 0 else None
            slots = set(reader.slots()) | set(self._slots) if changes is None else {change.slot for change in changes}
            found = {slot: reader.get(slot) for slot in slots}
        except (RegionError, OSError):
            self._threads = None
            self._threads_seen = -1
            return
        self._threads_seen = revision
        self._apply(found, now)

    def _apply(self, found: dict[int, Binding | None], now: int) -> None:
        """What the slots hold now, against what they held: a thread that moved to another slot has not gone."""
        changed, left = [], []
        for slot, binding in found.items():
            before = self._slots.pop(slot, None)
            if binding is not None:
                self._slots[slot] = binding
                self._bound[binding.thread] = slot
                changed.append(binding)
            if before is not None and (binding is None or binding.thread != before.thread):
                left.append((slot, before.thread))
        gone = [thread for slot, thread in left if self._bound.get(thread) == slot]
        for thread in gone:
            del self._bound[thread]
        try:
            self._core.bindings(changed, gone, now)
        except ValueError as error:  # more bindings than the region's owner may publish: it is not to be believed
            self._log.write("thread bindings refused", reason=str(error), hint="run: skep shm check")
