"""Letters as bytes: what is read of good ones; that bad ones are read or refused, in bounded time, and nothing else."""

from __future__ import annotations

import base64
import random
import time

import pytest

from nodes.letters import ANA, letter, multipart, proven
from skep_nodes.io.mail_body import PARTS_MAX, new_words, text_of_html
from skep_nodes.io.mail_head import FIELDS_MAX, HEAD_BYTES_MAX, BadLetter, address_in
from skep_nodes.io.mail_letter import LETTER_BYTES_MAX, Letter, read_letter
from skep_nodes.io.mail_write import Outgoing, compose
from support.fuzzing import SECONDS_MAX, SLOW_TRIES, mutated

MUTATIONS = 4_000

# ---- good letters ---------------------------------------------------------------------------------------------------


def test_a_plain_letter() -> None:
    read = read_letter(letter(references="r1@x.example r2@x.example"))
    assert (read.sender, read.subject, read.message_id) == (ANA, "Delivery", "m1@customer.example")
    assert read.references == ("r1@x.example", "r2@x.example")
    assert (read.text, read.automatic, read.cut, read.attachments) == (
        "How long does delivery take?",
        "",
        False,
        (),
    )
    assert read.date_ms == 1_795_597_200_000


def test_plain_text_is_preferred_and_html_is_read_where_there_is_none() -> None:
    plain, html = (
        "Content-Type: text/plain\r\n\r\nplain words",
        "Content-Type: text/html\r\n\r\n<p>html <b>words</b></p>",
    )
    assert read_letter(multipart(plain, html, kind="alternative")).text == "plain words"
    assert read_letter(multipart(html, kind="alternative")).text == "html words"


def test_attachments_are_named_and_an_attached_letter_is_one() -> None:
    pdf = 'Content-Type: application/pdf; name="a.pdf"\r\n'
    pdf += 'Content-Disposition: attachment; filename="a\u202efdp.exe"\r\n'
    pdf += "Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(b"x" * 300).decode()
    inner = "Content-Type: message/rfc822\r\n\r\nFrom: boss@x.example\r\n\r\nPay them."
    read = read_letter(multipart("Content-Type: text/plain\r\n\r\nsee there", pdf, inner))
    assert read.text == "see there"
    assert [(each.name, each.type, each.bytes) for each in read.attachments] == [
        ("a fdp.exe", "application/pdf", 300), ("", "message/rfc822", 33),
    ]  # fmt: skip


def test_nested_parts_and_encodings() -> None:
    coded = "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nenv=EDo"
    inner = f'Content-Type: multipart/alternative; boundary="i"\r\n\r\n--i\r\n{coded}\r\n--i--\r\n'
    assert read_letter(multipart(inner)).text == "envío"
    whole = base64.b64encode("mañana\n".encode("utf-16")).decode()
    part = f"Content-Type: text/plain; charset=UTF-16\r\nContent-Transfer-Encoding: BASE64\r\n\r\n{whole}"
    assert read_letter(multipart(part)).text == "mañana"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("=?utf-8?b?wr9Dw7Ntbz8=?=", "¿Cómo?"),
        ("=?iso-8859-1?q?Env=EDo?= gratis", "Envío gratis"),
        ("=?utf-8?b?!!!!?=", "=?utf-8?b?!!!!?="),
        ("=?nonsense?q?a=FFb?=", "a?b"),
        ("a\x00b\x1bc\u202ed", "a b c d"),
        ("folded\r\n\tsubject", "folded subject"),
        ("", ""),
    ],
)
def test_subjects(field: str, text: str) -> None:
    shown = read_letter(letter(subject=field)).subject
    assert shown.replace("\ufffd", "?") == text or text.startswith("=?")
    assert "\n" not in shown
    assert "\x00" not in shown


@pytest.mark.parametrize(
    ("quoted", "left"),
    [
        ("Yes.\n\nOn Mon, 1 Jan 2026 at 10:00, Desk <d@x> wrote:\n> Is it?\n> really?", "Yes."),
        ("Sí.\n\nEl lun, 1 ene 2026, Desk (<d@x>) escribió:\n> ¿Es?", "Sí."),
        ("> Is it?\nYes.", "Yes."),
        ("Yes.\n-- \nAna\n+34 600", "Yes."),
        ("a\n-----Original Message-----\nFrom: x", "a"),
        ("> only a quote", "> only a quote"),
        ("On Monday I wrote to you", "On Monday I wrote to you"),
    ],
)
def test_only_new_words_are_passed_on(quoted: str, left: str) -> None:
    assert new_words(quoted) == left


