"""A node's client: its one registered link to a router of the hive, and what arrives on it.

What it can say is in `skep.sending`; who takes ordinary messages is its owner's business (`Inbox`: a Node's workers
or a Receiver's queue). Every incoming flow is given its taker once, when its key is first seen, so an arriving frame
goes to a queue or to the waiting caller without a decision per message. What the router says about the link itself
(confirmed, paused, draining, lost) ends here and becomes something a caller sees: a wait, an error or a Report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from skep.flows import InFlow
from skep.protocol.codes import CloseReason, Reason
from skep.protocol.errors import DeliveryError, LinkClosed, ProtocolError
from skep.protocol.header import AckLevel, MessageClass, Phase
from skep.reports import Outcome, Report, of_cut
from skep.sending import Sending

if TYPE_CHECKING:
    from skep.clock import Clock
    from skep.directory import Directory
    from skep.hive import Hive
    from skep.link import NativeLink
    from skep.message import Message

TAKE_MARK: Final = 2048  # messages waiting for the application; above it nothing more is reported taken
READ_MARK: Final = 16384  # above it the socket is not read any more, whatever the router has credit for
_U64 = Struct("<Q").unpack_from
_ANSWER_PHASES: Final = frozenset({Phase.REPLY, Phase.PROGRESS, Phase.PART, Phase.END, Phase.ERROR})
_MAY_ANSWER: Final = frozenset(
    {MessageClass.SYSTEM, MessageClass.QUERY_RESPONSE, MessageClass.COMMAND_RESPONSE}
)


class Inbox(Protocol):
    """Who takes ordinary messages."""

    @property
    def deliver(self) -> Callable[[Message], object]: ...

    def waiting(self) -> int:
        """Messages delivered and not begun."""
        ...

    def wake(self) -> int:
        """Called after a read that may have delivered something; returns what `waiting` would."""
        ...

    def cancelled(self, source: bytes, message_id: int) -> None:
        """The sender of this request no longer wants the answer."""
        ...

    def report(self, reports: Iterable[Report]) -> None: ...

    def ended(self, error: LinkClosed) -> None:
        """The router refused us for good: there will be no other link."""
        ...


class Client(Sending):
    """One node's place in the hive. Made by `Node`, `connect` and `skep.testing`; sends as soon as it is linked."""

    def __init__(
        self, *, name: str, hive: Hive, source: bytes, clock: Clock, directory: Directory, inbox: Inbox
    ) -> None:
        self.name = name  # full; the router's spelling after ANNOUNCE
        self.hive = hive
        self.uuid = source
        super().__init__(source, hive.hive_id, clock)
        self.directory = directory
        self.inbox = inbox
        self.vpn_id = 0
        self.router_name = ""
        self.link: NativeLink | None = None
        self.on_lost: Callable[[NativeLink], None] = _ignore  # the connector's, which makes the next link
        self._reading_paused = False

    # ---- incoming flows ------------------------------------------------------------------------------------------

    def adopt(self, flow: InFlow, frame: bytes) -> None:
        """Decides, once per flow, who takes its frames."""
        selector = flow.selector
        if selector.message_class is MessageClass.RECEIPT:
            flow.accept = self.calls.receipts.on_receipt
        elif selector.phase in _ANSWER_PHASES:
            flow.accept = self._on_answer
        elif selector.phase is Phase.CANCEL:
            flow.accept = self._on_cancel
        elif selector.message_class is MessageClass.SYSTEM and selector.verb in _REFUSALS:
            flow.accept = self._on_refusal
        elif selector.ack_level >= AckLevel.DELIVERED:
            flow.accept = self._take_and_tell
        elif selector.message_class in _MAY_ANSWER or _U64(frame, 8)[0] == 0:  # no id: a peer that has none
            flow.accept = self._maybe_answer
        else:
            flow.accept = self.inbox.deliver

    def _on_answer(self, message: Message) -> None:
        if self.calls.answer(message):
            return
        if message.flow.phase == Phase.ERROR:
            self._on_error(message)
        else:
            self.inbox.deliver(message)

    def _on_error(self, message: Message) -> None:
        """An error about a message that nobody waits for, such as one that came too late to be handled."""
        payload = _object(message)
        code, detail = str(payload.get("code", "")).upper(), str(payload.get("message", ""))
        reason = Reason[code] if code in Reason.__members__ else Reason.PEER_UNAVAILABLE
        self.inbox.report([Report(Outcome.REFUSED, message.reply_to, reason, message.trace_id, detail)])

    def _maybe_answer(self, message: Message) -> None:
        """An answer of a peer that has no phases: it names the request, or only has its trace."""
        if not (self.calls.pending and self.calls.answer_by_trace(message)):
            self.inbox.deliver(message)

    def _take_and_tell(self, message: Message) -> None:
        self.inbox.deliver(message)
        self.acknowledge(message, AckLevel.DELIVERED)

    def _on_cancel(self, message: Message) -> None:
        self.inbox.cancelled(message.flow.source, message.reply_to)

    def _on_refusal(self, message: Message) -> None:
        payload = _object(message)
        reason = _reason(message.verb, payload)
        detail, decision = (str(payload.get(name, "")) for name in ("detail", "decision_id"))
        error = DeliveryError(reason, message.reply_to, message.trace_id, detail, decision)
        if not self.calls.refuse(message.reply_to, message.trace, error):
            about = (message.reply_to, reason, message.trace_id, error.detail)
            self.inbox.report([Report(Outcome.REFUSED, *about)])

    # ---- told by the link ----------------------------------------------------------------------------------------

    def after_read(self, link: NativeLink) -> None:
        """Everything of one read has been handed over: starts the handlers, and writes what they answered at once."""
        held = self.inbox.wake() + self._stream_parts
        if held <= TAKE_MARK:
            link.report_taken()
        elif held > READ_MARK and not self._reading_paused:
            self._reading_paused = True
            link.transport.pause_reading()
        link.flush()

    def may_take(self) -> bool:
        return self.inbox.waiting() + self._stream_parts <= TAKE_MARK

    def drained(self) -> None:
        """The application has caught up: says so, and writes what its handlers queued."""
        link = self.link
        if link is None:
            return
        if link.received != link.reported and self.may_take():
            link.report_taken()
        if self._reading_paused and self.may_take():
            self._reading_paused = False
            link.transport.resume_reading()
        link.flush()

    def on_confirmed(self, link: NativeLink) -> None:
        if self.calls.receipts.waiting:
            self.calls.receipts.confirmed(link.first_id, link.accepted, link.finished)
        if self.outbox.blocked:
            self.outbox.update_blocked()
        if link.draining and link.finished >= self.outbox.next_id - link.first_id:
            link.end(CloseReason.DRAINED)

    def on_drain(self, link: NativeLink, seconds: float) -> None:
        """The router is leaving: send nothing more on this link, and change over once it has finished with the rest."""
        link.draining = True
        self.outbox.attach(None)
        link.flush()
        self.clock.call_later(seconds / 2, link.end, CloseReason.DRAINED)
        self.on_confirmed(link)

    def on_router_report(self, entries: Iterable[tuple[Any, int]]) -> None:
        """The router says what a dead consumer took with it."""
        reports = []
        for outcome, message_id in entries:
            reason = Reason[outcome.name]
            error = DeliveryError(reason, message_id, self.outbox.trace_text(message_id))
            if not self.calls.refuse(message_id, self.outbox.trace_of(message_id), error):
                reports.append(Report(Outcome[outcome.name], message_id, reason, error.trace_id))
        self.inbox.report(reports)

    def attach(self, link: NativeLink) -> None:
        self.link = link
        self._reading_paused = False
        self.outbox.attach(link)

    def on_link_lost(self, link: NativeLink) -> None:
        """Accounts for every message of the link, then lets the connector make another."""
        if link is self.link:
            self.link = None
            self.outbox.attach(None)
            lost, unknown = of_cut(link.first_id, link.finished, link.flushed_id, self.outbox.next_id)
            told = self.calls.fail_unconfirmed(lost, unknown)
            self.inbox.report(self._reports_of(lost, unknown, told))
        self.on_lost(link)

    def _reports_of(self, lost: range, unknown: range, told: set[int]) -> Iterable[Report]:
        for outcome, reason, ids in (
            (Outcome.LOST, Reason.LOST, lost),
            (Outcome.UNKNOWN, Reason.UNKNOWN, unknown),
        ):
            for message_id in ids:
                if message_id not in told:
                    yield Report(outcome, message_id, reason, self.outbox.trace_text(message_id))

    def name_of(self, uuid: bytes) -> str:
        return self.directory.name_of(uuid)

    def close(self, error: DeliveryError) -> None:
        """Ends every wait; the connector closes the link."""
        self.outbox.close(error)
        self.calls.close(error)


_REFUSALS: Final = {"UNREACHABLE", "TTL_EXCEEDED"}


def _reason(verb: str, payload: dict[str, Any]) -> Reason:
    if verb == "TTL_EXCEEDED":
        return Reason.TTL_EXCEEDED
    try:
        return Reason(payload.get("reason", ""))
    except ValueError:
        return Reason.PEER_UNAVAILABLE  # a reason that a newer router knows: it did not arrive, and may later


def _object(message: Message) -> dict[str, Any]:
    """The payload where it is a JSON object; anybody may send a system frame, so it may be anything."""
    try:
        payload = message.payload
    except ProtocolError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _ignore(link: NativeLink) -> None:
    """Until a connector takes over."""
