"""The conversations a person was asked to take over, and what the person does with them. No I/O.

A *case* is one thread: who asks (the node that the answer goes to), why it came here, what was said so far, and the
requests that wait for an answer. The person works on one case at a time (`current`); text is an answer to it, a line
that begins with `/` is a command. Everything is bounded: past CASES_MAX a new case is refused, which its sender hears.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CASES_MAX = 256  # nobody holds more conversations than that
LINES_MAX = 100  # of one case; older ones scroll away
PENDING_MAX = 32  # requests of one case that wait
LINE_CHARS_MAX = 8192

ROLES = {"user": "asker", "assistant": "desk", "human": "you", "note": "note"}


class TooManyCases(Exception):
    """The person holds all the conversations there is room for."""


@dataclass(frozen=True, slots=True)
class Line:
    """`role` is user, assistant, human or note."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request of the asker. `expired` says whether its sender still waits: a late answer would go nowhere."""

    future: asyncio.Future[str]
    expired: Callable[[], bool]


@dataclass(slots=True)
class Case:
    thread: str
    asker: str
    number: int
    reason: str = ""
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=LINES_MAX))
    unanswered: int = 0
    message: Any = None
    """The last message of the hive on this thread: what is handed back."""
    pending: deque[Waiting] = field(default_factory=deque)

    def say(self, role: str, text: str) -> None:
        self.lines.append(Line(role, text[:LINE_CHARS_MAX]))

    def last_question(self) -> str:
        return next((each.text for each in reversed(self.lines) if each.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Command:
    """A typed line, understood. `verb` is answer, take, back, threads, show, wait, help, quit or unknown."""

    verb: str
    argument: str = ""


VERBS = ("threads", "take", "back", "show", "wait", "help", "quit")
HELP = """/threads        conversations that wait, and the one you are in
/take [N]       go to conversation N, or to the one that waits longest
/show           what was said so far, and why it came to you
/back [reason]  hand the conversation back; the next message goes where it went before
/wait [S]       wait up to S seconds for a message (for scripts)
/quit           hand everything back and leave
anything else is your answer"""


def understand(line: str) -> Command | None:
    """The command in `line`; None for an empty one. `//` begins an answer with a slash."""
    text = line.strip()
    if not text:
        return None
    if not text.startswith("/") or text.startswith("//"):
        return Command("answer", text.removeprefix("/") if text.startswith("//") else text)
    verb, _, argument = text[1:].partition(" ")
    return Command(verb if verb in VERBS else "unknown", argument.strip())


class Cases:
    """All cases of one person. `changed` is called when one has something new."""

    def __init__(self, changed: Callable[[Case], None] = lambda case: None) -> None:
        self._cases: OrderedDict[str, Case] = OrderedDict()
        self._numbers = 0
        self._changed = changed
        self.current: Case | None = None

    def __len__(self) -> int:
        return len(self._cases)

    def all(self) -> list[Case]:
        return list(self._cases.values())

    def waiting(self) -> list[Case]:
        """Cases with something unanswered, longest waiting first."""
        return [each for each in self._cases.values() if each.unanswered]

    def get(self, thread: str) -> Case | None:
        return self._cases.get(thread)

    def open(self, thread: str, asker: str, reason: str = "", history: list[Line] | None = None) -> Case:
        """The case of `thread`, made when there is none; a reason or a history that is new replaces none it has."""
        case = self._cases.get(thread)
        if case is None:
            if len(self._cases) >= CASES_MAX:
                raise TooManyCases
            self._numbers += 1
            case = self._cases[thread] = Case(thread, asker, self._numbers)
        case.reason = case.reason or reason
        if history and not case.lines:
            case.lines.extend(history)
        return case

    def said(self, case: Case, text: str, message: Any) -> None:
        """The asker said `text`. A hand-over's history ends before it, so nothing is said twice."""
        case.message = message
        case.say("user", text)
        case.unanswered += 1
        self._cases.move_to_end(case.thread)
        self._changed(case)

    def wait_for_answer(self, case: Case, expired: Callable[[], bool] = lambda: False) -> Waiting:
        """Joins the requests that the person's next answers resolve, oldest first."""
        if len(case.pending) >= PENDING_MAX:
            raise TooManyCases
        waiting = Waiting(asyncio.get_running_loop().create_future(), expired)
        case.pending.append(waiting)
        return waiting

    def answered(self, case: Case, text: str) -> bool:
        """Records an answer; True when a waiting request took it (then nothing else is to be sent)."""
        case.say("human", text)
        case.unanswered = 0
        while case.pending:
            waiting = case.pending.popleft()
            if not waiting.future.done() and not waiting.expired():
                waiting.future.set_result(text)
                return True
            waiting.future.cancel()
        return False

    def take(self, argument: str = "") -> Case | None:
        """Makes a case current: the one numbered `argument`, else the one that waits longest, else the oldest."""
        if argument:
            found = [each for each in self._cases.values() if str(each.number) == argument]
        else:
            found = self.waiting() or self.all()
        if found:
            self.current = found[0]
        return found[0] if found else None

    def close(self, case: Case) -> None:
        """The case is no longer this person's; requests that still wait are ended without an answer."""
        self._cases.pop(case.thread, None)
        if self.current is case:
            self.current = None
        for waiting in case.pending:
            waiting.future.cancel()
