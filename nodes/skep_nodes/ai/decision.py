"""What the desk does with one message: answer it from the documents, make small talk, or pass it to a person.

Knows nothing of hives. Index work runs in one thread of its own (SQLite and file reads must not hold up the loop, and
one thread needs no lock); the model, when there is one, is awaited. A model's answer is used only when its judge
accepts it; whatever goes wrong with it, the extractive answer stands ready.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from skep_nodes.ai import model
from skep_nodes.ai.answer import Answer, Ranked, extract, rank
from skep_nodes.ai.greetings import Talk, talk
from skep_nodes.ai.index import Citation, DocumentIndex
from skep_nodes.ai.memory import Memory
from skep_nodes.ai.model import Endpoint, ModelFailure, ModelUnknown
from skep_nodes.ai.words import Lexicon
from skep_nodes.io.http_client import Post

log = logging.getLogger("skep.nodes.desk")

Found = TypeVar("Found")

REFRESH_S = 2.0  # documents are looked at for changes at most this often
FOLLOW_UP_TERMS_MAX = 3  # a question with so few terms may lean on the one before
FOLLOW_UPS = ("and ", "what about ", "how about ", "y ", "e ")  # how a follow-up begins
MODEL_CONFIDENCE = (
    0.75  # of an accepted model answer whose words cover little: paraphrase is why one asks a model
)


@dataclass(frozen=True, slots=True)
class Sayings:
    """The desk's own words."""

    greeting: str = "Hello! How can I help you?"
    thanks: str = "You are welcome. Is there anything else?"
    farewell: str = "Goodbye!"
    more: str = "Could you tell me a little more about what you would like to know?"
    escalated: str = (
        "I cannot answer that from our documents. I am passing you to a colleague, who will answer here."
    )
    wants_person: str = "Of course. I am passing you to a colleague, who will answer here."
    nobody: str = "I cannot answer that, and no colleague can be reached just now. Please try again later."


@dataclass(frozen=True, slots=True)
class Decision:
    """What to tell the asker, and, when `reason` is not empty, why a person is needed."""

    text: str
    citations: tuple[Citation, ...] = ()
    confidence: float = 1.0
    reason: str = ""

    def payload_members(self) -> dict[str, Any]:
        return {
            "citations": [each.as_dict() for each in self.citations],
            "confidence": round(self.confidence, 3),
        }


