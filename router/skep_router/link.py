"""One connection after its handshake: who it is, what it may do, and what it is owed as a sender.

As a consumer it is a `Hop`; as a sender it keeps the *ledger* behind CONFIRMED. Each read that carried frames opens
a ticket `[deliveries outstanding, frames accepted so far]`; when the oldest tickets have nothing outstanding,
`finished` moves up to theirs. So `finished` is a watermark: every frame up to it was taken, refused or reported,
whatever the order in which its consumers took them, and the ledger costs one small list per read, not per message.

Memory is a figure here (10,000 idle nodes): slots only, and `None` for every container that is not in use.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from skep_router.hop import Hop, Port

if TYPE_CHECKING:
    from skep_router.accounts import Account
    from skep_router.flow import Flow
    from skep_router.grants import IlkRule

Ticket = list[int]  # [deliveries outstanding, accepted at the end of the read]; a list, because it is counted down


class Link(Hop):
    """A registered connection. `uuid`, `name`, `uid`, `vpn_id` and `tenant` are what `registry` reads of it."""

    __slots__ = (
        "accepted", "account", "bad_frames", "closed", "confirm_due", "confirmed", "due", "finished", "flows",
        "framer", "heard_ns", "held_back", "ilk_rule", "name", "pid", "reading_paused", "slot", "tail", "tenant",
        "ticketed", "tickets", "uid", "uuid", "vpn_id",
    )

    def __init__(
        self, port: Port, *, native: bool, frame_bytes_max: int, uuid: bytes, name: str, uid: int, pid: int,
        account: Account, due: list[Link], ticketed: bool = False,
    ) -> None:
        super().__init__(port, native, frame_bytes_max)
        self.uuid = uuid
        self.name = name
        self.uid = uid
        self.pid = pid
        self.account = account
        self.ticketed = ticketed  # holds the orchestrator's ticket for a system name
        self.vpn_id = 0
        self.tenant = b""
        self.ilk_rule: IlkRule | None = None
        self.flows: dict[bytes, Flow] = {}
        self.framer: object = None  # JSON framing only
        self.tail = b""
        self.slot = -1
        self.accepted = 0
        self.finished = 0
        self.confirmed = 0  # accepted + finished, as the peer was last told
        self.confirm_due = False  # it is in `due`
        self.due = due  # the router's links with something new to confirm
        self.tickets: list[Ticket] | None = None
        self.reading_paused = 0  # a count: quota, fairness and destination may each ask for it
        self.held_back = False  # not read until it has read what it was told
        self.bad_frames = 0
        self.heard_ns = 0  # when it last said anything
        self.closed = False

    def open_ticket(self, deliveries: int) -> Ticket:
        """A read was accepted that owes `deliveries`; `accepted` already counts its frames."""
        ticket = [deliveries, self.accepted]
        if self.tickets is not None:
            self.tickets.append(ticket)
            if not deliveries:
                self.advance()
        elif deliveries:
            self.tickets = [ticket]
        else:
            self.finished = self.accepted
        return ticket

    def settle(self, ticket: Ticket, deliveries: int) -> None:
        """`deliveries` of a ticket were taken, refused or reported."""
        ticket[0] -= deliveries
        if not ticket[0]:
            self.advance()

    def advance(self) -> None:
        """A ticket has nothing outstanding any more: `finished` moves up to the last of the oldest that have not."""
        tickets = self.tickets or []
        count = 0
        for deliveries, accepted in tickets:
            if deliveries:
                break
            count += 1
            self.finished = accepted
        if count == len(tickets):
            self.tickets = None
        else:
            del tickets[:count]  # count is small: a ticket is settled soon after those before it
        if count and not self.confirm_due:
            self.owe_confirmation()

    def owe_confirmation(self) -> None:
        """CONFIRMED is due: at the next tick, unless somebody waits for it."""
        if not self.confirm_due:
            self.confirm_due = True
            self.due.append(self)

    def pause_reading(self) -> None:
        self.reading_paused += 1
        if self.reading_paused == 1:
            self.port.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused -= 1
            if not self.reading_paused and not self.closed:
                self.port.resume_reading()
