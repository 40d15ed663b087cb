"""The in-memory router behind a real Unix socket, for tests of what only a socket does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from skep.testing.router import MemoryRouter, Peer


class _Wire(asyncio.Protocol):
    def __init__(self, router: MemoryRouter) -> None:
        self.router = router
        self.peer: Peer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self.peer = self.router.connected(self.transport.write, self.transport.close)

    def data_received(self, data: bytes) -> None:
        assert self.peer is not None
        self.peer.receive_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        assert self.peer is not None
        self.peer.lost()


class UnixRouter:
    """A MemoryRouter on `<root>/run/routers/<hex>.sock`."""

    def __init__(self, root: Path, hive_id: str) -> None:
        self.router = MemoryRouter(hive_id)
        self.path = root / "run" / "routers" / f"{self.router.uuid.hex()}.sock"
        self.wires: list[_Wire] = []

    async def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.server = await asyncio.get_running_loop().create_unix_server(self._accept, str(self.path))

    def _accept(self) -> _Wire:
        wire = _Wire(self.router)
        self.wires.append(wire)
        return wire

    async def kill(self) -> None:
        """As a crash: every connection breaks, the socket file stays behind."""
        self.server.close()
        for wire in self.wires:
            wire.transport.abort()
        self.wires.clear()
        self.router.peers.clear()

    async def stop(self) -> None:
        await self.kill()
        self.path.unlink(missing_ok=True)
