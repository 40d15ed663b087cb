"""The seal: every byte counts, nothing is ambiguous, each refusal names its culprit, and it is quick."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from degrees.school import AGENT, ILK, OTHER_ILK, School
from skep.errors import DegreeError
from skep.seal import (
    Degree,
    ModuleRef,
    Seal,
    canonical,
    compiled,
    degree_facts,
    judge,
    read_degree,
    seal_facts,
    statement,
)
from skep_nodes.degrees.registrar import DAY_MS
from support.hives import environment
from support.wait import eventually


@pytest.fixture
def ten_kilobytes(school: School) -> School:
    names = []
    for number in range(8):
        text = f"Rule {number}. " + "Answer in the customer's own language, and say only what the texts say. " * 14
        school.publish(f"part-{number}", "1.0.0", text)
        names.append(f"part-{number}@1.0.0")
    school.graduate(school.degree(*names, capabilities=("answers", "speaks_es")))
    assert 10_000 <= school.papers().size <= 13_000
    return school


@pytest.mark.goal("G4")
def test_every_single_byte_change_of_a_ten_kilobyte_degree_is_refused(ten_kilobytes: School) -> None:
    papers = ten_kilobytes.papers()
    papers.judged()
    accepted = []
    for name, data in papers.files.items():
        for place in range(len(data)):
            for flip in (0x01, 0x20):  # another character; another case, or another white space
                changed = data[:place] + bytes((data[place] ^ flip,)) + data[place + 1 :]
                if not refused(papers, name, changed):
                    accepted.append((name, place, flip))
    assert accepted == []


def test_every_byte_taken_out_or_put_in_is_refused(ten_kilobytes: School) -> None:
    papers = ten_kilobytes.papers()
    for name, data in papers.files.items():
        for place in range(0, len(data), 7):
            assert refused(papers, name, data[:place] + data[place + 1 :]), (name, place)
            assert refused(papers, name, data[:place] + b" " + data[place:]), (name, place)
        assert refused(papers, name, data + b"\n")
        assert refused(papers, name, b"")


def refused(papers, name: str, data: bytes) -> bool:  # type: ignore[no-untyped-def]
    if data == papers.files[name]:
        return True
    try:
        papers.judged({**papers.files, name: data})
    except DegreeError:
        return True
    return False


def test_verification_takes_at_most_200_microseconds(ten_kilobytes: School) -> None:
    """The best of many, and asked again while other programs have the machine: it is the work that is measured."""
    papers = ten_kilobytes.papers()
    degree, seal, texts = papers.files["degree.json"], papers.files["seal.json"], papers.texts()

    def best_ns() -> int:
        taken = []
        for _ in range(300):
            began = time.perf_counter_ns()
            judge(degree, texts, seal, papers.ring, now_ms=papers.now_ms, handler=AGENT, ilk=ILK)
            taken.append(time.perf_counter_ns() - began)
        return min(taken)

    eventually(lambda: best_ns() <= 200_000, within=30.0, what="one verification in 200 us")


def test_a_good_degree_gives_its_prompt(school: School) -> None:
    school.publish("spanish", text="You speak Spanish.\n\n")
    school.publish("rules", text="\nBe brief.\nBe kind.")
    school.graduate(school.degree("rules@1.0.0", "spanish@1.0.0"))
    assert school.papers().judged().prompt == "Be brief.\nBe kind.\n\nYou speak Spanish."


def test_each_refusal_says_what_is_wrong(school: School) -> None:
    carrier = school.graduate(school.degree())
    papers = school.papers()
    text = "modules/spanish@1.0.0.txt"
    changed = {**papers.files, text: papers.files[text].replace(b"Spanish", b"Spamish")}
    found = code_of(lambda: papers.judged(changed))
    assert found.code == "MODULE_CHANGED"
    assert found.module == "spanish@1.0.0"
    assert "spanish@1.0.0" in str(found)
    assert code_of(lambda: papers.judged({k: v for k, v in papers.files.items() if k != text})).code == "MODULE_MISSING"
    assert code_of(lambda: papers.judged(handler="AI.other@test")).code == "SEAL_FOREIGN"
    assert code_of(lambda: papers.judged(ilk=OTHER_ILK)).code == "SEAL_FOREIGN"
    assert code_of(lambda: papers.judged(now_ms=carrier.seal.until_ms)).code == "SEAL_EXPIRED"
    assert code_of(lambda: papers.judged(now_ms=carrier.seal.from_ms - 1)).code == "SEAL_NOT_YET"
    ring = papers.ring
    assert code_of(lambda: papers.judged(ring=replace(ring, keys=()))).code == "KEY_UNKNOWN"
    assert code_of(lambda: papers.judged(ring=replace(ring, revoked=(carrier.seal.serial,)))).code == "SEAL_REVOKED"
    revoked = (replace(ring.keys[0], state="revoked"),)
    assert code_of(lambda: papers.judged(ring=replace(ring, keys=revoked))).code == "KEY_REVOKED"


def code_of(call) -> DegreeError:  # type: ignore[no-untyped-def]
    with pytest.raises(DegreeError) as caught:
        call()
    return caught.value


@pytest.mark.goal("G14")
@pytest.mark.parametrize(
    "change",
    [
        {"ilk": OTHER_ILK}, {"handler": "AI.other@test"}, {"until_ms": 9_000_000_000_000}, {"from_ms": 1},
        {"issuer": "SY.registrar@elsewhere"}, {"serial": "seal:00000000-0000-4000-8000-000000000000"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_no_member_of_a_seal_can_be_exchanged(school: School, change: dict[str, object]) -> None:
    carrier = school.graduate(school.degree())
    papers = school.papers()
    forged = canonical(seal_facts(replace(carrier.seal, **change)))
    found = code_of(lambda: papers.judged({**papers.files, "seal.json": forged}, handler="", ilk=""))
    assert found.code == "SEAL_INVALID"


@pytest.mark.goal("G14")
def test_order_versions_and_capabilities_are_under_the_seal(school: School) -> None:
    school.publish("rules", text="Be brief.")
    school.publish("spanish")
    school.graduate(school.degree("rules@1.0.0", "spanish@1.0.0"))
    papers = school.papers()
    degree = read_degree(papers.files["degree.json"])
    for forged in (
        replace(degree, modules=degree.modules[::-1]),
        replace(degree, modules=degree.modules[:1]),
        replace(degree, capabilities=("answers", "refunds")),
        replace(degree, capabilities=()),
        replace(degree, description="harmless"),
    ):
        files = {**papers.files, "degree.json": canonical(degree_facts(forged))}
        assert code_of(lambda files=files: papers.judged(files)).code == "SEAL_INVALID"


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
REFS = st.builds(ModuleRef, TEXTS, TEXTS, HASHES, HASHES)
NUMBERS = st.integers(0, 1 << 31)
DEGREES = st.builds(
    Degree, TEXTS, NUMBERS, TEXTS, TEXTS, st.lists(REFS, max_size=3).map(tuple),
    st.lists(TEXTS, max_size=3).map(tuple), TEXTS, TEXTS,
)  # fmt: skip
SEALS = st.builds(
    Seal, TEXTS, TEXTS, NUMBERS, TEXTS, TEXTS, NUMBERS, NUMBERS, TEXTS, TEXTS, st.just("")
)


@given(DEGREES, DEGREES, SEALS, SEALS)
def test_two_different_graduations_have_different_statements(
    degree: Degree, other: Degree, seal: Seal, another: Seal
) -> None:
    same = (degree, seal) == (other, another)
    assert (statement(degree, seal) == statement(other, another)) == same


@given(st.lists(TEXTS.filter(lambda text: "\n" not in text and text), min_size=2, max_size=4))
def test_moving_a_boundary_changes_the_statement(parts: list[str]) -> None:
    """Length prefixes: the same characters cut at another place are other bytes."""
    base = Degree("degree:x", 1, "", "", (), tuple(parts), "", "")
    joined = replace(base, capabilities=(parts[0] + parts[1], *parts[2:]))
    moved = replace(base, capabilities=(parts[0][:-1], parts[0][-1] + parts[1], *parts[2:]))
    seal = Seal("s", "degree:x", 1, "i", "h", 0, 1, "r", "k")
    assert len({statement(each, seal) for each in (base, joined, moved)}) == 3


@given(st.binary(max_size=300))
def test_no_bytes_make_the_readers_do_anything_but_refuse(data: bytes) -> None:
    with pytest.raises(DegreeError):
        read_degree(data)


def test_a_document_that_means_the_same_and_is_spelt_otherwise_is_refused(school: School) -> None:
    school.graduate(school.degree())
    papers = school.papers()
    data = papers.files["degree.json"]
    for spelt in (data.replace(b'"version": 1', b'"version": 1.0'), data.replace(b"  ", b" "),
                  data.replace(b'"name": "support"', b'"name": "other",\n  "name": "support"'),
                  data.replace(b"support", b"s\\u0075pport")):  # fmt: skip
        assert spelt != data
        files = {**papers.files, "degree.json": spelt}
        assert code_of(lambda files=files: papers.judged(files)).code == "DEGREE_DAMAGED"


def test_the_prompt_has_one_blank_line_between_texts() -> None:
    assert compiled(["a\n", "\n\nb\n\n", "c"]) == "a\n\nb\n\nc"


def test_nobody_without_a_degree_loads_cryptography() -> None:
    code = "import sys, skep; skep.Node('AI.x'); print([m for m in ('cryptography', 'skep.seal') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_validity_is_bounded(school: School) -> None:
    carrier = school.graduate(school.degree(), days=30)
    assert carrier.seal.until_ms - carrier.seal.from_ms == 30 * DAY_MS
    assert (carrier.seal.ilk, carrier.seal.handler) == (ILK, AGENT)
