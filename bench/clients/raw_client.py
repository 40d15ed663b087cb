"""The Python floors. raw1: two uvloop processes and a socket. raw2: a uvloop relay between them.

A frame is u32 bytes of the payload, u8 number of the destination, payload; a frame without payload says who one is.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import cast

HEAD = struct.Struct("<IB")
NUMBERS = {"client": 1, "responder": 2}
ECHO = b"E"

FrameHandler = Callable[["Framer", int, bytes], None]


class Framer(asyncio.Protocol):
    """Cuts a stream into frames and hands each, whole, to `on_frame`."""

    def __init__(self, on_frame: FrameHandler, number: int | None = None) -> None:
        self.on_frame, self.number = on_frame, number
        self.buffer = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.number is not None:
            self.transport.write(HEAD.pack(0, self.number))

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= HEAD.size:
            size, number = HEAD.unpack_from(buffer, at)
            whole = HEAD.size + size
            if end - at < whole:
                break
            self.on_frame(self, number, bytes(buffer[at : at + whole]))
            at += whole
        del buffer[:at]


async def relay(path: str) -> None:
    """raw2's middle: nothing but a dict from number to connection."""
    members: dict[int, asyncio.Transport] = {}

    def forward(framer: Framer, number: int, frame: bytes) -> None:
        if len(frame) == HEAD.size:
            members[number] = framer.transport
        else:
            members[number].write(frame)

    server = await asyncio.get_running_loop().create_unix_server(lambda: Framer(forward), path)
    await server.serve_forever()


class RawAdapter:
    """Both ends; `direct` is raw1."""

    window_max = 1000

    def __init__(self, *, direct: bool) -> None:
        self.direct = direct
        self.answer: asyncio.Future[bytes] | None = None
        self.transport: asyncio.Transport

    async def open(self, address: str, me: str, handler: Callable[[bytes], bytes | None]) -> None:
        loop = asyncio.get_running_loop()

        def arrived(framer: Framer, number: int, frame: bytes) -> None:
            self.transport = framer.transport
            data = frame[HEAD.size :]
            if data and me == "client" and data[:1] == ECHO:
                self._answered(data)
            elif data and (reply := handler(data)) is not None:
                self.post("client", reply)

        if self.direct and me == "responder":
            self.server = await loop.create_unix_server(lambda: Framer(arrived), address)
            return
        _, framer = await loop.create_unix_connection(lambda: Framer(arrived, NUMBERS[me]), address)
        self.transport = framer.transport

    def _answered(self, data: bytes) -> None:
        assert self.answer is not None
        self.answer.set_result(data)

    async def request(self, data: bytes) -> bytes:
        self.answer = asyncio.get_running_loop().create_future()
        self.post("responder", data)
        return await self.answer

    def post(self, to: str, data: bytes) -> Awaitable[object] | None:
        self.transport.write(HEAD.pack(len(data), NUMBERS[to]) + data)
        return None
