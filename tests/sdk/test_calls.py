"""Requests, streams, progress, cancellation, timeouts, failures: between two nodes of an in-memory hive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skep import DeliveryError, Message, Node, RemoteError, RequestTimeout
from skep.protocol import system
from skep.protocol.codes import Reason
from skep.protocol.header import Phase
from skep.testing import Hive


@pytest.fixture
async def hive(framing: str) -> AsyncIterator[Hive]:
    async with Hive(framing=framing) as made:
        yield made


async def serve(hive: Hive, handler, **options) -> Node:
    node = Node("AI.served", framing=hive.framing, **options)
    node.on_message(handler)
    return await hive.start(node)


async def test_progress_comes_before_the_reply(hive: Hive) -> None:
    async def work(message: Message):
        await message.progress({"done": 1})
        await message.progress({"done": 2})
        return {"done": 3}

    await serve(hive, work)
    caller = await hive.node("IO.caller")
    seen: list[int] = []
    answer = await caller.request("AI.served", {}, on_progress=lambda m: seen.append(m.payload["done"]))
    assert (seen, answer.payload) == ([1, 2], {"done": 3})


async def test_a_generator_answers_in_numbered_parts(hive: Hive) -> None:
    async def count(message: Message):
        for number in range(message.payload["n"]):
            yield {"number": number}

    await serve(hive, count)
    caller = await hive.node("IO.caller")
    parts = [part async for part in caller.stream("AI.served", {"n": 5})]
    assert [part.payload["number"] for part in parts] == [0, 1, 2, 3, 4]
    assert [part.part_number for part in parts] == [1, 2, 3, 4, 5]


async def test_a_stream_that_fails_raises_where_it_stopped(hive: Hive) -> None:
    async def broken(message: Message):
        yield {"number": 1}
        raise RemoteError("out_of_parts", "no second part")

    await serve(hive, broken)
    caller = await hive.node("IO.caller")
    seen = []
    with pytest.raises(RemoteError) as failed:
        async for part in caller.stream("AI.served", {}):
            seen.append(part.payload)
    assert (seen, failed.value.code) == ([{"number": 1}], "out_of_parts")


async def test_leaving_a_stream_early_cancels_the_handler(hive: Hive) -> None:
    ended = asyncio.Event()

    async def endless(message: Message):
        try:
            while True:
                yield {}
                await message.client.clock.sleep(1)
        finally:
            ended.set()

    await serve(hive, endless)
    caller = await hive.node("IO.caller")
    stream = caller.stream("AI.served", {})
    await anext(stream)
    await stream.aclose()
    await hive.settle()
    assert ended.is_set()


async def test_cancelling_the_caller_cancels_the_handler(hive: Hive) -> None:
    cancelled = asyncio.Event()

    async def slow(message: Message):
        try:
            await message.client.clock.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    node = await serve(hive, slow)
    caller = await hive.node("IO.caller")
    asked = asyncio.ensure_future(caller.request("AI.served", {}))
    await hive.settle()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await hive.settle()
    assert cancelled.is_set()
    node.routes._messages.clear()  # the worker that was cancelled goes on serving
    node.on_message(echo)
    assert (await caller.request("AI.served", {"again": 1}, type="other")).payload == {"again": 1}


async def echo(message: Message):
    return message.payload


async def test_a_timeout_is_both_kinds_of_error_and_cancels(hive: Hive) -> None:
    cancelled = asyncio.Event()

    async def slow(message: Message):
        assert message.remaining is not None
        assert message.remaining <= 5
        try:
            await message.client.clock.sleep(3600)
        finally:
            cancelled.set()

    await serve(hive, slow)
    caller = await hive.node("IO.caller")
    asked = asyncio.ensure_future(caller.request("AI.served", {}, timeout=5))
    await hive.clock.advance(5.1)
    with pytest.raises(RequestTimeout) as late:
        await asked
    assert isinstance(late.value, TimeoutError)
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert cancelled.is_set()


async def test_a_handler_error_is_told_without_a_traceback(hive: Hive) -> None:
    async def broken(message: Message):
        raise KeyError("the secret is 1234")

    await serve(hive, broken)
    caller = await hive.node("IO.caller")
    with pytest.raises(RemoteError) as failed:
        await caller.request("AI.served", {})
    assert failed.value.code == "handler_failed"
    assert "1234" not in str(failed.value)


async def test_a_typed_handler_gets_the_model_or_refuses(hive: Hive) -> None:
    from pydantic import BaseModel

    class Order(BaseModel):
        count: int

    node = Node("AI.served", framing=hive.framing)

    @node.on_message(model=Order)
    async def order(message: Message, body: Order) -> dict[str, int]:
        return {"twice": body.count * 2}

    await hive.start(node)
    caller = await hive.node("IO.caller")
    assert (await caller.request("AI.served", {"count": 4})).payload == {"twice": 8}
    with pytest.raises(RemoteError) as refused:
        await caller.request("AI.served", {"count": "many"})
    assert refused.value.code == "invalid_payload"


async def test_messages_of_one_thread_are_served_in_order(hive: Hive) -> None:
    running: list[str] = []
    order: list[int] = []

    async def slow_first(message: Message):
        thread = message.thread_id
        assert thread not in running, "two handlers in one thread"
        running.append(thread)
        await message.client.clock.sleep(1.0 if message.payload["n"] == 0 else 0.1)
        running.remove(thread)
        order.append(message.payload["n"])

    await serve(hive, slow_first)
    caller = await hive.node("IO.caller")
    for number in range(4):
        await caller.send("AI.served", {"n": number}, thread="t")
    await caller.send("AI.served", {"n": 9}, thread="other")
    await hive.clock.advance(3)
    assert order == [9, 0, 1, 2, 3]


async def test_waiting_handlers_do_not_hold_up_others(hive: Hive) -> None:
    gate = asyncio.Event()
    started: list[int] = []

    async def wait(message: Message):
        started.append(message.payload["n"])
        await gate.wait()
        return message.payload

    await serve(hive, wait, concurrency=8)
    caller = await hive.node("IO.caller")
    asked = [asyncio.ensure_future(caller.request("AI.served", {"n": n})) for n in range(12)]
    await hive.settle()
    await hive.settle()
    assert sorted(started) == list(range(8)), "the limit is eight at once"
    gate.set()
    await asyncio.gather(*asked)
    assert sorted(started) == list(range(12))


async def test_an_answer_to_a_plain_message_reaches_the_handler_of_its_sender(hive: Hive) -> None:
    await serve(hive, echo)
    got: list[Message] = []
    caller = await hive.node("IO.caller")

    @caller.on_message
    async def answer(message: Message):
        got.append(message)

    receipt = await caller.send("AI.served", {"n": 1})
    await hive.settle()
    assert [(m.payload, m.reply_to, m.phase) for m in got] == [({"n": 1}, receipt.message_id, Phase.REPLY)]


async def test_asyncio_timeout_works_inside_a_handler(hive: Hive) -> None:
    async def impatient(message: Message):
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return {"timed": "out"}

    await serve(hive, impatient)
    caller = await hive.node("IO.caller")
    assert (await caller.request("AI.served", {})).payload == {"timed": "out"}


async def test_pending_requests_fail_as_unknown_after_a_cut(hive: Hive) -> None:
    async def slow(message: Message):
        await message.client.clock.sleep(3600)

    await serve(hive, slow)
    caller = await hive.node("IO.caller")
    asked = asyncio.ensure_future(caller.request("AI.served", {}))
    await hive.settle()
    hive.cut(caller)
    with pytest.raises(DeliveryError) as cut:
        await asked
    assert cut.value.reason is Reason.UNKNOWN


async def test_broadcast_reaches_those_whom_the_target_names(hive: Hive) -> None:
    got: list[str] = []
    for name in ("AI.a", "AI.b", "IO.c"):
        node = Node(name, framing=hive.framing)

        @node.on_message
        async def take(message: Message, name=name):
            got.append(name)

        await hive.start(node)
    caller = await hive.node("IO.caller")
    await caller.broadcast({"all": 1}, target="AI.*")
    await hive.settle()
    assert sorted(got) == ["AI.a", "AI.b"]


async def test_a_handler_that_replies_itself_is_not_answered_for_again(hive: Hive) -> None:
    async def replies(message: Message):
        await message.reply({"by": "hand"})

    await serve(hive, replies)
    sender, receiver = await hive.connect("IO.caller")
    assert (await sender.request("AI.served", {})).payload == {"by": "hand"}
    await hive.settle()
    assert receiver.receive_nowait() is None


async def test_a_refusal_of_the_policy_names_its_decision(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    """`skep explain` takes the id; the text of the error shows it."""
    spoken = system.unreachable

    def with_decision(*facts: Any, **more: Any) -> dict[str, Any]:
        return spoken(*facts, **more) | {"decision_id": "6d1f7a52-0000-4000-8000-000000000001"}

    monkeypatch.setattr(system, "unreachable", with_decision)
    caller = await hive.node("IO.caller")
    with pytest.raises(DeliveryError) as refused:
        await caller.request("AI.nobody", {})
    assert refused.value.decision_id == "6d1f7a52-0000-4000-8000-000000000001"
    assert f"decision {refused.value.decision_id}" in str(refused.value)
