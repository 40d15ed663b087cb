"""Tables, JSON and failures as a person and as a script see them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep_nodes.cli.failure import Exit, Failure, exit_for
from skep_nodes.cli.output import Column, Format, Output, _width, fitted, printable, table_lines
from skep_nodes.cli.reading import duration

COLUMNS = [Column("name", "NAME", flexible=True), Column("pid", "PID", right=True)]


def printed(form: Format, rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream):
        Output(form).rows("skep.nodes/1", "nodes", rows, COLUMNS)
    return stream.getvalue()


def test_one_document_with_a_schema() -> None:
    document = json.loads(printed(Format.json, [{"name": "AI.x", "pid": 7}]))
    assert document == {"schema": "skep.nodes/1", "nodes": [{"name": "AI.x", "pid": 7}]}
    assert json.loads(printed(Format.json, [])) == {"schema": "skep.nodes/1", "nodes": []}


def test_names_alone_and_yaml() -> None:
    rows = [{"name": "AI.x", "pid": 7}, {"name": "AI.y", "pid": 8}]
    assert printed(Format.name, rows) == "AI.x\nAI.y\n"
    assert "- name: AI.x" in printed(Format.yaml, rows)


def test_an_empty_table_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.table).rows("s", "nodes", [], COLUMNS)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no nodes\n")


def test_a_pipe_gets_every_character() -> None:
    assert "x" * 300 in "\n".join(table_lines([{"name": "x" * 300, "pid": 1}], COLUMNS, 0))


@given(
    names=st.lists(st.text(max_size=120), min_size=1, max_size=6),
    width=st.integers(20, 200),
    pid=st.integers(0, 99999),
)
def test_a_table_never_exceeds_the_terminal(names: list[str], width: int, pid: int) -> None:
    lines = table_lines([{"name": name, "pid": pid} for name in names], COLUMNS, width)
    assert max(map(_width, lines)) <= width
    assert len(lines) == len(names) + 1


def test_an_id_is_shortened_on_a_terminal_only() -> None:
    columns = [Column("uuid", "UUID", first=8)]
    rows = [{"uuid": "0504c106-9e66-4d4a-8a71-8b2aff85c0d8"}]
    assert table_lines(rows, columns, 80)[1] == "0504c106"
    assert table_lines(rows, columns)[1] == rows[0]["uuid"]


def test_the_widest_flexible_column_gives_way_first() -> None:
    assert fitted([30, 10, 5], [True, True, False], 40) == [21, 10, 5]
    assert fitted([30, 30], [False, False], 10) == [30, 30]


@given(st.text())
def test_control_characters_never_reach_the_terminal(text: str) -> None:
    assert all(each.isprintable() for each in printable(text))


def test_escape_sequences_of_a_stranger_are_shown_not_obeyed() -> None:
    line = table_lines([{"name": "AI.\x1b[2J\x07", "pid": 1}], COLUMNS)[1]
    assert "\x1b" not in line
    assert "\\x1b" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (59.94, "59.9s"), (61, "1m01s"), (3661, "1h01m"), (90000, "1d1h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_failure_says_what_why_and_what_next() -> None:
    failure = Failure("X", "it broke", why="because", then="skep doctor")
    assert failure.text() == "error X: it broke\n  why:  because\n  next: skep doctor"
    assert failure.document()["error"] == {
        "code": "X",
        "what": "it broke",
        "why": "because",
        "next": "skep doctor",
    }


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("NODE_NOT_FOUND", Exit.NOT_FOUND),
        ("FORBIDDEN", Exit.DENIED),
        ("TIMEOUT", Exit.UNREACHABLE),
        ("VERSION_CONFLICT", Exit.CONFLICT),
        ("INVALID_CONFIG", Exit.USAGE),
        ("PERSIST_FAILED", Exit.FAILED),
    ],
)
def test_codes_become_exit_codes(code: str, expected: Exit) -> None:
    assert exit_for(code) == expected


def test_every_refusal_of_a_router_has_an_exit_code() -> None:
    from skep.protocol.codes import Reason

    unmapped = [reason for reason in Reason if exit_for(reason) is Exit.FAILED]
    assert unmapped == [Reason.UNTRANSLATABLE, Reason.PAYLOAD_TOO_LARGE, Reason.BAD_FRAME]


def test_every_refusal_of_identity_has_an_exit_code() -> None:
    from skep_nodes.identity.refusal import Code

    unmapped = [code for code in Code if exit_for(code) is Exit.FAILED]
    assert unmapped == [Code.DB_WRITE_FAILED, Code.IDENTITY_LIMIT_REACHED]


def test_no_code_has_two_exit_codes() -> None:
    from skep_nodes.cli.failure import _EXITS

    assert sum(map(len, _EXITS.values())) == len(set().union(*_EXITS.values()))
