"""Two instances that are one policy: faults are answers, the spare takes over, data are the same in both."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import orjson
import pytest

from policy import wat
from policy.opa_build import built
from policy.rego import agent, documents, ilk_name, question
from skep.protocol.errors import PolicyError
from skep_policy.default import default_policy
from skep_policy.documents import record_document
from skep_policy.evaluator import ERRORS, Evaluator, Patch
from skep_policy.instance import Instance
from skep_policy.module import Module
from support.tools import need
from support.wait import eventually

Make = Callable[..., Evaluator]
TROUBLE = """package router

import rego.v1

default allow := false

allow if input.meta.action == "yes"

allow if input.meta.action == data.config.word

target := "a" if input.meta.action == "both"

target := "b" if input.meta.action == "both"

target := [n | some x in numbers.range(1, 900); some y in numbers.range(1, 900);
	some z in numbers.range(1, 900); n := (x + y) + z] if input.meta.action == "loop"

target := net.cidr_expand("10.0.0.0/8") if input.meta.action == "large"

target := data.identity[input.meta.src_ilk].handler_node if input.meta.action == "who"
"""
"""A policy that goes wrong in the way that it is asked to."""


@pytest.fixture(scope="module")
def trouble() -> Module:
    return Module.load(built(need("opa"), [TROUBLE], "router/allow", "router/target"))


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Evaluator] = []

    def new(module: Module | bytes, data: bytes = b"{}", **how: object) -> Evaluator:
        loaded = module if isinstance(module, Module) else Module.load(module)
        made.append(Evaluator(loaded, data, **how))  # type: ignore[arg-type]
        return made[-1]

    yield new
    for evaluator in made:
        evaluator.close()


def asked(action: str, **meta: object) -> bytes:
    return orjson.dumps(question(action=action, **meta))


def test_an_answer_has_a_price(make: Make) -> None:
    found = make(wat.module()).decide("router/allow", b"{}")
    assert (found.result, found.defined, found.error) == (True, True, "")
    assert found.ns > 0


def test_undefined_is_no_fault(make: Make) -> None:
    evaluator = make(wat.module(answer="[]"))
    assert evaluator.decide("router/allow", b"{}")[:3] == (None, False, "")
    assert evaluator.decide("router/other", b"{}")[:3] == (None, False, "")
    assert evaluator.faults == 0


@pytest.mark.goal("G17")
@pytest.mark.needs("opa")
@pytest.mark.parametrize(("action", "error"), [("both", "CONFLICT"), ("loop", "FUEL"), ("large", "BUILTIN")])
def test_after_a_fault_the_next_answer_is_right(make: Make, trouble: Module, action: str, error: str) -> None:
    evaluator = make(trouble, b'{"config":{"word":"so"}}')
    evaluator.apply([Patch(("config", "word"), b'"well"')])
    for round in range(8):  # the spare is sometimes ready and sometimes not
        if round % 2:
            eventually(lambda: evaluator.ready)
        found = evaluator.decide("router/target", asked(action))
        assert (found.error, found.defined, found.result) == (error, False, None)
        assert found.detail
        assert evaluator.decide("router/allow", asked("well")).result is True
        assert evaluator.decide("router/allow", asked("so")).result is False
    assert evaluator.faults == 8


@pytest.mark.goal("G17")
@pytest.mark.parametrize(
    "answer",
    ["", "{}", "[1]", '[{"other":1}]', '[{"result":', "7", '["result"]', "[[]]", '{"0":{"result":true}}'],
)
def test_an_answer_that_is_none_is_a_fault(make: Make, answer: str) -> None:
    found = make(wat.module(answer=answer)).decide("router/allow", b"{}")
    assert found.error in {"TRAP", ""}
    assert not found.defined or answer == ""
    assert found.result is None


@pytest.mark.goal("G17")
@pytest.mark.parametrize(
    "body", [wat.LOOP, wat.BOMB, wat.RECURSION, wat.ABORT, "unreachable", "(i32.const -9)"]
)
def test_whatever_the_code_does_decide_answers(make: Make, body: str) -> None:
    evaluator = make(wat.module(bodies={"opa_eval": body}))
    for _ in range(3):
        found = evaluator.decide("router/allow", b"{}")
        assert found.error in ERRORS
        assert not found.defined


@pytest.mark.goal("G17")
@pytest.mark.parametrize("pointer", ["-1", "2147483647", "1048577", "0"])
def test_data_that_lie_outside_memory_are_not_copied(make: Make, pointer: str) -> None:
    """Found by a damaged module (seed 11013630): its heap pointer was where nothing is, and the copy went there. Here
    it goes astray after the first, the second, ... time that it is asked for."""
    count = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))"
    for times in range(10):
        chosen = f"(i32.gt_u (global.get $calls) (i32.const {times}))"
        body = f"{count} (if (result i32) {chosen} (then (i32.const {pointer})) (else (i32.const 8192)))"
        bodies = {"opa_heap_ptr_get": body, "opa_eval": "unreachable"}
        try:
            evaluator = make(wat.module(bodies=bodies, extra="(global $calls (mut i32) (i32.const 0))"))
        except PolicyError as error:
            assert error.code in ERRORS  # noqa: PT017 - refused at once, which is as good
            continue
        for _ in range(2):
            assert evaluator.decide("router/allow", b"{}").error in ERRORS


def test_input_over_the_limit_costs_no_instance(make: Make) -> None:
    evaluator = make(wat.module())
    live = evaluator._live
    assert evaluator.decide("router/allow", b" " * 2_000_000).error == "MEMORY"
    assert evaluator._live is live
    assert evaluator.decide("router/allow", b"{}").result is True


# -- data ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("opa")
def test_patches_reach_the_spare(make: Make, trouble: Module) -> None:
    """Random changes and faults, against a dict."""
    dice = random.Random(3)
    evaluator, model = make(trouble, b'{"config":{}}'), dict[str, str]()
    for step in range(60):
        key = f"k{dice.randrange(6)}"
        if dice.random() < 0.6:
            model[key] = f"v{step}"
            evaluator.apply([Patch(("config", key), orjson.dumps(model[key]))])
        else:
            model.pop(key, None)
            evaluator.apply([Patch(("config", key), None)])
        if dice.random() < 0.3:
            assert evaluator.decide("router/target", asked("both")).error == "CONFLICT"
        assert orjson.loads(evaluator._live.dump_data())["config"] == model
    eventually(lambda: evaluator.ready)
    assert evaluator._spare is not None
    assert orjson.loads(evaluator._spare.dump_data())["config"] == model


@pytest.mark.needs("opa")
def test_a_spare_is_built_although_patches_never_stop(make: Make, trouble: Module) -> None:
    evaluator = make(trouble, documents(*(agent(n, "x") for n in range(1, 300))).whole())
    patch = [Patch(("config", "word"), b'"now"')]

    def patched_until_ready() -> bool:
        evaluator.apply(patch)
        return evaluator._spare is not None

    assert evaluator.decide("router/target", asked("both")).error == "CONFLICT"
    eventually(patched_until_ready)
    assert evaluator.decide("router/target", asked("both")).error == "CONFLICT"
    assert evaluator.decide("router/allow", asked("now")).result is True


@pytest.mark.needs("opa")
def test_an_overlay_is_seen_once_and_by_one_question(make: Make, trouble: Module) -> None:
    guest, standing = agent(1, handler="IO.guest@h"), agent(2, handler="AI.stands@h")
    evaluator = make(trouble, documents(standing).whole())
    overlay = [Patch(("identity", ilk_name(guest.ilk)), orjson.dumps(record_document(guest, "active")))]
    before = evaluator._live.dump_data()
    for _ in range(3):
        found = evaluator.decide("router/target", asked("who", src_ilk=ilk_name(guest.ilk)), overlay)
        assert found.result == "IO.guest@h"
        assert not evaluator.decide("router/target", asked("who", src_ilk=ilk_name(guest.ilk))).defined
    assert orjson.loads(evaluator._live.dump_data()) == orjson.loads(before)
    ends = set()
    for _ in range(50):
        assert evaluator.decide(
            "router/target", asked("who", src_ilk=ilk_name(standing.ilk)), overlay
        ).defined
        ends.add(evaluator.data_end)
    assert len(ends) == 1


@pytest.mark.needs("opa")
def test_a_fault_under_an_overlay_leaves_nothing_of_it(make: Make, trouble: Module) -> None:
    evaluator = make(trouble, b'{"identity":{}}')
    eventually(lambda: evaluator.ready)
    assert (
        evaluator.decide("router/target", asked("both"), [Patch(("identity", "x"), b"1")]).error == "CONFLICT"
    )
    assert orjson.loads(evaluator._live.dump_data()) == {"identity": {}}


@pytest.mark.goal("G17")
@pytest.mark.needs("opa")
def test_data_are_laid_out_anew_while_they_change(
    make: Make, trouble: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random changes and faults during it, against a dict; and what thousands of patches left behind is gone."""
    monkeypatch.setattr("skep_policy.evaluator.TIDY_PATCHES", 40)
    monkeypatch.setattr("skep_policy.evaluator.TIDY_BYTES_MIN", 0)
    dice = random.Random(5)
    evaluator, model = make(trouble, b'{"config":{"filler":"' + b"x" * 200_000 + b'"}}'), dict[str, str]()
    tidied, was = 0, False
    for step in range(3000):
        key = f"k{dice.randrange(20)}"
        model[key] = f"v{step}" * dice.randrange(1, 60)
        evaluator.apply([Patch(("config", key), orjson.dumps(model[key]))])
        if dice.random() < 0.05:
            assert evaluator.decide("router/target", asked("both")).error == "CONFLICT"
        busy = evaluator._tidier is not None
        tidied, was = tidied + (was and not busy), busy
        if step % 50 == 0:
            eventually(lambda: evaluator.ready)
            kept = orjson.loads(evaluator._live.dump_data())["config"]
            kept.pop("filler")
            assert kept == model
    assert tidied > 3
    assert evaluator.data_end < 3_000_000


