"""What is said about a policy that compiles: each finding with its line, and nothing about a policy that is fine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from policy.rego import LISTED, SEED, parsed
from skep_policy import lint
from skep_policy.compiler import CompileError, compile_policy
from skep_policy.default import default_policy
from support.tools import need

pytestmark = pytest.mark.needs("opa")
KEYED = "data.agents[input.meta.src_ilk].x"


def rules(*lines: str) -> str:
    return "\n".join(("package router", "default target := []", "default allow := false", *lines, ""))


def findings(rego: str) -> list[tuple[int, str]]:
    with TemporaryDirectory() as folder:
        return [(each.line, each.code) for each in lint.warnings(parsed(rego, Path(folder)))]


@pytest.mark.parametrize("rego", [rules(f"allow if {KEYED}"), LISTED, default_policy().rego])
def test_nothing_is_said_about_a_policy_that_is_fine(rego: str) -> None:
    assert findings(rego) == []


def test_the_seed_scans_and_has_no_defaults() -> None:
    made = compile_policy(SEED, opa=Path(need("opa")))
    assert [(each.line, each.code) for each in made.warnings] == [
        (5, "no_default"),
        (8, "scan"),
        (13, "no_default"),
    ]


@pytest.mark.parametrize(
    "rule",
    [
        "allow if { some ilk; data.identity[ilk].x }",
        "allow if data.agents[_].x",
        "allow if { some agent in data.agents; agent.x }",
        "allow if { some ilk, agent in data.agents; agent.x }",
        "allow if { data.identity[ilk].x; ilk == input.meta.src_ilk }",  # a comparison binds nothing
        "allow if count(data.agents) > 3",
        "allow if { walk(data.identity, [_, value]); value == 3 }",
        "allow if { people := data.identity; people[_].x }",
        "allow if every agent in data.agents { agent.x }",
        'allow if "x" in object.keys(data.node)',
        "allow if { some tag; data.capability[tag][input.meta.src_ilk] }",
        "allow if { some tenant in data.tenant; tenant.x }",
    ],
)
def test_a_scan_is_told(rule: str) -> None:
    assert findings(rules(rule)) == [(4, "scan")]


def test_a_scan_through_an_import_is_told() -> None:
    lines = (
        "package router",
        "import data.agents",
        "default target := []",
        "target := [a.x | some a in agents]",
        "",
    )
    assert findings("\n".join(lines)) == [(4, "scan")]


@pytest.mark.parametrize(
    "rule",
    [
        "allow if { ilk := input.meta.src_ilk; data.agents[ilk].x }",
        "allow if { ilk = input.meta.src_ilk; data.agents[ilk].x }",
        "allow if { some ilk in data.capability.billing; data.agents[ilk].x }",
        "allow if { some ilk, _ in data.capability.billing; data.agents[ilk].x }",
        "allow if data.capability.billing[_] == input.meta.src_ilk",
        "allow if { data.capability.billing[ilk]; data.agents[ilk].x }",
        "allow if f(input.meta.src_ilk)\nf(ilk) if data.agents[ilk].x",
        "allow if data.agents[mine].x\nmine := input.meta.src_ilk",
        "allow if data.agents[data.node[input.meta.target]].x",
        "allow if object.get(data.agents, input.meta.src_ilk, {}) != {}",
        'allow if object.get(data.tenant, ["a", "status"], "") == "active"',
        "allow if { some ilk in data.tenant[input.src.tenant].agents; data.agents[ilk].x }",
        "allow if { [ilk, x] := [input.meta.src_ilk, 1]; data.agents[ilk].x == x }",
    ],
)
def test_a_keyed_look_up_is_no_scan(rule: str) -> None:
    assert findings(rules(rule)) == []


def test_all_built_ins_that_upstream_calls_nondeterministic_are_known() -> None:
    """Those that check a schema are counted in by upstream because a schema may be fetched; nothing here may fetch."""
    argv = [need("opa"), "capabilities", "--current"]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60)
    marked = {each["name"] for each in json.loads(done.stdout)["builtins"] if each.get("nondeterministic")}
    assert marked - {"json.match_schema", "json.verify_schema"} <= lint.UNCACHEABLE


def test_a_built_in_that_the_host_lacks_does_not_compile() -> None:
    with pytest.raises(CompileError) as caught:
        compile_policy(rules('allow if http.send({"url": "http://x"})'), opa=Path(need("opa")))
    problem = caught.value.problems[0]
    assert (problem.line, problem.column, problem.code) == (4, 10, "rego_type_error")
    assert problem.message == "undefined function http.send"


@pytest.mark.parametrize("call", ["time.now_ns() > 3", 'rand.intn("x", 3) == 1', 'uuid.rfc4122("x") == "y"'])
def test_what_cannot_be_cached_is_told(call: str) -> None:
    assert findings(rules(f"allow if {call}")) == [(4, "uncacheable")]


@pytest.mark.parametrize(
    ("rego", "expected"),
    [
        ("package router\n\ntarget := x if { x := input.meta.msg }\n", [(3, "no_default")]),
        ("package router\n\ndefault target := null\n\nallow if input.meta.msg\n", [(5, "no_default")]),
        ("package router\n\ntarget contains x if { x := input.meta.msg }\n", []),
        ("package router\n\ntarget := [x | x := input.meta.msg]\n", []),
        ('package router\n\ntarget := "AI.desk@h"\n', []),
        ("package router\n\ntarget := input.meta.msg\n", [(3, "no_default")]),
        ('package router\n\ntarget := "a" if input.meta.msg == "x"\nelse := "b"\n', [(3, "no_default")]),
    ],
)
def test_a_decision_without_an_answer_is_told(rego: str, expected: list[tuple[int, str]]) -> None:
    assert findings(rego) == expected


def test_data_that_nobody_fills_is_told() -> None:
    assert findings(rules("allow if data.users[input.meta.src_ilk]")) == [(4, "data_unfilled")]
    assert findings(rules("allow if data.router.helper", "helper if input.meta.msg")) == []


@pytest.mark.parametrize(
    ("rule", "column"),
    [
        ("allow if input.payload.text", 10),
        ("allow if input.meta.thread_id", 10),
        ("allow if { x := input.src.email; x }", 17),
        ("allow if { some x in input.routing.ttl; x }", 22),
        ('allow if input["meta"]["nothing"]', 10),
        ("allow if { true with input.meta.nothing as 3 }", 22),
    ],
)
def test_input_that_no_decision_has_is_an_error(rule: str, column: int) -> None:
    with pytest.raises(CompileError) as caught:
        compile_policy(rules(rule), opa=Path(need("opa")))
    problem = caught.value.problems[0]
    assert (problem.line, problem.column, problem.code) == (4, column, "input_outside_selector")
    assert "no decision is given input." in problem.message


def test_whatever_stands_in_a_context_may_be_read() -> None:
    assert findings(rules("allow if input.meta.context.io.deep[0].anything")) == []
