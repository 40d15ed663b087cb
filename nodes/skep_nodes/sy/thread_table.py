"""Which handler a conversation is bound to, and who may say so: the core of SY.threads.

A binding sends every message of a thread to its handler before names, routes or policy are asked. It may be made
by the node that handles the thread now, by the hive's own nodes while the thread is unbound, and by system accounts
always; so nobody can pull a conversation away from the one who has it. A node of another uid holds only what it was
given: it may hand on or give back a thread that is bound to it now and do nothing else, not even ask who has another
(a grant to send is no grant to listen). A lease lets a binding end by itself when its handler is gone.

Time is CLOCK_BOOTTIME and handed in: it never jumps with the wall clock and goes on in suspend. Expired bindings
are removed by `expire`, and count as absent before that.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skep.protocol.errors import ProtocolError
from skep.protocol.limits import THREADS_MAX
from skep.protocol.names import is_system, parse_name
from skep_nodes.sy.standing import Sender, Standing

REASON_BYTES_MAX = 120
LEASE_S_MAX = 7 * 86400  # a forgotten escalation ends within a week
_THREAD_ID = re.compile(r"thread:sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Bound:
    """One thread's binding as SY.threads keeps it; `lease_until_ns` 0 means without end."""

    thread_id: str
    thread: bytes
    handler: str
    lease_s: int
    lease_until_ns: int
    reason: str
    bound_by: str


