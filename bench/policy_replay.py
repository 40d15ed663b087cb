"""How fast recorded decisions are made again: lines of a decision log in, groups of differences out, on one core.

The log is made here, by the default policy itself: distinct messages of many kinds over a hive of many agents, with a
change of the data now and then. All of the work counts: the start of the engine, and each line read as bytes, checked,
parsed, asked and compared. An equal question on equal data is asked once, as replay does; `distinct` makes every
question another one, which is the other end. `suite_policy` calls `replay_rate`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import orjson

from skep_nodes.cli.policy_diff import asked_again, candidate_of
from skep_nodes.sy.decisions_store import opened, sealed
from skep_policy.decider import outcome
from skep_policy.default import default_policy
from skep_policy.difference import Report
from skep_policy.documents import Documents, ilk_name
from skep_policy.manifest import ALLOW, TARGET
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, TenantRecord, TenantStatus

TENANTS = 20
TAGS = 200
PATCH_EVERY = 500  # decisions between two changes of the data


def replay_rate(decisions: int = 40_000, agents: int = 10_000, *, distinct: bool = False) -> dict[str, float]:
    """Decisions a second of one core, and how many differed (0: the policy is asked what it answered itself)."""
    lines = list(recorded(decisions, agents, distinct))
    report = Report()
    began_s, began_wall_s = time.process_time(), time.perf_counter()
    asked_again((line for raw in lines if (line := opened(raw)) is not None), default_policy(), report)
    cpu_s, wall_s = time.process_time() - began_s, time.perf_counter() - began_wall_s
    assert report.replayed == decisions, report
    return {
        "replay_per_s": decisions / cpu_s,
        "replay_wall_per_s": decisions / wall_s,
        "differ": float(report.changed),
    }


def recorded(decisions: int, agents: int, distinct: bool = False) -> Iterator[bytes]:
    """The lines of a log, as SY.decisions writes them."""
    dice = random.Random(7)
    documents = Documents({"frontdesk": "SY.frontdesk.gov@bench", "identity": True})
    for number in range(TENANTS):
        documents.set_tenant(TenantRecord(_id(b"t", number), TenantStatus.ACTIVE))
    for number in range(agents):
        documents.set(_agent(number, dice))
    yield sealed({"kind": "data", "data_revision": _at(1), "data": orjson.Fragment(documents.whole())})
    engine = candidate_of(default_policy()).engine(documents.whole())
    for number in range(decisions):
        revision = 1 + number // PATCH_EVERY
        if number and number % PATCH_EVERY == 0:
            patches = documents.set(_agent(dice.randrange(agents), dice))
            engine.apply(patches)
            shown = [{"path": p.path} if p.value is None else {"path": p.path, "value": orjson.Fragment(p.value)}
                     for p in patches]  # fmt: skip
            yield sealed({"kind": "patch", "data_revision": _at(revision), "patches": shown})
        path = TARGET if number % 2 else ALLOW
        yield sealed(
            {
                "kind": "decision",
                "data_revision": _at(revision),
                **_decided(engine, path, (number, distinct), documents),
            }
        )
    engine.close()


def _decided(engine: Any, path: str, which: tuple[int, bool], documents: Documents) -> dict[str, Any]:
    number, distinct = which
    who = IlkRecord(_id(b"h", number), registration=Registration.COMPLETE, tenant=_id(b"t", number % TENANTS))
    meta: dict[str, Any] = {"type": "user", "action": "read", "src_ilk": ilk_name(who.ilk),
            "context": {"required_capability": f"skill-{number % TAGS}"}}  # fmt: skip
    if distinct:
        meta["context"]["turn"] = number
        meta["target"] = f"nobody-{number}"
        meta["action_class"] = f"none-{number}"
    dst = None if path == TARGET else f"AI.n{number % 1000}@bench"
    asked = {"meta": meta, "routing": {"dst": dst}, "src": documents.document(who), "dst": None}
    found = engine.decide(path, orjson.dumps(asked))
    reason, _, names = outcome(path, found)
    return {
        "decision_id": f"d{number:08}", "timestamp": f"2026-11-25T08:00:00.{number:09}Z", "path": path,
        "labels": {"hive": "bench", "router": "RT.main", "policy_version": "1"}, "input": asked,
        "result": found.result, "requested_by": f"IO.http{number % 9}@bench", "trace_id": f"{number:032x}",
        "metrics": {"timer_rego_query_eval_ns": found.ns}, "outcome": reason.value if reason else "ALLOWED",
        "candidates": list(names), "chosen": names[0] if names else "", "refused": [],
    }  # fmt: skip


def _agent(number: int, dice: random.Random) -> IlkRecord:
    return IlkRecord(
        _id(b"a", number), IlkKind.AGENT, registration=Registration.COMPLETE, seal=SealStatus.VALID,
        tenant=_id(b"t", number % TENANTS), handler=f"AI.n{number}@bench",
        capabilities=tuple(f"skill-{tag}" for tag in sorted(dice.sample(range(TAGS), 2))),
    )  # fmt: skip


def _id(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(15, "big")


def _at(revision: int) -> dict[str, int]:
    return {"ilks": revision, "tenants": 1}


if __name__ == "__main__":
    for each in (False, True):
        print({"distinct": each} | {name: round(value) for name, value in replay_rate(distinct=each).items()})
