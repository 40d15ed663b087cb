"""Nodes and plain connections over a real Unix socket, in both framings and on both event loops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from sdk.fake_router import UnixRouter
from skep import DeliveryError, Node, connect
from skep.protocol.codes import Reason
from skep.protocol.header import AckLevel, Phase


def echo_node(root: Path, framing: str = "native", name: str = "AI.echo") -> Node:
    node = Node(name, hive=root, framing=framing)

    @node.on_message
    async def echo(message):
        return message.payload

    return node


async def test_a_request_is_answered_in_every_mix_of_framings(
    unix: UnixRouter, root: Path, framing: str
) -> None:
    for other in ("native", "json"):
        async with echo_node(root, other):
            sender, _ = await connect("IO.x", hive=root, framing=framing)
            answer = await sender.request("AI.echo", {"hi": 1}, timeout=5)
            assert answer.payload == {"hi": 1}
            assert answer.phase is Phase.REPLY
            await sender.close()


async def test_a_message_carries_thread_ilk_context_and_meta(
    unix: UnixRouter, root: Path, framing: str
) -> None:
    ilk = "ilk:00000000-0000-4000-8000-000000000001"
    sender, _ = await connect("IO.a", hive=root, framing=framing)
    _, receiver = await connect("IO.b", hive=root, framing=framing)
    await sender.send(
        "IO.b",
        "hello",
        thread="talk-1",
        src_ilk=ilk,
        context={"io": {"k": 1}},
        meta={"priority": "high"},
        deadline=9,
    )
    message = await receiver.receive(5)
    assert (message.text, message.thread_id, message.src_ilk) == ("hello", "talk-1", ilk)
    assert message.context == {"io": {"k": 1}}
    assert message.meta == {"priority": "high"}
    assert message.remaining is not None
    assert 0 < message.remaining <= 9
    await sender.close()
    await receiver.close()


async def test_a_refusal_reaches_the_caller(unix: UnixRouter, root: Path, framing: str) -> None:
    sender, _ = await connect("IO.x", hive=root, framing=framing)
    with pytest.raises(DeliveryError) as refused:
        await sender.request("AI.nobody", {}, timeout=5)
    assert refused.value.reason is Reason.NODE_NOT_FOUND
    await sender.close()


@pytest.mark.parametrize(
    ("level", "reached"),
    [("routed", AckLevel.ROUTED), ("delivered", AckLevel.DELIVERED), ("processed", AckLevel.PROCESSED)],
)
async def test_acks_name_their_level(unix: UnixRouter, root: Path, level: str, reached: AckLevel) -> None:
    async with echo_node(root):
        sender, _ = await connect("IO.x", hive=root)
        receipt = await sender.send("AI.echo", {"n": 1}, ack=level, deadline=5)
        assert receipt.level >= reached
        await sender.close()


async def test_a_json_consumer_gives_routed_and_no_more(unix: UnixRouter, root: Path) -> None:
    async with echo_node(root, "json"):
        sender, _ = await connect("IO.x", hive=root)
        receipt = await sender.send("AI.echo", {"n": 1}, ack="delivered", deadline=5)
        assert receipt.level is AckLevel.ROUTED
        await sender.close()


async def test_names_come_with_json_frames(unix: UnixRouter, root: Path) -> None:
    sender, _ = await connect("IO.a", hive=root)
    _, receiver = await connect("IO.b", hive=root, framing="json")
    await sender.send("IO.b", {"n": 1})
    assert (await receiver.receive(5)).source_name == "IO.a@test"
    await sender.close()
    await receiver.close()


@pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_both_event_loops_serve(root: Path, factory) -> None:
    async def talk() -> list[int]:
        router = UnixRouter(root, "test")
        await router.start()
        async with echo_node(root):
            sender, receiver = await connect("IO.x", hive=root)
            for number in range(500):
                await sender.send("AI.echo", {"n": number})
            got = sorted([(await receiver.receive(5)).payload["n"] for _ in range(500)])
            await sender.close()
        await router.stop()
        return got

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(talk()) == list(range(500))


async def test_bytes_to_a_json_peer_are_refused(unix: UnixRouter, root: Path) -> None:
    async with echo_node(root, "json"):
        sender, _ = await connect("IO.x", hive=root)
        with pytest.raises(DeliveryError) as refused:
            await sender.request("AI.echo", b"\x00\x01", timeout=5)
        assert refused.value.reason is Reason.UNTRANSLATABLE
        await sender.close()
