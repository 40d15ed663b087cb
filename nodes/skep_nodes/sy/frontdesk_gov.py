"""SY.frontdesk.gov: the node that meets strangers. `python -m skep_nodes.sy.frontdesk_gov --hive ROOT`.

This is the shell around `skep_nodes.gov`: it reads who speaks from the message (the router lets no one send for an
interlocutor that is not theirs), says what the desk decides, and passes the question on. The question goes to nobody in
particular, as the person it came from, so the policy decides as it would have without the detour; the answer goes to
where the question came from, not through here. What cannot be passed on is told to the person, who has it still.

A hand-off of a channel (payload type `frontdesk_handoff`) brings the data at once and is answered with a result object.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from skep import DeliveryError, Hive, Message, Node, RemoteError, SkepError
from skep.contract import Contract
from skep.protocol.message import format_uuid, parse_uuid
from skep.protocol.names import base_of
from skep_nodes.gov.applicant import Applicant, Origin
from skep_nodes.gov.desk import FrontDesk, Mailed, Outcome
from skep_nodes.gov.handoff import Handoffs, is_handoff
from skep_nodes.gov.registry import Registry
from skep_nodes.gov.store import ApplicantStore
from skep_nodes.io.counters import expose
from skep_nodes.io.http_client import Retry
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused, IdentityVoice
from skep_nodes.io.text import text_payload, words_of
from skep_nodes.sy.system_node import hive_of_arguments, say, wall_ms

log = logging.getLogger("skep.nodes.frontdesk")

NAME: Final = "SY.frontdesk.gov"
MAIL_NODE: Final = "IO.email"
MAIL_S: Final = 5.0
PASS_ON: Final = Retry(7, 0.2, 5.0)  # about 11 s: an agent that restarts, a policy that was just changed
RESUME: Final = Retry(8, 1.0, 30.0)  # about two minutes: the whole hive may be starting
CONCURRENCY: Final = 64
CONTRACT: Final = Contract(notes=("It has no settings: languages, bounds and steps are docs/frontdesk.md.",))


@dataclass(slots=True)
class Turns:
    """Those who wait for one person's turn."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class MailByNode:
    """Codes by way of IO.email, when there is one."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def send_code(self, address: str, code: str, language: str, tenant: str) -> Mailed:
        asked = {"address": address, "code": code, "language": language, "tenant_id": tenant}
        try:
            answer = await self._node.request(
                MAIL_NODE, asked, timeout=MAIL_S, type="system", verb="EMAIL_CODE_SEND"
            )
        except DeliveryError as error:
            return Mailed.ABSENT if error.reason == "NODE_NOT_FOUND" else _unsent(error)
        except SkepError as error:
            return _unsent(error)
        payload = answer.payload
        if isinstance(payload, dict) and payload.get("status") == "ok":
            return Mailed.SENT
        return _unsent(payload)


def _unsent(why: object) -> Mailed:
    log.warning("a code was not sent: %s", str(why)[:300])
    return Mailed.REFUSED


class FrontDeskNode:
    """The node: desk, hand-offs and store, joined."""

    def __init__(self, hive: Hive) -> None:
        self.hive = hive
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=CONCURRENCY, contract=CONTRACT)
        self.store = ApplicantStore(hive.state_dir / "frontdesk" / "applicants.sqlite")
        registry = Registry(IdentityVoice(self.node))
        self.desk = FrontDesk(registry, MailByNode(self.node), self.store, wall_ms)
        self.handoffs = Handoffs(registry)
        self._busy: dict[str, Turns] = {}
        self._resuming: asyncio.Task[None] | None = None
        self.node.on_message(self.receive)
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        expose(self.node, frontdesk=self.desk.counters, handoffs=self.handoffs.counters)

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.store.close()

    async def _start(self) -> None:
        self._resuming = asyncio.create_task(self._resume())

    async def _stop(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            await asyncio.gather(self._resuming, return_exceptions=True)

    # ---- messages ------------------------------------------------------------------------------------------------

    async def receive(self, message: Message) -> Any:
        """One message of somebody who is not registered yet."""
        ilk = message.src_ilk
        if not ilk:
            raise RemoteError("src_ilk_missing", "the front desk registers interlocutors: send as one (src_ilk)")
        async with self._alone(ilk):
            if is_handoff(message.payload):
                return await self.handoffs.take(ilk, message.payload, base_of(message.source_name))
            return await self._hear(message, ilk)

    async def _hear(self, message: Message, ilk: str) -> None:
        text = words_of(message.payload)
        if text is None:
            raise RemoteError("invalid_payload", "this node reads text messages only")
        try:
            outcome = await self.desk.hear(ilk, text, origin_of(message))
        except IdentityRefused as refused:
            raise RemoteError(refused.code.lower(), "nobody is known under this ILK") from refused
        if outcome.say or message.wants_reply:
            await message.reply(_words(outcome.say or self.desk.passing(outcome)))
        if outcome.done is not None:
            await self._pass_on(outcome.done)

    @asynccontextmanager
    async def _alone(self, ilk: str) -> AsyncIterator[None]:
        """One at a time of each person, whatever threads they write in."""
        turn = self._busy.setdefault(ilk, Turns())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._busy[ilk]

    # ---- the question --------------------------------------------------------------------------------------------

    async def _pass_on(self, applicant: Applicant) -> None:
        """To whom the policy names, as the person it is now."""
        if applicant.question and not await self._sent(applicant):
            self.desk.counters["question_lost"] += 1
            await self._tell(applicant, self.desk.words(applicant).question_lost)
        self.desk.passed_on(applicant)

    async def _sent(self, applicant: Applicant) -> bool:
        origin = applicant.origin
        for attempt in range(1, PASS_ON.attempts + 1):
            try:
                await self.node.send(
                    None, text_payload(applicant.question), src_ilk=applicant.speaks_as, ack="routed",
                    thread=origin.thread or None, trace=origin.trace or None, context=origin.context,
                    meta={"handoff": _handed(origin)},
                )  # fmt: skip
            except SkepError as error:
                log.warning("a question is not passed on (attempt %d): %s", attempt, error)
                if attempt < PASS_ON.attempts:
                    await asyncio.sleep(PASS_ON.delay_s(attempt))
            else:
                return True
        return False

    async def _tell(self, applicant: Applicant, text: str) -> None:
        origin = applicant.origin
        to = parse_uuid(origin.source) or origin.source_name
        try:
            await self.node.send(to, _words(text), thread=origin.thread or None, trace=origin.trace or None)
        except SkepError as error:
            log.error("%s cannot be told: %s", origin.source_name, error)

    # ---- after a restart -----------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Those whom the restart caught between SY.identity's answer and the end."""
        for attempt in range(1, RESUME.attempts + 1):
            waiting = [each for each in self.store.unfinished() if not await self._resumed(each)]
            if not waiting:
                return
            await asyncio.sleep(RESUME.delay_s(attempt))
        log.warning("%d registrations wait for their authors' next messages", len(waiting))

    async def _resumed(self, applicant: Applicant) -> bool:
        """Whether nothing is left to do for this one, now."""
        async with self._alone(applicant.ilk):
            current = self.store.get(applicant.ilk)
            if current is None or current.step != applicant.step:
                return True  # its author wrote meanwhile
            try:
                outcome: Outcome = await self.desk.resume(current)
            except IdentityAway:
                return False
            except IdentityRefused as refused:
                log.warning("a registration cannot go on: %s", refused)
                await self._tell(current, self.desk.words(current).question_lost)
                self.store.drop(current.ilk)
                return True
            if outcome.say:
                await self._tell(current, outcome.say)
            if outcome.done is not None:
                await self._pass_on(outcome.done)
            elif outcome.say:
                self.desk.keep(current)
            return True


def origin_of(message: Message) -> Origin:
    """Where the answer goes: to the node that sent it, as the router proves it."""
    return Origin(
        format_uuid(message.source), message.source_name, message.message_id, message.thread_id or "",
        message.trace_id, message.context,
    )  # fmt: skip


def _handed(origin: Origin) -> Mapping[str, Any]:
    return {
        "from": NAME, "reason": "registered", "source": origin.source, "source_name": origin.source_name,
        "message_id": origin.message_id,
    }  # fmt: skip


def _words(text: str) -> dict[str, Any]:
    return text_payload(text, role="assistant")


def main() -> int:
    """Run the node."""
    hive = hive_of_arguments("SY.frontdesk.gov: meets interlocutors who are not registered yet.")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        FrontDeskNode(hive).run()
    except (SkepError, OSError) as error:
        say(NAME, f"cannot start: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