class ThreadRefusal(Exception):
    """A verb that is not carried out: a stable code, and why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


def thread_digest(thread_id: object) -> bytes:
    """The 32 bytes under which routers keep a thread: its own digest, or the digest of its text."""
    if not isinstance(thread_id, str) or not thread_id.strip():
        raise ThreadRefusal("INVALID_PAYLOAD", "thread_id is missing")
    found = _THREAD_ID.fullmatch(thread_id)
    return bytes.fromhex(found[1]) if found else hashlib.sha256(thread_id.encode()).digest()


class ThreadTable:
    """All bindings; every method that changes one returns what must be made durable before it is published."""

    def __init__(self, hive_id: str) -> None:
        self._hive_id = hive_id
        self._bound: dict[bytes, Bound] = {}
        self._leases: list[tuple[int, bytes]] = []
        self.revision = 0

    def __len__(self) -> int:
        return len(self._bound)

    def find(self, thread: bytes, now_ns: int) -> Bound | None:
        """The binding in force now."""
        bound = self._bound.get(thread)
        return None if bound is None or _is_over(bound, now_ns) else bound

    def all(self, now_ns: int) -> list[Bound]:
        """Every binding in force now."""
        return [bound for bound in self._bound.values() if not _is_over(bound, now_ns)]

    def prepare_bind(self, payload: Mapping[str, Any], sender: Sender, now_ns: int) -> Bound:
        """Check a THREAD_BIND completely; `put` carries it out. Raises ThreadRefusal."""
        thread = thread_digest(payload.get("thread_id"))
        handler = self._handler(payload.get("handler"), sender)
        self._authorise(thread, sender, now_ns)
        if thread not in self._bound and len(self._bound) >= THREADS_MAX:
            raise ThreadRefusal(
                "LIMIT", f"{THREADS_MAX} threads are bound already; unbind some, or give leases"
            )
        lease_s = _lease(payload.get("lease_s", 0))
        until = now_ns + lease_s * 1_000_000_000 if lease_s else 0
        text = str(payload["thread_id"])
        return Bound(text, thread, handler, lease_s, until, _reason(payload), sender.name)

    def prepare_unbind(self, payload: Mapping[str, Any], sender: Sender, now_ns: int) -> Bound | None:
        """Check a THREAD_UNBIND; None when there is nothing to undo. Raises ThreadRefusal."""
        thread = thread_digest(payload.get("thread_id"))
        self._authorise(thread, sender, now_ns)
        return self.find(thread, now_ns)

    def look_up(self, thread: bytes, sender: Sender, now_ns: int) -> Bound | None:
        """The binding in force now, for one who may know it. Raises ThreadRefusal."""
        current = self.find(thread, now_ns)
        self._hold_or_trusted(current, sender)
        return current

    def look_up_all(self, sender: Sender, now_ns: int) -> list[Bound]:
        """Every binding in force now, for one who may know them. Raises ThreadRefusal."""
        if not sender.trusted:
            raise ThreadRefusal(
                "FORBIDDEN",
                "only the hive's own account and system accounts may list threads; ask as one of them",
            )
        return self.all(now_ns)

    def put(self, bound: Bound) -> None:
        """Carry out a bind."""
        self._bound[bound.thread] = bound
        self.revision += 1
        if bound.lease_until_ns:
            heapq.heappush(self._leases, (bound.lease_until_ns, bound.thread))

    def drop(self, thread: bytes) -> None:
        """Carry out an unbind."""
        if self._bound.pop(thread, None) is not None:
            self.revision += 1

    def expired(self, now_ns: int) -> list[Bound]:
        """Bindings whose lease is over, each once; a renewed lease leaves an old entry here that is passed over."""
        over: list[Bound] = []
        while self._leases and self._leases[0][0] <= now_ns:
            _, thread = heapq.heappop(self._leases)
            bound = self._bound.get(thread)
            if bound is not None and _is_over(bound, now_ns) and bound not in over:
                over.append(bound)
        return over

    def next_expiry_ns(self) -> int:
        """When `expired` should be asked next; 0 when nothing has a lease."""
        return self._leases[0][0] if self._leases else 0

    def _handler(self, name: object, sender: Sender) -> str:
        if not isinstance(name, str) or not name:
            raise ThreadRefusal(
                "INVALID_PAYLOAD", "handler is missing: the name of the node that is to answer"
            )
        try:
            full = parse_name(name, self._hive_id)
        except ProtocolError as error:
            raise ThreadRefusal("INVALID_PAYLOAD", f"handler {name!r}: {error}") from error
        if is_system(full) and sender.standing is not Standing.SYSTEM:
            raise ThreadRefusal("FORBIDDEN", f"only system accounts may bind a thread to {full}")
        return full

    def _authorise(self, thread: bytes, sender: Sender, now_ns: int) -> None:
        current = self.find(thread, now_ns)
        self._hold_or_trusted(current, sender)
        if current is None or current.handler == sender.name or sender.standing is Standing.SYSTEM:
            return
        raise ThreadRefusal(
            "FORBIDDEN", f"{current.handler} handles this thread; only it or a system account may act"
        )

    @staticmethod
    def _hold_or_trusted(current: Bound | None, sender: Sender) -> None:
        """Another account's node gets the same refusal for every thread that it does not hold, bound or not."""
        if sender.standing is Standing.UNKNOWN or not sender.name:
            raise ThreadRefusal(
                "FORBIDDEN",
                "no node table of this hive proves who sent this; join a router of this hive and ask again, and see "
                "`skep doctor` when the tables cannot be read",
            )
        if not sender.trusted and (current is None or current.handler != sender.name):
            raise ThreadRefusal(
                "FORBIDDEN",
                f"{sender.name} runs under another account than the hive, so it may act only on a thread that is bound "
                "to it now; let a node of the hive's own account bind the thread to it first",
            )


def _is_over(bound: Bound, now_ns: int) -> bool:
    return bound.lease_until_ns != 0 and bound.lease_until_ns <= now_ns


def _lease(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LEASE_S_MAX:
        raise ThreadRefusal("INVALID_PAYLOAD", f"lease_s {value!r} is not a number of 0..{LEASE_S_MAX}")
    return -int(-value)  # a part of a second is rounded towards a longer lease


def _reason(payload: Mapping[str, Any]) -> str:
    reason = str(payload.get("reason") or "")
    return reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
