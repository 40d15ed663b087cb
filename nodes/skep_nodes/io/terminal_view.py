"""What a person at a terminal sees, and how their lines arrive without ever stopping the loop.

Lines are read by a thread of their own, because reading a terminal blocks and a file cannot be waited for at all; it
hands them over through a bounded queue. On a real terminal, text that arrives while the person types is printed above
the line being typed, which is then drawn again. Text from the hive is shown as text: control characters are taken out
first, since a stranger's message must not be able to move the cursor or set the window's title.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TextIO

from skep_nodes.io.cases import ROLES, Case, Line

LINES_AHEAD_MAX = 64  # typed or piped lines not yet carried out
PROMPT = "> "
_STYLES = {"user": "bold cyan", "assistant": "dim", "human": "green", "note": "yellow"}


def plain(text: str) -> str:
    """`text` without control characters; line breaks stay, tabs become spaces."""
    kept = (each if each == "\n" or each.isprintable() else " " for each in text)
    return "".join(kept)


class View:
    """Writes to a stream; in colour and around the line being typed when it is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.is_terminal = self._stream.isatty() and sys.stdin.isatty()
        self._rich: Callable[[str, str], None] | None = (
            _rich_writer(self._stream) if self.is_terminal else None
        )

    def line(self, role: str, text: str) -> None:
        for index, part in enumerate(plain(text).split("\n")):
            head = f"{ROLES.get(role, role):>6}: " if index == 0 else " " * 8
            self._write(head + part, _STYLES.get(role, ""))

    def note(self, text: str) -> None:
        self._write(f"-- {plain(text)}", "yellow")

    def case(self, case: Case) -> None:
        """A conversation with its reason."""
        self.note(f"conversation {case.number} from {case.asker}: {case.reason or 'no reason given'}")
        self.lines(case.lines)

    def lines(self, lines: Iterable[Line]) -> None:
        for each in lines:
            self.line(each.role, each.text)

    def threads(self, cases: list[Case], current: Case | None) -> None:
        if not cases:
            self.note("no conversation waits")
        for each in cases:
            mark = "*" if each is current else " "
            state = f"{each.unanswered} unanswered" if each.unanswered else "answered"
            self._write(
                f"{mark}{each.number:3}  {state:14} {each.asker}: {plain(each.last_question())[:60]}", ""
            )

    def _write(self, text: str, style: str) -> None:
        if self._rich is not None:
            self._rich(text, style)
            return
        self._stream.write(text + "\n")
        self._stream.flush()


def _rich_writer(stream: TextIO) -> Callable[[str, str], None]:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)

    def write(text: str, style: str) -> None:
        stream.write("\r\x1b[K")
        console.print(Text(text, style=style))
        stream.write(PROMPT + _typed_so_far())
        stream.flush()

    return write


def _typed_so_far() -> str:
    try:
        import readline
    except ImportError:
        return ""
    return readline.get_line_buffer()


class LineReader:
    """Lines of `read` (None at the end), read in a thread, as an async queue."""

    def __init__(self, read: Callable[[], str | None]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(LINES_AHEAD_MAX)
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def next(self) -> str | None:
        return await self._lines.get()

    def _run(self) -> None:
        line: str | None = ""
        while line is not None:
            line = self._read()
            try:
                asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the loop has ended


def terminal_reader() -> Callable[[], str | None]:
    """Lines of a person, with editing and history where the platform has them."""
    try:
        import readline  # noqa: F401 - its import is what gives input() editing
    except ImportError:
        pass

    def read() -> str | None:
        try:
            return input(PROMPT)
        except EOFError:
            return None

    return read


def stream_reader(stream: TextIO) -> Callable[[], str | None]:
    """Lines of a pipe or a script."""
    return lambda: stream.readline() or None
