"""Which conversation a message belongs to: the person's, across channels, or, of somebody nobody knows, the thread's.

A person who wrote by WhatsApp and now writes by e-mail goes on with one conversation. Its key is the tenant and the
canonical interlocutor, as SY.identity has them now (ILK_GET, remembered for KEEP_S): so two tenants never share one,
and after a merge both threads stand in what the two have become. `before` are the keys of those who were merged into
it: what was remembered for them belongs here.

When SY.identity cannot say, the thread is the conversation and there is no tenant: a follow-up loses its subject for a
moment, and nobody sees what is not theirs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from skep_nodes.io.http_client import Retry
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused, IdentityVoice

KEEP_S: Final = 30.0  # a merge is seen after so long by those who were just asked about
KEPT_MAX: Final = 4096
ATTEMPTS: Final = Retry(2, 0.1, 0.2)  # an asker waits


class Asked(Protocol):
    """The facts of a message that are read here."""

    @property
    def src_ilk(self) -> str: ...
    @property
    def thread_id(self) -> str | None: ...
    @property
    def trace_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """`tenant` is empty where none is known."""

    key: str
    tenant: str = ""
    before: tuple[str, ...] = ()


class Conversations:
    """Answers by memory, or by asking. Time is `now`, in seconds."""

    def __init__(self, voice: IdentityVoice, now: Callable[[], float] = time.monotonic) -> None:
        self._voice, self._now = voice, now
        self._known: OrderedDict[str, tuple[float, Conversation]] = OrderedDict()

    async def of(self, message: Asked) -> Conversation:
        """The conversation of a message. Who it says it is about (dst_ilk) opens nobody's: anyone can name anybody."""
        ilk = message.src_ilk
        if ilk:
            kept = self._known.get(ilk)
            if kept is not None and self._now() - kept[0] < KEEP_S:
                return kept[1]
            found = await self._ask(ilk)
            if found is not None:
                return found
        return Conversation(message.thread_id or f"trace:{message.trace_id}")

    async def _ask(self, ilk: str) -> Conversation | None:
        try:
            answer = await self._voice.ask("ILK_GET", {"ilk_id": ilk})
        except (IdentityAway, IdentityRefused):
            return None
        tenant = str(answer["ilk"]["tenant_id"])
        before = tuple(f"{tenant}/{each['old_ilk_id']}" for each in answer.get("merged_aliases", ()))
        found = Conversation(f"{tenant}/{answer['canonical_ilk_id']}", tenant, before)
        self._known[ilk] = (self._now(), found)
        self._known.move_to_end(ilk)
        while len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)
        return found
