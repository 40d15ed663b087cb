"""One instance: answers, bounds of time and memory, data that change, memory that does not grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import orjson
import pytest

from policy import wat
from policy.opa_build import built
from policy.rego import agent, documents, question
from skep.protocol.errors import PolicyError
from skep_policy import module as modules
from skep_policy import rawcall
from skep_policy.default import default_policy
from skep_policy.documents import ilk_name, record_document
from skep_policy.instance import Instance
from skep_policy.limits import FUEL_MAX, INPUT_BYTES_MAX, MEMORY_BYTES_MAX
from skep_policy.module import Module
from support.tools import need

Make = Callable[..., Instance]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Instance] = []

    def new(wasm: bytes, data: bytes = b"{}") -> Instance:
        made.append(Instance(Module.load(wasm), data))
        return made[-1]

    yield new
    for instance in made:
        instance.close()


@pytest.fixture(scope="module")
def default() -> Module:
    return Module.load(default_policy().wasm)


def rego(text: str) -> bytes:
    return built(need("opa"), [f"package router\n\n{text}\n"], "router/target")


def failure(instance: Instance, input: bytes = b"{}", fuel: int = FUEL_MAX) -> PolicyError:
    with pytest.raises(PolicyError) as found:
        instance.evaluate(0, input, fuel)
    assert instance.broken
    return found.value


def test_an_answer_is_a_result_set(make: Make) -> None:
    assert make(wat.module()).evaluate(0, b"{}") == wat.ANSWER.encode()


def test_a_long_answer_comes_whole(make: Make) -> None:
    names = orjson.dumps([{"result": "x" * 700}]).decode()
    assert make(wat.module(answer=names)).evaluate(0, b"{}") == names.encode()


# -- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.goal("G17")
def test_an_endless_loop_ends_within_two_milliseconds(make: Make) -> None:
    """Of processor time, in one of the quickest of forty: what else runs beside a test is not the fuel's doing."""
    times = []
    for _ in range(40):
        instance = make(wat.module(bodies={"opa_eval": wat.LOOP}))
        begun = time.thread_time()
        assert failure(instance).code == "FUEL"
        times.append(time.thread_time() - begun)
    assert sorted(times)[3] <= 0.002


@pytest.mark.goal("G17")
def test_a_memory_bomb_meets_the_cap(make: Make) -> None:
    instance = make(wat.module(bodies={"opa_eval": wat.BOMB}))
    assert failure(instance, fuel=10**9).code == "TRAP"
    assert instance.memory_bytes <= MEMORY_BYTES_MAX


@pytest.mark.goal("G17")
@pytest.mark.needs("opa")
def test_a_rule_that_builds_too_much_is_told_so(make: Make) -> None:
    instance = make(
        rego(
            'target := [x | some i in numbers.range(1, 9000); x := concat("", [input.t, sprintf("%d", [i])])]'
        )
    )
    error = failure(instance, orjson.dumps({"t": "y" * 20_000}), fuel=10**10)
    assert error.code == "MEMORY"
    assert instance.memory_bytes <= MEMORY_BYTES_MAX


@pytest.mark.goal("G17")
def test_deep_recursion_ends_as_a_trap(make: Make) -> None:
    error = failure(make(wat.module(bodies={"opa_eval": wat.RECURSION})))
    assert (error.code, "stack" in error.detail) == ("TRAP", True)


@pytest.mark.goal("G17")
def test_input_nested_too_deeply_is_an_error_or_an_answer(default: Module) -> None:
    instance = Instance(default)
    deep = b"[" * 60_000 + b"]" * 60_000
    assert failure(instance, deep, fuel=10**9).code == "TRAP"
    instance.close()


@pytest.mark.goal("G17")
def test_input_over_the_limit_is_refused_and_the_instance_goes_on(make: Make) -> None:
    instance = make(wat.module())
    with pytest.raises(PolicyError) as found:
        instance.evaluate(0, b" " * (INPUT_BYTES_MAX + 1))
    assert found.value.code == "MEMORY"
    assert instance.evaluate(0, b" " * INPUT_BYTES_MAX)


