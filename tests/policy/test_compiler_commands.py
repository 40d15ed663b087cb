"""`skep policy build|check|test|fmt`: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policy.rego import LISTED, SEED
from skep_nodes.cli import main
from skep_policy.compiler import REGO_BYTES_MAX
from skep_policy.default import FOLDER
from skep_policy.manifest import Manifest

pytestmark = pytest.mark.needs("opa")
BROKEN = "package router\n\ntarget := x\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.rego"
    path.write_text(LISTED)
    return path


def test_build_writes_wasm_and_manifest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.parent / "made"
    assert main(["policy", "build", str(file), "-O", str(out), "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    wasm = (out / "policy.wasm").read_bytes()
    assert (said["schema"], said["wasm_size_bytes"], said["syntax"]) == (
        "skep.policy.build/1",
        len(wasm),
        "v1",
    )
    assert Manifest.from_json((out / "manifest.json").read_bytes()).wasm_sha256 == said["wasm_sha256"]
    assert sorted(path.name for path in file.parent.iterdir()) == ["made", "mine.rego"]


def test_build_without_a_folder_writes_beside_the_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "build", str(file), "-o", "name"]) == 0
    assert capsys.readouterr().out.strip() == str(file.parent / "policy.wasm")


def test_build_says_its_findings_and_goes_on(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(SEED)
    assert main(["policy", "build", str(file)]) == 0
    assert f"{file}:8:2: scan: goes through all of data.identity" in capsys.readouterr().err


def test_a_policy_that_does_not_compile_fails_with_its_place(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(BROKEN)
    assert main(["policy", "build", str(file)]) == 1
    said = capsys.readouterr().err
    assert f"error COMPILE_ERROR: {file}:3:11: rego_unsafe_var_error: var x is unsafe" in said
    assert not (file.parent / "policy.wasm").exists()


def test_check_lists_findings_and_writes_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, code, expected in (
        (LISTED, 0, []),
        (SEED, 0, [(5, "no_default", "warning"), (8, "scan", "warning"), (13, "no_default", "warning")]),
        (BROKEN, 1, [(3, "rego_unsafe_var_error", "error")]),
    ):
        file.write_text(text)
        assert main(["policy", "check", str(file), "--json"]) == code
        findings = json.loads(capsys.readouterr().out)["findings"]
        assert [(each["line"], each["code"], each["severity"]) for each in findings] == expected
    assert [path.name for path in file.parent.iterdir()] == ["mine.rego"]


def test_check_of_another_entry_point(file: Path) -> None:
    file.write_text("package router\n\ndefault allow := true\n")
    assert main(["policy", "check", str(file)]) == 1
    assert main(["policy", "check", str(file), "-e", "router/allow"]) == 0


def test_the_tests_of_the_default_policy_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", str(FOLDER), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tests"]
    assert len(rows) > 15
    assert {row["result"] for row in rows} == {"ok"}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("package t\n\ntest_no if 1 == 2\n", 1, "0 of 1 tests passed"),
        ("package t\n\ntodo_test_no if 1 == 2\n", 0, "1 of 1 tests passed"),
        ("package t\n\ntest_old { 1 == 1 }\n", 0, "1 of 1 tests passed"),
        ("package t\n\ntest_broken if x == 1\n", 1, "COMPILE_ERROR"),
        ("package t\n\nother if 1 == 1\n", 1, "NO_TESTS"),
    ],
)
def test_results_of_tests(
    text: str, code: int, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    assert main(["policy", "test", str(file)]) == code
    assert said in capsys.readouterr().err


def test_fmt_prints_shows_and_writes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ugly = 'package router\ndefault   target := [ ]\nallow if {input.meta.msg=="x"}\n'
    file.write_text(ugly)
    assert main(["policy", "fmt", str(file)]) == 0
    tidy = capsys.readouterr().out
    assert tidy == 'package router\n\ndefault target := []\n\nallow if input.meta.msg == "x"\n'
    assert main(["policy", "fmt", "--diff", str(file)]) == 1
    assert "+default target := []" in capsys.readouterr().out
    assert file.read_text() == ugly
    assert main(["policy", "fmt", "-w", str(file)]) == 0
    assert file.read_text() == tidy
    assert main(["policy", "fmt", "--diff", str(file)]) == 0


def test_fmt_of_what_is_no_rego(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("package\n")
    assert main(["policy", "fmt", str(file)]) == 1
    assert "COMPILE_ERROR" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["build", "check", "test", "fmt"])
def test_a_file_that_is_not_there(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", verb, str(tmp_path / "gone.rego")]) == 3
    assert "NOT_FOUND" in capsys.readouterr().err


def test_a_file_that_is_no_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(b"package \xff")
    assert main(["policy", "check", str(file)]) == 1
    file.write_bytes(b" " * (REGO_BYTES_MAX + 1))
    assert main(["policy", "check", str(file)]) == 1
    assert "REGO_INVALID" in (said := capsys.readouterr().err)
    assert "REGO_TOO_LARGE" in said


def test_a_verb_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "polish"]) == 2
    assert "skep policy --help" in capsys.readouterr().err


def test_without_opa_the_error_says_how_to_get_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKEP_OPA", str(file))
    for verb in ("build", "check", "test", "fmt"):
        assert main(["policy", verb, str(file)]) == 1
        said = capsys.readouterr().err
        assert "OPA_MISSING" in said
        assert "next: `python tools/fetch.py`" in said
