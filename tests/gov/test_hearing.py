"""What the front desk hears in a message: names and addresses where they are, and none where they are not."""

from __future__ import annotations

import random

import pytest

from skep_nodes.gov.hearing import NAME_CHARS_MAX, TEXT_CHARS_MAX, Heard, code_in, hear, language_of


@pytest.mark.parametrize(
    ("text", "name", "email", "question"),
    [
        ("I'm Ana Ruiz, ana@example.org", "Ana Ruiz", "ana@example.org", ""),
        ("My name is ana ruiz and my email is Ana@Example.org.", "Ana Ruiz", "ana@example.org", ""),
        ("Me llamo Ana de la Fuente. ¿Cuánto tarda el envío?", "Ana de la Fuente", "", "¿Cuánto tarda el envío?"),
        ("Hola, soy José Ñúñez y mi correo es jose@correo.es", "José Ñúñez", "jose@correo.es", ""),
        ("How long does delivery take?", "", "", "How long does delivery take?"),
        ("I am looking for a lamp", "", "", "I am looking for a lamp"),
        ("I'm Bob Stone from Acme, bob@acme.example", "Bob Stone", "bob@acme.example", ""),
        ("Hello! Where is my parcel?", "", "", "Where is my parcel?"),
        ("Hi", "", "", ""),
        ("ana@example.org", "", "ana@example.org", ""),
        ("Name: Ana Ruiz\nE-mail: ana@example.org", "Ana Ruiz", "ana@example.org", ""),
    ],
)
def test_a_first_message(text: str, name: str, email: str, question: str) -> None:
    heard = hear(text)
    assert (heard.name, heard.email, heard.question) == (name, email, question)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ana Ruiz", "Ana Ruiz"),
        ("ana ruiz, ana@example.org", "Ana Ruiz"),
        ("Claro: Ana O'Brien-Sáez", "Ana O'Brien-Sáez"),
        ("李雷", "李雷"),
        ("why do you ask?", ""),
        ("No, I want a person", ""),
        ("thanks", ""),
        ("12 or so", ""),
        ("hello again", ""),
        ("hola, otra vez", ""),
        ("I will tell you this later on when I am at home", ""),
    ],
)
def test_a_bare_name_counts_when_it_was_asked_for(text: str, name: str) -> None:
    assert hear(text, asked_name=True).name == name
    if "@" not in text:
        assert hear(text).name == "", "and only then"


def test_a_question_is_never_a_name() -> None:
    assert hear("Ana Ruiz?", asked_name=True).name == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [("482913", "482913"), ("it is 482 913.", "482913"), ("482-913", "482913"), ("4829134", ""), ("+34600111222", ""),
     ("48291", "")],
)  # fmt: skip
def test_codes(text: str, code: str) -> None:
    assert code_in(text) == code


@pytest.mark.parametrize(
    ("text", "language"),
    [("¿Cuánto tarda el envío?", "es"), ("How long does it take?", "en"), ("hola", "es"), ("ok", "en"),
     ("Ana Ruiz, ana@example.org", "en"), ("Quiero saber dónde está mi pedido", "es")],
)  # fmt: skip
def test_the_language_is_that_of_the_words(text: str, language: str) -> None:
    assert language_of(text, "en") == language
    if language == "en" and text != "How long does it take?":
        assert language_of(text, "es") == "es", "words that do not tell change nothing"


@pytest.mark.goal("G15")
def test_whatever_is_written_is_heard_within_bounds() -> None:
    rng = random.Random(7)
    pieces = ["I am ", "Ana ", "@", "a.b@c.de", "\n", ". ", "?", "¿", "123456", "\u202e", "me llamo ", "-'", "é"]
    pieces.append("x" * 500)
    for _ in range(400):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(60)))
        heard: Heard = hear(text, asked_name=rng.random() < 0.5)
        assert len(heard.name) <= NAME_CHARS_MAX
        assert "@" not in heard.name
        assert len(heard.email) <= 256
    letter = "I am Ana. " + "a@" * TEXT_CHARS_MAX
    assert hear(letter).question == letter, "a letter is kept whole"
