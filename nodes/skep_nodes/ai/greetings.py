"""Small talk that asks nothing: greetings, thanks, farewells, and the wish for a person, in English and Spanish.

Only a message made of nothing else counts; "hello, where is my parcel" is a question.
"""

from __future__ import annotations

from enum import Enum

from skep_nodes.ai.words import words

WORDS_MAX = 8  # a longer message is not only a greeting


class Talk(Enum):
    GREETING = "greeting"
    THANKS = "thanks"
    FAREWELL = "farewell"
    WANTS_PERSON = "wants_person"


def _set(words_in_line: str) -> frozenset[str]:
    return frozenset(words_in_line.split())


_GREETINGS = _set("hello hi hey hiya greetings hola buenas buenos good")
_DAYTIMES = _set("morning afternoon evening day dias tardes noches there everyone team all")
_THANKS = _set("thanks thank thx cheers gracias great perfect genial perfecto ok okay")
_FAREWELLS = _set("bye goodbye adios chao ciao luego later soon")
_FILLERS = _set("you very much so a lot muchas mil for your help por la ayuda y and see hasta to the")
_PERSONS = _set("human person people agent someone somebody representative persona humano agente alguien")
_ASKING = _set(
    "can could may i we want need would like to speak talk chat write with a an the real please me let get connect"
    " quiero puedo podria necesito hablar chatear con una un por favor of your team"
)

_KINDS = (
    (Talk.GREETING, _GREETINGS, _GREETINGS | _DAYTIMES),
    (Talk.THANKS, _THANKS, _THANKS | _FILLERS),
    (Talk.FAREWELL, _FAREWELLS, _FAREWELLS | _FILLERS | _THANKS | _DAYTIMES | _GREETINGS),
    (Talk.WANTS_PERSON, _PERSONS, _PERSONS | _ASKING),
)


def talk(text: str) -> Talk | None:
    """The kind of small talk that `text` is and nothing else, or None."""
    said = words(text)
    if not said or len(said) > WORDS_MAX + 4:
        return None
    for kind, telling, allowed in _KINDS:
        if any(each in telling for each in said) and all(each in allowed for each in said):
            return kind
    return None
