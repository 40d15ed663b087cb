"""The first words on a connection: HELLO out, ANNOUNCE in, then the link takes the transport over.

The protocol object of a connection is replaced rather than switched by a flag, because uvloop looks up `data_received`
when a protocol is set: the link's hot loop is then called directly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from skep.link import NativeLink
from skep.protocol.codes import CloseReason
from skep.protocol.errors import LinkClosed
from skep.protocol.handshake import NATIVE, Announced, ClientHandshake, Refused
from skep.protocol.message import format_uuid

if TYPE_CHECKING:
    from skep.client import Client


def _link_class(framing: str) -> type[NativeLink]:
    """The JSON side's translation is loaded by those who speak JSON: it takes milliseconds."""
    if framing:
        return NativeLink
    from skep.json_link import JsonLink

    return JsonLink


class Greeting(asyncio.Protocol):
    """The protocol of a connection until the router has answered HELLO."""

    def __init__(self, client: Client, *, framing: str, ticket: str | None, version: str = "1.0") -> None:
        self._client = client
        self._handshake = ClientHandshake(
            client.uuid,
            client.name,
            version,
            framings=(NATIVE,) if framing == "native" else (),
            ticket=ticket or "",
            trace_id=format_uuid(client.outbox.trace_of(client.outbox.next_id)),
        )
        self._transport: asyncio.Transport | None = None
        self.linked: asyncio.Future[NativeLink] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._handshake.start()
        self._transport.write(self._handshake.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._handshake.receive_data(data):
            if isinstance(event, Refused):
                self._refused(event)
            else:
                self._announced(event)

    def _announced(self, announced: Announced) -> None:
        assert self._transport is not None
        client = self._client
        client.name, client.vpn_id, client.router_name = (
            announced.name,
            announced.vpn_id,
            announced.router_name,
        )
        client.directory.tell(client.uuid, announced.name)
        client.directory.tell(announced.router_uuid, announced.router_name)
        link = _link_class(announced.framing)(client, self._transport, announced.frame_bytes_max)
        self._transport.set_protocol(link)
        client.attach(link)
        if not self.linked.done():
            self.linked.set_result(link)
        leftover = self._handshake.take_leftover()
        if leftover:
            link.data_received(leftover)

    def _refused(self, event: Refused) -> None:
        self._fail(LinkClosed(event.reason, f"{event.detail} ({event.hint})" if event.hint else event.detail))

    def _fail(self, error: LinkClosed) -> None:
        if not self.linked.done():
            self.linked.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """The router has not answered in time."""
        self._fail(LinkClosed(CloseReason.HELLO_TIMEOUT, "the router did not answer HELLO"))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(LinkClosed(CloseReason.PEER_CLOSED, str(error or "the router closed the connection")))
