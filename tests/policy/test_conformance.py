"""OPA's own cases, compiled by opa and decided by our host: a sample here, all by `tools/opa_cases.py`."""

from __future__ import annotations

from collections import Counter

import pytest

from policy import opa_cases
from policy.opa_cases import OpaCase, judge
from skep_policy import builtins
from support.tools import need

SAMPLE = 36
"""Cases of one run; each is one run of opa and one compiled module, 0.1 to 0.3 s."""


def sample() -> list[OpaCase]:
    """One case of as many folders as possible, those with host built-ins among them, always the same."""
    where = opa_cases.folder()
    if where is None:
        pytest.skip("needs OPA's Go module: `make tools` fetches it, or name its cases in SKEP_OPA_CASES")
    found = list(opa_cases.cases(need("opa"), where))
    assert len(found) > 2000, "this is not OPA's folder of cases"
    by_folder: dict[str, list[OpaCase]] = {}
    for case in found:
        by_folder.setdefault(f"{case.version}/{case.file.partition('/')[0]}", []).append(case)
    folders = list(by_folder.values())
    chosen = [cases[len(cases) // 2] for cases in folders]
    return chosen[:: max(1, len(chosen) // SAMPLE)]


@pytest.mark.slow
@pytest.mark.needs("opa")
@pytest.mark.timeout(300)
def test_a_sample_of_opas_cases_is_decided_as_opa_wants() -> None:
    verdicts: Counter[str] = Counter()
    wrong = []
    for case in sample():
        outcome = judge(need("opa"), case)
        verdicts[outcome.verdict] += 1
        if outcome.verdict == "wrong":
            wrong.append(f"{case.name}: {outcome.why}")
    assert not wrong
    assert verdicts["ok"] > SAMPLE // 2, verdicts


def test_the_judge_sees_a_wrong_answer() -> None:
    """Of a case whose answer was changed."""
    case = OpaCase("x", "y", "v1", {"query": "data.a.p = x", "want_result": [{"x": [1, {"a": 2}]}]})
    good, bad = [{"result": [{"x": [1, {"a": 2}]}]}], [{"result": [{"x": [1, {"a": 3}]}]}]
    assert opa_cases._compared(case, good).verdict == "ok"
    assert opa_cases._compared(case, bad).verdict == "wrong"
    assert opa_cases._compared(case, [{"result": []}]).verdict == "wrong"


def test_every_function_of_the_table_is_there() -> None:
    for name in builtins.WHERE:
        assert callable(builtins.find(name)), name
