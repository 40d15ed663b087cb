"""From a question to an answer made of the documents' own sentences, with a confidence that means something.

The answer is extractive: one to three sentences as they stand. `confidence` estimates the probability that they answer
the question; it comes from *coverage*: the share of the question's meaning (its content terms, weighed by how rare
they are) that the best sentence accounts for, in full when the word is in the sentence, in part when it is only
in the headings above. A word that no document has counts at the weight of the rarest, so a question about
something the documents never mention cannot reach a high value by its common words.

bm25 only orders candidates: its scale depends on the number and length of documents, so no threshold on it survives
a change of folder. Coverage is a share and does. The logistic's constants were fitted on the labelled questions of
tests/nodes/desk_questions.py, whose test fails when they no longer hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from skep_nodes.ai.index import Citation, DocumentIndex, Hit
from skep_nodes.ai.words import Lexicon

CANDIDATES_MAX = 40
SENTENCES_MAX = 3
HEADING_SHARE = 0.6  # what a term in the headings, not in the sentence, is worth
STRANGE_NAME = 2.0  # a proper name that no document has is seldom beside the question's point
ALSO_SHARE = 0.75  # a further sentence must cover this share of what the best one covers
SLOPE, MIDDLE = 11.0, 0.56  # confidence = 1 / (1 + exp(-SLOPE * (coverage - MIDDLE)))


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is what to say; every sentence of it stands in `citations`, in the same order."""

    text: str
    citations: tuple[Citation, ...]
    confidence: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Ranked:
    hit: Hit
    coverage: float


NOTHING = Answer("", (), 0.0, 0.0)


def rank(index: DocumentIndex, lexicon: Lexicon, question: str) -> list[Ranked]:
    """The candidates, best first: by coverage, then bm25."""
    terms = lexicon.question_terms(question)
    strange = {each for each in lexicon.names(question) if not index.knows(each)}
    weights = {each: index.rarity(each) * (STRANGE_NAME if each in strange else 1.0) for each in terms}
    total = sum(weights.values())
    ranked = [Ranked(hit, _covered(hit, weights) / total) for hit in index.search(terms, CANDIDATES_MAX)]
    return sorted(ranked, key=lambda each: (each.coverage, each.hit.score), reverse=True)


def extract(ranked: list[Ranked]) -> Answer:
    """The extractive answer; NOTHING when there is no candidate."""
    if not ranked:
        return NOTHING
    best = ranked[0]
    chosen = [each.hit for each in ranked[:SENTENCES_MAX] if _belongs(each, best)]
    chosen.sort(key=lambda hit: (hit is not best.hit and not _near(hit, best.hit), hit.sentence_id))
    text = " ".join(spoken(hit) for hit in chosen)
    citations = tuple(hit.citation for hit in chosen)
    return Answer(text, citations, confidence(best.coverage), best.coverage)


def confidence(coverage: float) -> float:
    return 1.0 / (1.0 + math.exp(-SLOPE * (coverage - MIDDLE)))


def spoken(hit: Hit) -> str:
    """The sentence as one line, ending like a sentence."""
    line = " ".join(hit.citation.text.split()).replace(" | ", ": ")
    return line if line[-1] in ".!?…:;" else line + "."


def _covered(hit: Hit, weights: dict[str, float]) -> float:
    return sum(
        weight if term in hit.body_terms else weight * HEADING_SHARE if term in hit.heading_terms else 0.0
        for term, weight in weights.items()
    )


def _belongs(each: Ranked, best: Ranked) -> bool:
    """Whether a further sentence says more on the same matter rather than on another."""
    if each is best:
        return True
    return each.coverage >= ALSO_SHARE * best.coverage and _near(each.hit, best.hit)


def _near(hit: Hit, other: Hit) -> bool:
    return hit.citation.document == other.citation.document and hit.headings == other.headings
