"""`skep demo`: a conversation through a whole hive, every step checked.

A stranger writes over real HTTP in WhatsApp's format. The front desk asks who she is and registers her; her question
goes on to the agent that the policy names, which holds a degree for it; what the documents do not say goes to a person,
and stays there until it is handed back. She is the same when she writes by e-mail, and the agent knows what was said
before. Then somebody changes one letter of the agent's prompt, and it is silent. The transcript shows each message with
the hops that the router recorded, and every expectation is checked: the last line is `demo: ok`, or the demo fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import skep_shm
from skep.protocol.header import unpack_key
from skep_nodes.cli import demo_school
from skep_nodes.cli.demo_customer import Phone
from skep_nodes.cli.demo_hive import NUMBER_ID, POLL_S, DemoError, DemoHive
from skep_nodes.cli.demo_post import PostOffice
from skep_nodes.cli.explain import span_text
from skep_nodes.cli.failure import Exit
from skep_nodes.cli.output import printable
from skep_nodes.cli.records import RecordsTail
from skep_nodes.sy.tap import read_turns, spool_folder
from skep_shm import Record, RecordKind

DESK, PERSON, CHANNEL, MAIL, FRONT_DESK = "AI.desk", "IO.terminal", "IO.whatsapp", "IO.email", "SY.frontdesk.gov"
ANSWER_S, RECORD_S = 5.0, 2.0
QUESTION = "How long does standard delivery within Spain take?"
UNKNOWN = "Can you repair the lid of my grandmother's samovar?"
FOLLOW_UP = "It is made of brass, is that a problem?"
AGAIN = "Do you ship to France?"
ADDRESS = "ana@example.org"
WHO_SHE_IS = f"I'm Ana Ruiz, {ADDRESS}"
BY_MAIL = "And how long does it take?"
LAST = "How many days do I have to return an item?"
REPAIR = "Yes. Bring it to our workshop in Valencia and we will look at it."
BRASS = "Not at all, brass is what we repair most."
HANDED_BACK = "is handed back"
SCRIPT = ("/wait", "/take", REPAIR, "/wait", BRASS, "/back")

T = TypeVar("T")


@dataclass(slots=True)
class Step:
    """One message of the transcript, and the way it took."""

    who: str
    text: str
    hops: list[str] = field(default_factory=list)


class Hops:
    """Hop records since the customer last spoke."""

    def __init__(self, tail: RecordsTail) -> None:
        self._tail = tail
        self._found: list[Record] = []
        self._refused: list[Record] = []
        self._told: set[tuple[int, str]] = set()

    def forget(self) -> None:
        """The customer speaks: a new window begins."""
        self._tail.read()
        self._found.clear()
        self._refused.clear()
        self._told.clear()

    def take(self, source: str, dest: str) -> list[str]:
        """The hops from one node to another that were not taken before. Raises DemoError when there is none."""
        found = wait(lambda: self._between(source, dest), RECORD_S, f"a hop {source} → {dest} is recorded")
        self._told |= {(each.mono_ns, each.dest_name) for each in found}
        first_ns = self._found[0].mono_ns
        return [f"{source} → {dest} +{span_text(each.mono_ns - first_ns)}" for each in found]

    def has(self, source: str, dest: str) -> bool:
        """Whether such a hop is recorded, also one that was taken."""
        self._look()
        return any(_is_between(each, source, dest) for each in self._found)

    def refusal(self, source: str) -> list[str]:
        """The refusal of what this node sent. Raises DemoError when there is none."""
        found = wait(lambda: self._refused_of(source), RECORD_S, f"a refusal to {source} is recorded")
        return [f"{source} → nobody: {found[-1].code}"]

    def _refused_of(self, source: str) -> list[Record]:
        self._look()
        return [each for each in self._refused if each.source_name.partition("@")[0] == source]

    def _between(self, source: str, dest: str) -> list[Record]:
        self._look()
        found = (each for each in self._found if _is_between(each, source, dest))
        return [each for each in found if (each.mono_ns, each.dest_name) not in self._told]

    def _look(self) -> None:
        fresh = self._tail.read()
        self._found += [each for each in fresh if each.kind == RecordKind.HOP_OUT]
        self._refused += [each for each in fresh if each.kind == RecordKind.REFUSED]


def _is_between(record: Record, source: str, dest: str) -> bool:
    ends = (record.source_name.partition("@")[0], record.dest_name.partition("@")[0])
    return ends == (source, dest)


class Demo:
    """The conversation, step by step."""

    def __init__(self, hive: DemoHive, phone: Phone, office: PostOffice) -> None:
        self._hive, self._phone, self._office = hive, phone, office
        self._url = hive.channel_url()
        self._hops = Hops(RecordsTail(hive.root))
        self.steps: list[Step] = []

    def play(self) -> None:
        """Every step. Raises DemoError at the first that is not as it should be."""
        self._agent_graduates()
        self._stranger_is_asked()
        self._stranger_is_registered()
        self._desk_escalates()
        self._person_stays()
        self._person_hands_back()
        self._documents_answer(AGAIN, "France takes four to five", "shipping.md")
        self._known_by_mail()
        self._changed_agent_is_silent()

    def _agent_graduates(self) -> None:
        degree = demo_school.graduate(self._hive.root)
        self._hive.start_agent()
        self.steps.append(Step("(school)", f"AI.desk graduates: {degree.partition('/')[0][:22]}…"))

    def _stranger_is_asked(self) -> None:
        asked = self._say(QUESTION)
        welcome = self._hear("frontdesk")
        expect("your name" in welcome.text, "the front desk asks who she is", welcome.text)
        asked.hops = self._hops.take(CHANNEL, FRONT_DESK)
        welcome.hops = self._hops.take(FRONT_DESK, CHANNEL)

    def _stranger_is_registered(self) -> None:
        said = self._say(WHO_SHE_IS)
        sent = self._hear("frontdesk")
        expect("sent a code" in sent.text, "the front desk has her prove the address", sent.text)
        said.hops = self._hops.take(CHANNEL, FRONT_DESK) + self._hops.take(FRONT_DESK, MAIL)
        sent.hops = self._hops.take(FRONT_DESK, CHANNEL)
        code = "".join(filter(str.isdigit, self._read("mail").text.splitlines()[0]))
        said = self._say(code)
        thanks, answer = self._hear("frontdesk"), self._hear("desk")
        expect("You are registered" in thanks.text, "the front desk registers her", thanks.text)
        expect("two to three working days" in answer.text, "her first question is answered", answer.text)
        said.hops = self._hops.take(CHANNEL, FRONT_DESK)
        thanks.hops = self._hops.take(FRONT_DESK, CHANNEL)
        answer.hops = self._hops.take(FRONT_DESK, DESK) + self._hops.take(DESK, CHANNEL)
        wait(lambda: last_citation(self._hive, "shipping.md"), RECORD_S, "the desk's answer cites shipping.md")

    def _known_by_mail(self) -> None:
        """The question makes sense only after what she asked by WhatsApp; alone it would be about Spain."""
        self._hops.forget()
        self._office.write(ADDRESS, "One more thing", BY_MAIL)
        asked = self._step("customer", f"(by e-mail) {BY_MAIL}")
        answer = self._read("desk")
        expect("France takes four to five" in answer.text, "the agent knows what was said before", answer.text)
        asked.hops = self._hops.take(MAIL, DESK)
        answer.hops = self._hops.take(DESK, MAIL)
        expect(not self._hops.has(MAIL, FRONT_DESK), "she is recognised")
        wait(lambda: threads_of_speakers(self._hive) == [2], RECORD_S, "one person speaks in both threads")

    def _changed_agent_is_silent(self) -> None:
        file = demo_school.change_prompt(self._hive.root)
        why = wait(lambda: demo_school.why_silent(self._hive.root), ANSWER_S, "the agent sees the change")
        expect(why.startswith("MODULE_CHANGED"), "the agent says what was changed", why)
        wait(self._seal_is_broken, ANSWER_S, "routers know of the broken seal")
        self.steps.append(Step("(disk)", f"one letter of {file.name} is changed; AI.desk: {why}"))
        asked = self._say(LAST)
        sorry = self._hear("whatsapp")
        asked.hops = self._hops.refusal(CHANNEL)
        expect("cannot answer" in sorry.text, "she is told, and not by the agent", sorry.text)
        expect(not self._hops.has(DESK, CHANNEL), "the agent says nothing")

    def _seal_is_broken(self) -> bool:
        reader = skep_shm.IlksReader.attach(self._hive.root)
        try:
            return any(each.seal is skep_shm.SealStatus.BROKEN for each in reader.all())
        finally:
            reader.close()

    def _documents_answer(self, question: str, words: str, document: str) -> None:
        asked = self._say(question)
        answer = self._hear("desk")
        expect(words in answer.text, f"the desk answers {words!r}", answer.text)
        asked.hops = self._hops.take(CHANNEL, DESK)
        answer.hops = self._hops.take(DESK, CHANNEL)
        wait(lambda: last_citation(self._hive, document), RECORD_S, f"the desk's answer cites {document}")

    def _desk_escalates(self) -> None:
        asked = self._say(UNKNOWN)
        notice = self._hear("desk")
        expect("colleague" in notice.text, "the desk says that a colleague will answer", notice.text)
        answer = self._hear("person")
        expect(answer.text == REPAIR, "the person's words arrive unchanged", answer.text)
        asked.hops = self._hops.take(CHANNEL, DESK) + self._hops.take(DESK, PERSON)
        notice.hops = self._hops.take(DESK, CHANNEL)
        answer.hops = self._hops.take(PERSON, CHANNEL)
        expect(self._handler().startswith(PERSON), f"the thread is bound to {PERSON}", self._handler())

    def _person_stays(self) -> None:
        asked = self._say(FOLLOW_UP)
        answer = self._hear("person")
        expect(answer.text == BRASS, "the person answers the next message", answer.text)
        asked.hops = self._hops.take(CHANNEL, PERSON)
        answer.hops = self._hops.take(PERSON, CHANNEL)
        expect(not self._hops.has(CHANNEL, DESK), "the next message does not pass the desk")

    def _person_hands_back(self) -> None:
        """Done when the person reads so. Shared memory says it a moment before the router has looked there; what is
        acknowledged, routers obey."""
        wait(lambda: HANDED_BACK in self._hive.screen(PERSON), ANSWER_S, "the person reads that it is handed back")
        expect(not self._handler(), "the thread is bound to nobody", self._handler())
        self.steps.append(
            Step("person", "(hands the conversation back)", self._hops.take(PERSON, "SY.threads"))
        )

    def _say(self, text: str) -> Step:
        self._hops.forget()
        status = self._phone.say(self._url, self._hive.app_secret, text)
        expect(status == 200, "the webhook is answered 200", status)
        return self._step("customer", text)

    def _hear(self, who: str) -> Step:
        text = self._phone.hear(ANSWER_S)
        if text is None:
            raise DemoError(f"the {who} answers within {ANSWER_S:g} s: nothing came")
        return self._step(who, text)

    def _read(self, who: str) -> Step:
        """The next letter to her."""
        letter = self._office.read(ANSWER_S)
        if letter is None:
            raise DemoError(f"a letter of the {who} comes within {ANSWER_S:g} s: nothing came")
        expect(letter["To"] == ADDRESS, "the letter is to her", letter["To"])
        text = str(letter.get_content()).replace("\r\n", "\n").strip()
        return self._step(who, f"(by e-mail) {text.partition(chr(10) * 2)[0]}")

    def _step(self, who: str, text: str) -> Step:
        self.steps.append(Step(who, text))
        return self.steps[-1]

    def _handler(self) -> str:
        """Who a thread is bound to; empty when to nobody."""
        reader = skep_shm.ThreadsReader.attach(self._hive.root)
        try:
            return next((each.handler for each in reader.all() if each.handler), "")
        finally:
            reader.close()


def last_citation(hive: DemoHive, document: str) -> str:
    """The sentence of `document` that the desk's last answer cites, as the tap kept the answer; empty if none.

    Resolved the hard way: the cited bytes of the file must be the cited sentence.
    """
    import orjson

    from skep_nodes.ai.desk import DEMO_DOCUMENTS

    payloads = [turn.frame.payload for turn in read_turns(spool_folder(hive.hive))]
    answers = [orjson.loads(payload) for payload in payloads if b'"citations"' in payload]
    cited: list[dict[str, Any]] = answers[-1]["citations"] if answers else []
    for citation in cited:
        if citation["document"] == document:
            data = (DEMO_DOCUMENTS / document).read_bytes()[citation["byte_start"] : citation["byte_end"]]
            expect(data.decode() == citation["text"], f"{document} holds the cited sentence", data)
            return str(citation["text"])
    return ""


def threads_of_speakers(hive: DemoHive) -> list[int]:
    """In how many threads each interlocutor has spoken, as the tap kept it."""
    threads: dict[bytes, set[bytes]] = {}
    for turn in read_turns(spool_folder(hive.hive)):
        if any(turn.ilk):
            threads.setdefault(turn.ilk, set()).add(unpack_key(turn.frame.key)[1].thread)
    return [len(each) for each in threads.values()]


def expect(holds: bool, what: str, seen: object = "") -> None:
    """Raise DemoError unless it holds."""
    if not holds:
        raise DemoError(f"{what}: " + (f"instead {seen!r}" if seen != "" else "it is not so"))


def wait(fact: Callable[[], T], within_s: float, what: str) -> T:
    """Ask until the answer is true. Raises DemoError."""
    deadline = time.monotonic() + within_s
    while not (value := fact()):
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {within_s:g} s")
        time.sleep(POLL_S)
    return value


def transcript(steps: list[Step], width: int = 80) -> list[str]:
    """The conversation as a table that fits a terminal: who, what, and the hops beside it."""
    from textwrap import wrap

    said_width = width - 10 - 38
    lines = [f"{'WHO':<10}{'SAID':<{said_width}}HOPS (since the customer's message)"]
    for step in steps:
        said = [
            part for line in step.text.splitlines() for part in wrap(printable(line), said_width - 2)
        ] or [""]
        height = max(len(said), len(step.hops))
        for index in range(height):
            who = step.who if index == 0 else ""
            text = said[index] if index < len(said) else ""
            hop = step.hops[index] if index < len(step.hops) else ""
            lines.append(f"{who:<10}{text:<{said_width}}{hop}".rstrip())
        lines.append("")
    return lines[:-1]


def demo_command(*, keep: bool) -> int:
    """`skep demo`."""
    began = time.monotonic()
    phone, office = Phone(NUMBER_ID), PostOffice()
    try:
        with DemoHive(phone.api_url, office.settings(), SCRIPT, keep=keep) as hive:
            ready_s = time.monotonic() - began
            demo = Demo(hive, phone, office)
            try:
                demo.play()
            except (DemoError, skep_shm.RegionError, OSError) as error:
                return _failed(demo, hive, error)
            finally:
                print("\n".join(transcript(demo.steps)))
        print(f"\nhive ready after {ready_s:.1f} s, all in {time.monotonic() - began:.1f} s", file=sys.stderr)
    except DemoError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return Exit.FAILED
    finally:
        phone.close()
        office.close()
    print("demo: ok")
    return Exit.OK


def _failed(demo: Demo, hive: DemoHive, error: Exception) -> int:
    print(hive.logs(), file=sys.stderr)
    print(f"demo: failed after {len(demo.steps)} messages: {error}", file=sys.stderr)
    return Exit.FAILED
