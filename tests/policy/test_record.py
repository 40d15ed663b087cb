"""Decisions as they are logged: OPA's event, there and back; what masks take out of it."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.protocol.errors import PolicyError
from skep_policy.record import MASKS_MAX, DecisionRecord, Masks, Refused, Revision, outcome_of, revision_of

EVENT: dict[str, Any] = {
    "decision_id": "4ca636c1-55e4-417a-b1d8-4aceb67960d1", "timestamp": "2026-11-25T08:00:00.000000001Z",
    "path": "router/target", "labels": {"hive": "bee", "router": "RT.main", "policy_version": "7"},
    "input": {"meta": {"context": {"phone": "+34 600", "topic": "billing"}}, "routing": {"dst": None}, "src": None},
    "result": ["AI.billing@bee", "AI.general@bee"], "requested_by": "IO.http@bee", "trace_id": "0f" * 16,
    "metrics": {"timer_rego_query_eval_ns": 14_200}, "outcome": "ALLOWED",
    "candidates": ["AI.billing@bee", "AI.general@bee"], "chosen": "AI.general@bee",
    "refused": [{"name": "AI.billing@bee", "why": "NODE_NOT_FOUND"}],
    "shadow": {"version": 8, "differs": True}, "data_revision": {"ilks": 12, "tenants": 3},
    "bundles": {"policy": {"revision": "7"}},
}  # fmt: skip


def event(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(EVENT) | changes


def test_an_event_comes_back_as_it_was() -> None:
    record = DecisionRecord.from_json(event())
    assert record.to_json() == EVENT
    assert (record.policy_version, record.evaluation_ns, record.differs) == (7, 14_200, True)
    assert record.refused == (Refused("AI.billing@bee", "NODE_NOT_FOUND"),)
    assert record.revision == Revision(12, 3)


def test_what_the_router_writes_is_a_decision() -> None:
    """The shape of `decider.record_of`, without any of the optional members."""
    made = {
        name: EVENT[name] for name in ("decision_id", "timestamp", "path", "labels", "input", "requested_by")
    }
    record = DecisionRecord.from_json(made | {"result": None, "outcome": "OPA_NO_TARGET", "candidates": []})
    assert (record.outcome, record.candidates, record.revision) == ("OPA_NO_TARGET", (), None)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(EVENT)), json, max_size=6), json)
def test_whatever_stands_in_an_event_is_read_or_refused(changes: dict[str, Any], other: Any) -> None:
    for value in (event(**changes), other):
        named = isinstance(value, dict) and all(
            isinstance(value.get(name), str) and value[name] for name in ("decision_id", "timestamp", "path")
        )
        if not named:
            with pytest.raises(PolicyError, match="RECORD_INVALID"):
                DecisionRecord.from_json(value)
            continue
        written = DecisionRecord.from_json(value).to_json()
        assert DecisionRecord.from_json(written).to_json() == written
        orjson.dumps(written)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"path": "router/allow", "result": True}, "ALLOWED"),
        ({"path": "router/allow", "result": False}, "POLICY_DENIED"),
        ({"path": "router/allow"}, "POLICY_DENIED"),
        ({"path": "router/target", "result": "AI.a"}, "ALLOWED"),
        ({"path": "router/target"}, "OPA_NO_TARGET"),
        ({"path": "router/target", "result": "AI.a", "error": {"code": "FUEL"}}, "OPA_ERROR"),
    ],
)
def test_a_log_of_opa_itself_says_the_outcome_by_its_result(said: dict[str, Any], outcome: str) -> None:
    assert outcome_of(said) == outcome


@pytest.mark.parametrize(
    ("said", "revision"),
    [
        ({"data_revision": {"ilks": 4, "tenants": 1}}, Revision(4, 1)),
        ({"labels": {"data_revision": "4.1"}}, Revision(4, 1)),
        ({"labels": {"data_revision": "4"}}, Revision(4, 0)),
        ({"labels": {"data_revision": "soon"}}, None),
        ({"data_revision": {"ilks": "4"}}, None),
        ({}, None),
    ],
)
def test_the_data_s_revision_is_read_where_it_is_said(
    said: dict[str, Any], revision: Revision | None
) -> None:
    assert revision_of(said) == revision


# -- masks ---------------------------------------------------------------------------------------------------------


def masked(*rules: Any, **changes: Any) -> dict[str, Any]:
    found = event(**changes)
    Masks(rules).apply(found)
    return found


def test_a_masked_path_is_gone_and_said_to_be() -> None:
    found = masked("/input/meta/context/phone", "/input/meta/context/not-there")
    assert found["input"]["meta"]["context"] == {"topic": "billing"}
    assert found["erased"] == ["/input/meta/context/phone"]
    assert b"600" not in orjson.dumps(found)


def test_a_mask_may_replace_and_makes_objects_on_its_way() -> None:
    found = masked({"op": "upsert", "path": "/input/meta/context/who/name", "value": "***"})
    assert found["input"]["meta"]["context"]["who"] == {"name": "***"}
    assert found["masked"] == ["/input/meta/context/who/name"]


def test_masks_reach_into_lists_and_whole_members() -> None:
    upsert = {"op": "upsert", "path": "/refused/0/name", "value": "-"}
    found = masked("/candidates/0", "/result", upsert, "/candidates/9")
    assert found["candidates"] == ["AI.general@bee"]
    assert "result" not in found
    assert found["refused"] == [{"name": "-", "why": "NODE_NOT_FOUND"}]
    assert found["erased"] == ["/candidates/0", "/result"]


def test_a_part_is_percent_decoded() -> None:
    found = masked("/input/a%2Fb", input={"a/b": 1, "c": 2})
    assert found["input"] == {"c": 2}


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "input",
        "/",
        "/decision_id",
        "/labels/hive",
        7,
        {"op": "drop", "path": "/input"},
        {"path": 3},
        None,
    ],
)
def test_a_mask_that_is_none_is_refused(rule: Any) -> None:
    with pytest.raises(PolicyError, match="MASK_INVALID"):
        Masks([rule])


def test_masks_are_bounded() -> None:
    with pytest.raises(PolicyError, match="64 at most"):
        Masks(["/input/a"] * (MASKS_MAX + 1))


places = st.text("/ab0123", max_size=6).map("/input".__add__).filter(lambda path: path[6:7] in ("", "/"))


@given(json, st.lists(places, max_size=4))
def test_no_input_and_no_mask_can_break_masking(value: Any, paths: list[str]) -> None:
    for rules in (paths, [{"op": "upsert", "path": path, "value": 1} for path in paths]):
        found = masked(*rules, input=copy.deepcopy(value))
        assert len(found.get("erased", ())) + len(found.get("masked", ())) <= len(paths)
