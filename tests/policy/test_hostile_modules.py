"""A thousand damaged modules: each loads or is refused in a child with ten seconds and half a gibibyte."""

from __future__ import annotations

import sys

import pytest

from policy import mutants, wat
from skep_policy.default import default_policy

COUNT = 1000


@pytest.mark.slow
@pytest.mark.goal("G17")
@pytest.mark.timeout(600)
def test_a_thousand_mutants_load_or_are_refused() -> None:
    found, ended = mutants.run(seed=17_000, count=COUNT)
    assert not ended
    assert found.total() == COUNT
    refused = sum(count for what, count in found.items() if what.startswith("refused"))
    assert refused > COUNT // 4, found
    assert found["answered"] and found["error"], found


def test_mutants_differ_and_the_tried_are_told_apart() -> None:
    real = default_policy().wasm
    assert len({mutants.mutant(seed, real) for seed in range(60)}) > 50
    assert mutants.tried(wat.module()) == "answered"
    assert mutants.tried(wat.module(bodies={"opa_eval": wat.LOOP})) == "error"
    assert mutants.tried(b"\0asm") == "refused WASM_INVALID"


@pytest.mark.goal("G17")
def test_a_child_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found, ended = mutants.run(seed=1, count=5)
    assert found.total() == 0
    assert "ended the child" in ended
