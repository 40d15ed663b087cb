"""What the history amounts to: which keys count, which seals were revoked, who carries which degree. Pure.

Applying the events in order gives the present; `History` keeps them. One agent carries one degree at a time: a new
graduation replaces the old one, whose seal is revoked with it, so that a folder put back from a backup is no way back
to an older degree. A roll-back is a new graduation to an older version.

What was found out about a seal since (broken, expired) is no event: it is looked up again after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from skep.seal import KEYS_MAX, REVOKED_MAX, Key, KeyRing, Seal
from skep_nodes.degrees.refusal import DegreeRefusal
from skep_shm import SealStatus

CARRIERS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Carrier:
    """One agent and its seal. `status` is what was found out last, `detail` why."""

    seal: Seal
    by: str
    at_ms: int
    reason: str = ""
    status: SealStatus = SealStatus.VALID
    detail: str = ""

    @property
    def degree(self) -> str:
        return f"{self.seal.degree}/{self.seal.degree_version}"


class Ledger:
    """The present, by event."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.revoked: dict[str, int] = {}
        """Serial → the time at which it would have expired anyway."""
        self.carriers: dict[str, Carrier] = {}
        """By ILK."""

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        carry_out = {
            "key": self._key, "key_revoke": self._revoke_key, "graduate": self._graduate, "revoke": self._revoke,
        }  # fmt: skip
        carry_out[event["op"]](event)

    def _key(self, event: Mapping[str, Any]) -> None:
        for key in self.keys.values():
            if key.state == "active":
                self.keys[key.id] = replace(key, state="retired")
        self.keys[event["id"]] = Key(event["id"], event["public"], "active", event["at_ms"])

    def _revoke_key(self, event: Mapping[str, Any]) -> None:
        self.keys[event["id"]] = replace(self.keys[event["id"]], state="revoked")
        for ilk, carrier in self.carriers.items():
            if carrier.seal.key_id == event["id"] and carrier.status is not SealStatus.REVOKED:
                self.carriers[ilk] = replace(
                    carrier, status=SealStatus.REVOKED, detail=f"the key {event['id']} was revoked"
                )

    def _graduate(self, event: Mapping[str, Any]) -> None:
        facts = {name: value for name, value in event["seal"].items() if name != "format"}
        seal = Seal(**facts)
        before = self.carriers.get(seal.ilk)
        if before is not None:
            self.revoked[before.seal.serial] = before.seal.until_ms
        self.carriers[seal.ilk] = Carrier(seal, event["by"], event["at_ms"], event["reason"])

    def _revoke(self, event: Mapping[str, Any]) -> None:
        for ilk, carrier in self.carriers.items():
            if carrier.seal.serial == event["serial"]:
                self.revoked[carrier.seal.serial] = carrier.seal.until_ms
                why = event["reason"] or f"revoked by {event['by']}"
                self.carriers[ilk] = replace(carrier, status=SealStatus.REVOKED, detail=why)

    # -- asking ------------------------------------------------------------------------------------------------

    @property
    def active_key(self) -> Key | None:
        return next((key for key in self.keys.values() if key.state == "active"), None)

    def ring(self, now_ms: int) -> KeyRing:
        """What config/registrar.pub says; a seal that has expired needs no revocation any more."""
        revoked = sorted(serial for serial, until_ms in self.revoked.items() if until_ms > now_ms)
        return KeyRing(tuple(self.keys.values()), tuple(revoked))

    def find(self, agent: str) -> Carrier:
        """By ILK, by the full name of its node, or by the seal's serial. Raises DegreeRefusal NOT_FOUND."""
        for carrier in self.carriers.values():
            if agent in (carrier.seal.ilk, carrier.seal.handler, carrier.seal.serial):
                return carrier
        raise DegreeRefusal("NOT_FOUND", f"nobody who graduated is {agent[:80]}; skep degree ls --carriers")

    def check_room(self, ilk: str, handler: str, now_ms: int) -> None:
        """Whether this agent may graduate. Raises DegreeRefusal HANDLER_TAKEN, TABLE_FULL."""
        for other in self.carriers.values():
            if other.seal.handler == handler and other.seal.ilk != ilk and other.status is not SealStatus.REVOKED:
                raise DegreeRefusal("HANDLER_TAKEN", f"{handler} answers for {other.seal.ilk}; revoke that seal first")
        if ilk not in self.carriers and len(self.carriers) >= CARRIERS_MAX:
            raise DegreeRefusal("TABLE_FULL", f"at most {CARRIERS_MAX} agents carry a degree")
        self.check_revocations(now_ms)

    def check_revocations(self, now_ms: int) -> None:
        """Whether one more revocation fits. Raises DegreeRefusal TABLE_FULL."""
        if len(self.ring(now_ms).revoked) >= REVOKED_MAX:
            raise DegreeRefusal("TABLE_FULL", f"{REVOKED_MAX} seals are revoked and not expired; "
                                "skep degree rotate-key --reseal --revoke-old makes them needless")  # fmt: skip

    def check_keys(self) -> None:
        """Whether one more key fits. Raises DegreeRefusal TABLE_FULL."""
        if len(self.keys) >= KEYS_MAX:
            raise DegreeRefusal("TABLE_FULL", f"the registrar had {KEYS_MAX} keys, which is as many as it may")
