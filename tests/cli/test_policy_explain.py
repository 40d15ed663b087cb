"""Why a message went where it went: a real hive decides, and `explain`, `diff` and `shadow` tell what and why."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep import DeliveryError, Message, Node
from skep_nodes.cli.explain_decision import candidates_of
from skep_nodes.cli.explain_log import lines_with
from skep_nodes.cli.explain_rules import rules_of
from skep_nodes.sy.decisions import FOLDER
from skep_nodes.sy.decisions_store import LogReader, log_files, sealed
from support.forked import skep_command
from support.hives import HiveFolder, private_hive
from support.wait import eventually

pytestmark = pytest.mark.needs("opa")

SKEP = [sys.executable, "-m", "skep_nodes.cli"]
REGO = """package router

default allow := false

# METADATA
# title: Readers may read
allow if input.meta.action == "read"

default target := []

target := ["AI.away", "AI.told"]
"""
LINE_ALLOW, LINE_TARGET = 7, 11
CANDIDATE = REGO.replace('"read"', '"write"')


class Up:
    """A hive under `skep up`, with a policy of ours in force."""

    def __init__(self, hive: HiveFolder, folder: Path) -> None:
        self.root = hive.root
        (hive.root / "hive.d").mkdir(exist_ok=True)
        (hive.root / "hive.d" / "log.yaml").write_text("decisions:\n  masks: [/input/meta/context/phone]\n")
        self.child = hive.start("up", [*SKEP, "up", "--hive", str(hive.root)])
        eventually(
            lambda: f"hive {hive.hive_id} ready" in self.child.log(), within=30, what="skep up is ready"
        )
        self.candidate = folder / "candidate.rego"
        self.candidate.write_text(CANDIDATE)
        policy = folder / "policy.rego"
        policy.write_text(REGO)
        assert self.skep("policy", "apply", str(policy)).returncode == 0

    def skep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return skep_command(*arguments, "--hive", str(self.root))

    def json(self, *arguments: str) -> Any:
        done = self.skep(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def said(self, *messages: dict[str, Any]) -> list[tuple[str, str]]:
        """Send each; -> its trace and why it was refused."""
        return asyncio.run(self._said(messages))

    async def _said(self, messages: tuple[dict[str, Any], ...]) -> list[tuple[str, str]]:
        found = []
        async with Node("AI.told", hive=self.root) as told, Node("AI.asks", hive=self.root) as asks:
            told.on_message(self._heard)
            for each in messages:
                to = each.pop("to", None)
                try:
                    receipt = await asks.send(to, {}, ack="delivered", timeout=10, **each)
                    found.append((receipt.trace_id, ""))
                except DeliveryError as error:
                    found.append((error.trace_id, str(error.reason)))
        return found

    @staticmethod
    async def _heard(message: Message) -> None:
        return None

    def decisions(self) -> list[dict[str, Any]]:
        lines = LogReader().read(log_files(self.root / "state" / FOLDER))
        return [line for line in lines if line["kind"] == "decision"]

    def logged(self, count: int) -> None:
        eventually(lambda: len(self.decisions()) >= count, within=10, what=f"{count} decisions in the log")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with private_hive() as hive:
        yield Up(hive, tmp_path_factory.mktemp("policies"))


def test_every_decision_of_a_message_is_explained(up: Up) -> None:
    before = len(up.decisions())
    [(trace, refused)] = up.said({"action": "read", "sampled": True})
    assert not refused
    up.logged(before + 2)
    found = up.json("explain", trace)
    assert found["trace_id"] == trace
    assert found["steps"][0]["step"] == "sent on"
    target, allow = [each for each in found["decisions"] if each["requested_by"] == "AI.asks@test"]
    assert (target["path"], target["outcome"], target["how"]) == ("router/target", "ALLOWED", "recorded")
    assert [(each["name"], each["state"], each["why"]) for each in target["candidates"]] == [
        ("AI.away", "refused", "NODE_NOT_FOUND"), ("AI.told", "chosen", ""),
    ]  # fmt: skip
    assert [(each["line"], each["rule"]) for each in target["rules"]["fired"]] == [(LINE_TARGET, "target")]
    assert (allow["path"], allow["outcome"], allow["result"]) == ("router/allow", "ALLOWED", True)
    [fired] = allow["rules"]["fired"]
    assert (fired["line"], fired["title"]) == (LINE_ALLOW, "Readers may read")
    assert allow["policy_version"] == up.json("policy", "status")["current_version"]
    assert allow["policy_hash"] == up.json("policy", "status")["current_hash"]
    assert allow["input"]["meta"]["action"] == "read"


def test_a_refusal_is_explained_by_its_trace_and_by_its_decision(up: Up) -> None:
    before = len(up.decisions())
    [(trace, refused)] = up.said({"to": "AI.told", "action": "erase", "sampled": True})
    assert refused == "POLICY_DENIED"
    up.logged(before + 1)
    [denied] = up.json("explain", trace)["decisions"]
    assert (denied["outcome"], denied["result"]) == ("POLICY_DENIED", False)
    [again] = up.json("explain", denied["decision_id"])["decisions"]
    assert again["decision_id"] == denied["decision_id"]
    text = up.skep("explain", trace).stdout
    assert "router/allow POLICY_DENIED" in text
    assert "fired" in text


def test_a_message_without_a_decision_of_its_own_is_told_the_one_that_was_kept(up: Up) -> None:
    """Neither hop nor decision: the second equal message, unsampled, was answered from a cache."""
    before = len(up.decisions())
    [(first, _), (second, refused)] = up.said(
        *({"to": "AI.told", "action": "read", "target": "x"} for _ in range(2))
    )
    assert not refused
    up.logged(before + 1)
    assert [each["how"] for each in up.json("explain", first)["decisions"]] == ["recorded"]
    found = eventually(lambda: up.json("explain", second), within=20, what="the turn is in the spool")
    assert found["steps"] == []
    assert [each["how"] for each in found["decisions"]] == ["kept"]
    assert found["trace_id"] == second


def test_without_a_log_the_decision_is_worked_out_from_the_turn(up: Up) -> None:
    before = len(up.decisions())
    [(trace, _)] = up.said({"to": "AI.told", "action": "read", "target": "unlogged"})
    up.logged(before + 1)
    folder = up.root / "state" / FOLDER
    aside = folder.with_name("aside")
    aside.mkdir()
    files = log_files(folder)
    for path in files:
        path.rename(aside / path.name)
    try:
        [found] = up.json("explain", trace)["decisions"]
    finally:
        for path in files:
            (aside / path.name).rename(path)
    assert (found["how"], found["outcome"], found["decision_id"]) == ("recomputed", "ALLOWED", "")
    assert [each["line"] for each in found["rules"]["fired"]] == [LINE_ALLOW]


def test_what_is_masked_by_hive_yaml_is_in_no_file(up: Up) -> None:
    before = len(up.decisions())
    up.said({"to": "AI.told", "action": "read", "context": {"phone": "+34600123", "topic": "bills"}})
    up.logged(before + 1)
    event = up.decisions()[-1]
    assert event["erased"] == ["/input/meta/context/phone"]
    assert event["input"]["meta"]["context"] == {"topic": "bills"}
    for path in log_files(up.root / "state" / FOLDER):
        assert b"34600123" not in path.read_bytes()


def test_the_log_is_asked_what_a_candidate_would_change(up: Up) -> None:
    before = len(up.decisions())
    up.said({"to": "AI.told", "action": "write"}, {"to": "AI.told", "action": "read", "target": "y"})
    up.logged(before + 2)
    done = up.skep("policy", "diff", str(up.candidate), "-o", "json")
    assert done.returncode == 1
    groups = {(group["change"], group["action"]): group for group in json.loads(done.stdout)["groups"]}
    opened = groups["deny-to-allow", "write"]
    assert ("allow-to-deny", "read") in groups
    assert opened["rule"] == f"candidate.rego:{LINE_ALLOW}"
    assert up.skep("policy", "diff", str(up.candidate), "--accept", opened["id"]).returncode == 0


def test_a_shadow_reports_and_decides_nothing(up: Up) -> None:
    assert up.skep("policy", "shadow").returncode == 2
    assert up.skep("policy", "shadow", str(up.candidate)).returncode == 0
    try:

        def shadowed() -> bool:
            [(_, refused)] = up.said({"to": "AI.told", "action": "write", "target": "z"})
            assert refused == "POLICY_DENIED"
            return any(event.get("shadow", {}).get("differs") for event in up.decisions())

        eventually(shadowed, within=30, what="a decision with the shadow's answer")
        groups = up.json("policy", "shadow", "--status")["groups"]
        assert ("deny-to-allow", "write") in {(group["change"], group["action"]) for group in groups}
    finally:
        assert "is taken away" in up.skep("policy", "shadow", "--stop").stderr
    assert "there was no shadow" in up.skep("policy", "shadow", "--stop").stderr


def test_only_routers_write_into_the_log(up: Up) -> None:
    before = len(up.decisions())

    async def forge() -> str:
        event = {"decision_id": "forged", "timestamp": "2026-11-25T08:00:00Z", "path": "router/allow"}
        async with Node("AI.forger", hive=up.root) as node:
            try:
                await node.request("SY.decisions", event, timeout=5, type="system", verb="DECISIONS")
            except Exception as error:
                return str(error)
        return "answered"

    assert asyncio.run(forge()) != "answered"
    assert not [event for event in up.decisions()[before:] if event["decision_id"] == "forged"]


def test_the_log_says_how_it_is_doing(up: Up) -> None:
    async def ask() -> Any:
        async with Node("AI.looks", hive=up.root) as node:
            reply = await node.request("SY.decisions", {}, timeout=5, type="system", verb="DECISIONS_STATUS")
            return reply.payload

    status = asyncio.run(ask())
    assert status["status"] == "ok"
    assert (status["masks"], status["lost"]) == (1, 0)
    assert status["written"] > 0


# -- parts ---------------------------------------------------------------------------------------------------------


def test_what_failed_is_told_where_no_rule_fired() -> None:
    rego = 'package router\n\nallow if {\n\tinput.src.type == "human"\n\tinput.src.roles[_] == "boss"\n}\n'
    rules = rules_of(rego, {}, {"src": {"type": "human", "roles": ["clerk"]}}, "router/allow")
    assert rules.fired == []
    assert any(line.startswith("5:") for line in rules.failed)


def test_a_guest_is_in_the_identity_that_rules_are_shown() -> None:
    rego = 'package router\n\nallow if data.identity[input.src.ilk].type == "human"\n'
    rules = rules_of(rego, {}, {"src": {"ilk": "ilk:1", "type": "human"}}, "router/allow")
    assert [fired.line for fired in rules.fired] == [3]


def test_without_opa_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep_nodes.cli.explain_rules.find_opa", lambda: None)
    assert "opa" in rules_of("package router", {}, {}, "router/allow").why_not


def test_candidates_after_the_chosen_one_were_not_tried() -> None:
    event = {
        "candidates": ["a", "b", "c"],
        "chosen": "b@hive",
        "refused": [{"name": "a", "why": "VPN_BLOCKED"}],
    }
    assert [each["state"] for each in candidates_of(event)] == ["refused", "chosen", "not tried"]


def test_lines_are_found_without_parsing_the_others(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        b"".join(sealed({"trace_id": f"{number:032x}"}) for number in range(50)) + b'{"trace_id":"07'
    )
    assert [event["trace_id"] for _, event in lines_with(path, b'"trace_id":"' + f"{7:032x}".encode())] == [
        f"{7:032x}"
    ]
    assert len(list(lines_with(path, b'"trace_id"'))) == 50
    assert list(lines_with(tmp_path / "none", b"x")) == []
    (tmp_path / "empty").touch()
    assert list(lines_with(tmp_path / "empty", b"x")) == []
