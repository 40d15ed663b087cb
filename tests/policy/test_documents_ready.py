"""Who is ready: after any changes the published lists are what sorting all records anew gives."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.test_documents import ILKS, TENANTS, agent, applied
from skep_policy import ready
from skep_policy.documents import Documents, tenant_name
from skep_policy.ready import HEAD_MAX, LEVELS
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype, TenantRecord, TenantStatus

TAGS = ("billing", "default", "general", "human_handover")
SHUT = (TenantStatus.PENDING, TenantStatus.SUSPENDED)

records = st.builds(
    IlkRecord, st.sampled_from(ILKS), st.sampled_from(IlkKind), st.sampled_from(Subtype),
    st.sampled_from((Registration.PARTIAL, *[Registration.COMPLETE] * 3)),
    st.sampled_from((SealStatus.BROKEN, SealStatus.VALID, SealStatus.VALID)), st.sampled_from(TENANTS),
    st.sampled_from([bytes(16)] * 7 + ILKS[:1]), handler=st.sampled_from(("", "AI.a@bee", "AI.b@bee", "AI.c@bee")),
    roles=st.sampled_from(((), ("senior",))), degrees=st.sampled_from(((), (), ("senior",))),
    capabilities=st.lists(st.sampled_from(TAGS), max_size=3).map(tuple),
)  # fmt: skip
tenants = st.builds(TenantRecord, st.sampled_from(TENANTS[1:]), st.sampled_from(TenantStatus))
gone = st.one_of(st.sampled_from(ILKS), st.sampled_from(TENANTS[1:]).map(lambda tenant: ("tenant", tenant)))
seals = st.sampled_from(("off", "warn", "require"))


class Hive:
    """Documents, what its patches have made, and what ought to be there."""

    def __init__(self) -> None:
        self.documents = Documents()
        self.data: Any = orjson.loads(self.documents.whole())
        self.people: dict[bytes, IlkRecord] = {}
        self.shut: set[bytes] = set()
        self.seals = "require"

    def step(self, change: Any) -> None:
        if isinstance(change, IlkRecord):
            self.people[change.ilk] = change
            patches = self.documents.set(change)
        elif isinstance(change, TenantRecord):
            (self.shut.add if change.status in SHUT else self.shut.discard)(change.tenant)
            patches = self.documents.set_tenant(change)
        elif isinstance(change, tuple):
            self.shut.discard(change[1])
            patches = self.documents.remove_tenant(change[1])
        elif isinstance(change, str):
            self.seals = change
            patches = self.documents.set_config("seals", change)
        else:
            self.people.pop(change, None)
            patches = self.documents.remove(change)
        applied(self.data, patches)

    def expected(self, tenant: bytes) -> dict[str, Any]:
        lists: dict[str, list[list[Any]]] = {}
        for ilk, record in self.people.items():
            if record.tenant == tenant and tenant not in self.shut and self.answers(record):
                tags = set(record.capabilities) | ({""} if {"default", "general"} & set(record.capabilities) else set())
                senior = "senior" in record.roles + record.degrees
                level = 2 if record.kind == IlkKind.HUMAN else int(senior)
                for tag in tags:
                    lists.setdefault(tag, [[], [], []])[level].append((record.handler, ilk))
        return {
            tag: {
                name: [node for node, _ in sorted(found)[: ready.HEAD_MAX]]
                for name, found in zip(LEVELS, levels, strict=True)
            }
            for tag, levels in lists.items()
        }

    def answers(self, record: IlkRecord) -> bool:
        if record.registration != Registration.COMPLETE or record.canonical != bytes(16) or not record.handler:
            return False
        if record.kind == IlkKind.HUMAN:
            return record.subtype == Subtype.INTERNAL
        return record.kind == IlkKind.AGENT and (record.seal == SealStatus.VALID or self.seals != "require")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(records, records, records, tenants, gone, seals), max_size=40))
def test_the_lists_are_what_sorting_anew_gives(steps: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "HEAD_MAX", 2)  # so that much happens behind the heads
    hive = Hive()
    for step in steps:
        hive.step(step)
        assert hive.data == orjson.loads(hive.documents.whole())
        for tenant in TENANTS:
            found = hive.data["tenant"].get(tenant_name(tenant), {"ready": {}})["ready"]
            assert found == hive.expected(tenant)


def test_a_change_behind_the_head_publishes_nothing() -> None:
    hive = Documents()
    for number in range(100):
        ilk = number.to_bytes(16, "big")
        hive.set(agent(ilk, tenant=TENANTS[1], handler=f"AI.a{number:03}@bee", capabilities=("billing",)))
    heads = [agent(ILKS[0], tenant=TENANTS[1], handler=name, capabilities=("billing",)) for name in ("AI.z", "AI.a")]
    touched = [sum("ready" in patch.path for patch in hive.set(each) + hive.remove(each.ilk)) for each in heads]
    assert touched == [0, 2]
    (tenant,) = orjson.loads(hive.whole())["tenant"].values()
    assert tenant["ready"]["billing"] == {
        "agents": [f"AI.a{number:03}@bee" for number in range(HEAD_MAX)], "seniors": [], "people": [],
    }  # fmt: skip


def test_what_does_not_concern_readiness_moves_nobody() -> None:
    hive = Documents()
    one = agent(ILKS[0], tenant=TENANTS[1], handler="AI.a@bee", capabilities=("billing",))
    hive.set(one)
    assert not [patch for patch in hive.set(one._replace(roles=("kind",))) if "ready" in patch.path]
