"""`skep policy upload|apply|rollback|status|get` beside a real hive: what is printed, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.test_commands import Up
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Format, Output
from skep_nodes.cli.policy_life import Asked, _exit_of, apply_action
from support.hives import private_hive

GOOD = 'package router\n\ndefault target := "AI.one"\n\ndefault allow := true\n'
BAD = "package router\n\ntarget := nowhere\n"
ON_IT = (0, 5)  # 5 where the router has not said in time that it runs it


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with private_hive() as hive:
        yield Up(hive)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "good.rego").write_text(GOOD)
    return tmp_path / "good.rego"


def status(up: Up) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(up.skep("policy", "status", "-o", "json").stdout)
    return found


def test_status_and_get_of_the_packaged_policy(up: Up) -> None:
    shown = up.skep("policy", "status").stdout
    assert "current_version  " in shown
    assert "RT.main@test" in shown
    assert status(up)["current_version"] >= 1
    assert "package router" in up.skep("policy", "get", "-q").stdout


@pytest.mark.needs("opa")
def test_apply_rollback_and_what_stays(up: Up, good: Path) -> None:
    before = status(up)
    dry = up.skep("policy", "apply", str(good), "--dry-run")
    assert (dry.returncode, "dry run" in dry.stderr) == (0, True)
    assert status(up)["next_version"] == before["next_version"]
    done = up.skep("policy", "apply", str(good), "-o", "json")
    assert done.returncode in ON_IT, done.stderr
    answer = json.loads(done.stdout)
    assert answer["version"] == before["next_version"]
    assert answer["routers"][0]["router"] == "RT.main@test"
    assert up.skep("policy", "get", "-q").stdout == GOOD
    back = up.skep("policy", "rollback")
    assert back.returncode in ON_IT
    assert f"as version {answer['version'] + 1}" in back.stderr
    assert up.skep("policy", "get", "-q").stdout != GOOD


@pytest.mark.needs("opa")
def test_upload_then_apply_staged(up: Up, good: Path) -> None:
    assert up.skep("policy", "upload", str(good)).returncode == 0
    staged = status(up)["staged_version"]
    wrong = up.skep("policy", "apply", "--staged", "--version", str(staged + 1))
    assert (wrong.returncode, "VERSION_MISMATCH" in wrong.stderr) == (6, True)
    assert up.skep("policy", "apply", "--staged", "--version", str(staged)).returncode in ON_IT
    again = up.skep("policy", "apply", "--staged")
    assert (again.returncode, "NOTHING_STAGED" in again.stderr) == (6, True)


@pytest.mark.needs("opa")
def test_a_policy_that_does_not_compile_names_file_and_line(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "bad.rego"
    file.write_text(BAD)
    before = status(up)["next_version"]
    done = up.skep("policy", "apply", str(file))
    assert done.returncode == 1
    assert f"{file}:3:" in done.stderr
    assert "COMPILE_ERROR" in done.stderr
    assert "Traceback" not in done.stderr
    assert status(up)["next_version"] == before
    stale = up.skep("policy", "upload", str(file), "--version", "1")
    assert (stale.returncode, "VERSION_CONFLICT" in stale.stderr) == (6, True)


def test_mistakes_of_the_command_line(up: Up, tmp_path: Path) -> None:
    for arguments in ([], ["x.rego", "--staged"]):
        assert up.skep("policy", "apply", *arguments).returncode == 2
    assert up.skep("policy", "apply", str(tmp_path / "none.rego")).returncode == 3
    (tmp_path / "big.rego").write_text("#" * (1 << 17))
    big = up.skep("policy", "apply", str(tmp_path / "big.rego"))
    assert (big.returncode, "REGO_TOO_LARGE" in big.stderr) == (1, True)


def test_the_exit_code_is_the_hives() -> None:
    out = Output(Format.table, quiet=True)
    row = {"router": "RT.a", "status": "ok"}
    assert _exit_of({}, out) == Exit.OK
    assert _exit_of({"routers": [row], "pending": []}, out) == Exit.OK
    assert _exit_of({"routers": [row], "pending": ["RT.b"]}, out) == Exit.UNREACHABLE
    assert _exit_of({"routers": [row | {"status": "error"}], "pending": ["RT.b"]}, out) == Exit.FAILED


def test_apply_means_one_thing() -> None:
    assert apply_action(Path("x"), False) == "compile_apply"
    assert apply_action(None, True) == "apply"
    for file, staged in ((None, False), (Path("x"), True)):
        with pytest.raises(Failure, match="USAGE"):
            apply_action(file, staged)
    assert Asked("rollback", version=3).payload() == {
        "subsystem": "opa", "action": "rollback", "version": 3, "config": {},
    }  # fmt: skip
