"""The `opa` command: found or named, and run within bounds whatever it does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from skep.protocol.errors import PolicyError
from skep_policy import opa
from skep_policy.opa import PINNED, find_opa, need_opa, run, version_text
from support.markdown import REPO
from support.tools import need

PYTHON = Path(sys.executable)


def script(folder: Path, text: str) -> Path:
    path = folder / "opa"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def refusal(code: str, monkeypatch: pytest.MonkeyPatch, named: Path) -> str:
    monkeypatch.setenv("SKEP_OPA", str(named))
    assert find_opa() is None
    with pytest.raises(PolicyError) as caught:
        need_opa()
    assert caught.value.code == code
    return caught.value.detail


def test_an_old_one_is_named_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detail = refusal("OPA_OLD", monkeypatch, script(tmp_path, "echo Version: 0.68.0"))
    assert "0.68.0, needed is 1.0.0 or newer" in detail
    assert "tools/fetch.py" in detail


@pytest.mark.parametrize("text", ["echo hello", "exit 3"])
def test_what_is_no_opa_is_said_to_be_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is no opa command" in refusal("OPA_MISSING", monkeypatch, script(tmp_path, text))


def test_a_named_file_that_is_missing_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(tmp_path / "gone") in refusal("OPA_MISSING", monkeypatch, tmp_path / "gone")


def test_nowhere_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opa, "_candidates", lambda: iter(()))
    with pytest.raises(PolicyError, match="OPA_MISSING: the opa command is not here"):
        need_opa()


def test_one_on_the_path_is_found_before_that_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SKEP_OPA", raising=False)
    mine = script(tmp_path, "echo Version: 1.9.9")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_opa() == mine
    assert version_text(mine) == "1.9.9"


def test_the_tool_that_fetches_it_fetches_the_pinned_one() -> None:
    assert f'"github.com/open-policy-agent/opa@v{PINNED}"' in (REPO / "tools" / "fetch.py").read_text()


@pytest.mark.goal("G17")
def test_one_that_never_ends_is_stopped(tmp_path: Path) -> None:
    endless = script(tmp_path, "echo $$ > pid; while :; do :; done")
    with pytest.raises(PolicyError, match=r"OPA_TIMEOUT: opa took longer"):
        run(endless, ["check"], tmp_path, seconds=0.3)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.goal("G17")
def test_one_that_talks_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opa, "OUTPUT_BYTES_MAX", 1 << 16)
    # The limit is set after the start: a program of its own makes sure that it is in force before the first byte.
    talker = "import sys, time\nwhile True: sys.stdout.write('x' * 4096); time.sleep(0.001)"
    with pytest.raises(PolicyError, match=r"OPA_FAILED|opa exited") as caught:
        raise_unless_fine(run(PYTHON, ["-c", talker], tmp_path, seconds=20))
    assert "OPA_TIMEOUT" not in str(caught.value)
    assert (tmp_path / ".stdout").stat().st_size <= 1 << 16


@pytest.mark.goal("G17")
def test_one_that_eats_memory_is_refused_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opa, "MEMORY_BYTES_MAX", 256 << 20)
    eater = "import time\nheld = []\nwhile True: held.append(bytearray(1 << 24)); time.sleep(0.001)"
    done = run(PYTHON, ["-c", eater], tmp_path, seconds=20)
    assert done.code == 1
    assert "MemoryError" in done.stderr


def raise_unless_fine(done: opa.Run) -> None:
    if done.code:
        raise PolicyError("OPA_FAILED", done.stderr[:200])


def test_one_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    dying = script(
        tmp_path, 'echo "panic: index out of range" >&2; echo >&2; echo "goroutine 1 [running]:" >&2; exit 2'
    )
    with pytest.raises(PolicyError, match="OPA_FAILED: opa build died: panic: index out of range"):
        run(dying, ["build"], tmp_path)


def test_what_is_no_json_is_an_error(tmp_path: Path) -> None:
    done = run(script(tmp_path, "echo no; echo why >&2; exit 1"), ["check"], tmp_path)
    with pytest.raises(PolicyError, match="OPA_FAILED: opa exited with 1: why"):
        done.document()


def test_it_sees_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HIVE", "42")
    done = run(script(tmp_path, "/usr/bin/env"), ["check"], tmp_path)
    assert b"SECRET" not in done.stdout
    assert f"HOME={tmp_path}".encode() in done.stdout


@pytest.mark.needs("opa")
@pytest.mark.goal("G17")
@pytest.mark.parametrize(
    "call", ['http.send({"method": "GET", "url": "http://127.0.0.1:9"})', 'net.lookup_ip_addr("x")']
)
def test_nothing_that_a_policy_does_reaches_a_network(call: str, tmp_path: Path) -> None:
    (tmp_path / "net_test.rego").write_text(
        f"package net_test\n\ntest_net if {{\n\tx := {call}\n\tx != 0\n}}\n"
    )
    arguments = [
        "test",
        "--format",
        "json",
        *opa.capabilities_file(tmp_path),
        "net_test.rego",
    ]
    done = run(Path(need("opa")), arguments, tmp_path)
    assert done.code != 0
    assert "undefined function" in done.stderr + done.stdout.decode()
