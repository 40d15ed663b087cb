"""Parts of the command that need no process: back-off, exits, comparing results, steps of a trace, the transcript."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skep_nodes.cli.bench import compare_command, compared
from skep_nodes.cli.children import BACKOFF_MAX_S, STEADY_S, SYSTEM_MODULES, Child, State, describe_exit
from skep_nodes.cli.demo import Step, transcript
from skep_nodes.cli.explain import choose, span_text, steps_of
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.nursery import Nursery
from skep_nodes.cli.output import Format, Output
from skep_nodes.cli.session import answered
from skep_shm import Record, RecordKind
from support.wait import eventually


def test_pauses_grow_to_a_bound_and_a_long_life_resets_them() -> None:
    child = Child("AI.x", [])
    pauses = [child.crashed(0.0) for _ in range(12)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-1] == BACKOFF_MAX_S
    child.started_s = 100.0
    assert child.crashed(100.0 + STEADY_S + 1) == 0.1
    assert child.state is State.WAITING


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exited with 0"), (-9, "was ended by SIGKILL"), (-200, "was ended by signal 200")]
)
def test_an_end_is_described(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_the_system_nodes_exist() -> None:
    from importlib.util import find_spec

    assert all(find_spec(module) is not None for module in SYSTEM_MODULES.values())


def record(kind: RecordKind, at_ns: int, trace: int = 1, **facts: Any) -> Record:
    return Record(
        kind, 0, at_ns, trace.to_bytes(16, "big"), 5, source_name="IO.a@h", dest_name="AI.b@h", **facts
    )


def test_steps_have_the_time_since_the_one_before() -> None:
    records = [
        record(RecordKind.HOP_IN, 1000),
        record(RecordKind.HOP_OUT, 13000),
        record(RecordKind.REFUSED, 4_013_000),
    ]
    steps = steps_of(records)
    assert [(step["step"], step["after"]) for step in steps] == [
        ("received", "+0µs"), ("sent on", "+12µs"), ("refused", "+4.0ms"),
    ]  # fmt: skip
    assert steps_of([]) == []
    assert steps_of([record(99, 0)])[0]["step"] == "?"  # type: ignore[arg-type]


def test_a_beginning_must_name_one_trace() -> None:
    records = [
        record(RecordKind.HOP_OUT, 1, trace=0xAB << 120),
        record(RecordKind.HOP_OUT, 2, trace=(0xAB << 120) + 1),
    ]
    assert choose(records, "ab" + 29 * "0" + "1") == [records[1]]
    assert choose(records, "cdcdcd") == []
    with pytest.raises(Failure, match="AMBIGUOUS"):
        choose(records, "ab0000")


@pytest.mark.parametrize(
    ("span", "text"), [(0, "0µs"), (999_400, "999µs"), (3_400_000, "3.4ms"), (2 * 10**9, "2.0s")]
)
def test_spans(span: int, text: str) -> None:
    assert span_text(span) == text


@pytest.mark.parametrize(
    ("unit", "before", "after", "verdict"),
    [
        ("msg/s", 100, 110, "better"),
        ("msg/s", 100, 90, "worse"),
        ("us", 100, 90, "better"),
        ("us", 100, 104, "same"),
    ],
)
def test_more_is_better_except_for_times(unit: str, before: float, after: float, verdict: str) -> None:
    row = {"name": "x", "size": 1, "unit": unit}
    assert compared(row | {"skep": before}, row | {"skep": after})["verdict"] == verdict


def test_two_result_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def file(name: str, value: float, schema: str = "skep.bench/1") -> Path:
        rows = [{"name": "one-way", "size": 256, "skep": value, "unit": "msg/s"}]
        (tmp_path / name).write_text(json.dumps({"schema": schema, "results": rows}))
        return tmp_path / name

    assert compare_command(file("a", 100), file("b", 50), Output(Format.table)) == Exit.FAILED
    assert "-50.0%" in capsys.readouterr().out
    with pytest.raises(Failure, match="no benchmark result"):
        compare_command(file("a", 1, "other"), tmp_path / "b", Output())
    with pytest.raises(Failure, match="NOT_FOUND"):
        compare_command(tmp_path / "none", tmp_path / "b", Output())


def test_an_answer_that_is_no_answer_is_a_failure() -> None:
    assert answered({"status": "ok", "version": 2}, "it") == {"status": "ok", "version": 2}
    with pytest.raises(Failure, match="VERSION_CONFLICT") as caught:
        answered({"status": "error", "error_code": "VERSION_CONFLICT"}, "it")
    assert caught.value.exit_code == Exit.CONFLICT
    with pytest.raises(Failure, match="BAD_ANSWER"):
        answered([], "it")


def test_texts_keep_their_lines_and_lose_their_control_characters() -> None:
    from skep_nodes.cli.messages import lines_of, shown

    assert [shown(line) for line in lines_of({"type": "text", "content": "a\nb\x1b"})] == ["a", "b\\x1b"]
    assert [shown(line) for line in lines_of({"n": 1})] == ['{"n": 1}']


def test_the_transcript_fits_and_keeps_hops_beside_their_message() -> None:
    lines = transcript(
        [Step("desk", "word " * 30, ["AI.desk → IO.whatsapp +1.2ms"]), Step("person", "", ["a", "b"])]
    )
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("desk")
    assert lines[1].endswith("+1.2ms")
    assert lines[-1].strip() == "b"


def test_last_words_are_those_of_this_life(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "AI.x.log").write_text("an old story\n")
    child = Child("AI.x", ["true"])
    with Nursery() as nursery:
        child.start(nursery, tmp_path, 0.0)
    assert child.process is not None
    eventually(lambda: child.process.poll() == 0, within=10)  # type: ignore[union-attr]
    assert child.last_words(tmp_path) == ""
    with (tmp_path / "logs" / "AI.x.log").open("a") as log:
        log.write("why\n")
    assert child.last_words(tmp_path) == "why"
