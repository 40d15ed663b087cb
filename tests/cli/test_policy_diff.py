"""`skep policy diff` over files of decisions and over a hive's log: groups, reviews, exit codes."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from skep import Hive
from skep_nodes.cli.explain_log import moment_of, stamp
from skep_nodes.cli.failure import Failure
from skep_nodes.cli.policy_diff import accepted_groups
from skep_nodes.sy.decisions import log_folder
from skep_nodes.sy.decisions_store import DecisionLog
from support.forked import skep_command

pytestmark = pytest.mark.needs("opa")

REGO = """package router

default allow := false

allow if input.meta.action == "read"

default target := []

target := [data.node_of[input.meta.target]]
"""
WIDER = REGO + '\nallow if input.meta.action == "write"\n'
NARROWER = REGO.replace('"read"', '"none"')
BROKEN = REGO + "\nallow if {\n"
AGENT = {"ilk": "ilk:1", "type": "agent", "tenant": "tnt:1"}


def skep(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return skep_command(*arguments, **env)


def decision(number: int, action: str, allowed: bool, **changes: Any) -> dict[str, Any]:
    base = {
        "kind": "decision", "decision_id": f"d{number}", "timestamp": f"{stamp(datetime.now(UTC))}.{number:09}Z",
        "path": "router/allow", "outcome": "ALLOWED" if allowed else "POLICY_DENIED", "result": allowed,
        "requested_by": "AI.asks@test", "labels": {"policy_version": "1"}, "trace_id": f"{number:032x}",
        "input": {"meta": {"action": action}, "routing": {"dst": "AI.told@test"}, "src": AGENT, "dst": None},
    }  # fmt: skip
    return base | changes


TRAFFIC = [
    *(decision(number, "read", True) for number in range(5)),
    *(decision(number, "write", False) for number in range(5, 9)),
]


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    path = tmp_path / "traffic.ndjson"
    path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in TRAFFIC))
    return path


def rego(folder: Path, text: str) -> str:
    path = folder / "candidate.rego"
    path.write_text(text)
    return str(path)


def groups(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["groups"]
    return found


def test_the_same_policy_changes_nothing(tmp_path: Path, traffic: Path) -> None:
    done = skep("policy", "diff", rego(tmp_path, REGO), "--file", str(traffic))
    assert (done.returncode, done.stdout) == (0, "")
    assert "9 decisions asked again" in done.stderr
    assert "0 differ" in done.stderr


def test_opening_what_was_closed_is_1_until_it_is_accepted(tmp_path: Path, traffic: Path) -> None:
    arguments = ["policy", "diff", rego(tmp_path, WIDER), "--file", str(traffic)]
    done = skep(*arguments, "-o", "json")
    [group] = groups(done)
    assert done.returncode == 1
    assert (group["change"], group["count"], group["action"]) == ("deny-to-allow", 4, "write")
    assert (group["source"], group["dest"]) == ("AI.asks@test [agent]", "AI.told@test")
    assert group["rule"] == "candidate.rego:11"
    assert [sample["decision_id"] for sample in group["samples"]] == ["d5", "d6", "d7"]
    assert skep(*arguments, "--accept", group["id"]).returncode == 0
    reviewed = tmp_path / "reviewed"
    reviewed.write_text(f"# looked at on Monday\n{group['id']}  # writers may write\n")
    assert skep(*arguments, "--accept", str(reviewed)).returncode == 0
    reviewed.write_text("0" * 16)
    assert skep(*arguments, "--accept", str(reviewed)).returncode == 1


def test_closing_what_was_open_is_shown_and_is_0(tmp_path: Path, traffic: Path) -> None:
    done = skep("policy", "diff", rego(tmp_path, NARROWER), "--file", str(traffic))
    assert done.returncode == 0
    assert "allow-to-deny" in done.stdout


def test_a_candidate_that_is_none_is_named_with_its_line(tmp_path: Path, traffic: Path) -> None:
    done = skep("policy", "diff", rego(tmp_path, BROKEN), "--file", str(traffic))
    assert done.returncode == 1
    assert "COMPILE_ERROR" in done.stderr
    assert "candidate.rego:" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--since", "soon"], ["--accept", "/none"], ["--file", "/none"], ["--hive", "/none"]]
)
def test_mistakes_are_named(tmp_path: Path, arguments: list[str]) -> None:
    done = skep("policy", "diff", rego(tmp_path, REGO), *arguments)
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr


def test_a_file_of_strangers_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "odd.ndjson"
    path.write_bytes(
        b'\xff\xfe\n[]\n{"path": "router/allow"}\n' + orjson.dumps(decision(1, "read", True)) + b"\n{"
    )
    done = skep("policy", "diff", rego(tmp_path, REGO), "--file", str(path))
    assert done.returncode == 0
    assert "1 decisions asked again" in done.stderr
    assert "damaged" in done.stderr


def test_the_log_of_a_hive_is_asked_with_its_data(hive_root: Path, tmp_path: Path) -> None:
    """Of two targets the first was decided before an agent had its node, the second after it."""
    hive = Hive(hive_root, "test")
    head = [{"kind": "data", "data": {"node_of": {}}}, {"kind": "policy", "version": 1}]
    asked = {"meta": {"target": "one"}, "routing": {"dst": None}, "src": None, "dst": None}
    none = decision(1, "", True, path="router/target", outcome="OPA_NO_TARGET", input=asked, candidates=[])
    one = decision(2, "", True, path="router/target", outcome="ALLOWED", input=asked, candidates=["AI.one"])
    patch = {"kind": "patch", "patches": [{"path": ["node_of", "one"], "value": "AI.one"}]}
    log = DecisionLog(log_folder(hive), lambda: head)
    for lines in ([none], [patch, one]):
        assert log.write(lines, 0, datetime.now(UTC))
    log.end()
    assert skep("policy", "diff", rego(tmp_path, REGO), "--hive", str(hive_root)).stdout == ""
    other = rego(tmp_path, REGO.replace("[data.node_of[input.meta.target]]", '["AI.two"]'))
    found = groups(skep("policy", "diff", other, "--hive", str(hive_root), "-o", "json"))
    assert {(group["change"], group["dest"]) for group in found} == {
        ("new-target", "nobody -> AI.two"), ("other-target", "AI.one -> AI.two"),
    }  # fmt: skip
    assert skep("policy", "diff", other, "--hive", str(hive_root), "--since", "2099-01-01").stdout == ""


def test_without_a_log_it_is_3(hive_root: Path, tmp_path: Path) -> None:
    done = skep("policy", "diff", rego(tmp_path, REGO), "--hive", str(hive_root))
    assert done.returncode == 3
    assert "no decision log" in done.stderr


def test_times_are_spans_or_moments() -> None:
    assert (
        timedelta(days=7) - timedelta(seconds=9)
        < datetime.now(UTC) - moment_of("7d")
        < timedelta(days=7, seconds=9)
    )
    assert stamp(moment_of("2026-11-25T09:00:00+01:00")) == "2026-11-25T08:00:00"
    assert stamp(moment_of("2026-11-25T08:00:00Z")) == "2026-11-25T08:00:00"
    for text in ("7", "d7", "-7d", "7y", ""):
        with pytest.raises(Failure):
            moment_of(text)


def test_a_review_that_names_no_group_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "reviewed"
    path.write_text("all of them")
    with pytest.raises(Failure, match="no group"):
        accepted_groups([str(path)])
