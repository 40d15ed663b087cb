"""A pipe between a client and the in-memory router that can be slow, drop frames and break.

It is a transport as far as a protocol can see. Bytes arrive in a later turn of the loop, cut into pieces where the test
says so, and never reordered within one direction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from skep.testing.clock import FakeClock
    from skep.testing.router import MemoryRouter, Peer

Factory = Callable[[], asyncio.BaseProtocol]


class Wire(asyncio.Transport):
    """The client's end; the router's end is the `Peer`."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._protocol: Any = None
        self._peer: Peer | None = None
        self._reading = True
        self._held: list[bytes] = []
        self._to_router = _Lane(self)
        self._to_client = _Lane(self)
        self.closed = False
        self.delay = 0.0
        self.piece = 0  # bytes per read; 0 delivers whole writes
        self.drop: Callable[[bytes], bool] | None = None  # judges each write of the client

    def join(self, protocol: asyncio.BaseProtocol, router: MemoryRouter) -> None:
        self._protocol = protocol
        self._peer = router.connected(self._from_router, self.close)
        protocol.connection_made(self)

    # ---- the transport's face ------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self.closed and not (self.drop is not None and self.drop(bytes(data))):
            self._to_router.put(bytes(data), self._into_router)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        held, self._held = self._held, []
        for data in held:
            self._into_client(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        """Closes once what was written has arrived."""
        if not self.closed:
            self.closed = True
            self._to_router.put(b"", self._finish)

    def abort(self) -> None:
        """Breaks at once: what is on its way is gone."""
        self.closed = True
        self._to_router.cut()
        self._to_client.cut()
        self._loop.call_soon(self._finish, b"")

    # ---- inside --------------------------------------------------------------------------------------------------

    def _from_router(self, data: bytes) -> None:
        if not self.closed:
            self._to_client.put(data, self._into_client)

    def _into_router(self, data: bytes) -> None:
        if self._peer is not None:
            self._peer.receive_data(data)

    def _into_client(self, data: bytes) -> None:
        if not self._reading:
            self._held.append(data)
        elif self._protocol is not None:
            for piece in _cut(data, self.piece):
                self._protocol.data_received(piece)

    def _finish(self, _: bytes) -> None:
        protocol, self._protocol = self._protocol, None
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.lost()
        if protocol is not None:
            protocol.connection_lost(None)


class _Lane:
    """One direction: keeps order whatever the delay."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._epoch = 0
        self._free_at = 0.0

    def put(self, data: bytes, arrive: Callable[[bytes], None]) -> None:
        wire, epoch = self._wire, self._epoch
        due = max(self._free_at, wire._clock.now() + wire.delay)
        self._free_at = due
        if due > wire._clock.now():
            wire._clock.call_later(due - wire._clock.now(), self._arrive, epoch, data, arrive)
        else:
            wire._loop.call_soon(self._arrive, epoch, data, arrive)

    def _arrive(self, epoch: int, data: bytes, arrive: Callable[[bytes], None]) -> None:
        if epoch == self._epoch:
            arrive(data)

    def cut(self) -> None:
        self._epoch += 1


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
