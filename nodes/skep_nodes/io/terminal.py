"""IO.terminal: a person at a terminal is a node.

Conversations that an agent cannot answer arrive here with what was said so far and why. The person answers; each
answer goes to the channel the asker is on. `/back` hands a conversation back: its binding ends and the next message is
routed as if there had been none. On a terminal it is used by hand; with `--script FILE` the file's lines are typed
instead, which is how a demonstration has a person without one.

A message that somebody waits for (a request) is answered by the person's next line; when the asker stops waiting
first, the line goes to the asker's channel as a message of its own, so nothing a person wrote is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skep import Message, Node, RemoteError, SkepError
from skep_nodes.io import process
from skep_nodes.io import settings as settings_files
from skep_nodes.io.cases import HELP, Case, Cases, Command, Line, TooManyCases, understand
from skep_nodes.io.settings import SettingsError
from skep_nodes.io.terminal_view import LineReader, View, stream_reader, terminal_reader
from skep_nodes.io.text import text_payload, words_of

log = logging.getLogger("skep.nodes.terminal")

REQUESTS_MAX = 512  # requests that may wait for the person at once; each holds a handler


@dataclass(frozen=True, slots=True)
class TerminalSettings:
    """IO.terminal's settings."""

    name: str = "IO.terminal"
    person: str = ""
    """Shown to agents and in answers; empty for nobody in particular."""
    wait_s: float = 30.0
    """Seconds a script's /wait waits when it names none."""


class HumanDesk:
    """The person's cases, joined to a node and a view."""

    def __init__(self, settings: TerminalSettings, node: Node, view: View) -> None:
        self.settings, self.node, self.view = settings, node, view
        self.cases = Cases(self._arrived)
        self.failed = False
        self._news = asyncio.Event()

    # ---- from the hive -------------------------------------------------------------------------------------------

    async def receive(self, message: Message) -> Any:
        """A message for the person; a request is answered when the person does."""
        if not message.thread_id:
            raise RemoteError("invalid_payload", "a conversation needs a thread")
        payload = message.payload
        try:
            if isinstance(payload, dict) and payload.get("type") == "conversation":
                self._open_handed_over(message.thread_id, message.source_name, payload)
                return None
            return await self._said(message, message.thread_id)
        except TooManyCases:
            raise RemoteError("busy", "the person holds all the conversations there is room for") from None

    def _open_handed_over(self, thread: str, source: str, payload: dict[str, Any]) -> None:
        turns = payload.get("turns")
        history = [_line(each) for each in turns if isinstance(each, dict)] if isinstance(turns, list) else []
        asker = payload.get("asker") if isinstance(payload.get("asker"), str) else ""
        self.cases.open(thread, asker or source, str(payload.get("reason") or ""), history)

    async def _said(self, message: Message, thread: str) -> Any:
        handoff = message.meta.get("handoff")
        handed = handoff if isinstance(handoff, dict) else {}
        asker = str(handed.get("source") or message.source_name)
        case = self.cases.open(thread, asker, str(handed.get("reason") or ""))
        text = words_of(message.payload) or "(a message without words)"
        if not message.wants_reply:
            self.cases.said(case, text, message)
            return None
        waiting = self.cases.wait_for_answer(case, lambda: message.remaining == 0)
        self.cases.said(case, text, message)
        try:
            async with asyncio.timeout(message.remaining):
                return self._payload(
                    await asyncio.shield(waiting.future)
                )  # shielded, to tell whose end it was
        except TimeoutError:
            raise RemoteError("deadline_exceeded", "the person did not answer in time") from None
        except asyncio.CancelledError:
            if waiting.future.cancelled():  # handed back: the asker's channel hears it at once
                raise RemoteError("handed_back", "the conversation was handed back unanswered") from None
            raise  # the asker waits no longer
        finally:
            if waiting in case.pending:
                case.pending.remove(waiting)

    def _arrived(self, case: Case) -> None:
        self._news.set()
        if self.cases.current is case:
            self.view.line("user", case.last_question())
        else:
            self.view.note(f"conversation {case.number} waits; /take {case.number}")

    # ---- from the person -----------------------------------------------------------------------------------------

    async def carry_out(self, line: str) -> bool:
        """Does what `line` says; False when the person leaves."""
        command = understand(line)
        if command is None:
            return True
        if command.verb == "quit":
            return False
        await getattr(self, f"_do_{command.verb}")(command)
        return not self.failed

    async def _do_answer(self, command: Command) -> None:
        case = self.cases.current
        if case is None:
            self.view.note("you are in no conversation; /take one first")
            return
        self.view.line("human", command.argument)
        if self.cases.answered(case, command.argument):
            return
        trace = case.message.trace_id if case.message is not None else None
        try:
            await self.node.send(
                case.asker, self._payload(command.argument), thread=case.thread, trace=trace, ack="routed"
            )
        except SkepError as error:
            self.view.note(f"not sent to {case.asker}: {error}; write it again to retry")

    async def _do_take(self, command: Command) -> None:
        case = self.cases.take(command.argument)
        if case is None:
            self.view.note(f"there is no conversation {command.argument}".rstrip())
        else:
            self.view.case(case)

    async def _do_back(self, command: Command) -> None:
        case = self.cases.current
        if case is None:
            self.view.note("you are in no conversation")
        elif await self._hand_back(case, command.argument or "answered"):
            self.view.note(f"conversation {case.number} is handed back")

    async def _do_threads(self, _command: Command) -> None:
        self.view.threads(self.cases.all(), self.cases.current)

    async def _do_show(self, _command: Command) -> None:
        if self.cases.current is None:
            self.view.note("you are in no conversation")
        else:
            self.view.case(self.cases.current)

    async def _do_help(self, _command: Command) -> None:
        for each in HELP.splitlines():
            self.view.note(each)

    async def _do_unknown(self, _command: Command) -> None:
        self.view.note("no such command; /help lists them, // begins an answer with a slash")

    async def _do_wait(self, command: Command) -> None:
        """Until the current conversation, or any when there is none, has something unanswered."""
        try:
            seconds = float(command.argument) if command.argument else self.settings.wait_s
            async with asyncio.timeout(seconds):
                while not self._unanswered():
                    self._news.clear()
                    await self._news.wait()
        except (ValueError, TimeoutError):
            self.view.note(f"nothing came within {command.argument or self.settings.wait_s} s")
            self.failed = True

    def _unanswered(self) -> bool:
        current = self.cases.current
        return bool(current.unanswered) if current is not None else bool(self.cases.waiting())

    async def _hand_back(self, case: Case, reason: str) -> bool:
        try:
            if case.message is not None:
                await self.node.return_thread(case.message, reason)
        except SkepError as error:
            self.view.note(f"conversation {case.number} is not handed back: {error}")
            return False
        self.cases.close(case)
        return True

    async def leave(self) -> None:
        """Hands everything back: a person who is gone must not keep conversations."""
        for each in self.cases.all():
            await self._hand_back(each, "the person left")

    def _payload(self, text: str) -> dict[str, Any]:
        person = {"person": self.settings.person} if self.settings.person else {}
        return text_payload(text, role="human", **person)


