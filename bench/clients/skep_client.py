"""Skep by the API its README shows: a Node, a decorated handler whose result is the answer, `request` and `send`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from skep import Message, Node


class SkepAdapter:
    window_max = 1000

    async def open(self, address: str, me: str, handler: Callable[[bytes], bytes | None]) -> None:
        self.node = node = Node(f"AI.bench.{me}", hive=address)

        @node.on_message
        async def arrived(message: Message) -> object:
            return handler(message.payload)

        await node.__aenter__()

    async def request(self, data: bytes) -> bytes:
        answer = await self.node.request("AI.bench.responder", data)
        return bytes(answer.payload)

    def post(self, to: str, data: bytes) -> Awaitable[object] | None:
        return self.node.send(f"AI.bench.{to}", data)
