"""The roll: who graduated, from the history's files alone, for those who look while no registrar runs.

Nothing is opened for writing and nothing is repaired: of the journal and its copy the one that tells more and is whole
counts, as at the registrar's start.
"""

from __future__ import annotations

from pathlib import Path

from skep_nodes.degrees.history import History
from skep_nodes.degrees.ledger import Carrier, Ledger
from skep_shm import SealStatus


def carriers(root: Path) -> list[Carrier]:
    """Agents of this hive that should have a seal, by name. Raises HistoryDamaged, OSError."""
    ledger = Ledger()
    for event in History(root / "state" / "degrees" / "history").read():
        ledger.apply(event)
    found = [each for each in ledger.carriers.values() if each.status is not SealStatus.REVOKED]
    return sorted(found, key=_name)


def _name(carrier: Carrier) -> str:
    return carrier.seal.handler
