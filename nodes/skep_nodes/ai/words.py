"""Words as the desk compares them: folded, stripped of grammar, in English and Spanish.

One lexicon makes terms of questions and of documents, so they can never disagree about what a word is; SQLite's own
stemmer is not used because coverage (how much of the question a sentence accounts for) is computed outside it.
The stemmer is light on purpose: cutting plurals and common endings finds most of what matters, and a strong one joins
words that differ ("universe", "university").
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

LEXICON_VERSION = 1  # grows when `stem` or the stop words change
QUESTION_TERMS_MAX = 24  # a longer question is a letter; its first words carry the matter

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_INNER_CAPITAL = re.compile(r"(?<=[\w,;] )[A-Z\u00c0-\u00de][^\W_]+")

_ENGLISH = """
a about after all also am an and any are aren as at be because been before being but by can cannot could
couldn did didn do does doesn doing don down each few for from further get gets give given go going got had
happen happened happens has have having he hello her here hers hey hi him his how i if in into is isn it its
just know let like ll long m many may me mean might more most much must my need no nor not now of off often
ok okay on once only or other our out over own per please possible re really s same say shall she should so
some something still such t tell than thank thanks that the their them then there these they thing this
those through to too under until up us use ve very want was way we well were what when where whether which
while who whom whose why will with would wouldn yes you your yours
"""

_SPANISH = """
a al algo algun alguna algunas alguno algunos ante antes aqui aun bien cada como con cual cuales cuando
cuanta cuantas cuanto cuantos cuesta da de debo del desde donde dos e el ella ellas ellos en entre era es
esa esas ese eso esos esta estaba estan estar estas este esto estos favor fue gracias ha hace hacer hacia
han hasta hay he hola la las le les lo los mas me mi mis muchas mucho muchos muy nada ni no nos nosotros o
os otra otro para pasa pero poco por porque posible puede pueden puedo que quien quiero saber se sea ser si
sido sin sobre solo son soy su sus tal tambien tanto te tener tengo tiene tienen todo todos tu tus u un una
uno unos usted ustedes va vosotros voy y ya yo
"""

STOP_WORDS = frozenset(_ENGLISH.split()) | frozenset(_SPANISH.split())

_ENDINGS = (
    ("ications", "ic"), ("ication", "ic"), ("aciones", "a"), ("acion", "a"), ("ations", "a"), ("ation", "a"),
    ("amientos", ""), ("amiento", ""), ("ments", ""), ("ment", ""), ("ingly", ""), ("ings", ""), ("ing", ""),
    ("iciones", ""), ("icion", ""), ("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"),
    ("zes", "z"), ("ed", ""), ("ly", ""), ("ados", "a"), ("ado", "a"),
    ("adas", "a"), ("ada", "a"), ("es", "e"), ("s", ""),
)  # fmt: skip


def fold(text: str) -> str:
    """Lower case without accents: what a person types on a phone equals what an editor wrote."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(each for each in decomposed if not unicodedata.combining(each))


def words(text: str) -> list[str]:
    """The folded words of `text`, in order; a possessive or contraction keeps its first part."""
    return [re.split("['\u2019]", each)[0] for each in _WORD.findall(fold(text))]


def stem(word: str) -> str:
    """`word` without its common ending; numbers and short words stay."""
    if len(word) <= 3 or word.isdigit():
        return word
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: len(word) - len(ending)] + instead
            break
    return _bare(word)


class Lexicon:
    """Turns text into terms; words of one `groups` entry mean the same and become one term."""

    def __init__(self, groups: tuple[tuple[str, ...], ...] = ()) -> None:
        self.groups = groups
        self._same = {stem(fold(each)): stem(fold(group[0])) for group in groups for each in group}

    def terms(self, text: str) -> list[str]:
        """Content terms of `text`, in order, repeats kept."""
        stems = (stem(each) for each in words(text) if each not in STOP_WORDS)
        return [self._same.get(each, each) for each in stems]

    def question_terms(self, text: str) -> list[str]:
        """Distinct content terms of a question, bounded."""
        return list(dict.fromkeys(self.terms(text)))[:QUESTION_TERMS_MAX]

    def names(self, text: str) -> list[str]:
        """Terms of words written with a capital where grammar asks for none: names, mostly."""
        inner = [each[0] for each in _INNER_CAPITAL.finditer(text)]
        return self.terms(" ".join(inner))

    @property
    def digest(self) -> str:
        """Changes when the lexicon would make other terms, so that an index knows it is out of date."""
        said = repr((LEXICON_VERSION, self.groups)).encode()
        return sha256(said).hexdigest()[:16]


def _bare(word: str) -> str:
    """One form for `ship`/`shipped`, `cancel`/`cancelled`, `code`/`coded`, `caja`/`cajas`, `deliver`/`delivery`."""
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeious":
        return word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "aeoy" else word
