"""What the compiler makes, decided by the router's own host: the seed's rules, two answers, and the documented form."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from policy.rego import LISTED, SEED, agent, documents, ilk_name, person, question
from skep_policy.compiler import compile_policy
from skep_policy.default import REGO, default_policy
from skep_policy.documents import record_document
from skep_policy.evaluator import Evaluator
from skep_policy.limits import FUEL_MAX
from skep_policy.manifest import ALLOW, TARGET
from skep_policy.module import Module
from skep_policy.ready import HEAD_MAX
from skep_shm import IlkRecord, Subtype
from support.markdown import REPO, blocks
from support.tools import need

MANY_FUEL = 200_000_000  # what ten thousand matches may take here, where nobody waits


@contextmanager
def policy(wasm: bytes, *records: IlkRecord, fuel: int = FUEL_MAX) -> Iterator[Evaluator]:
    evaluator = Evaluator(Module.load(wasm), documents(*records).whole(), fuel=fuel)
    try:
        yield evaluator
    finally:
        evaluator.close()


def compiled(rego: str) -> bytes:
    return compile_policy(rego, opa=Path(need("opa"))).wasm


def wanting(capability: str, **meta: Any) -> bytes:
    return orjson.dumps(question(context={"required_capability": capability}, **meta))


@pytest.mark.needs("opa")
def test_the_seed_decides_as_it_says() -> None:
    inside, outside = (
        person(3, Subtype.INTERNAL, handler="IO.p@h"),
        person(4, Subtype.EXTERNAL, handler="IO.q@h"),
    )
    with policy(compiled(SEED), agent(1, "billing"), agent(2, "sales"), inside, outside) as made:
        assert made.decide(TARGET, wanting("sales")).result == "AI.a00002@h"
        assert not made.decide(TARGET, wanting("chess")).defined
        for record, expected in ((inside, True), (outside, False)):
            asked = question(action="system_status", src_ilk=ilk_name(record.ilk))
            assert made.decide(ALLOW, orjson.dumps(asked)).defined is expected


@pytest.mark.needs("opa")
@pytest.mark.goal("G17")
def test_two_answers_of_a_complete_rule_are_a_conflict_that_names_the_line() -> None:
    with policy(compiled(SEED), agent(1, "billing"), agent(2, "billing"), agent(3, "sales")) as made:
        two = made.decide(TARGET, wanting("billing"))
        assert (two.defined, two.error) == (False, "CONFLICT")
        assert two.detail.startswith("policy.rego:5:1:")
        assert (
            made.decide(TARGET, wanting("sales")).result == "AI.a00003@h"
        )  # and the next question is answered


@pytest.mark.needs("opa")
@pytest.mark.parametrize("matches", [0, 1, 50])
def test_a_sorted_list_answers_in_order(matches: int) -> None:
    agents = [agent(number, "billing") for number in range(1, matches + 1)]
    with policy(compiled(LISTED), *agents, agent(90_000, "sales")) as made:
        assert made.decide(TARGET, wanting("billing")).result == [each.handler for each in agents]


@pytest.mark.needs("opa")
@pytest.mark.parametrize("matches", [0, 1, 10_000])
def test_the_documented_form_answers_in_order_whatever_the_number(matches: int) -> None:
    """`first.rego` of docs/policy.md, within the limit of every evaluation."""
    first = next(block.text for block in blocks(REPO / "docs" / "policy.md") if block.note == "name: first.rego")
    agents = [agent(number, "billing") for number in range(matches, 0, -1)]
    src = record_document(person(9, Subtype.EXTERNAL), "active")
    with policy(compiled(first), *agents, agent(90_000, "sales")) as made:
        found = made.decide(TARGET, wanting("billing", src=src))
    assert (found.error, found.result) == ("", sorted(each.handler for each in agents)[:HEAD_MAX])


HIVE = (
    agent(1, "billing", "default"), agent(2, "billing", "spanish"), agent(3, "billing", roles=("senior",)),
    person(4, Subtype.INTERNAL, "human_handover", handler="IO.desk@h"), agent(5, "general", tenant=bytes(16)),
)  # fmt: skip
QUESTIONS: list[dict[str, Any]] = [
    {}, {"context": {"required_capability": "billing"}}, {"context": {"required_capability": ["billing", "spanish"]}},
    {"target": "AI.a00002@h"}, {"target": "spanish"}, {"target": ""}, {"context": None}, {"context": {"x": [1]}},
    {"action": "escalate", "context": {"required_capability": "billing", "escalated_from": "AI.a00001@h"}},
    {"action": "escalate", "context": {"escalated_from": "senior"}}, {"action": "system_status"},
    {"action_class": "topology_change"}, {"action_class": "write", "to": "AI.a00001@h"}, {"to": "SY.frontdesk.gov@h"},
]  # fmt: skip


@pytest.mark.needs("opa")
def test_host_and_opa_agree_on_the_default_policy(tmp_path: Path) -> None:
    speakers = [
        None,
        *(record_document(each, "active") for each in (HIVE[0], HIVE[3], person(9, Subtype.EXTERNAL))),
    ]
    asked = [
        question(src=src, src_ilk=src["ilk"] if src else "", **facts)
        for src in speakers
        for facts in QUESTIONS
    ]
    data = orjson.loads(documents(*HIVE).whole())
    expected = answers_of_opa(data | {"asked": asked}, tmp_path)
    with policy(default_policy().wasm, *HIVE) as made:
        for whole, pair in zip(asked, expected, strict=True):
            ours = [made.decide(entrypoint, orjson.dumps(whole)) for entrypoint in (TARGET, ALLOW)]
            assert [each.error for each in ours] == ["", ""]
            assert [each.result for each in ours] == pair, whole


def answers_of_opa(data: dict[str, Any], folder: Path) -> list[list[Any]]:
    """All questions of `data.asked` in one run."""
    (folder / "data.json").write_bytes(orjson.dumps(data))
    query = "[[target, allow] | some q in data.asked; target := data.router.target with input as q;"
    query += " allow := data.router.allow with input as q]"
    argv = [need("opa"), "eval", "-f", "json", "-d", str(REGO), "-d", "data.json", query]
    done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=60, check=True)
    found: list[list[Any]] = orjson.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    return found


def used(made: Evaluator, entrypoint: str, asked: bytes) -> int:
    """Fuel of one answer: what it costs, on whatever machine and however busy."""
    instance = made._live
    instance.evaluate(instance.module.entrypoints[entrypoint], asked, MANY_FUEL)
    return MANY_FUEL - instance._calls.fuel()


def fuel_of(matches: int, entrypoint: str = TARGET, **meta: Any) -> tuple[int, list[str]]:
    """What the default policy uses, and what it answers, among agents of which so many match."""
    agents = [agent(number, "billing", "sums") for number in range(1, matches + 1)]
    others = [agent(50_000 + number, f"skill{number}") for number in range(100)]
    desk = person(90_000, Subtype.INTERNAL, "human_handover", handler="IO.desk@h")
    src = record_document(person(9, Subtype.EXTERNAL), "active")
    whole = question(src=src, src_ilk=src["ilk"], **meta)
    cut = only(whole, default_policy().manifest.reads[entrypoint].input)
    with policy(default_policy().wasm, *agents, *others, desk) as made:
        return used(made, entrypoint, orjson.dumps(cut)), made.decide(entrypoint, orjson.dumps(cut)).result


def test_the_default_policy_costs_the_same_with_a_hundred_candidates_and_with_ten_thousand() -> None:
    found = {each: fuel_of(each, context={"required_capability": "billing"}) for each in (0, 1, 100, 10_000)}
    print("fuel of target by matches:", {each: fuel for each, (fuel, _) in found.items()})
    assert found[0][1] == ["IO.desk@h"]
    assert found[1][1] == ["AI.a00001@h", "IO.desk@h"]
    assert found[100][1] == found[10_000][1] == [*(f"AI.a{n:05}@h" for n in range(1, 17)), "IO.desk@h"]
    assert found[10_000][0] <= 1.02 * found[100][0]
    assert found[1][0] < 55_000 and found[10_000][0] < 85_000


def test_several_capabilities_are_within_the_limit_among_a_thousand() -> None:
    fuel, names = fuel_of(1_000, context={"required_capability": ["billing", "sums"]})
    assert names[:2] == ["AI.a00001@h", "AI.a00002@h"]
    assert fuel < FUEL_MAX / 2


def test_what_may_happen_costs_little() -> None:
    fuel, allowed = fuel_of(1, ALLOW, action="count", action_class="read")
    print("fuel of allow:", fuel)
    assert allowed is True
    assert fuel < 40_000


def test_a_record_cut_to_what_is_read_gets_the_same_answer() -> None:
    """The manifest's `input` is true: what it does not name changes nothing."""
    reads = default_policy().manifest.reads
    with policy(default_policy().wasm, *HIVE) as made:
        for asked in QUESTIONS:
            for record in HIVE:
                src = record_document(record, "active")
                whole = question(src=src, dst=src, src_ilk=src["ilk"], **asked)
                for entrypoint in (TARGET, ALLOW):
                    cut = only(whole, reads[entrypoint].input)
                    answers = [made.decide(entrypoint, orjson.dumps(each)).result for each in (whole, cut)]
                    assert answers[0] == answers[1]


def only(whole: dict[str, Any], read: tuple[str, ...]) -> dict[str, Any]:
    parts = (path.partition(".") for path in read)
    kept: dict[str, Any] = {}
    for part, _, field in parts:
        if whole.get(part) is not None and field in whole[part]:
            kept.setdefault(part, {})[field] = whole[part][field]
    return kept
