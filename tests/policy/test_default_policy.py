"""The default policy: formatted, explained, tested in Rego, built to the packaged bytes, one answer at any size."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from policy.rego import agent, documents, evaluate, person, question
from skep_policy.default import FOLDER, MANIFEST, REGO, WASM, build, default_policy
from skep_policy.documents import record_document
from skep_policy.manifest import ALLOW, ENTRYPOINTS, TARGET
from skep_policy.opa import PINNED, version_text
from skep_shm import Subtype
from support.markdown import REPO
from support.tools import need


def opa(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need("opa"), *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_packaged_belongs_together() -> None:
    from hashlib import sha256

    packaged = default_policy()
    facts = packaged.manifest
    assert facts.wasm_sha256 == sha256(packaged.wasm).hexdigest()
    assert facts.rego_sha256 == sha256(REGO.read_bytes()).hexdigest(), (
        "run python -m skep_policy.default.build"
    )
    assert facts.opa_version == PINNED
    assert set(facts.reads) == set(ENTRYPOINTS)
    assert facts.cacheable == {TARGET: True, ALLOW: True}


def test_a_change_of_an_agent_leaves_what_may_happen_cached() -> None:
    reads = default_policy().manifest.reads[ALLOW]
    assert (reads.data, reads.source) == (("config",), False)


def test_of_a_record_it_reads_no_more_than_it_needs() -> None:
    """The router need not write the rest into the input, which is a third of a decision's price."""
    reads = default_policy().manifest.reads
    assert {each for each in reads[TARGET].input if each.startswith(("src", "dst"))} == {
        "src.registration_status", "src.tenant",
    }
    assert {each for each in reads[ALLOW].input if each.startswith("dst")} == {"dst.tenant_status"}


def test_it_is_in_the_wheel() -> None:
    """hatch packs every file of a package that git does not ignore."""
    ignored = subprocess.run(
        ["git", "check-ignore", str(WASM), str(MANIFEST)], cwd=REPO, capture_output=True, check=False
    )
    assert ignored.returncode == 1, ignored.stdout
    assert '"policies/skep_policy"' in (REPO / "pyproject.toml").read_text()


@pytest.mark.needs("opa")
def test_the_packaged_wasm_is_what_the_rego_compiles_to() -> None:
    if version_text(Path(need("opa"))) != PINNED:
        pytest.skip(f"needs opa {PINNED}; to run this test: python tools/fetch.py")
    made = build.compiled()
    assert made.wasm == WASM.read_bytes(), "run python -m skep_policy.default.build"
    assert made.manifest.to_json() + b"\n" == MANIFEST.read_bytes()


@pytest.mark.needs("opa")
def test_its_own_tests_pass_and_reach_every_rule() -> None:
    done = opa("test", "--coverage", "--format", "json", ".")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    missed = {part["start"]["row"] for part in report["files"]["policy.rego"].get("not_covered", [])}
    lines = REGO.read_text().splitlines()
    assert not [lines[row - 1] for row in missed if not lines[row - 1].startswith("default ")]


@pytest.mark.needs("opa")
def test_it_is_formatted() -> None:
    assert opa("fmt", "--list", "--fail", ".").stdout == ""


@pytest.mark.needs("opa")
def test_every_rule_says_what_it_is_for() -> None:
    annotated = json.loads(opa("inspect", "-a", "--format", "json", "policy.rego").stdout)["annotations"]
    titles = {each["path"][-1]["value"] for each in annotated if each["annotations"].get("title")}
    rules = json.loads(opa("parse", "--format", "json", "policy.rego").stdout)["rules"]
    assert {rule["head"]["ref"][0]["value"] for rule in rules} <= titles
    assert len(rules) > 30


def asked(**meta: Any) -> dict[str, Any]:
    customer = record_document(person(7, Subtype.EXTERNAL), "active")
    return question(src=customer, src_ilk=customer["ilk"], **meta)


@pytest.mark.needs("opa")
@pytest.mark.parametrize("others", [0, 100, 10_000])
def test_the_answer_is_the_same_among_ten_thousand(others: int, tmp_path: Path) -> None:
    hive = documents(
        agent(1, "billing", "default"), agent(2, "billing", roles=("senior",)),
        person(3, Subtype.INTERNAL, "human_handover", handler="IO.desk@h"),
        *(agent(number, "sales", f"skill{number}") for number in range(100, 100 + others)),
    ).whole()  # fmt: skip
    billing = asked(context={"required_capability": "billing"})
    expected = ["AI.a00001@h", "AI.a00002@h", "IO.desk@h"]
    assert evaluate(REGO, TARGET, hive, billing, tmp_path) == ("value", expected)


@pytest.mark.needs("opa")
@pytest.mark.parametrize(
    ("meta", "allowed"),
    [
        ({}, True), ({"action": "count"}, True), ({"action": "sum", "action_class": "read"}, True),
        ({"action": "system_status"}, False), ({"action_class": "system_config"}, False),
        ({"action": None, "action_class": None}, True), ({"action": 3, "action_class": []}, True),
    ],
)  # fmt: skip
def test_traffic_without_identities_flows(meta: dict[str, Any], allowed: bool, tmp_path: Path) -> None:
    data = documents().whole()
    assert evaluate(REGO, ALLOW, data, question(to="AI.counter@h", **meta), tmp_path) == ("value", allowed)


ODD = [None, "", 3, True, [], {}, [None], {"ilk": 3}, "x" * 300]


@pytest.mark.needs("opa")
@pytest.mark.goal("G17")
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_input_gets_an_answer_and_never_an_error(odd: Any, tmp_path: Path) -> None:
    """A field of a wrong kind is nobody's right to be let in where a stranger is not."""
    data = documents(agent(1, "default")).whole()
    for place in (
        ["meta", "context"],
        ["meta", "action"],
        ["meta", "target"],
        ["src"],
        ["dst"],
        ["routing", "dst"],
    ):
        strange = asked(action="escalate", context={"required_capability": odd, "escalated_from": odd})
        whole: Any = strange
        for key in place[:-1]:
            whole = whole[key]
        whole[place[-1]] = odd
        kind, names = evaluate(REGO, TARGET, data, strange, tmp_path)
        assert kind == "value"
        assert isinstance(names, list)
        kind, allowed = evaluate(REGO, ALLOW, data, strange, tmp_path)
        assert (kind, type(allowed)) == ("value", bool)
        grave = evaluate(REGO, ALLOW, data, {**strange, "meta": {"action_class": "system_config"}}, tmp_path)
        assert grave == ("value", False)