@pytest.mark.goal("G17")
@pytest.mark.parametrize("at", ["-1", "1048575", "1048576", "2147483647"])
def test_an_answer_that_is_not_in_memory_is_a_fault_and_no_crash(make: Make, at: str) -> None:
    instance = make(
        wat.module(bodies={"opa_eval": f"(i32.store8 (i32.const 1048575) (i32.const 65)) (i32.const {at})"})
    )
    assert failure(instance).code == "MEMORY"


@pytest.mark.parametrize(
    ("said", "code", "part"),
    [
        ("policy.rego:12:3: var assignment conflict", "CONFLICT", "policy.rego:12:3"),
        ("policy.rego:7:1: object insert conflict", "CONFLICT", "two values"),
        ("opa_malloc: failed", "MEMORY", "memory"),
        ("illegal utf-8", "TRAP", "illegal utf-8"),
        ("", "TRAP", "ended itself"),
    ],
)
def test_what_the_code_says_when_it_gives_up_is_understood(
    make: Make, said: str, code: str, part: str
) -> None:
    error = failure(make(wat.module(bodies={"opa_eval": wat.ABORT}, said=said)))
    assert (error.code, part in error.detail) == (code, True)


@pytest.mark.needs("opa")
def test_two_answers_of_a_complete_rule_name_the_line(make: Make) -> None:
    instance = make(rego('target := "a" if input.x\n\ntarget := "b" if input.y'))
    assert instance.evaluate(0, b'{"x":true}') == b'[{"result":"a"}]'
    error = failure(instance, b'{"x":true,"y":true}')
    assert error.code == "CONFLICT"
    assert "module-0.rego:5:1" in error.detail


# -- built-ins from inside -----------------------------------------------------------------------------------------


@pytest.mark.needs("opa")
def test_a_policy_that_only_calls_out_pays_for_it(make: Make) -> None:
    instance = make(rego('target := [sprintf("%d-%v", [i, input]) | some i in numbers.range(1, 5000)]'))
    begun = time.perf_counter()
    assert failure(instance, b'{"a":1}').code == "FUEL"
    assert time.perf_counter() - begun < 0.1


@pytest.mark.needs("opa")
def test_a_built_in_over_its_bound_ends_the_evaluation(make: Make) -> None:
    instance = make(rego("target := net.cidr_expand(input.block)"))
    assert orjson.loads(instance.evaluate(0, b'{"block":"10.0.0.0/30"}'))[0]["result"] == [
        f"10.0.0.{i}" for i in range(4)
    ]
    error = failure(instance, b'{"block":"10.0.0.0/8"}')
    assert (error.code, "net.cidr_expand" in error.detail) == ("BUILTIN", True)


def test_a_built_in_that_is_not_listed_is_an_error(make: Make) -> None:
    called = "(call $opa_builtin1 (i32.const 3) (i32.const 0) (i32.const 4096))"
    assert failure(make(wat.module(bodies={"opa_eval": called}))).code == "BUILTIN"


@pytest.mark.needs("opa")
def test_the_clock_stands_still_during_one_evaluation(make: Make) -> None:
    instance = make(rego("target := [time.now_ns() - time.now_ns(), time.now_ns()]"))
    first, second = (orjson.loads(instance.evaluate(0, b"{}"))[0]["result"] for _ in range(2))
    assert first[0] == second[0] == 0
    assert abs(second[1] - time.time_ns()) < 60 * 10**9
    assert second[1] > first[1]


# -- data ----------------------------------------------------------------------------------------------------------


def test_patches_change_data_as_they_say(default: Module) -> None:
    instance = Instance(default, b'{"a":{"b":1},"list":[1]}')
    instance.patch(["a", "c"], b'{"d":[1,"x",null,true,1.5]}')
    instance.patch(["new", "deep", "er"], b'"v"')
    instance.patch(["a", "b"], b"2")
    assert orjson.loads(instance.dump_data()) == {
        "a": {"b": 2, "c": {"d": [1, "x", None, True, 1.5]}}, "new": {"deep": {"er": "v"}}, "list": [1],
    }  # fmt: skip
    instance.remove(["a", "c"])
    instance.remove(["new"])
    instance.remove(["not", "there"])
    assert orjson.loads(instance.dump_data()) == {"a": {"b": 2}, "list": [1]}
    instance.close()


