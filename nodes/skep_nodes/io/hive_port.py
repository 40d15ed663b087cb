"""What a channel needs of a hive: the two calls below. `skep.Node` has them; a test's fake has them too.

Naming them here keeps the channels' logic free of connections, and says how little of the SDK a node needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from skep.errors import DeliveryError
from skep.protocol.codes import Reason


class Incoming(Protocol):
    """The facts of a received message that the nodes here read."""

    @property
    def payload(self) -> Any: ...
    @property
    def thread_id(self) -> str | None: ...
    @property
    def trace_id(self) -> str: ...
    @property
    def message_id(self) -> int: ...
    @property
    def source_name(self) -> str: ...


class HivePort(Protocol):
    """Called as `send(destination, payload, **options)` and `request(destination, payload, timeout=…, **options)`,
    the options being those of `skep.Node.send`: thread, context, src_ilk, ack."""

    @property
    def send(self) -> Callable[..., Awaitable[object]]: ...
    @property
    def request(self) -> Callable[..., Awaitable[Incoming]]: ...


def outcome_unknown(error: Exception) -> bool:
    """Whether the message may have arrived all the same."""
    return isinstance(error, DeliveryError) and error.reason in (Reason.UNKNOWN, Reason.DEADLINE_EXCEEDED)


def retryable(error: Exception) -> bool:
    """Whether the same message may arrive later. A link that closed before taking it says so."""
    return not isinstance(error, DeliveryError) or error.reason.retryable
