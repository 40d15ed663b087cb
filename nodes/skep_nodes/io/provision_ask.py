"""Questions to SY.identity by message: bounded in time and number of attempts, with an end that says why.

Every verb asked here may be asked twice without harm (provisioning an address, registering or reading an interlocutor),
so an answer that did not come is asked for again. What comes of it is the answer, `IdentityRefused` (it said no, which
no repetition changes) or `IdentityAway` (nobody could say; the sender is told and may try again).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from skep.errors import DeliveryError, LinkClosed, RemoteError, RequestTimeout
from skep_nodes.io.hive_port import HivePort
from skep_nodes.io.http_client import Retry, Sleep

IDENTITY: Final = "SY.identity"
ANSWER_S: Final = 3.0  # for one attempt; a synced write takes milliseconds
ATTEMPTS: Final = Retry(4, 0.2, 1.0)  # about 12 s at the very worst: a restart of SY.identity takes two
_AGAIN: Final = frozenset({"BUSY", "DB_NOT_READY", "DB_WRITE_FAILED", "NOT_PRIMARY"})


class IdentityRefused(Exception):
    """SY.identity said no. `facts` is its whole answer."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.code = str(facts.get("error_code") or "INVALID_ANSWER")
        self.facts = facts
        super().__init__(f"{self.code}: {facts.get('message') or 'SY.identity gave no reason'}")


class IdentityAway(Exception):
    """Nobody could say. `timed_out`: the last attempt had no answer at all."""

    def __init__(self, detail: str, timed_out: bool = False) -> None:
        super().__init__(f"SY.identity does not answer: {detail}")
        self.timed_out = timed_out


class IdentityVoice:
    """What speaks to SY.identity for one node."""

    def __init__(self, hive: HivePort, *, sleep: Sleep = asyncio.sleep, attempts: Retry = ATTEMPTS) -> None:
        self._hive, self._sleep, self._attempts = hive, sleep, attempts

    async def ask(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question. Raises IdentityRefused or IdentityAway."""
        last = IdentityAway("it was not asked")
        for attempt in range(1, self._attempts.attempts + 1):
            try:
                return await self._once(verb, payload)
            except IdentityAway as away:
                last = away
            if attempt < self._attempts.attempts:
                await self._sleep(self._attempts.delay_s(attempt))
        raise last

    async def _once(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            message = await self._hive.request(IDENTITY, payload, timeout=ANSWER_S, type="system", verb=verb)
        except RequestTimeout as error:
            raise IdentityAway(str(error), timed_out=True) from error
        except (DeliveryError, LinkClosed, RemoteError) as error:  # a node that is not there may be starting
            raise IdentityAway(str(error)) from error
        return _judged(message.payload)


def _judged(answer: object) -> dict[str, Any]:
    facts: dict[str, Any] = answer if isinstance(answer, dict) else {}
    if facts.get("status") == "ok":
        return facts
    if facts.get("error_code") in _AGAIN:
        raise IdentityAway(f"{facts['error_code']}: {facts.get('message', '')}")
    raise IdentityRefused(facts)
