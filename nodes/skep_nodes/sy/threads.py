"""SY.threads: the node that owns which conversation is bound to whom. `python -m skep_nodes.sy.threads --hive
ROOT`.

This is the shell around `ThreadTable` and `ThreadJournal`. A bind or unbind is checked, written and synced,
published in the threads region, and only then acknowledged: what was acknowledged survives a kill -9 and a
reboot, and whoever hears the answer finds the region changed. Verbs: THREAD_BIND, THREAD_UNBIND, THREAD_GET,
THREAD_LIST. Who asks is looked up in the routers' node tables by the source uuid that the router vouches for
(`standing`); what each may do, `ThreadTable` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from skep import Hive, Message, Node
from skep_nodes.sy.durable import StoreBroken
from skep_nodes.sy.standing import FindSender, Sender, sender_of
from skep_nodes.sy.system_node import beat, boottime_ns, hive_of_arguments, ring_doorbell, say
from skep_nodes.sy.thread_journal import ThreadJournal
from skep_nodes.sy.thread_table import Bound, ThreadRefusal, ThreadTable, thread_digest
from skep_shm import Binding, RegionError, RegionKind, ThreadsReader, ThreadsWriter

NAME = "SY.threads"
LIST_MAX = (
    500  # bindings in one answer: far below a frame's limit; `skep thread ls` reads them all from the region
)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Verb = Callable[[dict[str, Any], Sender, int], dict[str, Any]]


class Threads:
    """The node: table, journal and region, joined."""

    def __init__(self, hive: Hive) -> None:
        self.table = ThreadTable(hive.hive_id)
        self.find_sender: FindSender = partial(sender_of, hive.root)
        self.journal = ThreadJournal(hive.state_dir, BOOT_ID.read_text().strip())
        self.region = ThreadsWriter.create(hive.root, hive.hive_id)
        self._restore(hive.root)
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        verbs: dict[str, Verb] = {
            "THREAD_BIND": self.bind, "THREAD_UNBIND": self.unbind, "THREAD_GET": self.get, "THREAD_LIST": self.list,
        }  # fmt: skip
        for verb, carry_out in verbs.items():
            self.node.on_system(verb)(self._handler(carry_out))

    def _restore(self, root: Path) -> None:
        """Bring the region that a crash left in line with the journal, which alone says what was acknowledged.

        What is right already is not touched, so routers never see a bound thread unbound for a moment.
        """
        restored = self.journal.open(boottime_ns())
        if restored.damaged:
            say(NAME, f"WARNING {len(restored.damaged)} damaged lines of the journal were set aside")
        published = self._published(root)
        for bound in restored.bindings.values():
            if published.get(bound.thread) != (bound.handler, bound.lease_until_ns):
                self._publish(bound)
            self.table.put(bound)
        for thread in published.keys() - restored.bindings.keys():
            self.region.unbind(thread)

    @staticmethod
    def _published(root: Path) -> dict[bytes, tuple[str, int]]:
        reader = ThreadsReader.attach(root)
        try:
            return {each.thread: (each.handler, each.lease_until_ns) for each in reader.all()}
        finally:
            reader.close()

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.region.close()
            self.journal.close()

    async def _start(self) -> None:
        self._tasks.add(asyncio.create_task(beat(self.region.heartbeat, self.expire)))
        ring_doorbell(self.node, RegionKind.THREADS)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _handler(self, carry_out: Verb) -> Callable[[Message], Any]:
        async def handle(message: Message) -> dict[str, Any]:
            try:
                payload = message.payload
                if not isinstance(payload, dict):
                    raise ThreadRefusal("INVALID_PAYLOAD", "the payload must be an object")
                return carry_out(payload, self.find_sender(message.source), boottime_ns())
            except ThreadRefusal as refusal:
                return {"status": "error", "error_code": refusal.code, "error_detail": refusal.detail}
            except ValueError as error:
                return {"status": "error", "error_code": "INVALID_PAYLOAD", "error_detail": str(error)}
            except (OSError, StoreBroken) as error:
                return {"status": "error", "error_code": "PERSIST_FAILED", "error_detail": str(error)}
            except RegionError as error:
                return {"status": "error", "error_code": "APPLY_FAILED", "error_detail": str(error)}

        return handle

    # -- verbs -------------------------------------------------------------------------------------------------

    def bind(self, payload: dict[str, Any], sender: Sender, now_ns: int) -> dict[str, Any]:
        """THREAD_BIND."""
        bound = self.table.prepare_bind(payload, sender, now_ns)
        before = self.table.find(bound.thread, now_ns)
        self.journal.bind(bound)
        try:
            self._publish(bound)
        except RegionError:  # what is refused must leave no trace
            self.journal.bind(before) if before else self.journal.unbind(bound)
            raise
        self.table.put(bound)
        ring_doorbell(self.node, RegionKind.THREADS)
        self._compact(now_ns)
        return {"status": "ok", "revision": self.table.revision, **self._shown(bound)}

    def unbind(self, payload: dict[str, Any], sender: Sender, now_ns: int) -> dict[str, Any]:
        """THREAD_UNBIND; a thread that is not bound is answered ok, because that is what was asked for."""
        bound = self.table.prepare_unbind(payload, sender, now_ns)
        if bound is not None:
            self._remove(bound)
            ring_doorbell(self.node, RegionKind.THREADS)
        return {"status": "ok", "revision": self.table.revision, "was_bound": bound is not None}

    def get(self, payload: dict[str, Any], sender: Sender, now_ns: int) -> dict[str, Any]:
        """THREAD_GET."""
        bound = self.table.look_up(thread_digest(payload.get("thread_id")), sender, now_ns)
        facts = self._shown(bound) if bound else {"handler": None}
        return {"status": "ok", "revision": self.table.revision, **facts}

    def list(self, payload: dict[str, Any], sender: Sender, now_ns: int) -> dict[str, Any]:
        """THREAD_LIST."""
        bindings = self.table.look_up_all(sender, now_ns)
        shown = [self._shown(bound) for bound in bindings[:LIST_MAX]]
        return {"status": "ok", "revision": self.table.revision, "count": len(bindings), "threads": shown}

    def expire(self, now_ns: int) -> None:
        """Forget bindings whose lease is over; routers look at the lease themselves, so nobody waits for this."""
        for bound in self.table.expired(now_ns):
            try:
                self._remove(bound)
            except (OSError, StoreBroken) as error:
                say(NAME, f"WARNING {error}")

    def _remove(self, bound: Bound) -> None:
        self.journal.unbind(bound)
        self.table.drop(bound.thread)
        self.region.unbind(bound.thread)

    def _publish(self, bound: Bound) -> None:
        self.region.bind(
            Binding(
                bound.thread, bound.handler, lease_until_ns=bound.lease_until_ns, reason=bound.reason,
                revision=self.table.revision + 1,
            )
        )  # fmt: skip

    def _compact(self, now_ns: int) -> None:
        self.journal.compact_if_long(self.table.all(now_ns))

    def _shown(self, bound: Bound) -> dict[str, Any]:
        left_ns = bound.lease_until_ns - boottime_ns() if bound.lease_until_ns else 0
        return {
            "thread_id": bound.thread_id, "handler": bound.handler, "reason": bound.reason, "bound_by": bound.bound_by,
            "lease_left_s": max(0, round(left_ns / 1e9, 1)) if bound.lease_until_ns else None,
        }  # fmt: skip


def main() -> int:
    """Run the node; 1 when it cannot own the bindings."""
    hive = hive_of_arguments("SY.threads: owns the bindings of conversations to handlers.")
    try:
        node = Threads(hive)
    except (RegionError, OSError, StoreBroken) as error:
        say(NAME, f"cannot start: {error}")
        return 1
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
