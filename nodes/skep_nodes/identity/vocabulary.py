"""The words that roles and capabilities may be: VOCABULARY_ADD, VOCABULARY_DEPRECATE. Without any, every tag may."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from skep_nodes.identity import ids, limits
from skep_nodes.identity.records import Word
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import WORDS
from skep_nodes.identity.view import Ask, View

CATEGORIES = {"role": 0, "capability": 1}


@dataclass(frozen=True, slots=True)
class AddWord:
    """Accept a tag; one that was deprecated is accepted again."""

    actor: str
    tag: str
    category: str
    description: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        known: Word | None = view.one(WORDS, self.tag)
        if known is not None and known.category != self.category:
            raise Refusal(Code.DUPLICATE_CONSTRAINT, f"{self.tag} is a {known.category} already")
        if known is None and sum(1 for _ in view.all(WORDS)) >= limits.VOCABULARY_MAX:
            raise Refusal(Code.IDENTITY_LIMIT_REACHED, f"at most {limits.VOCABULARY_MAX} words")
        first_ms = known.created_at_ms if known else view.now_ms
        view.put(WORDS, Word(self.tag, self.category, self.description, first_ms))
        view.note(self.actor, "VOCABULARY_ADD", ids.NONE, ids.NONE, "", tag=self.tag, category=self.category)
        return {"status": "ok", "tag": self.tag, "created": known is None}


@dataclass(frozen=True, slots=True)
class DeprecateWord:
    """Accept a tag no more; whoever has it keeps it."""

    actor: str
    tag: str
    reason: str = ""

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        known: Word | None = view.one(WORDS, self.tag)
        if known is None:
            raise Refusal(Code.NOT_FOUND, f"{self.tag} is not in the vocabulary")
        view.put(WORDS, known._replace(deprecated_at_ms=known.deprecated_at_ms or view.now_ms))
        view.note(self.actor, "VOCABULARY_DEPRECATE", ids.NONE, ids.NONE, self.reason, tag=self.tag)
        return {"status": "ok", "tag": self.tag}
