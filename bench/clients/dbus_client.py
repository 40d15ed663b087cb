"""dbus-fast on dbus-broker: a method call with and without a reply.

The window is 32 messages: dbus-fast drops the connection when a write would block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus


def _call(to: str, member: str, data: bytes, flags: MessageFlag = MessageFlag.NONE) -> Message:
    return Message(
        destination=f"bench.{to}",
        path="/bench",
        interface="bench.Talk",
        member=member,
        signature="ay",
        body=[data],
        flags=flags,
    )


class DBusAdapter:
    window_max = 32

    async def open(self, address: str, me: str, handler: Callable[[bytes], bytes | None]) -> None:
        self.bus = await MessageBus(bus_address=f"unix:path={address}").connect()
        await self.bus.request_name(f"bench.{me}")

        def arrived(message: Message) -> Message | bool | None:
            if message.message_type is not MessageType.METHOD_CALL or message.interface != "bench.Talk":
                return None
            reply = handler(bytes(message.body[0]))
            return True if reply is None else Message.new_method_return(message, "ay", [reply])

        self.bus.add_message_handler(arrived)

    async def request(self, data: bytes) -> bytes:
        reply = await self.bus.call(_call("responder", "Echo", data))
        assert reply is not None
        return bytes(reply.body[0])

    def post(self, to: str, data: bytes) -> Awaitable[object] | None:
        self.bus.send(_call(to, "Post", data, MessageFlag.NO_REPLY_EXPECTED))
        return None