def _line(turn: dict[str, Any]) -> Line:
    role = turn.get("role")
    return Line(
        role if role in ("user", "assistant", "human") else "note", str(turn.get("text") or "")[:8192]
    )


async def serve(node: Node, desk: HumanDesk, reader: LineReader, quit_at_end: bool) -> None:
    """Carries out lines until /quit, or, for a script, until its end. Without a person the node serves on."""
    reader.start()
    while (line := await reader.next()) is not None:
        if not await desk.carry_out(line):
            return
    if not quit_at_end:
        desk.view.note("no more input; conversations wait until this node is stopped")
        await node.serve_forever()


async def _serve_lines(node: Node, desk: HumanDesk, script: Path | None) -> None:
    if script is not None:
        with script.open(encoding="utf-8") as file:
            await serve(node, desk, LineReader(stream_reader(file)), quit_at_end=True)
    else:
        read = terminal_reader() if desk.view.is_terminal else stream_reader(sys.stdin)
        await serve(node, desk, LineReader(read), quit_at_end=False)


async def run(settings: TerminalSettings, hive: Path, script: Path | None) -> int:
    node = Node(settings.name, hive=hive, ordered=False, concurrency=REQUESTS_MAX)
    view = View()
    desk = HumanDesk(settings, node, view)
    node.on_message(desk.receive)
    async with node:
        view.note(f"{node.name} is here; /help lists the commands")
        try:
            await _serve_lines(node, desk, script)
        finally:
            await desk.leave()
    return process.EXIT_FAILED if desk.failed else 0


def main() -> None:
    parser = settings_files.arguments(TerminalSettings.__doc__ or "")
    parser.add_argument(
        "--script", type=Path, default=None, help="type this file's lines instead of a person's"
    )
    options = parser.parse_args()
    if options.script is not None and not options.script.is_file():
        raise SettingsError(f"{options.script}: no such script")
    settings = settings_files.load(TerminalSettings, options)
    code = process.run_loop(run(settings, process.hive_of(options.hive).root, options.script))
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    raise SystemExit(process.run_main(main))
