"""The text that the engine is given says what the whole input says, of everything that the entry point reads."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from skep.protocol.header import AckLevel, DstKind, MessageClass, Selector
from skep.protocol.kinds import ActionClass, Scope
from skep_policy import input as policy_input
from skep_policy.input import PIECES_MAX, Asked, Statuses, Wanted, whole_input
from skep_policy.lint import INPUT
from skep_policy.manifest import Reads
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype

PATHS = ["", *INPUT, *(f"{part}.{name}" for part, names in INPUT.items() for name in sorted(names))]
uuids = st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.lists(texts, max_size=3).map(tuple)
records = st.builds(
    IlkRecord, uuids, st.sampled_from(IlkKind), st.sampled_from(Subtype), st.sampled_from(Registration),
    st.sampled_from(SealStatus), uuids, handler=texts, roles=names, capabilities=names, degrees=names,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6,
)
contexts = st.just(b"") | st.dictionaries(texts, values, max_size=3).map(lambda each: orjson.dumps(each, option=2))
destinations = st.one_of(
    st.just((DstKind.POLICY, b"")), st.just((DstKind.BROADCAST, b"")), st.tuples(st.just(DstKind.UUID), uuids),
    st.tuples(st.just(DstKind.NAME), st.sampled_from((b"AI.a", b"SY.x@bee", "AI.\u00e9\"".encode()))),
)  # fmt: skip
selectors = st.builds(
    lambda to, **facts: Selector(dst_kind=to[0], destination=to[1], **facts), destinations,
    message_class=st.sampled_from(MessageClass), ack_level=st.sampled_from(AckLevel), scope=st.sampled_from(Scope),
    action_class=st.sampled_from(ActionClass), src_ilk=st.none() | uuids, dst_ilk=st.none() | uuids, verb=texts,
    action=texts, type=texts, target=texts, context=contexts,
)  # fmt: skip
questions = st.builds(
    lambda selector, source, name, src, dst: Asked(b"", selector, source, name, src, dst),
    selectors, uuids, texts, st.none() | records, st.none() | records,
)  # fmt: skip
reads = st.builds(
    Reads, st.just(()), st.booleans(), st.lists(st.sampled_from(PATHS), max_size=12).map(tuple)
)
statuses = st.builds(Statuses, *[st.sampled_from(("", "none", "unknown", "active", "suspended"))] * 2)


def restricted(whole: dict[str, Any], read: tuple[str, ...]) -> dict[str, Any]:
    """By the definition of `Reads.input`, and nothing cleverer."""
    kept: dict[str, Any] = {}
    for part, value in whole.items():
        if "" in read or part in read:
            kept[part] = value
        elif value is not None:
            members = {path.partition(".")[2] for path in read if path.startswith(f"{part}.")}
            if members:
                kept[part] = {name: fact for name, fact in value.items() if name in members}
    return kept


def bare(document: dict[str, Any]) -> dict[str, Any]:
    """Without parts that are empty: a member of an empty object is as undefined as one of none."""
    return {part: value for part, value in document.items() if value != {}}


@given(questions, statuses, reads)
def test_the_text_is_the_whole_input_cut_to_what_is_read(asked: Asked, stand: Statuses, read: Reads) -> None:
    wanted = Wanted(read)
    expected = bare(restricted(whole_input(asked, stand, read.source), read.input))
    for _ in range(2):  # made, and kept
        assert bare(orjson.loads(wanted.text(asked, stand))) == expected


@given(questions, statuses)
def test_of_what_must_only_be_there_the_text_says_only_that(asked: Asked, stand: Statuses) -> None:
    members = ("meta.dst_ilk", "meta.src_ilk")
    said = orjson.loads(Wanted(Reads((), False, (*members, "meta.action"), members)).text(asked, stand))
    whole = whole_input(asked, stand, False)["meta"]
    there = {name: "ilk:" for name in ("src_ilk", "dst_ilk") if whole.get(name, "") != ""}
    action = {"action": whole["action"]} if "action" in whole else {}
    assert bare(said) == bare({"meta": there | action})


@given(st.lists(st.tuples(records, statuses), min_size=2, max_size=6), uuids)
def test_a_record_that_changes_is_written_anew(seen: list[tuple[IlkRecord, Statuses]], ilk: bytes) -> None:
    wanted = Wanted(Reads((), False, ("src", "dst.roles")))
    for record, stand in seen:
        asked = Asked(b"", Selector(), b"s" * 16, "IO.x", record._replace(ilk=ilk), record._replace(ilk=ilk))
        whole = whole_input(asked, stand, False)
        found = orjson.loads(wanted.text(asked, stand))
        assert found == {"src": whole["src"], "dst": {"roles": whole["dst"]["roles"]}}


def test_the_kept_texts_are_bounded() -> None:
    people = policy_input._People(frozenset({"ilk"}))
    for number in range(PIECES_MAX + 10):
        people.text(IlkRecord(number.to_bytes(16, "big")), "active")
        assert len(people._kept) <= PIECES_MAX
    assert policy_input._ilk_piece.cache_info().maxsize == PIECES_MAX


def test_a_policy_that_reads_nothing_is_given_nothing() -> None:
    asked = Asked(b"", Selector(action="x", src_ilk=b"i" * 16), b"s" * 16, "IO.x", IlkRecord(b"i" * 16))
    assert Wanted(Reads((), True, ())).text(asked, Statuses("", "")) == b"{}"
