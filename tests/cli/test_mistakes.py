"""What a person gets wrong is never called a fault of skep: one code, the reason, and what to run next."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep.errors import HiveError, LinkClosed, RemoteProtocolError
from skep.hive import find_hive
from skep.protocol.codes import CloseReason
from skep.protocol.system import HINTS
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.messages import payload_of
from skep_nodes.cli.policy_life import Asked
from skep_nodes.cli.run import _help_for, translated
from skep_nodes.cli.session import answered, refused
from skep_nodes.cli.shm_commands import region_called
from support.forked import SKEP, skep_command
from support.hives import HiveFolder, private_hive
from support.wait import eventually

THREADS = ["a\x01b", "a" * 300]


def skep(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return skep_command(*arguments, SKEP_HIVE=str(root))


@pytest.fixture(scope="module")
def up() -> Iterator[Path]:
    """The folder of a running hive."""
    with private_hive() as hive:
        child = hive.start("up", [*SKEP, "up", "--hive", str(hive.root)])
        eventually(lambda: "hive test ready" in child.log(), within=15)
        yield hive.root


def failed(done: subprocess.CompletedProcess[str], exit_code: Exit, code: str) -> str:
    """Asserts that the command failed so; returns what it said."""
    assert (done.returncode, f"error {code}: " in done.stderr) == (exit_code, True), done.stderr
    assert "a fault in skep" not in done.stderr
    assert "{'" not in done.stderr, "a Python dict is no language for people"
    assert f"{code}: {code}" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["msg", "send", "bad name", "x"],
        ["msg", "sub", "bad name"],
        ["msg", "send", "AI.echo", "x", "--as", "bad"],
        ["msg", "send", "SY.tap", "9" * 30],
        ["msg", "send", "SY.tap", "[" * 3000],
        ["route", "add", "AI.z", "--drop", "--priority", "9" * 20],
        ["route", "add", "AI.z", "--drop", "--metric", "9" * 20],
        ["route", "add", "AI.z", "--drop", "--version", "9" * 20],
        ["vpn", "add", "AI.z", "9" * 20],
        ["grant", "add", "9" * 5000, "AI.z"],
        *(["msg", "send", "SY.tap", "x", "--thread", thread] for thread in THREADS),
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_a_mistake_of_the_caller_is_a_usage_error(up: Path, arguments: list[str]) -> None:
    failed(skep(up, *arguments), Exit.USAGE, "USAGE")


@pytest.mark.parametrize("name", ["SY.config.routes", "RT.main"])
def test_a_name_that_is_taken_is_said_to_be(up: Path, name: str) -> None:
    for command in (["msg", "send", "SY.tap", "x", "--as", name], ["msg", "sub", name]):
        began = time.monotonic()
        said = failed(skep(up, *command), Exit.CONFLICT, "NAME_TAKEN")
        assert time.monotonic() - began < 4.5, "what does not change is not waited for"
        assert "choose another name" in said


@pytest.mark.parametrize("command", [["msg", "sub", "AI.x"], ["msg", "send", "AI.x", "1"], ["top", "--once"]])
def test_without_a_router_it_is_said_at_once(hive_folder: HiveFolder, command: list[str]) -> None:
    began = time.monotonic()
    failed(skep(hive_folder.root, *command), Exit.NOT_FOUND, "NOT_RUNNING")
    assert time.monotonic() - began < 4.5


def test_a_socket_that_nobody_listens_on_is_no_router(hive_folder: HiveFolder) -> None:
    hive_folder.start_router().kill()
    done = skep(hive_folder.root, "msg", "send", "AI.x", "1", "--timeout", "1")
    failed(done, Exit.NOT_FOUND, "NOT_RUNNING")


def test_a_region_is_named_by_its_beginning(up: Path) -> None:
    assert skep(up, "shm", "dump", "nodes").returncode == 0
    said = failed(skep(up, "shm", "dump", "nope"), Exit.NOT_FOUND, "REGION_NOT_FOUND")
    assert "skep shm ls" in said


def test_two_regions_that_begin_so_are_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep_shm.inspect.region_names", lambda _: ["nodes-aa", "nodes-ab", "config"])
    assert region_called(Path(), "nodes-ab") == "nodes-ab"
    assert region_called(Path(), "con") == "config"
    with pytest.raises(Failure, match="AMBIGUOUS"):
        region_called(Path(), "nodes")
    assert region_called(Path(), "threads") == "threads", "a region of every hive: its writer does not run"


@pytest.mark.parametrize("content", [b"", b"[]\n", b"hive_id: \xff\xfe\n", b"hive_id: dev\nnodes: [\n"])
def test_a_hive_file_that_says_nothing_usable_is_named(hive_folder: HiveFolder, content: bytes) -> None:
    (hive_folder.root / "hive.yaml").write_bytes(content)
    for command in (["config", "validate"], ["up"]):
        said = failed(skep(hive_folder.root, *command), Exit.USAGE, "INVALID_CONFIG")
        assert "hive.yaml" in said
        assert "skep config validate" in said


def test_a_folder_without_a_hive_file_is_no_hive(tmp_path: Path) -> None:
    with pytest.raises(HiveError) as caught:
        find_hive(tmp_path)
    assert translated(caught.value).code == "HIVE_NOT_FOUND"


@pytest.mark.parametrize(
    ("typed", "help_"),
    [
        ("node ls --bad", "skep node ls --help"),
        ("node lss", "skep node --help"),
        ("nod", "skep --help"),
        ("--bad", "skep --help"),
        ("route add", "skep route add --help"),
        ("events --nope", "skep events --help"),
        ("bench compare a", "skep bench compare --help"),
    ],
)
def test_the_help_that_fits_is_named(typed: str, help_: str) -> None:
    assert _help_for(typed.split()) == help_


def test_refused_changes_say_what_to_run(up: Path) -> None:
    said = failed(skep(up, "route", "rm", "AI.zz", "--yes"), Exit.NOT_FOUND, "NOT_FOUND")
    assert "no route AI.zz" in said
    assert "next: skep route ls" in said
    said = failed(skep(up, "vpn", "add", "A*B", "7"), Exit.USAGE, "INVALID_CONFIG")
    assert "next: skep vpn add --help" in said
    said = failed(skep(up, "grant", "rm", "7", "AI.zz", "--yes"), Exit.NOT_FOUND, "NOT_FOUND")
    assert "next: skep grant ls" in said


def test_an_unknown_destination_has_its_code_once(up: Path) -> None:
    said = failed(skep(up, "msg", "send", "AI.none", "x"), Exit.NOT_FOUND, "NODE_NOT_FOUND")
    assert "next: skep node ls" in said


def test_a_refused_link_says_why_and_what_next() -> None:
    failure = refused("AI.x", LinkClosed(CloseReason.NAME_NOT_GRANTED, "no grant covers it"))
    assert (failure.code, failure.exit_code) == ("NAME_NOT_GRANTED", Exit.DENIED)
    assert failure.why == "no grant covers it"
    assert "operator" in failure.then


def test_a_hint_is_given_once() -> None:
    hint = HINTS[CloseReason.NAME_TAKEN]
    failure = translated(LinkClosed(CloseReason.NAME_TAKEN, f"it is live ({hint})"))
    assert (failure.code, failure.why, failure.then) == ("NAME_TAKEN", "it is live", hint)


def test_what_another_end_said_wrongly_is_not_the_callers_mistake() -> None:
    failure = translated(RemoteProtocolError("NAME_INVALID", "no name"))
    assert failure.code == "BAD_ANSWER"


def test_a_deep_payload_is_refused_and_text_stays_text() -> None:
    assert payload_of("[not json") == "[not json"
    with pytest.raises(Failure, match="nested too deeply"):
        payload_of("[" * 100_000)


def test_advice_names_the_noun() -> None:
    with pytest.raises(Failure) as caught:
        answered({"status": "error", "error_code": "VERSION_CONFLICT"}, "it", "vpn")
    assert caught.value.then == "skep vpn ls, then repeat the command"


def test_the_end_by_a_signal_is_not_explained_with_an_old_line(hive_folder: HiveFolder) -> None:
    child = hive_folder.start("up", [*SKEP, "up", "--hive", str(hive_folder.root)])
    eventually(lambda: "hive test ready" in child.log(), within=15)
    with (hive_folder.root / "logs" / "SY.tap.log").open("a") as log:
        log.write("an old story\n")
    pid = re.search(r"SY.tap\s+pid (\d+)", child.log())
    assert pid is not None
    os.kill(int(pid[1]), signal.SIGKILL)
    eventually(lambda: "was ended by SIGKILL" in child.log(), within=10)
    assert "an old story" not in child.log()


NO_FILE = (
    ["policy", "check"], ["policy", "apply"], ["identity", "import"], ["module", "publish", "x", "1.0.0"],
)  # fmt: skip


@pytest.mark.parametrize("command", NO_FILE, ids=lambda command: "-".join(command[:2]))
@pytest.mark.parametrize("name", ["missing", "folder"])
def test_a_file_that_is_none_is_not_found(up: Path, tmp_path: Path, command: list[str], name: str) -> None:
    (tmp_path / "folder").mkdir()
    said = failed(skep(up, *command, str(tmp_path / name)), Exit.NOT_FOUND, "NOT_FOUND")
    assert f"{name} is no file\n  next: correct" in said


def test_an_empty_policy_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.rego").touch()
    with pytest.raises(Failure, match=r"COMPILE_ERROR: .*empty\.rego is empty"):
        Asked("apply", tmp_path / "empty.rego").payload()


@pytest.mark.needs("opa")
def test_what_a_test_of_no_text_says_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.rego").write_bytes(b"\xff\xfe")
    said = failed(skep(tmp_path, "policy", "test", str(tmp_path / "bad.rego")), Exit.FAILED, "COMPILE_ERROR")
    assert "rego_parse_error" in said or "UTF-8" in said, said


@pytest.mark.needs("opa")
def test_a_comparison_with_nothing_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package router\n\ndefault target := []\n\ndefault allow := true\n")
    (tmp_path / "log").write_text("these are\nno decisions\n")
    arguments = ["policy", "diff", str(tmp_path / "p.rego"), "--file", str(tmp_path / "log")]
    said = failed(skep(tmp_path, *arguments), Exit.NOT_FOUND, "NOT_FOUND")
    assert "2 damaged lines" in said


def test_what_was_typed_is_not_for_the_doctor(up: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("words")
    said = failed(skep(up, "module", "publish", "x", "new", str(tmp_path / "text")), Exit.USAGE, "INVALID_VERSION")
    assert "next: correct what was typed" in said


def test_one_picture_ends_with_its_line(up: Path) -> None:
    assert skep(up, "top", "--once").stdout.endswith("\n")


def test_the_doctor_says_that_nothing_compiles_here(up: Path, tmp_path: Path) -> None:
    done = skep_command("doctor", SKEP_HIVE=str(up), SKEP_OPA=str(tmp_path / "none"))
    assert re.search(r"^policies +note +the opa command is not here", done.stdout, re.MULTILINE), done.stdout


def test_the_doctor_speaks_no_python_of_a_dead_router(hive_folder: HiveFolder) -> None:
    command = [sys.executable, "-m", "skep_router", "--hive", str(hive_folder.root)]
    router = hive_folder.start("router", command)
    eventually(lambda: list((hive_folder.root / "run" / "routers").glob("*.sock")), within=15)
    router.process.kill()
    router.process.wait()
    said = skep(hive_folder.root, "doctor").stdout
    assert "Finding(" not in said
    assert "DEAD_WRITER: writer pid" in said
