"""The router as a sender: what it says itself travels like any frame, and nobody waits for its confirmations."""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep.protocol import limits
from skep_router.link import Link, Ticket

if TYPE_CHECKING:
    from skep_router.accounts import Account


class _NoPort:
    """The router's own end has no socket."""

    def write(self, data: bytes, /) -> None:
        raise AssertionError("the router does not send to itself")

    def close(self, reason: int, detail: str, /) -> None:
        raise AssertionError("the router's own link is never closed")

    def pause_reading(self) -> None:
        """Nothing is read from it."""

    def resume_reading(self) -> None:
        """Nothing is read from it."""


class SelfLink(Link):
    """Sender of UNREACHABLE, ROUTER_STATS and the like. Its ledger would only grow, so it keeps none."""

    __slots__ = ("_ticket",)

    def __init__(self, uuid: bytes, name: str, uid: int, account: Account) -> None:
        super().__init__(
            _NoPort(), native=True, frame_bytes_max=limits.FRAME_BYTES_MAX, uuid=uuid, name=name, uid=uid, pid=0,
            account=account, due=[],
        )
        self._ticket: Ticket = [0, 0]

    def open_ticket(self, deliveries: int) -> Ticket:
        return self._ticket

    def settle(self, ticket: Ticket, deliveries: int) -> None:
        """Nobody asks whether the router's own words were taken."""

    def advance(self) -> None:
        """Nor how far."""
