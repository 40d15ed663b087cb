"""Sentences, words, the index, citations: what the desk knows and where it stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep_nodes.ai import index as index_module
from skep_nodes.ai.desk import DEMO_DOCUMENTS, SAME_WORDS
from skep_nodes.ai.greetings import Talk, talk
from skep_nodes.ai.index import Citation, CitationError, DocumentIndex
from skep_nodes.ai.sentences import SENTENCE_CHARS_MAX, split
from skep_nodes.ai.words import Lexicon, stem

# Sentences


def test_marks_are_not_part_of_a_sentence() -> None:
    document = "# Tea\n\n- First item. Second\n  goes on.\n> quoted text.\n\n"
    document += "| A | B |\n|---|---|\n| x | 4.50 |\n```\ncode.\n```\n1. [ ] done\n***\n"
    found = [(each.text, each.spoken, each.headings) for each in split(document)]
    assert found == [
        ("First item.", "First item.", ("Tea",)),
        ("Second\n  goes on.", "Second goes on.", ("Tea",)),
        ("quoted text.", "quoted text.", ("Tea",)),
        ("A | B", "A: B", ("Tea",)),
        ("x | 4.50", "x: 4.50", ("Tea",)),
        ("done", "done", ("Tea",)),
    ]


def test_headings_nest() -> None:
    document = "# A\none.\n## B\ntwo.\n### C #\nthree.\n## D\nfour.\n# E\nfive."
    assert [each.headings for each in split(document)] == [
        ("A",),
        ("A", "B"),
        ("A", "B", "C"),
        ("A", "D"),
        ("E",),
    ]


def test_sentence_ends() -> None:
    text = 'It costs 4.50 euros, e.g. for tea. He said "Go." Is it? Yes! See Dr. No. End'
    assert [each.text for each in split(text)] == [
        "It costs 4.50 euros, e.g. for tea.", 'He said "Go."', "Is it?", "Yes!", "See Dr. No. End",
    ]  # fmt: skip


DOCUMENTS = st.lists(
    st.sampled_from(
        [
            "# Head\n",
            "word ",
            "Ünïcödé. ",
            "😀! ",
            "\n",
            "\r\n",
            "- item ",
            "| a | b |\n",
            "```\n",
            "> ",
            "\ufeff",
            "4.50 ",
            "? ",
            "x" * 1200,
            "\t",
            "\x00",
            "1) ",
        ]
    ),
    max_size=40,
).map("".join)


@pytest.mark.goal("G13")
@given(DOCUMENTS | st.text(max_size=300))
def test_every_sentence_stands_where_it_says(document: str) -> None:
    """Spans are exact in characters and in bytes, ordered, apart, bounded, and hold a word."""
    document = document.encode("utf-8", "replace").decode()
    data, at = document.encode(), 0
    for each in split(document):
        assert document[each.start : each.end] == each.text
        assert data[each.byte_start : each.byte_end].decode() == each.text
        assert at <= each.start < each.end
        assert len(each.text) <= SENTENCE_CHARS_MAX
        assert each.text.strip() == each.text
        assert any(letter.isalnum() for letter in each.text)
        at = each.end


@pytest.mark.goal("G15")
def test_a_book_without_an_end_mark_is_cut_in_pieces() -> None:
    assert len(split("x" * 3_000_000)) == 3000
    assert len(split(" " * 1_000_000)) == 0


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma"]), min_size=1, max_size=30))
def test_no_word_of_a_paragraph_is_lost(words: list[str]) -> None:
    document = "# H\n\n" + ". ".join(words) + "\n"
    assert " ".join(each.text for each in split(document)).replace(".", "").split() == words


# Words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("return", "returned"),
        ("delivery", "deliver"),
        ("cost", "costs"),
        ("order", "orders"),
        ("envío", "envios"),
        ("devolución", "devoluciones"),
        ("ship", "shipping"),
        ("cancel", "cancelled"),
        ("company", "companies"),
        ("parcel", "parcels"),
    ],
)
def test_forms_of_a_word_are_one_term(one: str, other: str) -> None:
    lexicon = Lexicon()
    assert lexicon.terms(one) == lexicon.terms(other)


def test_stop_words_say_nothing_and_numbers_stay() -> None:
    lexicon = Lexicon((("cost", "price"),))
    assert lexicon.question_terms("How much is the price of 50 of the PRICES?") == ["cost", "50"]
    assert lexicon.question_terms("¿Qué es esto?") == []
    assert lexicon.digest != Lexicon().digest
    assert stem("bus") == "bus"
    assert lexicon.names("Is Laura there, Please") == ["laur"]


@given(st.text(max_size=200))
def test_terms_are_plain_words(text: str) -> None:
    """A term is put between quotes in a full-text query: nothing in it may end one."""
    for term in Lexicon().question_terms(text):
        assert term
        assert '"' not in term
        assert not any(letter.isspace() for letter in term)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Hello", Talk.GREETING),
        ("hola, buenas tardes", Talk.GREETING),
        ("Good morning!", Talk.GREETING),
        ("thanks a lot", Talk.THANKS),
        ("muchas gracias", Talk.THANKS),
        ("Bye!", Talk.FAREWELL),
        ("hasta luego", Talk.FAREWELL),
        ("I want to speak to a human", Talk.WANTS_PERSON),
        ("quiero hablar con una persona", Talk.WANTS_PERSON),
        ("hello, where is my parcel", None),
        ("good coffee", None),
        ("", None),
        ("someone stole my parcel", None),
        ("day", None),
    ],
)
def test_small_talk(text: str, kind: Talk | None) -> None:
    assert talk(text) is kind


# The index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.md").write_text("# Tea\n\nGreen tea is green. Black tea is black.\n")
    return documents


def made(folder: Path, database: Path | None = None, lexicon: Lexicon | None = None) -> DocumentIndex:
    index = DocumentIndex(folder, database, lexicon or Lexicon())
    index.refresh()
    return index


def found(index: DocumentIndex, question: str) -> list[str]:
    return [hit.citation.text for hit in index.search(Lexicon().question_terms(question), 10)]


def test_a_folder_is_indexed_again_only_where_it_changed(folder: Path, tmp_path: Path) -> None:
    index = made(folder, tmp_path / "i.sqlite")
    assert found(index, "green")[0] == "Green tea is green."
    index.close()
    index = DocumentIndex(folder, tmp_path / "i.sqlite", Lexicon())
    assert tuple(getattr(index.refresh(), each) for each in ("added", "changed", "removed")) == (0, 0, 0)
    (folder / "b.txt").write_text("Coffee is brown.")
    (folder / "c.pdf").write_text("Not read.")
    (folder / ".hidden.md").write_text("Not read.")
    assert index.refresh().added == 1
    assert found(index, "coffee") == ["Coffee is brown."]
    (folder / "b.txt").write_text("Cocoa is brown.")
    assert index.refresh().changed == 1
    assert found(index, "coffee") == []
    os.utime(folder / "b.txt", (1, 1))  # touched, not changed
    assert index.refresh().changed == 0
    (folder / "b.txt").unlink()
    assert index.refresh().removed == 1
    assert found(index, "cocoa") == []
    index.close()


def test_an_index_made_with_other_words_is_made_again(folder: Path, tmp_path: Path) -> None:
    made(folder, tmp_path / "i.sqlite").close()
    index = DocumentIndex(folder, tmp_path / "i.sqlite", Lexicon((("tea", "coffee"),)))
    assert index.refresh().added == 1
    index.close()


def test_what_cannot_be_read_is_passed_over_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.md").write_bytes(b"\xff\xfe broken")
    (folder / "big.md").write_text("Large. " * 100)
    monkeypatch.setattr(index_module, "DOCUMENT_BYTES_MAX", 300)
    index = DocumentIndex(folder, None, Lexicon())
    refreshed = index.refresh()
    assert (refreshed.added, refreshed.skipped) == (1, 2)
    monkeypatch.setattr(index_module, "DOCUMENTS_MAX", 1)
    assert index.refresh().removed == 0
    index.close()


def test_documents_are_never_written(folder: Path) -> None:
    before = {each: (each.stat().st_mtime_ns, each.read_bytes()) for each in folder.rglob("*")}
    made(folder).close()
    assert {each: (each.stat().st_mtime_ns, each.read_bytes()) for each in folder.rglob("*")} == before


# Citations


def test_every_citation_of_every_document_resolves_to_its_sentence() -> None:
    index = made(DEMO_DOCUMENTS, lexicon=Lexicon(SAME_WORDS))
    count = 0
    for path in sorted(DEMO_DOCUMENTS.glob("*.md")):
        document = path.read_text()
        for sentence in split(document):
            hits = index.search(Lexicon(SAME_WORDS).question_terms(sentence.text), 40)
            mine = next(
                hit
                for hit in hits
                if hit.citation.document == path.name and hit.citation.start == sentence.start
            )
            assert (
                index.resolve(mine.citation)
                == sentence.text
                == document[mine.citation.start : mine.citation.end]
            )
            count += 1
    assert count == index.sentences_count() > 80
    index.close()


@given(DOCUMENTS)
def test_citations_of_any_document_resolve(tmp_path_factory: pytest.TempPathFactory, document: str) -> None:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "a.md").write_bytes(document.encode())
    index = made(folder)
    hits = index.search(["item", "word", "unicod", "4", "50", "head"], 40)
    for hit in hits:
        assert index.resolve(hit.citation) == hit.citation.text
    index.close()


def test_a_citation_of_a_changed_document_is_refused_never_wrong(folder: Path) -> None:
    index = made(folder)
    citation = index.search(["green"], 1)[0].citation
    (folder / "a.md").write_text("# Tea\n\nWhite tea is white. Black tea is black.\n")
    with pytest.raises(CitationError, match="has changed"):
        index.resolve(citation)
    (folder / "a.md").unlink()
    with pytest.raises(CitationError):
        index.resolve(citation)
    index.close()


@pytest.mark.goal("G14")
def test_a_citation_never_leads_out_of_the_folder(folder: Path) -> None:
    index = made(folder)
    outside = folder.parent / "secret.md"
    outside.write_text("A secret.")
    (folder / "link.md").symlink_to(outside)
    digest = index_module.digest_of("A secret.")
    for name in ("../secret.md", str(outside), "link.md", "../documents/../secret.md"):
        with pytest.raises(CitationError):
            index.resolve(Citation(name, 0, 9, 0, 9, digest, "A secret."))
    index.close()
