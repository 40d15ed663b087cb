"""Who asks a system node for something: an account of the system, a node of the hive's own account, or another's.

The router vouches for the uuid of a message's source, and writes into its nodes region under which name and which uid
that node joined. So the region proves both, and nothing that a message says about its sender is believed. Own is the
account that the router itself runs under, the one that needs no grants; the region's file belongs to it.

A router that was killed leaves its region behind. A uuid that stands in several regions therefore has only what all
of them agree on: what a dead region says can take rights away, never give them. A region that cannot be attached
proves nothing, and a source that no region knows is refused. The regions are attached anew for each question (some
tens of microseconds each, beside a synced write): routers come and go, and a stale answer would be a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from skep.protocol.names import is_system
from skep_shm import NodesReader, RegionError, nodes_readers


class Standing(Enum):
    """What a sender is to this hive."""

    SYSTEM = auto()
    """SY.* or RT.*, whatever its uid: the router gave it that name for its account or its ticket."""
    OWN = auto()
    FOREIGN = auto()
    UNKNOWN = auto()
    """No region of this hive has it."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a message; `name` is empty when regions do not agree on it."""

    name: str
    standing: Standing
    uid: int = field(default=-1, compare=False)
    """The account that joined under that name; -1 when regions do not agree on it."""

    @property
    def trusted(self) -> bool:
        return bool(self.name) and self.standing in (Standing.SYSTEM, Standing.OWN)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one region says of a uuid."""

    name: str
    own: bool
    uid: int = -1


NOBODY = Sender("", Standing.UNKNOWN)
FindSender = Callable[[bytes], Sender]


def judge(claims: list[Claim]) -> Sender:
    """The sender whom every claim allows."""
    if not claims:
        return NOBODY
    names = {claim.name for claim in claims}
    name = claims[0].name if len(names) == 1 else ""
    uids = {claim.uid for claim in claims}
    uid = claims[0].uid if len(uids) == 1 else -1
    if all(map(is_system, names)):
        return Sender(name, Standing.SYSTEM, uid)
    own = all(claim.own for claim in claims)
    return Sender(name, Standing.OWN if own else Standing.FOREIGN, uid)


def sender_of(root: Path, uuid: bytes) -> Sender:
    """Who `uuid`, the source of a message, is in the hive of this folder."""
    claims = []
    for reader in nodes_readers(root):
        try:
            claims += _claims(reader, uuid)
        except RegionError:
            continue  # it ended while we looked: it proves nothing
        finally:
            reader.close()
    return judge(claims)


def _claims(reader: NodesReader, uuid: bytes) -> list[Claim]:
    header = reader.header()
    if uuid == header.router_uuid:
        return [Claim(header.router_name, own=True, uid=header.owner_uid)]
    record = reader.find(uuid)
    return [] if record is None else [Claim(record.name, record.uid == header.owner_uid, record.uid)]