@pytest.mark.parametrize(
    ("path", "value"), [([], b"1"), (["list", "x"], b"1"), (["a"], b"{nonsense"), (["a"], b"")]
)
def test_a_patch_that_has_no_place_changes_nothing(default: Module, path: list[str], value: bytes) -> None:
    instance = Instance(default, b'{"a":{"b":1},"list":[1]}')
    with pytest.raises(PolicyError) as found:
        instance.patch(path, value)
    assert found.value.code == "DATA_INVALID"
    assert not instance.broken
    assert orjson.loads(instance.dump_data()) == {"a": {"b": 1}, "list": [1]}
    instance.close()


@pytest.mark.parametrize("data", [b"", b"[1]", b"1", b"{", b"null"])
def test_data_are_one_object(default: Module, data: bytes) -> None:
    with pytest.raises(PolicyError) as found:
        Instance(default, data)
    assert found.value.code == "DATA_INVALID"


@pytest.mark.goal("G17")
def test_memory_stays_flat_over_evaluations_and_patches(default: Module) -> None:
    """Records of changing size come, change and go; what is compared is after a few rounds."""
    records = [agent(n, *(f"tag{k}" for k in range(n % 7)), roles=("r" * (n % 90),)) for n in range(1, 40)]
    made = documents(*records)
    instance = Instance(default, made.whole())
    asked = orjson.dumps(
        question(record_document(records[5], "active"), context={"required_capability": "tag2"})
    )
    ends = []
    for _ in range(12):
        for record in records:
            for patch in (*made.remove(record.ilk), *made.set(record)):
                if patch.value is None:
                    instance.remove(patch.path)
                else:
                    instance.patch(patch.path, patch.value)
            for _ in range(3):
                instance.evaluate(1, asked)
        ends.append((instance.data_end, instance.memory_bytes))
    assert len(set(ends[6:])) == 1, ends
    assert orjson.loads(instance.dump_data()) == orjson.loads(made.whole())
    instance.close()


def test_a_copy_answers_the_same_and_lives_alone(default: Module) -> None:
    record = agent(1, "billing")
    one = Instance(default, documents(record).whole())
    one.patch(["config", "x"], b"1")
    other = one.clone()
    assert orjson.loads(other.dump_data()) == orjson.loads(one.dump_data())
    other.patch(["config", "x"], b"2")
    other.remove(["agents", ilk_name(record.ilk)])
    one.patch(["config", "y"], b"3")
    assert orjson.loads(one.dump_data())["config"] == {"x": 1, "y": 3}
    assert orjson.loads(other.dump_data())["agents"] == {}
    one.close()
    assert orjson.loads(other.dump_data())["config"] == {"x": 2}
    other.close()


# -- the two ways of calling ---------------------------------------------------------------------------------------


def test_public_calls_do_all_that_the_fast_ones_do(default: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rawcall.available, "wasmtime's private names have changed: decisions are 20 times slower"
    record = agent(1, "billing")
    asked = orjson.dumps(
        question(record_document(record, "active"), context={"required_capability": "billing"})
    )
    answers = []
    for public in (False, True):
        if public:
            monkeypatch.setattr(modules, "calls_for", rawcall.Calls)
        instance = Instance(default, documents(record).whole())
        assert instance._calls.raw is not public
        instance.patch(["config", "frontdesk"], b'"SY.desk@h"')
        answers.append([instance.evaluate(number, asked) for number in (0, 1)] + [instance.dump_data()])
        assert failure(instance, asked, fuel=1000).code == "FUEL"
        instance.close()
        hostile = Instance(Module.load(wat.module(bodies={"opa_eval": wat.ABORT}, said="opa_malloc: failed")))
        assert failure(hostile).code == "MEMORY"
        hostile.close()
    assert answers[0] == answers[1]


def test_a_closed_instance_answers_nothing(make: Make) -> None:
    instance = make(wat.module())
    instance.close()
    with pytest.raises(PolicyError):
        instance.evaluate(0, b"{}")
