"""nats-py as its documentation shows it: subscribe with a callback, publish, request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import nats


class NatsAdapter:
    window_max = 1000

    async def open(self, address: str, me: str, handler: Callable[[bytes], bytes | None]) -> None:
        self.nc = await nats.connect(address)

        async def arrived(message: Any) -> None:
            reply = handler(message.data)
            if reply is not None:
                await self.nc.publish(message.reply, reply)

        await self.nc.subscribe(f"bench.{me}", cb=arrived)
        await self.nc.flush()

    async def request(self, data: bytes) -> bytes:
        return bytes((await self.nc.request("bench.responder", data, timeout=5)).data)

    def post(self, to: str, data: bytes) -> Awaitable[object] | None:
        return self.nc.publish(f"bench.{to}", data)
