"""A node's place: which hive, which name, which uuid, which clock and which way to a router, settled before linking.

One spot where the pieces of a client are put together, so that `Node`, `connect` and the in-memory hive cannot differ
in how they do it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skep.client import Client, Inbox
from skep.clock import Clock, LoopClock
from skep.connector import Connector, Dialer, UnixDialer
from skep.directory import Directory
from skep.hive import Hive, find_hive
from skep.identity import Identity, ephemeral, persistent, read_ticket
from skep.protocol.names import base_of, parse_name

if TYPE_CHECKING:
    from skep.testing import Hive as MemoryHive

FRAMINGS = ("native", "json")


@dataclass(slots=True)
class Place:
    """Everything a client is made of."""

    name: str
    hive: Hive
    identity: Identity
    clock: Clock
    dialer: Dialer
    directory: Directory
    ticket: str | None

    @classmethod
    def find(
        cls,
        name: str,
        hive: str | Path | MemoryHive | None = None,
        *,
        persistent: bool = False,
        clock: Clock | None = None,
        dialer: Dialer | None = None,
    ) -> Place:
        """The place of `name`. Raises HiveError, IdentityError or ProtocolError (a bad name)."""
        if hive is not None and not isinstance(hive, str | Path):
            return hive.place(name)
        home = find_hive(hive)
        full = parse_name(name, home.hive_id)
        return cls(
            name=full,
            hive=home,
            identity=_identity(home, base_of(full), persistent),
            clock=clock or LoopClock(asyncio.get_running_loop()),
            dialer=dialer or UnixDialer(home.sockets_dir),
            directory=Directory(home.root),
            ticket=read_ticket(),
        )

    def client(self, inbox: Inbox, framing: str = "native") -> tuple[Client, Connector]:
        """A client that is not linked yet, and the connector that will link it."""
        if framing not in FRAMINGS:
            raise ValueError(f"framing {framing!r}: want one of {', '.join(FRAMINGS)}")
        client = Client(
            name=self.name,
            hive=self.hive,
            source=self.identity.uuid,
            clock=self.clock,
            directory=self.directory,
            inbox=inbox,
        )
        return client, Connector(client, self.dialer, framing=framing, ticket=self.ticket)


def _identity(hive: Hive, base: str, keep: bool) -> Identity:
    return persistent(hive, base) if keep else ephemeral()
