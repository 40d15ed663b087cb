"""A person at a terminal as a node: cases, commands, scripts, what is shown, and the whole round with the desk."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from skep import Message, Node, RemoteError
from skep.testing import Hive
from skep_nodes.ai.desk import DeskNode, DeskSettings, make_desk
from skep_nodes.io import cases as cases_module
from skep_nodes.io.cases import Cases, Command, Line, TooManyCases, understand
from skep_nodes.io.terminal import HumanDesk, TerminalSettings, serve
from skep_nodes.io.terminal_view import LINES_AHEAD_MAX, LineReader, View, plain, stream_reader
from skep_nodes.io.text import text_payload, words_of
from support.wait import eventually_async

THREAD = "thread:sha256:" + "7" * 64


# Lines and cases


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("hello\n", Command("answer", "hello")),
        ("  \n", None),
        ("/take 3", Command("take", "3")),
        ("/back all done ", Command("back", "all done")),
        ("//etc is a folder", Command("answer", "/etc is a folder")),
        ("/nonsense", Command("unknown")),
        ("/", Command("unknown")),
    ],
)
def test_what_a_line_means(line: str, command: Command | None) -> None:
    assert understand(line) == command


def test_the_case_that_waits_longest_is_taken_first() -> None:
    cases = Cases()
    for name in ("a", "b", "c"):
        cases.said(cases.open(name, "IO.x"), f"question {name}", object())
    assert cases.take() is cases.get("a")
    assert cases.current is cases.get("a")
    cases.answered(cases.current, "answer")  # type: ignore[arg-type]
    assert cases.take() is cases.get("b")
    assert cases.take("3") is cases.get("c")
    assert cases.take("99") is None
    assert cases.current is cases.get("c")
    cases.close(cases.current)  # type: ignore[arg-type]
    assert cases.current is None
    assert [each.thread for each in cases.waiting()] == ["b"]


def test_history_comes_once_and_what_is_asked_again_is_shown_again() -> None:
    cases = Cases()
    history = [Line("user", "question"), Line("assistant", "nobody is there")]
    case = cases.open("t", "IO.x", "why", history)
    cases.said(case, "question", object())
    assert cases.open("t", "IO.y", "other", history) is case
    assert [each.text for each in case.lines] == ["question", "nobody is there", "question"]
    assert (case.unanswered, case.reason, case.asker) == (1, "why", "IO.x")


async def test_cases_and_waiting_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_module, "CASES_MAX", 2)
    monkeypatch.setattr(cases_module, "PENDING_MAX", 2)
    cases = Cases()
    case = cases.open("a", "x")
    cases.open("b", "x")
    with pytest.raises(TooManyCases):
        cases.open("c", "x")
    futures = [cases.wait_for_answer(case).future for _ in range(2)]
    with pytest.raises(TooManyCases):
        cases.wait_for_answer(case)
    futures[0].cancel()  # that asker waits no longer
    assert cases.answered(case, "text")
    assert futures[1].result() == "text"
    assert not cases.answered(case, "more")


# What is shown


def test_control_characters_of_strangers_are_not_shown() -> None:
    stream = io.StringIO()
    view = View(stream)
    view.line("user", "a\x1b[2Jb\x07\nc\t\u202ed")
    assert stream.getvalue() == " asker: a [2Jb \n        c  d\n"
    assert plain("ñ 😀") == "ñ 😀"


def test_a_terminal_gets_colour_and_its_line_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    stream = Terminal()
    View(stream).line("user", "hello [bold]not markup[/bold]")
    assert "hello [bold]not markup[/bold]" in stream.getvalue()
    assert stream.getvalue().startswith("\r\x1b[K")
    assert stream.getvalue().endswith("> ")


async def test_lines_are_read_beside_the_loop_and_bounded() -> None:
    gate = threading.Event()
    count = [0]

    def read() -> str | None:
        if count[0] == 0:
            gate.wait(5)
        count[0] += 1
        return f"{count[0]}\n" if count[0] <= 200 else None

    reader = LineReader(read)
    reader.start()
    first = asyncio.create_task(reader.next())
    await asyncio.sleep(0)  # the loop runs on while the thread waits
    assert not first.done()
    gate.set()
    assert await first == "1\n"
    await eventually_async(lambda: count[0] >= LINES_AHEAD_MAX)
    assert count[0] <= LINES_AHEAD_MAX + 3
    lines = [await reader.next() for _ in range(200)]
    assert lines[-1] is None


# In a hive


class Person:
    """IO.terminal with its screen."""

    def __init__(self, hive: Hive) -> None:
        self.screen = io.StringIO()
        self.node = Node("IO.terminal", hive=hive, ordered=False)  # type: ignore[arg-type]
        self.desk = HumanDesk(TerminalSettings(person="Ana", wait_s=5), self.node, View(self.screen))
        self.node.on_message(self.desk.receive)

    async def types(self, *lines: str) -> None:
        for line in lines:
            assert await self.desk.carry_out(line)

    async def come_back(self) -> None:
        await self.node.start()

    @property
    def shown(self) -> str:
        return self.screen.getvalue()


class Asker:
    """A channel that keeps what it is told."""

    def __init__(self) -> None:
        self.node = Node("IO.asker")
        self.node.on_message(self.receive)
        self.told: list[tuple[str, str]] = []

    async def receive(self, message: Message) -> None:
        self.told.append((message.source_name, words_of(message.payload) or ""))

    async def says(self, text: str) -> None:
        await self.node.send("AI.desk", text_payload(text), thread=THREAD)


@asynccontextmanager
async def office() -> AsyncIterator[tuple[Hive, Asker, Person]]:
    """A desk with the demo documents, a person, an asker."""
    async with Hive() as hive:
        person, asker = Person(hive), Asker()
        desk = make_desk(DeskSettings(), None)
        node = Node("AI.desk")
        DeskNode(DeskSettings(), node, desk)
        for each in (person.node, asker.node, node):
            await hive.start(each)
        yield hive, asker, person


async def test_the_whole_round() -> None:
    """A question the documents answer, one they do not, the person, the next message to the person, the hand-back."""
    async with office() as (_, asker, person):
        await asker.says("How long does standard delivery within Spain take?")
        await eventually_async(lambda: len(asker.told) == 1)
        assert asker.told[0][0] == "AI.desk@test"
        assert "two to three working days" in asker.told[0][1]

        await asker.says("Do you have vegan chocolate?")
        await eventually_async(lambda: len(asker.told) == 2)
        assert "colleague" in asker.told[1][1]
        await eventually_async(lambda: "waits; /take 1" in person.shown)

        await person.types("/take")
        assert "from IO.asker@test: the documents do not answer it" in person.shown
        assert " asker: How long does standard delivery" in person.shown
        assert "  desk: Standard delivery" in person.shown
        assert person.shown.count("asker: Do you have vegan chocolate?") == 1
        await person.types("Yes, three kinds.")
        await eventually_async(lambda: len(asker.told) == 3)
        assert asker.told[2] == ("IO.terminal@test", "Yes, three kinds.")

        await asker.says("Which ones?")
        await eventually_async(lambda: "asker: Which ones?" in person.shown)
        await person.types("Dark, milk and nut.", "/threads", "/back thanks")
        await eventually_async(lambda: len(asker.told) == 4)
        assert "handed back" in person.shown

        await asker.says("Do you accept PayPal?")
        await eventually_async(lambda: len(asker.told) == 5)
        assert asker.told[4][0] == "AI.desk@test"


async def test_a_request_is_answered_by_the_persons_next_line() -> None:
    async with office() as (_, asker, person):
        first = await asker.node.request("AI.desk", text_payload("I want to talk to a person"), thread=THREAD)
        assert "colleague" in (words_of(first.payload) or "")
        waiting = asyncio.create_task(
            asker.node.request("AI.desk", text_payload("are you there?"), thread=THREAD)
        )  # type: ignore[arg-type]
        await person.types("/wait 5", "/take")
        await eventually_async(lambda: person.desk.cases.current and person.desk.cases.current.pending)
        await person.types("Yes!")
        answer: Any = await waiting
        assert answer.payload["content"] == "Yes!"
        assert (answer.payload["role"], answer.payload["person"]) == ("human", "Ana")
        assert asker.told == []  # the answer came once, as the reply


async def test_an_answer_to_somebody_who_stopped_waiting_still_arrives() -> None:
    async with office() as (hive, asker, person):
        await asker.node.request("AI.desk", text_payload("human please"), thread=THREAD)
        waiting = asyncio.create_task(
            asker.node.request("AI.desk", text_payload("hello?"), 5.0, thread=THREAD)
        )  # type: ignore[arg-type]
        await eventually_async(lambda: person.desk.cases.take() and person.desk.cases.current.pending)  # type: ignore[union-attr]
        await hive.clock.advance(6)
        with pytest.raises(TimeoutError):
            await waiting
        await person.types("Sorry, I was away.")
        await eventually_async(lambda: asker.told == [("IO.terminal@test", "Sorry, I was away.")])


async def test_leaving_hands_everything_back() -> None:
    async with office() as (_, asker, person):
        await asker.says("I want to talk to a person")
        await eventually_async(lambda: person.desk.cases.waiting() and len(asker.told) == 1)
        waiting = asyncio.create_task(
            asker.node.request("AI.desk", text_payload("still there?"), thread=THREAD)
        )  # type: ignore[arg-type]
        await eventually_async(lambda: any(each.pending for each in person.desk.cases.all()))
        assert not await person.desk.carry_out("/quit")
        await person.desk.leave()
        with pytest.raises(RemoteError, match="handed_back"):
            await waiting
        assert len(person.desk.cases) == 0
        await asker.says("Do you accept PayPal?")
        await eventually_async(lambda: len(asker.told) == 2)
        assert asker.told[1][0] == "AI.desk@test"


async def test_when_no_person_is_there_the_asker_is_told() -> None:
    async with office() as (_, asker, person):
        await person.node.stop()
        await asker.says("Do you have vegan chocolate?")
        await eventually_async(lambda: len(asker.told) == 1)
        assert "no colleague" in asker.told[0][1]
        await asker.says("Do you accept PayPal?")
        await eventually_async(lambda: len(asker.told) == 2)
        assert "PayPal" in asker.told[1][1]
        await person.come_back()
        await asker.says("Do you have vegan chocolate?")
        await eventually_async(lambda: len(asker.told) == 3)
        await person.types("/wait 5", "/take")
        assert person.shown.count("asker: Do you have vegan chocolate?") == 2
        assert "no colleague can be reached" in person.shown


async def test_an_answer_that_cannot_be_sent_is_told_to_the_person() -> None:
    async with office() as (_, asker, person):
        await asker.says("I want to talk to a person")
        await eventually_async(lambda: person.desk.cases.waiting())
        await asker.node.stop()
        await person.types("/take", "Hello?")
        assert "not sent to IO.asker@test" in person.shown


async def test_commands_without_a_conversation() -> None:
    async with office() as (_, _asker, person):
        await person.types("hello", "/back", "/show", "/threads", "/take", "/help", "/what", "")
        for said in (
            "you are in no conversation",
            "no conversation waits",
            "there is no conversation",
            "/quit",
            "no such command",
        ):
            assert said in person.shown


async def test_a_script_is_a_person() -> None:
    async with office() as (_, asker, person):
        script = io.StringIO("/wait 5\n/take\nYes, we have.\n/wait 5\nGladly.\n/back\n")
        serving = asyncio.create_task(
            serve(person.node, person.desk, LineReader(stream_reader(script)), quit_at_end=True)
        )
        await asker.says("Do you have vegan chocolate?")
        await eventually_async(lambda: len(asker.told) == 2)
        await asker.says("Can you keep some for me?")
        await asyncio.wait_for(serving, 5)
        await eventually_async(lambda: len(asker.told) == 3)
        assert [each[1] for each in asker.told[1:]] == ["Yes, we have.", "Gladly."]
        assert len(person.desk.cases) == 0
        assert not person.desk.failed


async def test_a_script_that_waits_in_vain_fails() -> None:
    async with office() as (_, _asker, person):
        for line in ("/wait 0.01", "/wait soon"):
            assert not await person.desk.carry_out(line)
            assert person.desk.failed
        assert "nothing came within" in person.shown


async def test_what_has_no_thread_or_no_words() -> None:
    async with office() as (_, asker, person):
        with pytest.raises(RemoteError, match="needs a thread"):
            await asker.node.request("IO.terminal", text_payload("hi"))
        await asker.node.send("IO.terminal", {"odd": 1}, thread=THREAD)
        await eventually_async(lambda: person.desk.cases.waiting())
        await person.types("/take")
        assert "(a message without words)" in person.shown
        with pytest.raises(RemoteError, match="text messages only"):
            await asker.node.request("AI.desk", {"odd": 1})
        with pytest.raises(RemoteError, match="4000 characters"):
            await asker.node.request("AI.desk", text_payload("x" * 5000))
