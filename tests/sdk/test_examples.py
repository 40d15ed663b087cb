"""Every numbered example runs here; one that nobody runs fails the last test."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from types import ModuleType

import pytest

from skep import Node, RemoteError
from skep.testing import Hive

FOLDER = Path(__file__).resolve().parents[2] / "examples"
RUN_HERE: set[str] = set()


def load(name: str) -> ModuleType:
    RUN_HERE.add(name)
    spec = importlib.util.spec_from_file_location(f"example_{name[:2]}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_01_echo() -> None:
    async with Hive() as hive:
        await hive.start(load("01_echo").node)
        caller = await hive.node("IO.test")
        assert (await caller.request("AI.echo", {"text": "hello"})).payload == {"echo": {"text": "hello"}}


def test_01_echo_is_twelve_lines() -> None:
    text = (FOLDER / "01_echo.py").read_text()
    assert len(text.splitlines()) <= 12


async def test_02_request_and_stream() -> None:
    example = load("02_request_and_stream")
    async with Hive() as hive:
        example.counter.move_to(hive)
        example.caller.move_to(hive)
        assert await example.main() == [
            "so far 1",
            "so far 3",
            "so far 6",
            "total 6",
            "part 1: 0",
            "part 2: 1",
            "part 3: 2",
            "refused: NODE_NOT_FOUND",
        ]


async def test_03_typed() -> None:
    async with Hive() as hive:
        await hive.start(load("03_typed").node)
        caller = await hive.node("IO.test")
        bill = await caller.request("AI.shop", {"item": "tea", "count": 3})
        assert bill.payload == {"text": "3 x tea", "cents": 750}
        with pytest.raises(RemoteError) as refused:
            await caller.request("AI.shop", {"item": "tea", "count": 0})
        assert refused.value.code == "invalid_payload"


async def test_04_escalate() -> None:
    example = load("04_escalate")
    async with Hive() as hive:
        await hive.start(example.agent)
        await hive.start(example.person)
        customer, got = Node("IO.customer"), []

        @customer.on_message
        async def hear(message):
            got.append((message.source_name, message.text))

        await hive.start(customer)
        for text in ("opening hours", "refund", "when?", "thanks", "opening hours"):
            await customer.send("AI.helper", text, thread="talk")
            await hive.clock.advance(1)
        agent, person = "AI.helper@test", "IO.desk@test"
        assert got[0] == (agent, "We are open from 9 to 17.")
        assert (agent, "I have asked a colleague.") in got
        assert got[-3:] == [
            (person, "A person here. About 'when?': let me look."),
            (person, "You are welcome."),
            (agent, "We are open from 9 to 17."),
        ]


async def test_05_certainty() -> None:
    example = load("05_certainty")
    async with Hive() as hive:
        example.sink.move_to(hive)
        example.source.move_to(hive)
        told = await example.main()
        assert [line for line in told if ":" not in line] == [
            "routed",
            "delivered",
            "processed",
            "raised NODE_NOT_FOUND",
        ]
        assert "REFUSED: NODE_NOT_FOUND" in told


async def test_06_configuration() -> None:
    async with Hive() as hive:
        await hive.start(load("06_configuration").node)
        caller = await hive.node("SY.admin")
        payload = {
            "node_name": "AI.translator@test",
            "schema_version": 1,
            "config_version": 1,
            "apply_mode": "replace",
            "config": {"language": "es", "provider": {"api_key": "k"}},
        }
        answer = await caller.request("AI.translator", payload, type="system", verb="CONFIG_SET")
        assert (answer.verb, answer.payload["state"]) == ("CONFIG_RESPONSE", "CONFIGURED")
        assert (await caller.request("AI.translator", "hello")).text == "[es] hello"


def test_07_script(served: Path) -> None:
    example = load("07_script")
    assert example.main("hi", hive=str(served)) == {"text": "hi"}
    assert threading.active_count() < 10


@pytest.mark.parametrize(
    "name",
    ["test_it_answers_after_a_minute", "test_a_caller_who_cannot_wait_is_told", "test_a_cut_is_never_silent"],
)
async def test_08_test_your_node(name: str) -> None:
    await getattr(load("08_test_your_node"), name)()


def test_no_example_is_left_out() -> None:
    assert {path.stem for path in FOLDER.glob("[0-9]*.py")} == RUN_HERE
