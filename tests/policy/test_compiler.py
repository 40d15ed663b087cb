"""Rego in, WASM out: both syntaxes, equal bytes, errors with their places, and what each entry point reads."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policy.rego import LISTED, SEED, agent, documents, evaluate, ilk_name, parsed, person, question
from skep.protocol.errors import PolicyError
from skep_policy import compiler
from skep_policy.compiler import Compiled, CompileError, compile_policy, reads_of, wasm_of
from skep_policy.manifest import ALLOW, DATA_ROOTS, TARGET, Reads
from skep_shm import Subtype
from support.tools import need

pytestmark = pytest.mark.needs("opa")

OLD_SEED = SEED.replace(" if {", " {").replace("import rego.v1", "import future.keywords.in")


def compiled(rego: str, **how: Any) -> Compiled:
    return compile_policy(rego, opa=Path(need("opa")), **how)


def problems(rego: str) -> list[tuple[int, int, str]]:
    with pytest.raises(CompileError) as caught:
        compiled(rego)
    return [(each.line, each.column, each.code) for each in caught.value.problems]


def rules(*lines: str) -> str:
    return "\n".join(("package router", "default target := []", *lines, ""))


# -- what comes out ------------------------------------------------------------------------------------------------


def test_a_policy_becomes_wasm_and_a_manifest() -> None:
    made = compiled(SEED)
    assert made.wasm[:8] == b"\0asm\x01\0\0\0"
    assert made.rego == SEED
    facts = made.manifest
    assert (facts.rego_version, facts.entrypoint, facts.opa_version) == ("v1", TARGET, "1.22.2")
    assert (facts.version, facts.hive, facts.compiled_at_ms) == (0, "", 0)
    assert facts.reads == {
        ALLOW: Reads(("identity",), False, ("meta.action", "meta.src_ilk")),
        TARGET: Reads(("identity",), False, ("meta.context",)),
    }


def test_the_older_syntax_compiles_to_the_same_decisions() -> None:
    old, new = compiled(OLD_SEED), compiled(SEED)
    assert old.manifest.rego_version == "v0"
    assert replace(old.manifest, rego_version="v1", wasm_sha256="", rego_sha256="") == replace(
        new.manifest, wasm_sha256="", rego_sha256=""
    )


def test_equal_text_gives_equal_bytes() -> None:
    assert compiled(SEED) == compiled(SEED)


def test_only_what_it_has_is_an_entry_point() -> None:
    assert set(compiled(LISTED).manifest.reads) == {TARGET}
    both = compiled("package router\n\ndefault allow := false\n", entrypoint=ALLOW)
    assert set(both.manifest.reads) == {ALLOW}


# -- what does not compile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rego", "expected"),
    [
        ("package router\n\ntarget := \n", (4, 1, "rego_parse_error")),
        ("package router\n\ntarget := 1 +\n", (4, 1, "rego_parse_error")),
        ("", (1, 1, "rego_parse_error")),
        ("package router\nallow {\n  x := 1\n  y == 2\n}\n", (4, 3, "rego_unsafe_var_error")),
        (rules("allow if nothing_like_it(1)"), (3, 10, "rego_type_error")),
        (rules("allow if target.x", "target := 1 if allow"), (3, 1, "rego_recursion_error")),
        (rules('allow if input.meta.priority == "high"'), (3, 10, "input_outside_selector")),
        ("package other\n\ndefault target := null\n", (1, 1, "entrypoint_missing")),
        ("package router\n\ndefault allow := false\n", (1, 1, "entrypoint_missing")),
        ("package router\x00\n", (1, 1, "rego_parse_error")),
        (f"package router\n\ntarget := {'[' * 20000}{']' * 20000}\n", (3, 267, "too_deep")),
        ("package router\n\ntarget := \ud800\n", (1, 1, "rego_parse_error")),
    ],
)  # fmt: skip
@pytest.mark.goal("G17")
def test_every_problem_has_its_place(rego: str, expected: tuple[int, int, str]) -> None:
    found = problems(rego)
    assert found[0][2] == expected[2], found
    assert found[0][0] == expected[0], found


def test_an_error_shows_what_to_correct() -> None:
    with pytest.raises(
        CompileError, match=r"^COMPILE_ERROR: policy.rego:2:10: rego_unsafe_var_error: var y is unsafe"
    ):
        compiled("package router\nallow if y == 2\ntarget := 1 if z == 3\n")


def test_all_problems_are_told_and_not_more_than_the_bound() -> None:
    many = rules(*(f"a{number} if x{number} == 1" for number in range(150)))
    assert 2 <= len(problems(many)) <= compiler.PROBLEMS_MAX


def test_a_text_without_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(PolicyError, match="REGO_TOO_LARGE"):
        compiled("#" * (compiler.REGO_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("body", "present"),
    [
        ('input.meta.src_ilk != ""', ("meta.src_ilk",)),
        ('"" != input.meta.src_ilk', ("meta.src_ilk",)),
        ('not input.meta.src_ilk != ""', ("meta.src_ilk",)),
        ('m.src_ilk != ""', ("meta.src_ilk",)),
        ('input.meta.src_ilk != ""; input.meta.src_ilk != "ilk:x"', ()),
        ('input.meta.src_ilk != ""; input.meta == {}', ()),
        ('input.meta.src_ilk == ""', ()),
        ('input.meta.src_ilk != input.meta.dst_ilk', ()),
        ('input.meta.context.a != ""', ()),
        ('x := "src_ilk"; input.meta[x] != ""', ()),
        ('input.meta.src_ilk != "" with input.meta.src_ilk as input.meta.src_ilk', ()),
        ('lower(input.meta.src_ilk) != ""', ()),
    ],
)
def test_what_is_only_compared_with_nothing_need_only_be_there(body: str, present: tuple[str, ...]) -> None:
    rego = f"package router\nimport input.meta as m\ndefault allow := false\nallow if {{ {body} }}\n"
    assert compile_policy(rego, entrypoint=ALLOW).manifest.reads[ALLOW].present == present


def test_wasm_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "WASM_BYTES_MAX", 200_000)
    texts = "\n".join(f'\t"{"x" * 300}{number}",' for number in range(400))
    with pytest.raises(PolicyError, match="WASM_TOO_LARGE"):
        compiled(f"package router\n\ntarget := [\n{texts}\n]\n")


def test_a_bundle_without_wasm_is_an_error_of_opa() -> None:
    import gzip
    import tarfile

    empty = gzip.compress(tarfile.NUL * 1024)
    with pytest.raises(PolicyError, match=r"OPA_FAILED: opa build made no policy\.wasm"):
        wasm_of(empty)


# -- what is read --------------------------------------------------------------------------------------------------

READS = [
    ("allow if input.src.type == 4", Reads((), False)),
    ("allow if data.agents[input.meta.src_ilk].x", Reads(("agents",), False)),
    ("allow if input.routing.dst == data.node.x", Reads(("node",), False)),
    ("allow if input.routing.src == 4", Reads((), True)),
    ('allow if input.routing["src_l2_name"] == 4', Reads((), True)),
    ("allow if input.routing[_] == 4", Reads((), True)),
    ("allow if { r := input; r.routing.src }", Reads((), True)),
    ("allow if { walk(input, [p, v]); v == p }", Reads((), True)),
    ("allow if { some part in input; part.src }", Reads((), True)),
    ("allow if data[input.meta.msg].x == 4", Reads(DATA_ROOTS, False)),
    ("import input.routing as way\nallow if way.src == 4", Reads((), True)),
    ("import data.tenant\nallow if tenant[input.src.tenant].x", Reads(("tenant",), False)),
    ("allow if helper\nhelper if data.tenant.x\nother if data.node.x", Reads(("tenant",), False)),
    ("allow if data.router.helper\nhelper if data.tenant.x", Reads(("tenant",), False)),
    ("allow if f(input.src.type)\nf(x) if data.capability[x]", Reads(("capability",), False)),
    ("allow if data.router.f(3)\nf(x) if data.capability[x]", Reads(("capability",), False)),
    ("allow if { false } else := data.config.x", Reads(("config",), False)),
    ("allow if every x in data.config.list { x == data.node.y }", Reads(("config", "node"), False)),
    ("allow if count([x | some x in data.config.list; data.node[x]]) > 0", Reads(("config", "node"), False)),
    ("allow if object.get(data.agents, input.meta.src_ilk, null)", Reads(("agents",), False)),
    ("allow if target\ntarget := data.identity_aliases.x", Reads(("identity_aliases",), False)),
    ("allow if a.b.c\na.b.c if data.node.x", Reads(("node",), False)),
    ("allow if { target with input as data.config.x }", Reads(("config",), True)),
]


@pytest.mark.parametrize(("rule", "expected"), READS)
def test_a_manifest_names_all_that_an_entry_point_reads(rule: str, expected: Reads, tmp_path: Path) -> None:
    policy = parsed(rules(rule), tmp_path)
    found = reads_of(policy.reached_from(ALLOW), policy.package)
    assert (found.data, found.source) == (expected.data, expected.source)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ('allow if input.src.type == "x"', ("src.type",)),
        (
            "allow if { input.src.type; input.src.tenant; input.meta.msg }",
            ("meta.msg", "src.tenant", "src.type"),
        ),
        ("allow if input.meta.context.deep.x", ("meta.context",)),
        ("allow if { input.src.type; f(input.src) }\nf(x) if x", ("src",)),
        ("allow if input.src[input.meta.msg]", ("meta.msg", "src")),
        ("allow if { x := input; x.src }", ("",)),
        ("allow if input[input.meta.msg]", ("",)),
        ("import input.src as who\nallow if who.type", ("src.type",)),
        ("allow if object.get(input.src, input.meta.msg, 3)", ("meta.msg", "src")),
        ("allow if 1 == 1", ()),
    ],
)
def test_a_manifest_names_the_members_of_the_input(
    rule: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    policy = parsed(rules(rule), tmp_path)
    assert reads_of(policy.reached_from(ALLOW), policy.package).input == expected


@pytest.mark.parametrize("rule", [rule for rule, _ in READS])
def test_nothing_that_opa_itself_finds_is_missing(rule: str, tmp_path: Path) -> None:
    policy = parsed(rules(rule), tmp_path)
    made = reads_of(policy.reached_from(ALLOW), policy.package)
    argv = [need("opa"), "deps", "-d", "policy.rego", "-f", "json", "data.router.allow"]
    document = json.loads(
        subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=60).stdout
    )
    paths = [[term["value"] for term in path] for path in document.get("base", [])]
    assert {path[1] for path in paths if path[0] == "data" and len(path) > 1} <= set(made.data)
    assert made.source or not any(
        path in (["input"], ["input", "routing"]) or "src_l2_name" in path for path in paths
    )


def test_time_and_chance_are_never_cached() -> None:
    made = compiled(
        rules("allow if soon", "soon if time.now_ns() > 5", "target := [input.meta.msg] if input.meta.msg")
    )
    assert made.manifest.cacheable == {ALLOW: False, TARGET: True}
    assert compiled(SEED).manifest.cacheable == {ALLOW: True, TARGET: True}


# -- the seed's rules, answered by opa itself ----------------------------------------------------------------------


def test_the_seed_routes_to_who_has_the_capability(tmp_path: Path) -> None:
    data = documents(agent(1, "billing"), agent(2, "sales")).whole()
    for capability, expected in (
        ("billing", ("value", "AI.a00001@h")),
        ("sales", ("value", "AI.a00002@h")),
        ("chess", ("undefined", None)),
    ):
        asked = question(context={"required_capability": capability})
        assert evaluate(SEED, TARGET, data, asked, tmp_path) == expected


def test_the_seed_shows_the_status_to_people_of_the_house_alone(tmp_path: Path) -> None:
    inside, outside = (
        person(3, Subtype.INTERNAL, handler="IO.p@h"),
        person(4, Subtype.EXTERNAL, handler="IO.q@h"),
    )
    data = documents(inside, outside).whole()
    for record, action, expected in (
        (inside, "system_status", ("value", True)),
        (inside, "other", ("undefined", None)),
        (outside, "system_status", ("undefined", None)),
    ):
        asked = question(action=action, src_ilk=ilk_name(record.ilk))
        assert evaluate(SEED, ALLOW, data, asked, tmp_path) == expected


def test_two_answers_of_a_complete_rule_are_an_error_that_names_the_line(tmp_path: Path) -> None:
    data = documents(agent(1, "billing"), agent(2, "billing")).whole()
    asked = question(context={"required_capability": "billing"})
    kind, text = evaluate(SEED, TARGET, data, asked, tmp_path)
    assert kind == "error"
    assert text.startswith("5: rule data.router.target produced conflicting values")


@pytest.mark.parametrize("matches", [0, 1, 10_000])
def test_the_documented_form_answers_an_ordered_list(matches: int, tmp_path: Path) -> None:
    made = documents(*(agent(number, "billing") for number in range(1, matches + 1)), agent(90_000, "sales"))
    asked = question(context={"required_capability": "billing"})
    kind, names = evaluate(LISTED, TARGET, made.whole(), asked, tmp_path)
    assert kind == "value"
    assert names == [f"AI.a{number:05}@h" for number in range(1, matches + 1)]
