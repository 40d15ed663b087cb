"""The errors a node author meets, in one place; the tree itself belongs to `skep.protocol.errors`.

`DeliveryError` says why a message did not arrive. `RemoteError` says the message arrived and its handler refused or
failed; `RequestTimeout` is also a `TimeoutError`, so ordinary asyncio code catches it. Every one of them names the
message and its trace where there is one.
"""

from __future__ import annotations

from skep.protocol.codes import Reason
from skep.protocol.errors import (
    DeliveryError,
    LinkClosed,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    SkepError,
)

__all__ = [
    "ConfigError",
    "DegreeError",
    "DeliveryError",
    "HiveError",
    "IdentityError",
    "LinkClosed",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteError",
    "RemoteProtocolError",
    "RequestTimeout",
    "SkepError",
]


class HiveError(SkepError):
    """No hive here, or its files cannot be read. The text says which folder and what to run."""


class IdentityError(SkepError):
    """The node's persistent uuid cannot be used: another process holds it, or its file is damaged."""


class ConfigError(SkepError):
    """A CONFIG_SET was refused. `code` is one of the contract's error codes."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class DegreeError(SkepError):
    """An agent's degree is not valid, so it may not speak. `module` names the culprit where it is a module."""

    def __init__(self, code: str, detail: str, module: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.module = module


class RemoteError(SkepError):
    """The other end's handler answered with an error instead of a reply."""

    def __init__(self, code: str, detail: str, *, message_id: int = 0, trace_id: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.message_id = message_id
        self.trace_id = trace_id


class RequestTimeout(DeliveryError, TimeoutError):
    """No answer within the time given; the request was cancelled at the other end."""

    def __init__(self, seconds: float, message_id: int = 0, trace_id: str = "") -> None:
        super().__init__(Reason.DEADLINE_EXCEEDED, message_id, trace_id)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no answer within {self.seconds:g} s (message {self.message_id})"
