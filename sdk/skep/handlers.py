"""Which handler takes a message, and what a handler's failure becomes.

A route is chosen by the selector alone (class, type, verb, action), so a node looks it up once per flow and never per
message. Typed handlers validate the payload first: pydantic is loaded by whoever declares one, not by this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from skep.errors import ConfigError, DeliveryError, RemoteError, SkepError
from skep.flows import type_text
from skep.message import Message
from skep.protocol.header import MessageClass, Selector


class Route:
    """A handler ready to be called with a message."""

    __slots__ = ("call", "parts", "plain", "type", "action")

    def __init__(
        self,
        call: Callable[[Message], Any],
        *,
        parts: bool = False,
        type: str | None = None,
        action: str | None = None,
    ) -> None:
        self.call = call
        self.plain = not parts
        self.parts = parts  # an async generator: each value is a part of the answer
        self.type = type
        self.action = action

    def fits(self, selector: Selector) -> bool:
        return (self.type is None or self.type == type_text(selector)) and (
            self.action is None or self.action == selector.action
        )


class Routes:
    """The handlers of one node, in the order in which they were declared."""

    def __init__(self) -> None:
        self._messages: list[Route] = []
        self._verbs: dict[str, Route] = {}

    def add(self, function: Callable[..., Any], model: Any, *, type: str | None, action: str | None) -> None:
        parts = _checked(function)
        call = function if model is None else typed(function, model)
        self._messages.append(Route(call, parts=parts, type=type, action=action))

    def add_verb(self, verb: str, function: Callable[..., Any]) -> None:
        self._verbs[verb] = Route(function, parts=_checked(function))

    def find(self, selector: Selector) -> Route | None:
        if selector.message_class is MessageClass.SYSTEM:
            return self._verbs.get(selector.verb)
        return next((route for route in self._messages if route.fits(selector)), None)


def _checked(function: Callable[..., Any]) -> bool:
    """Whether it is an async generator function. Raises SkepError for a handler that cannot be awaited."""
    if inspect.isasyncgenfunction(function):
        return True
    called = type(function).__call__ if callable(function) else None  # an object with async __call__
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return False
    raise SkepError(f"handler {function!r} must be 'async def': a blocking handler would stop the whole node")


def typed(function: Callable[..., Any], model: Any) -> Callable[[Message], Any]:
    """`function(message, value)` with the payload validated by `model`."""
    validate = model.model_validate

    def call(message: Message) -> Any:
        return function(message, validate(message.payload))

    return call


# Failures ---------------------------------------------------------------------------------------------------------

RETRYABLE: Final = frozenset({"deadline_exceeded", "node_not_configured"})


@dataclass(frozen=True, slots=True)
class Failure:
    """What the other end is told. `error` is for our log only: no traceback leaves the process."""

    code: str
    detail: str
    error: BaseException | None = None

    def payload(self) -> dict[str, Any]:
        from skep.protocol.payload import build_error  # most nodes start without failing

        return build_error(self.code, self.detail, retryable=self.code in RETRYABLE)


def failure_of(error: Exception) -> Failure:
    """The code and text for an exception that left a handler."""
    if isinstance(error, RemoteError | ConfigError):
        return Failure(
            error.code, error.detail
        )  # a handler that says what went wrong in these words means them
    if type(error).__name__ == "ValidationError":
        return Failure("invalid_payload", f"the payload does not fit: {_first_line(error)}")
    if isinstance(error, DeliveryError):  # it could not reach whom it needed, or its answer could not be sent
        return Failure(error.reason.value.lower(), error.detail, error)
    if isinstance(error, TimeoutError):
        return Failure("timeout", "the handler ran out of time", error)
    return Failure("handler_failed", f"the handler raised {type(error).__name__}", error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