class Desk:
    """One folder of documents and the conversations about it."""

    def __init__(
        self,
        index: Callable[[], DocumentIndex],
        lexicon: Lexicon,
        *,
        confidence_min: float = 0.6,
        show_sources: bool = True,
        sayings: Sayings | None = None,
        endpoint: Endpoint | None = None,
        post: Post | None = None,
    ) -> None:
        """`index` makes the index; it is called, and the index used, in the desk's own thread."""
        self.lexicon = lexicon
        self.memory = Memory()
        self.sayings = sayings or Sayings()
        self.counters = {"answered": 0, "escalated": 0, "small_talk": 0, "model_used": 0, "model_refused": 0}
        self._confidence_min, self._show_sources = confidence_min, show_sources
        self._endpoint, self._post = endpoint, post
        self.taught: Callable[[], str] = str  # the prompt of the desk's degree; empty without one
        self._make_index = index
        self._index: DocumentIndex | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="documents")
        self._refreshed_at = 0.0

    async def start(self) -> int:
        """Reads the documents; returns how many sentences there are."""
        return await self._in_thread(self._open)

    async def close(self) -> None:
        if self._index is not None:
            await self._in_thread(self._index.close)
        self._thread.shutdown(wait=False)

    async def decide(self, conversation: str, text: str) -> Decision:
        """The decision on `text`, which is remembered; what was said in the end is told by `said`."""
        decision = self._small_talk(text) or await self._about_documents(conversation, text)
        self.memory.add(conversation, "user", text)
        if decision.reason:
            self.counters["escalated"] += 1
        return decision

    def said(self, conversation: str, text: str) -> None:
        """What the asker was told."""
        self.memory.add(conversation, "assistant", text)

    async def resolve(self, citation: Citation) -> str:
        """The sentence that `citation` names. Raises CitationError."""
        assert self._index is not None
        return await self._in_thread(self._index.resolve, citation)

    def _small_talk(self, text: str) -> Decision | None:
        kind = talk(text)
        if kind is Talk.WANTS_PERSON:
            return Decision(self.sayings.wants_person, reason="the asker wants a person")
        if kind is None:
            return None
        self.counters["small_talk"] += 1
        said = {Talk.GREETING: "greeting", Talk.THANKS: "thanks", Talk.FAREWELL: "farewell"}[kind]
        return Decision(getattr(self.sayings, said))

    async def _about_documents(self, conversation: str, text: str) -> Decision:
        if not self.lexicon.question_terms(text):
            self.counters["small_talk"] += 1
            return Decision(self.sayings.more)
        ranked = await self._in_thread(self._look_up, text, self.memory.last_question(conversation))
        answer = extract(ranked)
        if self._endpoint is not None and ranked:
            try:
                answer = await self._ask_model(self._endpoint, conversation, text, ranked) or answer
            except ModelUnknown:
                return self._escalation("the model finds no answer in the documents", answer.confidence)
        if answer.confidence < self._confidence_min:
            return self._escalation(
                f"the documents do not answer it (confidence {answer.confidence:.2f})", 0.0
            )
        self.counters["answered"] += 1
        return Decision(self._with_sources(answer), answer.citations, answer.confidence)

    async def _ask_model(
        self, endpoint: Endpoint, conversation: str, text: str, ranked: list[Ranked]
    ) -> Answer | None:
        """The model's answer when its judge accepts it. Raises ModelUnknown."""
        try:
            turns = self.memory.turns(conversation)
            answer = await model.ask(endpoint, ranked, turns, text, self._post, self.taught())
        except ModelFailure as failure:
            self.counters["model_refused"] += 1
            log.warning("the model's answer is not used: %s", failure)
            return None
        self.counters["model_used"] += 1
        return Answer(
            answer.text, answer.citations, max(answer.confidence, MODEL_CONFIDENCE), answer.coverage
        )

    def _escalation(self, reason: str, confidence: float) -> Decision:
        return Decision(self.sayings.escalated, (), confidence, reason)

    def _with_sources(self, answer: Answer) -> str:
        if not self._show_sources:
            return answer.text
        names = list(dict.fromkeys(each.document for each in answer.citations))
        return f"{answer.text}\n\n({'Source' if len(names) == 1 else 'Sources'}: {', '.join(names)})"

    def _open(self) -> int:
        self._index = self._make_index()
        self._index.refresh()
        self._refreshed_at = time.monotonic()
        return self._index.sentences_count()

    def _look_up(self, text: str, before: str) -> list[Ranked]:
        """The candidates; a short question that says so, or finds little, is tried as a follow-up of the one before."""
        assert self._index is not None
        if time.monotonic() - self._refreshed_at > REFRESH_S:
            self._index.refresh()
            self._refreshed_at = time.monotonic()
        ranked = rank(self._index, self.lexicon, text)
        if before and len(self.lexicon.question_terms(text)) <= FOLLOW_UP_TERMS_MAX:
            continues = text.lower().lstrip(" \u00bf").startswith(FOLLOW_UPS)
            if continues or not self._sure(ranked):
                wider = self._as_follow_up(text, before)
                return wider if self._sure(wider) else ranked
        return ranked

    def _sure(self, ranked: list[Ranked]) -> bool:
        return extract(ranked).confidence >= self._confidence_min

    def _as_follow_up(self, text: str, before: str) -> list[Ranked]:
        """Candidates for both questions as one. Each must bring something of the new one, and the documents must
        know all of that, or the answer before would be given again."""
        assert self._index is not None
        own = set(self.lexicon.question_terms(text))
        if not all(self._index.knows(each) for each in own):
            return []
        wider = rank(self._index, self.lexicon, f"{before} {text}")
        return [each for each in wider if own & (each.hit.body_terms | each.hit.heading_terms)]

    async def _in_thread(self, work: Callable[..., Found], *arguments: Any) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
