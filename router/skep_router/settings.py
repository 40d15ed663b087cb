"""What a router is told at its start, once. Built in `__main__`, passed inward; the core reads no file."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Seals = Literal["off", "warn", "require"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one router process."""

    hive: str
    """Hive id; the part of names after the @."""
    root: Path
    """The hive's folder: sockets, state."""
    name: str
    """Base name, RT.something."""
    uuid: bytes
    """16 bytes, persisted: nodes find the same socket again after a restart."""
    own_uid: int
    """The hive's own account: may hold every name, system names included."""
    tickets: frozenset[tuple[str, str]] = frozenset()
    """(full system name, SHA-256 hex of its ticket) handed over by whoever started the hive's processes."""
    links_of_others: int = 8192
    """Registered connections of all uids but the hive's own, together: half of the descriptors at most."""
    grace_s: float = 5.0
    """How long a dead owner's name is kept for its uid: longer than any SDK needs to come back."""
    tick_s: float = 0.005
    """Between two looks at the clock and at the regions' revision words: half of the 10 ms a change may take."""
    drain_s: float = 3.0
    """After SIGTERM, for queues to empty; below systemd's and `skep up`'s patience."""
    spin_s: float = 0.00008
    """How long the loop looks for the next read before it sleeps: about two wake-ups of an idle core."""
    ping_s: float = 30.0
    """Silence after which a native link is asked whether it lives; as long again, and it is closed."""
    policy_required: bool = False
    """Without a policy, what a policy would be asked about hears NOT_READY."""
    identity_required: bool = False
    """Without identities, a message that names nobody hears NOT_READY."""
    frontdesk: str = "SY.frontdesk.gov"
    """Where interlocutors go who are not registered yet, whatever the policy says."""
    seals: Seals = "off"
    """What becomes of agents without a valid seal: nothing, a line in the events, no message at all."""

    @property
    def full_name(self) -> str:
        return f"{self.name}@{self.hive}"
