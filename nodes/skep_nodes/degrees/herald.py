"""What SY.identity still has to be told about seals, and in which words. Pure.

The registrar's history is the truth; identity has its image, from which the region is made. An image can be behind:
identity may not run, or answer too late. So what was confirmed is kept per agent, what differs is due, and is told
again after a pause. At start nothing is confirmed: everything is told once, which changes nothing where it is known.
"""

from __future__ import annotations

from typing import Any, Final

from skep.seal import Degree, seal_facts
from skep_nodes.degrees.ledger import Carrier
from skep_shm import SealStatus

AGAIN_S: Final = 5.0
WAITS: Final = frozenset({"DB_NOT_READY", "DB_WRITE_FAILED", "NOT_PRIMARY", "BUSY", "UNAUTHORIZED_REGISTRAR"})
"""Answers of a service that is not ready; any other refusal means the seal itself."""


class Herald:
    """Who has been told what."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, SealStatus]] = {}
        self._granted: set[str] = set()
        self._again_s: dict[str, float] = {}

    def due(self, carriers: list[Carrier], now_s: float) -> list[Carrier]:
        """Carriers whom identity has otherwise, and who are not pausing."""
        return [
            each
            for each in carriers
            if self._told.get(each.seal.ilk) != (each.seal.serial, each.status)
            and self._again_s.get(each.seal.ilk, 0.0) <= now_s
        ]

    def words(self, carrier: Carrier, degree: Degree) -> list[tuple[str, dict[str, Any]]]:
        """The verbs that bring identity in line: the seal itself, once; then what became of it."""
        seal = carrier.seal
        said: list[tuple[str, dict[str, Any]]] = []
        if seal.serial not in self._granted:
            grant = {
                "ilk": seal.ilk, "handler": seal.handler, "serial": seal.serial, "degree": seal.degree,
                "degree_version": seal.degree_version, "capabilities": list(degree.capabilities),
                "seal": seal_facts(seal), "from_ms": seal.from_ms, "until_ms": seal.until_ms, "issuer": seal.issuer,
                "reason": carrier.reason or f"graduated by {carrier.by}",
            }  # fmt: skip
            said.append(("SEAL_GRANT", grant))
        status = {"ilk": seal.ilk, "serial": seal.serial, "status": carrier.status.name}
        return [*said, ("SEAL_STATUS", {**status, "reason": carrier.detail[:500] or carrier.status.name})]

    def confirmed(self, carrier: Carrier, verb: str) -> None:
        """Identity answered that it has it."""
        if verb == "SEAL_GRANT":
            self._granted.add(carrier.seal.serial)
            return
        self._told[carrier.seal.ilk] = (carrier.seal.serial, carrier.status)
        self._again_s.pop(carrier.seal.ilk, None)
        self._granted.intersection_update(serial for serial, _ in self._told.values())

    def forget(self, carrier: Carrier) -> None:
        """Identity does not know this seal after all: it is granted again."""
        self._granted.discard(carrier.seal.serial)
        self._told.pop(carrier.seal.ilk, None)

    def pause(self, carrier: Carrier, now_s: float) -> None:
        """No answer, or one that may be another later."""
        self._again_s[carrier.seal.ilk] = now_s + AGAIN_S