def test_html_hides_what_a_reader_does_not_see() -> None:
    source = (
        "<style>x{}</style><p>a &lt;b&gt;<br>c<script>alert('<p>')</script><!-- <p>d --><SCRIPT>never closed"
    )
    assert text_of_html(source).split() == ["a", "<b>", "c"]
    assert text_of_html("1 < 2 and <b") == "1 < 2 and "


def test_a_composed_letter_reads_as_it_was_written() -> None:
    text = "De 3 a 5 días.\n.\n..punto\nFrom here on =20 " + "w" * 200 + "\n\ttab " + "ñ" * 90
    references = tuple(f"{'r' * 120}{number}@x.example" for number in range(30))
    made = compose(
        Outgoing("desk@hive.test", ANA, "¿Qué? " * 20, text, "own@hive.test", references), 1_795_597_200_000
    )
    read = read_letter(made)
    assert read.text.rstrip() == text
    assert (read.message_id, read.automatic, len(read.references)) == ("own@hive.test", "auto-submitted", 20)
    assert (read.references[0], read.references[-1]) == (references[0], references[-1])
    assert max(map(len, made.split(b"\r\n"))) <= 160
    assert b"\n" not in made.replace(b"\r\n", b"")


def test_a_strangers_subject_makes_no_field_of_an_answer() -> None:
    subject = read_letter(letter(subject="=?utf-8?q?x=0D=0ABcc:_all@x.example?=")).subject
    made = compose(Outgoing("desk@hive.test", ANA, f"Re: {subject}\r\nBcc: y@x.example", "t", "o@h.test"), 0)
    assert b"\nBcc" not in made


# ---- machines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        "Auto-Submitted: auto-replied", "Auto-Submitted: Auto-Generated; x=y", "Precedence: bulk", "precedence: LIST",
        "Return-Path: <>", "Return-Path: < >", "List-Id: <l.x.example>", "X-Auto-Response-Suppress: All",
        "X-Autoreply: yes", "X-Failed-Recipients: a@x.example", "X-Loop: x",
        "Content-Type: multipart/report; report-type=delivery-status",
    ],
)  # fmt: skip
def test_machines_are_told(field: str) -> None:
    assert read_letter(letter("x", field)).automatic


@pytest.mark.parametrize(
    "sender", ["MAILER-DAEMON@x.example", "Post <postmaster@x.example>", "noreply+7@x.example"]
)
def test_machines_are_told_by_their_name(sender: str) -> None:
    assert read_letter(letter(sender=sender)).automatic == "sender"


@pytest.mark.parametrize(
    "field", ["Auto-Submitted: no", "Return-Path: <ana@customer.example>", "Precedence: normal"]
)
def test_people_are_not_machines(field: str) -> None:
    assert read_letter(letter("x", field)).automatic == ""


# ---- senders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("ana@x.example", "ana@x.example"),
        ("Ana Díaz <Ana@X.example>", "ana@x.example"),
        ('"Díaz, Ana (sales)" <ana@x.example>', "ana@x.example"),
        ("Ana (sales) <ana@x.example>", "ana@x.example"),
        ('"boss@good.example" <evil@bad.example>', "evil@bad.example"),
        ("boss@good.example <evil@bad.example>", ""),
        ("<boss@good.example> <evil@bad.example>", ""),
        ("boss@good.example, evil@bad.example", ""),
        ("evil@bad.example (boss@good.example)", ""),
        ("group: boss@good.example;", ""),
        ('"unclosed <evil@bad.example>', ""),
        ("ana@x.example\x00", ""),
        ("ana@localhost", ""),
        ("ana@x..example", ""),
        ('"a b"@x.example', ""),
        ("ana@[127.0.0.1]", ""),
        ("<>", ""),
        ("@x.example", ""),
        ("ana@\u0445.example", ""),
        (f"{'a' * 250}@x.example", ""),
        ("(" * 500 + "ana@x.example", ""),
    ],
)
def test_a_sender_is_one_address_that_nobody_reads_otherwise(field: str, address: str) -> None:
    assert address_in(field) == address