def test_tidying_that_fails_or_is_not_waited_for_changes_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skep_policy.evaluator.TIDY_PATCHES", 1)
    monkeypatch.setattr("skep_policy.evaluator.TIDY_BYTES_MIN", 0)
    evaluator = make(default_policy().wasm, b'{"config":{}}')
    eventually(lambda: evaluator.ready)
    monkeypatch.setattr(Instance, "dump_data", lambda self: b"nonsense")
    evaluator.apply([Patch(("config", "word"), b'"kept"')])
    eventually(lambda: evaluator.ready)
    monkeypatch.undo()
    assert orjson.loads(evaluator._live.dump_data()) == {"config": {"word": "kept"}}
    for _ in range(5):
        other = Evaluator(Module.load(wat.module()), b"{}")
        eventually(lambda other=other: other.ready)
        other._tidy()
        other.close()


def test_roots_that_no_rule_reads_are_not_kept(make: Make) -> None:
    made = documents(*(agent(n, "x") for n in range(1, 50)))
    module = Module.load(default_policy().wasm)
    whole, few = (
        make(module, made.whole()),
        make(module, made.whole(), roots=["agents", "tenant", "node", "config"]),
    )
    few.apply([Patch(("identity", "x"), b"{}"), Patch(("config", "word"), b"1")])
    kept = orjson.loads(few._live.dump_data())
    assert "identity" not in kept
    assert kept["config"]["word"] == 1
    assert few.data_end < whole.data_end


def test_a_patch_that_cannot_be_made_is_raised(make: Make) -> None:
    evaluator = make(default_policy().wasm, b'{"agents":[]}')
    with pytest.raises(PolicyError):
        evaluator.apply([Patch(("agents", "x"), b"1")])


def test_closing_while_the_spare_is_made_is_safe(make: Make) -> None:
    module = Module.load(default_policy().wasm)
    data = documents(*(agent(n, "x") for n in range(1, 400))).whole()
    for _ in range(5):
        Evaluator(module, data).close()


@pytest.mark.goal("G17")
def test_without_memory_for_another_instance_the_fault_is_still_an_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = make(wat.module(bodies={"opa_eval": wat.LOOP}))
    eventually(lambda: evaluator.ready)

    def clone(self: Instance) -> Instance:
        raise PolicyError("MEMORY", "there is none")

    monkeypatch.setattr(Instance, "clone", clone)
    for _ in range(4):
        found = evaluator.decide("router/allow", b"{}")
        assert found.error in {"FUEL", "MEMORY"}
    monkeypatch.undo()
    assert evaluator.decide("router/allow", b"{}").error == "FUEL"
