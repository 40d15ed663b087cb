"""The error tree.

One root, few branches. Facts are attributes: a program asks `error.code`, a person reads the text. Expected
outcomes of forwarding (no route, queue full) are `Reason` values and no exceptions inside a router; a
DeliveryError is raised only where an application waited for an answer.

`RegionError` belongs to skep_shm, which knows nothing of this package; it is handed on here under the same
name so that one import shows the whole tree. It is loaded when asked for: a client that reads no region need
not load POSIX shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skep.protocol.codes import CloseReason, ErrorCode, Reason

if TYPE_CHECKING:
    from skep_shm import RegionError

__all__ = [
    "DeliveryError",
    "LinkClosed",
    "LocalProtocolError",
    "PolicyError",
    "ProtocolError",
    "RegionError",
    "RemoteProtocolError",
    "SkepError",
]


class SkepError(Exception):
    """Root of all that Skep raises."""


class ProtocolError(SkepError):
    """Bytes or requests that break the protocol; `limit` and `value` where a number was exceeded."""

    def __init__(
        self, code: ErrorCode | str, detail: str = "", limit: int | None = None, value: int | None = None
    ) -> None:
        self.code = ErrorCode(code)
        self.detail = detail
        self.limit = limit
        self.value = value
        super().__init__(code, detail, limit, value)

    def __str__(self) -> str:
        measured = "" if self.limit is None else f" (limit {self.limit}, got {self.value})"
        return f"{self.code}: {self.detail}{measured}"


class LocalProtocolError(ProtocolError):
    """This end asked for what the protocol does not allow: nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other end sent what the protocol does not allow."""


class LinkClosed(SkepError):
    """The link has ended; `reason` says how, `detail` what the peer said about it."""

    def __init__(self, reason: CloseReason, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)

    def __str__(self) -> str:
        return f"{self.reason.name}: {self.detail or 'the link has ended'}"


class PolicyError(SkepError):
    """A policy that could not be loaded or evaluated."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(code, detail)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class DeliveryError(SkepError):
    """A message that did not arrive, or of which nobody knows whether it did. `decision_id` names the policy's decision
    where one refused it: `skep explain` takes it, as it takes a trace id."""

    def __init__(
        self, reason: Reason, message_id: int = 0, trace_id: str = "", detail: str = "", decision_id: str = ""
    ) -> None:
        self.reason = reason
        self.message_id = message_id
        self.trace_id = trace_id
        self.detail = detail
        self.decision_id = decision_id
        super().__init__(reason, message_id, trace_id, detail, decision_id)

    @property
    def retryable(self) -> bool:
        return self.reason.retryable

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        decision = f", decision {self.decision_id}" if self.decision_id else ""
        return f"{self.reason}{detail} (message {self.message_id}, trace {self.trace_id or 'none'}{decision})"


def __getattr__(name: str) -> Any:
    if name == "RegionError":
        import skep_shm

        return skep_shm.RegionError
    raise AttributeError(name)