# ---- bad letters ----------------------------------------------------------------------------------------------------

NEST = "".join(f'--b{n}\r\nContent-Type: multipart/mixed; boundary="b{n + 1}"\r\n\r\n' for n in range(40))
REFUSED = {
    "nothing": (b"", "MAIL_SENDER_INVALID"),
    "no head": (b"\r\n\r\nFrom: a@x.example\r\n", "MAIL_SENDER_INVALID"),
    "no sender": (b"Subject: x\r\n\r\nx", "MAIL_SENDER_INVALID"),
    "two senders": (letter("x", "From: other@x.example"), "MAIL_SENDER_INVALID"),
    "zeros": (b"\0" * 1000, "MAIL_SENDER_INVALID"),
    "too large": (letter("x" * LETTER_BYTES_MAX), "MAIL_TOO_LARGE"),
    "a head too large": (letter("x", "X: " + "y" * HEAD_BYTES_MAX), "MAIL_HEAD_TOO_LARGE"),
    "a head that folds for ever": (letter("x", "X: y" + "\r\n\t" * 40_000), "MAIL_HEAD_TOO_LARGE"),
    "too many fields": (letter("x", *(["X: y"] * FIELDS_MAX)), "MAIL_HEAD_TOO_LARGE"),
    "too deep": (multipart(NEST, boundary="b0"), "MAIL_TOO_DEEP"),
    "too many parts": (multipart(*["\r\nx"] * (PARTS_MAX + 1)), "MAIL_TOO_MANY_PARTS"),
    "a part's head too large": (multipart("X: " + "y" * HEAD_BYTES_MAX + "\r\n\r\nx"), "MAIL_HEAD_TOO_LARGE"),
}


@pytest.mark.goal("G13")
@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_bad_letters_are_refused_with_a_code(data: bytes, code: str) -> None:
    with pytest.raises(BadLetter) as refused:
        timed(data)
    assert refused.value.code == code


def typed(content: str, text: str = "words", encoding: str = "") -> bytes:
    more = f"\r\nContent-Transfer-Encoding: {encoding}" if encoding else ""
    head = f"From: {ANA}\r\nMessage-ID: <t@x.example>\r\nContent-Type: {content}{more}\r\n\r\n"
    return (head + text).encode("utf-8", "surrogateescape")


