"""SY.registrar: the node that owns what agents are taught. `python -m skep_nodes.sy.registrar --hive ROOT`.

This is the shell around `RegistrarDesk`: it proves who asks, reads the clock, answers, and tells others. After a change
it tells SY.identity, so that the region and the routers know, and the agent (DEGREE_CHANGED), so that it looks at its
files. Identity's word is waited for, `IDENTITY_S` at most; without it the answer says `"identity": "pending"` and the
beat tells it again. When it refuses a graduation that was just asked for (no such agent, another node), that is taken
back; a refusal later on is only said: identity restored from an old backup must not cost every agent its seal.

Each beat also looks at some agents' folders and has what was found published: so a router stops routing to an agent
whose prompt was changed, even one that does not look itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from skep import Hive, Message, Node, SkepError
from skep.identity import new_uuid
from skep_nodes.degrees.desk import Outcome, RegistrarDesk
from skep_nodes.degrees.herald import WAITS, Herald
from skep_nodes.degrees.history import HistoryDamaged
from skep_nodes.degrees.ledger import Carrier
from skep_nodes.degrees.refusal import DegreeRefusal
from skep_nodes.degrees.registrar import NAME, Registrar
from skep_nodes.degrees.registrar_key import KeyUnusable
from skep_nodes.sy.durable import StoreBroken
from skep_nodes.sy.standing import FindSender, sender_of
from skep_nodes.sy.system_node import HEARTBEAT_S, hive_of_arguments, say, wall_ms, wall_text

IDENTITY: Final = "SY.identity"
IDENTITY_S: Final = 2.0  # identity answers in milliseconds; the rest is for one that starts
TOLD_PER_BEAT: Final = 32


class RegistrarNode:
    """The node: registrar, desk and herald, joined."""

    def __init__(self, hive: Hive) -> None:
        self.registrar = Registrar(hive.root, hive.hive_id, now_ms=wall_ms, new_id=new_uuid)
        self._warned: set[str] = set()
        self._warn(self.registrar.open())
        self.desk = RegistrarDesk(self.registrar, hive.hive_id, wall_text)
        self.herald = Herald()
        self.find_sender: FindSender = partial(sender_of, hive.root)
        self.node = Node(NAME, hive=hive.root, persistent=True, concurrency=1)
        self._beating: asyncio.Task[None] | None = None
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)
        for verb in self.desk.verbs:
            self.node.on_system(verb)(self._handler(verb))

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.node.run()
        finally:
            self.registrar.close()

    async def _start(self) -> None:
        self._beating = asyncio.create_task(self._beat())

    async def _stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating

    # -- requests ----------------------------------------------------------------------------------------------

    def _handler(self, verb: str) -> Callable[[Message], Any]:
        async def handle(message: Message) -> dict[str, Any]:
            try:
                outcome = self.desk.carry_out(verb, message.payload, self.find_sender(message.source))
                return await self._followed(verb, outcome)
            except DegreeRefusal as refusal:
                return dict(refusal.answer())
            except ValueError as error:
                return dict(DegreeRefusal("INVALID_PAYLOAD", str(error)).answer())
            except (OSError, StoreBroken) as error:
                return dict(DegreeRefusal("PERSIST_FAILED", f"it may not have happened: {error}").answer())

        return handle

    async def _followed(self, verb: str, outcome: Outcome) -> dict[str, Any]:
        """The answer, after everybody was told whom the change concerns."""
        if not self.desk.verbs[verb].changes:
            return outcome.answer
        warnings = self.registrar.settle()
        self._warn(warnings)
        answer = outcome.answer | ({"warnings": warnings} if warnings else {})
        if not outcome.changed:
            return answer
        refusal = await self._tell(outcome.changed)
        if refusal is not None and verb == "DEGREE_GRADUATE":
            raise self._taken_back(outcome.changed[0], refusal)
        pending = self.herald.due(list(self.registrar.ledger.carriers.values()), float("inf"))
        return answer | {"identity": "pending" if pending else "ok"}

    # -- telling -----------------------------------------------------------------------------------------------

    async def _tell(self, carriers: Iterable[Carrier]) -> DegreeRefusal | None:
        """Identity first, then the agents; the last final refusal, if there was one."""
        refusal = None
        for carrier in list(carriers)[:TOLD_PER_BEAT]:
            refusal = await self._tell_identity(carrier) or refusal
            self._tell_agent(carrier)
        return refusal

    async def _tell_identity(self, carrier: Carrier) -> DegreeRefusal | None:
        seal = carrier.seal
        degree = self.registrar.degrees.get(seal.degree, seal.degree_version)
        for verb, payload in self.herald.words(carrier, degree):
            try:
                reply = await self.node.request(IDENTITY, payload, IDENTITY_S, type="system", verb=verb)
                answer = reply.payload if isinstance(reply.payload, dict) else {}
            except (SkepError, ValueError) as error:
                self._wait_for_identity(carrier, f"{IDENTITY} does not answer: {error}")
                return None
            if answer.get("status") != "ok":
                return self._refused(carrier, verb, answer)
            self.herald.confirmed(carrier, verb)
        return None

    def _wait_for_identity(self, carrier: Carrier, why: str) -> None:
        self._warn([f"routers do not know yet what became of seals: {why}"])
        self.herald.pause(carrier, time.monotonic())

    def _refused(self, carrier: Carrier, verb: str, answer: dict[str, Any]) -> DegreeRefusal | None:
        """Identity's no. A refusal to have the seal at all is returned; everything else will be told again."""
        code, why = str(answer.get("error_code") or "REFUSED"), str(answer.get("error_detail") or "")
        self._wait_for_identity(carrier, f"{carrier.seal.handler}: {code}: {why}")
        if verb != "SEAL_GRANT":
            self.herald.forget(carrier)
            return None
        return None if code in WAITS else DegreeRefusal(code, f"{IDENTITY} does not take the seal: {why}")

    def _taken_back(self, carrier: Carrier, refusal: DegreeRefusal) -> DegreeRefusal:
        """Revoke what identity would not have."""
        revoked = self.registrar.revoke(carrier.seal.serial, NAME, refusal.detail[:500])
        self.herald.confirmed(revoked, "SEAL_STATUS")  # identity never had it
        self._warn(self.registrar.settle())
        return DegreeRefusal(refusal.code, f"{refusal.detail}; the graduation was revoked")

    def _tell_agent(self, carrier: Carrier) -> None:
        """One word, unconfirmed: an agent that misses it finds out with its next message."""
        with contextlib.suppress(SkepError):
            facts = {"degree": carrier.degree, "serial": carrier.seal.serial, "seal_status": carrier.status.name}
            self.node.send_nowait(carrier.seal.handler, facts, type="system", verb="DEGREE_CHANGED")

    # -- the beat ----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(HEARTBEAT_S)

    async def beat(self) -> None:
        """Look at some folders, settle what could not be done, tell who has not heard."""
        for changed in self.registrar.audit():
            say(NAME, f"{changed.seal.handler}: seal is {changed.status.name}. {changed.detail}")
        self._warn(self.registrar.settle())
        due = self.herald.due(list(self.registrar.ledger.carriers.values()), time.monotonic())
        await self._tell(due[:TOLD_PER_BEAT])

    def _warn(self, warnings: Iterable[str]) -> None:
        """Each warning once: what fails is tried again every second."""
        for warning in warnings:
            if warning not in self._warned and len(self._warned) < 1024:
                self._warned.add(warning)
                say(NAME, f"WARNING {warning}")


def main() -> int:
    """Run the node; 1 when it cannot vouch for what it signs."""
    hive = hive_of_arguments("SY.registrar: owns modules, degrees and seals.")
    try:
        node = RegistrarNode(hive)
    except (HistoryDamaged, KeyUnusable, OSError, StoreBroken) as error:
        say(NAME, f"cannot start: {error}")
        return 1
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
