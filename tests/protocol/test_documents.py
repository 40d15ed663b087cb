"""docs/wire.md and docs/compat.md against the code and the tests they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skep.protocol import header, limits
from skep.protocol.codes import CloseReason, ErrorCode, Reason
from skep.protocol.json_framing import ACK_LEVELS, PHASES
from skep.protocol.link import Verb
from skep.protocol.message import META_FACTS, ROUTING_FACTS

REPO = Path(__file__).resolve().parents[2]
WIRE = (REPO / "docs" / "wire.md").read_text()
COMPAT = (REPO / "docs" / "compat.md").read_text()
BAD_INPUT_TESTS = REPO / "tests" / "hostile" / "test_bad_input.py"


def section(number: str) -> str:
    return WIRE.split(f"\n## {number}", 1)[1].split("\n## ", 1)[0]


def first_cells(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("offset", "name"),
    re.findall(r"^\| (\d+) \| [^|]+ \| (\w+)[^|]* \|", WIRE.split("### LINK", 1)[0], re.MULTILINE),
)
def test_the_header_table_has_the_codes_offsets(offset: str, name: str) -> None:
    at = {
        "frame_bytes": header.FRAME_BYTES_AT,
        "key_end": header.KEY_END_AT,
        "body_start": header.BODY_START_AT,
        "message_id": header.MESSAGE_ID_AT,
        "reply_to": header.REPLY_TO_AT,
        "trace_id": header.TRACE_ID_AT,
        "span_id": header.SPAN_ID_AT,
        "thread_seq": header.THREAD_SEQ_AT,
        "deadline_ms": header.DEADLINE_AT,
        "label_set": header.LABEL_SET_AT,
        "budget": header.BUDGET_AT,
        "part": header.PART_AT,
        "source": header.KEY_START,
        "version": header.SELECTOR_START,
        "flags": header.FLAGS_AT,
        "ttl": header.TTL_AT,
        "hops": header.HOPS_AT,
        "phase": header.PHASE_AT,
    }
    if name in at:
        assert int(offset) == at[name]


@pytest.mark.parametrize(
    "enum",
    [
        header.MessageClass,
        header.Phase,
        header.ContentType,
        header.AckLevel,
        header.Scope,
        header.ActionClass,
    ],
)
def test_every_number_of_an_enum_is_in_the_header_table(enum: type[header.Phase]) -> None:
    text = section("2.").replace("UTF-8 text", "text").replace("3 stored (reserved)", "3 stored").lower()
    for member in enum:
        assert f"{int(member)} {member.name.lower()}" in text, f"{enum.__name__}.{member.name}"


def test_every_link_verb_has_its_row() -> None:
    for verb in Verb:
        assert re.search(rf"\b{int(verb)} {verb.name}\b", section("2.")), verb.name


def test_every_member_of_the_envelope_has_its_row() -> None:
    named = {name for cell in first_cells(section("4.")) for name in cell.split(", ")}
    assert named >= META_FACTS | ROUTING_FACTS
    assert all(text in section("4.") for text in (*PHASES, *ACK_LEVELS))


def test_limits_in_the_text_are_those_of_the_code() -> None:
    text = section("8.")
    for limit in (
        limits.FRAME_BYTES_MAX,
        limits.HELLO_BYTES_MAX,
        limits.META_BYTES_MAX,
        limits.EXTENSION_BYTES_MAX,
    ):
        assert f"{limit:,}" in text
    for limit in (limits.QUEUE_FRAMES_MAX, limits.CONTEXT_BYTES_MAX):
        assert f"{limit:,}" in text


def test_codes_in_the_text_exist() -> None:
    known = {*CloseReason.__members__, *Reason.__members__, *ErrorCode.__members__}
    for found in re.findall(r"(?:told|ended) ([A-Z_]{5,})", section("10.")):
        assert found in known
    for bracket in re.findall(r"\[([A-Z_ or]+)\]", WIRE):
        assert set(bracket.split(" or ")) <= set(ErrorCode.__members__)


def rows() -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section("10."), re.MULTILINE)


def test_rows_of_bad_input_are_single_and_complete() -> None:
    assert len(rows()) == len(set(rows())) > 70
    assert all(line.count("|") == 4 for line in section("10.").splitlines() if line.startswith("| `"))


def test_every_row_of_bad_input_has_its_test() -> None:
    tests = set(re.findall(r"^(?:async )?def test_(\w+)\(", BAD_INPUT_TESTS.read_text(), re.MULTILINE))
    assert set(rows()) == tests


def test_every_test_that_compat_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", COMPAT)
    assert len(named) > 30
    for path, test in named:
        assert re.search(rf"def {test}\(", (REPO / path).read_text()), f"{path}::{test}"
    tables = [
        line for line in COMPAT.splitlines() if line.startswith("| ") and not line.startswith("| Upstream")
    ]
    assert all("::test_" in line for line in tables)