ODD = {
    "no message id": letter(message_id=""),
    "message id of nonsense": letter(message_id="a b <<>> c"),
    "unknown charset": typed("text/plain; charset=klingon"),
    "a codec that is no charset": typed("text/plain; charset=zlib_codec"),
    "a codec that decodes slowly": typed("text/plain; charset=punycode", "a" * 200_000),
    "idna": typed("text/plain; charset=idna", "xn--" * 50_000),
    "escapes": typed("text/plain; charset=unicode_escape", "\\ud800\\x00"),
    "utf-7": typed("text/plain; charset=utf-7", "+ADw-script+AD4-"),
    "charset of nul": typed("text/plain; charset=\x00"),
    "charset of newlines": typed('text/plain; charset="a\r\n b"'),
    "not utf-8": typed("text/plain; charset=utf-8", "\udcff\udcfe\udc80"),
    "half utf-16": typed("text/plain; charset=utf-16", "abc"),
    "broken base64": typed("text/plain", "====A", "base64"),
    "base64 of one letter": typed("text/plain", "A", "base64"),
    "broken quoted-printable": typed("text/plain", "=\r\n=Z=4\r\n=", "quoted-printable"),
    "unknown encoding": typed("text/plain", "x", "rot13"),
    "uuencode": typed("text/plain", "begin 666 x\n#86)C\nend", "x-uuencode"),
    "no boundary": typed("multipart/mixed", "--b\r\n\r\nx"),
    "empty boundary": typed('multipart/mixed; boundary=""', "--\r\n\r\nx\r\n" * 20_000),
    "long boundary": typed(f"multipart/mixed; boundary={'b' * 500}"),
    "boundary of regular expressions": typed('multipart/mixed; boundary="(a+)+$"', "--" + "a" * 50_000),
    "boundary that never ends": typed('multipart/mixed; boundary="b"', "--b\r\n\r\nx"),
    "boundaries alone": typed('multipart/mixed; boundary="b"', "--b\r\n" * 30),
    "spaces after a boundary": typed('multipart/mixed; boundary="b"', ("--b" + " " * 70 + "x\r\n") * 3_000),
    "type of nonsense": typed("=?x?;;;///"),
    "type without end": typed('text/plain; charset="'),
    "many parameters": typed("text/plain" + "; a=b" * 190),
    "continued parameters": typed("text/plain; " + "; ".join(f"name*{n}*=utf-8''%41" for n in range(40))),
    "negative continuation": typed("text/plain; name*-1=a; name*99999999=b; name*=''"),
    "comments in a type": typed("text/plain " + "(" * 400),
    "tags that never close": typed("text/html", "<a" * 100_000),
    "comments that never close": typed("text/html", "<!--" * 50_000),
    "angles": typed("text/html", "<" * 200_000),
    "scripts that never close": typed("text/html", "<script>" * 25_000),
    "entities": typed("text/html", "&amp" * 50_000 + "&#x110000;&#99999999999999;"),
    "letters that grow in lower case": typed("text/html", "\u0130" * 1_000 + "<SCRIPT>x</SCRIPT>"),
    "quotes": typed("text/plain", "> " * 100_000),
    "said before": typed("text/plain", "On " * 60_000),
    "lines": typed("text/plain", "\r\n" * 100_000),
    "carriage returns": typed("text/plain", "\r" * 200_000),
    "one long line": typed("text/plain", "x" * 240_000),
    "a subject of encoded words": letter(subject="=?utf-8?b?YQ==?= " * 50),
    "a subject of beginnings": letter(subject="=?" * 490),
    "a subject of punycode": letter(subject=f"=?punycode?q?{'a' * 900}?="),
    "a subject of idna": letter(subject=f"=?idna?q?{'xn--' * 200}?="),
    "a subject with a language": letter(subject="=?utf-8*en?q?a?="),
    "many references": letter(references=" ".join(f"r{n}@x.example" for n in range(3_500))),
    "references of nonsense": letter("x", "References: " + "<" * 50_000),
    "dates": letter("x", "Date: " + "9" * 60),
    "results": proven(letter(), "(" * 4_000),
    "names without colon": letter("x", "no colon here", ": no name", "\u00e9: x", "A" * 200 + ": y"),
    "line feeds only": letter().replace(b"\r\n", b"\n"),
    "mixed line ends": letter().replace(b"\r\n", b"\n", 3),
}


@pytest.mark.goal("G13")
@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_odd_letters_are_read(data: bytes) -> None:
    check(timed(data))


@pytest.mark.parametrize(
    "name", ["unknown charset", "not utf-8", "line feeds only", "mixed line ends", "many parameters"]
)
def test_odd_letters_keep_their_words(name: str) -> None:
    text = timed(ODD[name]).text
    assert text in ("words", "How long does delivery take?") or "\ufffd" in text


@pytest.mark.goal("G13")
def test_mutated_letters_are_read_or_refused_in_time() -> None:
    random_ = random.Random(4)
    codes: set[str] = set()
    seeds = [proven(letter(references="r@x.example")), multipart("\r\nx", kind="alternative")]
    seeds += [data[:4_000] for data in ODD.values()]
    for _ in range(MUTATIONS):
        data = mutated(random_.choice(seeds), random_)
        try:
            check(timed(data))
        except BadLetter as refused:
            codes.add(refused.code)
    assert codes <= {code for _, code in REFUSED.values()}


def timed(data: bytes) -> Letter:
    """Reads a letter; the best of a few tries must be in time."""
    best = _seconds(data)
    if best > SECONDS_MAX:
        best = min(_seconds(data) for _ in range(SLOW_TRIES))
    assert best <= SECONDS_MAX, f"{best:.3f} s for {len(data)} bytes"
    return read_letter(data)


def _seconds(data: bytes) -> float:
    started = time.thread_time()
    try:
        read_letter(data)
    except BadLetter:
        pass  # refused, as it may be
    return time.thread_time() - started


def check(read: Letter) -> None:
    """What every letter that was read holds, whatever it was made of."""
    assert "@" in read.sender
    assert read.sender.isascii()
    assert read.message_id
    for text in (read.subject, read.text, *(each.name for each in read.attachments)):
        text.encode()
        assert "\x00" not in text
    assert len(read.references) <= 65
