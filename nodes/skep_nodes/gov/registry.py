"""What the front desk asks of SY.identity: who somebody is, and the three changes it may make."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final, Protocol

from skep_nodes.gov.applicant import Applicant

REASON: Final = "front desk"


class Voice(Protocol):
    """`provision_ask.IdentityVoice`, or a test's own."""

    async def ask(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """An interlocutor as SY.identity has it now. `ilk` is the canonical one."""

    ilk: str
    tenant: str
    complete: bool
    kind: str
    channels: tuple[dict[str, Any], ...]
    claimed: bool
    """It has an e-mail address that nobody ever proved: whoever proves it may be somebody else."""

    @property
    def mailbox(self) -> str:
        """The address that it writes from, if it writes by e-mail: the channel has checked that it is its own."""
        return next((str(each["address"]).lower() for each in self.channels if each["channel_type"] == "email"), "")


class Registry:
    """The verbs. Each raises IdentityRefused or IdentityAway."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def who(self, ilk: str) -> Facts:
        answer = await self._voice.ask("ILK_GET", {"ilk_id": ilk})
        known = answer["ilk"]
        complete = known["registration_status"] == "complete"
        channels = tuple(dict(each) for each in known["channels"])
        claimed = known["identification"].get("email_verified") is False
        return Facts(known["ilk_id"], known["tenant_id"], complete, known["ilk_type"], channels, claimed)

    async def register(self, applicant: Applicant, **more: Any) -> None:
        """Into the tenant of its channel, and into no other whatever it says."""
        known = {
            "display_name": applicant.name, "email": applicant.email, "email_verified": applicant.proven, **more,
        }  # fmt: skip
        asked = {"ilk_id": applicant.ilk, "ilk_type": "human", "tenant_id": applicant.tenant}
        await self._voice.ask("ILK_REGISTER", {**asked, "identification": known, "change_reason": REASON})

    async def add_mailbox(self, applicant: Applicant, joining: str = "") -> None:
        """The proven address is a channel of its own from now on; `joining` is the temporary one that had it."""
        channel = {"ich_id": f"ich:{uuid.uuid4()}", "type": "email", "address": applicant.email}
        await self._add(applicant.ilk, channel, joining)

    async def join(self, applicant: Applicant, facts: Facts, known: str) -> None:
        """The applicant is `known`, who is registered already: all its channels move there."""
        first = facts.channels[0]
        channel = {"ich_id": first["ich_id"], "type": first["channel_type"], "address": first["address"]}
        await self._add(known, channel, applicant.ilk, "sender" if applicant.email == facts.mailbox else "code")

    async def _add(self, ilk: str, channel: dict[str, Any], joining: str, proof: str = "code") -> None:
        asked: dict[str, Any] = {"ilk_id": ilk, "channel": channel, "change_reason": REASON}
        joined = {"merge_from_ilk_id": joining, "proof": proof} if joining else {}
        await self._voice.ask("ILK_ADD_CHANNEL", {**asked, **joined})
