"""Documents: after any changes, the patches have made of the data what `whole` says, and each patch can be applied."""

from __future__ import annotations

import copy
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from skep_policy.documents import Documents, Patch, ilk_bytes, ilk_name, roots_of, tenant_name
from skep_policy.ready import HEAD_MAX
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype, TenantRecord, TenantStatus

ILKS = [bytes((n,)) * 16 for n in range(1, 7)]
TENANTS = [bytes(16), b"t" * 16, b"u" * 16]
TAGS = ("billing", "general", "human_handover")


def agent(ilk: bytes, **facts: Any) -> IlkRecord:
    base: dict[str, Any] = {"kind": IlkKind.AGENT, "registration": Registration.COMPLETE, "seal": SealStatus.VALID}
    return IlkRecord(ilk, **(base | facts))


def applied(data: Any, patches: list[Patch]) -> Any:
    """What an engine does: parents must be there, and so must what is removed."""
    for path, value in patches:
        parent = data
        for part in path[:-1]:
            parent = parent[part]
        if value is None:
            del parent[path[-1]]
        else:
            parent[path[-1]] = orjson.loads(value)
    return data


records = st.builds(
    IlkRecord, st.sampled_from(ILKS), st.sampled_from(IlkKind), st.sampled_from(Subtype),
    st.sampled_from(Registration), st.sampled_from(SealStatus), st.sampled_from(TENANTS),
    st.sampled_from([bytes(16)] * 3 + ILKS), handler=st.sampled_from(("", "AI.a@bee", "AI.b@bee")),
    capabilities=st.lists(st.sampled_from(TAGS), max_size=3).map(tuple),
)
changes = st.one_of(
    records, st.sampled_from(ILKS),
    st.builds(TenantRecord, st.sampled_from(TENANTS[1:]), st.sampled_from(TenantStatus)),
    st.sampled_from(TENANTS[1:]).map(lambda tenant: ("gone", tenant)),
)


@given(st.lists(changes, max_size=40))
def test_patches_make_of_the_data_what_whole_says(steps: list[Any]) -> None:
    documents = Documents({"frontdesk": "SY.frontdesk.gov@bee"})
    data = orjson.loads(documents.whole())
    for step in steps:
        if isinstance(step, IlkRecord):
            patches = documents.set(step)
        elif isinstance(step, TenantRecord):
            patches = documents.set_tenant(step)
        elif isinstance(step, tuple):
            patches = documents.remove_tenant(step[1])
        else:
            patches = documents.remove(step)
        before = copy.deepcopy(data)
        applied(data, patches)
        assert data == orjson.loads(documents.whole())
        changed = {root for root in data if data[root] != before[root]}
        assert changed <= roots_of(patches)


def test_an_external_human_never_stands_in_the_data() -> None:
    documents = Documents()
    before = documents.whole()
    for subtype in (Subtype.NONE, Subtype.EXTERNAL):
        assert documents.set(IlkRecord(ILKS[0], IlkKind.HUMAN, subtype, handler="IO.x@bee", capabilities=("a",))) == []
    assert documents.set(IlkRecord(ILKS[0], IlkKind.HUMAN, Subtype.INTERNAL)) == []
    assert documents.whole() == before
    assert documents.record_json(ILKS[0]) == b"null"


def test_an_operator_with_a_node_stands() -> None:
    documents = Documents()
    operator = IlkRecord(
        ILKS[0], IlkKind.HUMAN, Subtype.INTERNAL, handler="IO.terminal@bee", capabilities=("human_handover",),
    )  # fmt: skip
    documents.set(operator)
    data = orjson.loads(documents.whole())
    name = ilk_name(ILKS[0])
    assert data["capability"] == {"human_handover": {name: name}}
    assert data["node"] == {"IO.terminal@bee": name}
    assert data["agents"][name]["human_subtype"] == "internal"


def test_a_record_states_what_the_texts_promise() -> None:
    documents = Documents()
    documents.set_tenant(TenantRecord(TENANTS[1], TenantStatus.ACTIVE))
    documents.set(agent(
        ILKS[0], tenant=TENANTS[1], handler="AI.a@bee", roles=("senior",), capabilities=("billing",),
        degrees=("degree:1/2",),
    ))  # fmt: skip
    assert orjson.loads(documents.record_json(ILKS[0])) == {
        "ilk": ilk_name(ILKS[0]), "type": "agent", "ilk_type": "agent", "human_subtype": "",
        "tenant": tenant_name(TENANTS[1]), "tenant_id": tenant_name(TENANTS[1]), "tenant_status": "active",
        "registration_status": "complete", "roles": ["senior"], "capabilities": ["billing"],
        "degrees": ["degree:1/2"], "handler_node": "AI.a@bee", "sealed": True,
    }  # fmt: skip


def test_one_change_costs_the_same_whatever_the_number_of_records() -> None:
    """Counted in patches and bytes, not in time: what the engine is given is what a change costs."""

    def cost(count: int) -> int:
        documents = Documents()
        for number in range(count):
            ilk = number.to_bytes(16, "big")
            documents.set(agent(ilk, tenant=TENANTS[1], handler=f"AI.n{number:05}@bee", capabilities=("general",)))
        newcomer = agent(ILKS[0], tenant=TENANTS[1], handler="AI.new@bee", capabilities=("general",))
        patches = documents.set(newcomer._replace(handler="AI.a@bee"))  # before all others
        patches += documents.set(newcomer)
        patches += documents.set(newcomer._replace(capabilities=("general", "billing"))) + documents.remove(ILKS[0])
        return sum(len(patch.value or b"") for patch in patches) + len(patches)

    assert cost(HEAD_MAX + 1) == cost(5000)


def test_a_node_that_another_record_took_over_is_not_unnamed_by_the_first() -> None:
    documents = Documents()
    documents.set(agent(ILKS[0], handler="AI.a@bee"))
    documents.set(agent(ILKS[1], handler="AI.a@bee"))
    documents.remove(ILKS[0])
    assert documents.ilk_of_node("AI.a@bee") == ILKS[1]


def test_names_of_ilks() -> None:
    assert ilk_bytes(ilk_name(ILKS[0])) == ILKS[0]
    assert ilk_bytes("ilk:nonsense") is None
    assert ilk_bytes(tenant_name(ILKS[0])) is None
