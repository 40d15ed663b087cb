"""What somebody wrote, as the front desk hears it: language, name, e-mail address, code, and what is left to answer.

By rules, not by a model: what a stranger writes is never an instruction, a name is never invented, and the same words
are heard the same way each time. A name is taken only where the words say that it is one ("my name is …", "me llamo
…"), or when the desk has asked for it and nothing else is in the sentence. What is not about who they are is the
question that they came with; it is kept word by word.

A company's name is not looked for: it would decide nothing. Whose tenant somebody is in is told by the channel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from skep_nodes.ai.greetings import talk

NAME_CHARS_MAX: Final = 80
NAME_WORDS_MAX: Final = 5
CODE_DIGITS: Final = 6
TEXT_CHARS_MAX: Final = 4000  # of one message that is read for names; more is a letter


def _words(line: str) -> frozenset[str]:
    return frozenset(line.split())


_EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])")
_CODE = re.compile(rf"(?<!\d)(\d{{{CODE_DIGITS}}})(?!\d)|(?<!\d)(\d{{3}})[ -](\d{{3}})(?!\d)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*"
_NAME = rf"{_WORD}(?:\s+{_WORD}){{0,{NAME_WORDS_MAX - 1}}}"
_SAYS_NAME = re.compile(
    rf"\b(?:my (?:full )?name is|my name's|name\s*:|me llamo|mi nombre(?: completo)? es|nombre\s*:)\s*({_NAME})", re.I
)
_SAYS_WHO = re.compile(rf"\b(?i:i am|i'm|i\u2019m|this is|soy)\s+((?-i:[A-ZÀ-ÖØ-Þ])(?:{_NAME}|))")
_ENDS = _words(
    "and y e my mi from de_la i yo with con but pero email mail e-mail correo mi at en is es for para quiero want"
    " need busco looking here your their the a an un una because porque who que"
)
_SMALL_WORDS = _words("de del la las los van von der den da do dos di du le")
_LABELS = re.compile(
    r"\b(?:my|mi|the|el|la|its|it's|is|es|e-?mail|mail|correo(?: electr[oó]nico)?|address|direcci[oó]n|name|nombre|and"
    r"|y|i am|i'm|soy|me llamo|hi|hello|hola|sure|claro|ok|okay|yes|s[ií]|of course|por supuesto|here you are|aqu[ií]"
    r"(?: tiene[sn]?)?|gracias|thanks|thank you|please|por favor)\b",
    re.I,
)
_NO_NAME = _words(
    "what why how who when where which can could do does is are will would no not never yes si sí que qué por"
    " porqué como cómo quien quién cuando cuándo donde dónde cual cuál puede puedo podria podría nunca nada"
    " nothing nobody person human agent persona humano agente you your usted tu tengo have want quiero need"
    " necesito help ayuda order pedido later luego wait espera stop para cancel cancelar"
    " again otra vez nuevo there welcome back still here yet still ya aún todavía anybody anyone sure vale bueno buenas"
    " dear sir madam señor señora test prueba"
)
_SPANISH = _words(
    "hola buenas buenos dias días tardes noches que qué como cómo cuanto cuánto cuantos cuántos cuando cuándo"
    " donde dónde el la los las un una de del en para por con mi me soy llamo nombre es está estoy quiero necesito"
    " puedo tengo gracias correo pedido envío envio hasta y no sí si"
)
_ENGLISH = _words(
    "hello hi hey good morning the a an of to in for with my i am is are how what when where who can could do"
    " does name want need have thanks thank you please order delivery long much many and not yes it this"
)


@dataclass(frozen=True, slots=True)
class Heard:
    """One message. `question` is what is left to answer, empty when nothing is."""

    name: str = ""
    email: str = ""
    code: str = ""
    question: str = ""

    @property
    def useful(self) -> bool:
        """Whether it brought the registration forward."""
        return bool(self.name or self.email)


def hear(text: str, *, asked_name: bool = False) -> Heard:
    """Reads a message. `asked_name`: the desk has asked for the name, so bare words may be one."""
    head = text[:TEXT_CHARS_MAX]
    name = _said_name(head)
    left: list[str] = []
    for sentence in _SENTENCE.split(head):
        about_them = _about_them(sentence)
        if not about_them and asked_name and not name:
            name = _bare_name(sentence)
            about_them = bool(name)
        elif about_them and asked_name and not name:
            name = _bare_name(_EMAIL.sub(" ", sentence))
        if not about_them and not _says_nothing(sentence):
            left.append(sentence.strip())
    question = " ".join(left)
    if len(text) > TEXT_CHARS_MAX:
        question = text  # a letter is kept whole
    return Heard(name, _email(head), code_in(head), question)


def code_in(text: str) -> str:
    """The first six digits that stand alone, in one group or in two."""
    found = _CODE.search(text)
    return "" if found is None else found[1] or found[2] + found[3]


def language_of(text: str, otherwise: str) -> str:
    """`en` or `es` by the words; `otherwise` when they do not tell."""
    words = re.findall(_WORD, _EMAIL.sub(" ", text[:TEXT_CHARS_MAX]).lower())
    spanish = sum(word in _SPANISH for word in words) + 2 * len(re.findall("[¿¡ñ]", text))
    english = sum(word in _ENGLISH for word in words)
    if spanish == english:
        return otherwise
    return "es" if spanish > english else "en"


def _email(text: str) -> str:
    found = _EMAIL.search(text)
    return found[0].lower() if found else ""


def _said_name(text: str) -> str:
    found = _SAYS_NAME.search(text) or _SAYS_WHO.search(text)
    return _tidy(found[1]) if found else ""


def _about_them(sentence: str) -> bool:
    """Whether it says who they are, and asks nothing."""
    if "?" in sentence:
        return False
    return bool(_EMAIL.search(sentence) or _said_name(sentence))


def _says_nothing(sentence: str) -> bool:
    return not re.search(r"\w", _CODE.sub(" ", sentence)) or talk(sentence) is not None


def _bare_name(sentence: str) -> str:
    """The sentence as a name, when it is nothing else."""
    if "?" in sentence or "¿" in sentence:
        return ""
    words = re.sub(r"[,;:.!()\"]", " ", _LABELS.sub(" ", sentence)).split()
    if not 1 <= len(words) <= NAME_WORDS_MAX or not all(re.fullmatch(_WORD, word) for word in words):
        return ""
    if any(word.lower() in _NO_NAME for word in words) or talk(sentence) is not None:
        return ""
    return _tidy(" ".join(words))


def _tidy(name: str) -> str:
    """The words up to the first that is none of a name; capitals where the person left them out."""
    kept: list[str] = []
    for word in name.split()[:NAME_WORDS_MAX]:
        if word.lower() in _ENDS or word.lower() in _NO_NAME:
            break
        kept.append(word)
    while kept and kept[-1].lower() in _SMALL_WORDS:
        kept.pop()
    if all(word.islower() for word in kept):
        kept = [word if word in _SMALL_WORDS else word.capitalize() for word in kept]
    return " ".join(kept)[:NAME_CHARS_MAX]
