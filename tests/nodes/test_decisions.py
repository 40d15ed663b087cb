"""SY.decisions: what a router says is kept, masked, with data and policy of its time, and can be asked again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from skep import Hive
from skep.protocol.errors import PolicyError
from skep_nodes.sy.decisions import DecisionKeeper, log_folder
from skep_nodes.sy.decisions_data import HiveData
from skep_nodes.sy.decisions_desk import Settings, accept, read_settings, settings_of
from skep_nodes.sy.decisions_store import Bounds, LogReader, log_files, read_losses
from skep_policy.authority import Authority
from skep_policy.bundle import pack
from skep_policy.default import default_policy
from skep_policy.difference import Report
from skep_policy.documents import Documents
from skep_policy.record import RECORD_BYTES_MAX, Masks
from skep_policy.replay import data_at, spans
from skep_shm import (
    IlkKind,
    IlkRecord,
    IlksWriter,
    PolicyState,
    PolicyStatus,
    PolicyWriter,
    TenantRecord,
    TenantStatus,
    TenantsWriter,
)  # fmt: skip

EVENT: dict[str, Any] = {
    "decision_id": "d-1", "timestamp": "2026-11-25T08:00:00Z", "path": "router/allow", "outcome": "ALLOWED",
    "input": {"meta": {"context": {"phone": "600"}}}, "result": True, "requested_by": "AI.a@test",
    "trace_id": "0f" * 16,
}  # fmt: skip
TENANT = b"t" * 16


def event(**changes: Any) -> bytes:
    return orjson.dumps(EVENT | changes)


def agent(number: int, **facts: Any) -> IlkRecord:
    return IlkRecord(
        bytes([number]) * 16, IlkKind.AGENT, tenant=TENANT, handler=f"AI.n{number}@test", **facts
    )


@pytest.fixture
def hive(hive_root: Path) -> Hive:
    return Hive(hive_root, "test")


def lines(hive: Hive) -> list[dict[str, Any]]:
    return list(LogReader().read(log_files(log_folder(hive))))


def kinds(hive: Hive) -> list[str]:
    return [line["kind"] for line in lines(hive)]


# -- what a router says --------------------------------------------------------------------------------------------


def test_each_line_is_judged_alone() -> None:
    bad = [b"{", b"[]", b"7", b'{"decision_id": "x"}', b"\xff", b"x" * (RECORD_BYTES_MAX + 1), b"[" * 5000]
    found = accept(
        b"\n".join([event(), *bad, b"", event(decision_id="d-2"), b'{"lost": 3}']), "RT.main@test", Masks()
    )
    assert (found.decisions, found.invalid, found.lost) == (2, len(bad), 3)
    assert [line["kind"] for line in found.documents] == ["decision", "decision", "lost"]
    assert found.documents[2]["where"] == "RT.main@test"


def test_a_router_cannot_say_what_kind_a_line_is() -> None:
    [line] = accept(event(kind="policy", crc="0"), "RT.main@test", Masks()).documents
    assert line["kind"] == "decision"
    assert "crc" not in line


def test_a_negative_loss_takes_nothing_away() -> None:
    assert accept(b'{"lost": -5}', "RT.main@test", Masks()).lost == 0


@pytest.mark.parametrize(
    "settings", [[], {"mask": []}, {"masks": "/input"}, {"masks": ["input"]}, {"file_mib": 0}, {"file_mib": True},
                 {"total_mib": 1, "file_mib": 2}, {"file_hours": "1"}]
)  # fmt: skip
def test_settings_that_are_wrong_are_refused(settings: Any) -> None:
    with pytest.raises(PolicyError, match=r"SETTINGS_INVALID|MASK_INVALID"):
        settings_of(settings)


def test_settings_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "decisions.json"
    path.write_text(
        json.dumps({"masks": ["/input/meta/context/phone"], "file_mib": 1, "file_hours": 2, "total_mib": 64})
    )
    found = read_settings(path)
    assert found.bounds == Bounds(1 << 20, 7200, 64 << 20)
    assert len(found.masks) == 1
    assert read_settings(None).bounds == Bounds()
    with pytest.raises(PolicyError, match="SETTINGS_INVALID"):
        read_settings(tmp_path / "none.json")


# -- what is kept --------------------------------------------------------------------------------------------------


def test_what_is_masked_is_in_no_file(hive: Hive) -> None:
    keeper = DecisionKeeper(hive, Settings(Masks(["/input/meta/context/phone"])))
    keeper.keep(event(), "RT.main@test", 0)
    keeper.close()
    [path] = log_files(log_folder(hive))
    assert b"600" not in path.read_bytes()
    assert lines(hive)[-1]["erased"] == ["/input/meta/context/phone"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_losses_of_router_and_log_are_counted_together(hive: Hive) -> None:
    keeper = DecisionKeeper(hive, Settings())
    keeper.keep(event() + b'\nnothing\n{"lost": 4}', "RT.main@test", 0)
    keeper.close()
    assert keeper.status()["lost"] == read_losses(log_folder(hive)) == 5
    assert kinds(hive) == ["data", "policy", "decision", "lost"]


def test_without_regions_the_log_is_kept_and_says_so(hive: Hive) -> None:
    keeper = DecisionKeeper(hive, Settings())
    keeper.keep(event(), "RT.main@test", 0)
    keeper.close()
    data, policy, _ = lines(hive)
    assert data["data"]["agents"] == {}
    assert policy["version"] == 0
    assert policy["error"]


def test_the_policy_in_force_stands_in_the_log_and_a_new_one_too(hive: Hive) -> None:
    authority = Authority.load_or_create(hive.root)
    writer = PolicyWriter.create(hive.root, "test")
    for version in (3, 4):
        writer.publish(
            PolicyState(version, PolicyStatus.OK, pack(default_policy(), version, "test", authority))
        )
        if version == 3:
            keeper = DecisionKeeper(hive, Settings())
        keeper.keep(event(), "RT.main@test", 0)
    keeper.look(0)
    keeper.close()
    writer.close()
    policies = [line for line in lines(hive) if line["kind"] == "policy"]
    assert [line["version"] for line in policies] == [3, 4]
    assert policies[0]["rego"] == default_policy().rego
    assert policies[1]["manifest"]["version"] == 4


def test_a_bundle_that_nobody_signed_is_noted_and_not_believed(hive: Hive) -> None:
    Authority.load_or_create(hive.root)
    stranger = Authority.load_or_create(hive.root / "elsewhere")
    writer = PolicyWriter.create(hive.root, "test")
    writer.publish(PolicyState(3, PolicyStatus.OK, pack(default_policy(), 3, "test", stranger)))
    keeper = DecisionKeeper(hive, Settings())
    keeper.keep(event(), "RT.main@test", 0)
    keeper.close()
    writer.close()
    assert "SIGNATURE_INVALID" in lines(hive)[1]["error"]
    assert "rego" not in lines(hive)[1]


# -- the data of a time --------------------------------------------------------------------------------------------

Regions = tuple[IlksWriter, TenantsWriter]


@pytest.fixture
def regions(hive: Hive) -> Any:
    ilks, tenants = IlksWriter.create(hive.root, "test"), TenantsWriter.create(hive.root, "test")
    ilks.fill([agent(1, capabilities=("billing",))])
    tenants.fill([TenantRecord(TENANT, TenantStatus.ACTIVE)])
    yield ilks, tenants
    ilks.close()
    tenants.close()


CHANGES: list[Callable[[IlksWriter, TenantsWriter], Any]] = [
    lambda ilks, tenants: ilks.put(agent(2, capabilities=("billing", "general"))),
    lambda ilks, tenants: tenants.put(TenantRecord(TENANT, TenantStatus.SUSPENDED)),
    lambda ilks, tenants: ilks.put(agent(1, roles=("senior",))),
    lambda ilks, tenants: ilks.put(IlkRecord(b"\x09" * 16, canonical=b"\x02" * 16)),
    lambda ilks, tenants: ilks.put(IlkRecord(b"\x07" * 16)),
    lambda ilks, tenants: ilks.remove(b"\x01" * 16),
    lambda ilks, tenants: ilks.remove(b"\x09" * 16),
    lambda ilks, tenants: tenants.remove(TENANT),
]


@pytest.mark.parametrize("rotated", [False, True])
def test_the_data_of_every_decision_can_be_rebuilt(hive: Hive, regions: Regions, rotated: bool) -> None:
    """After each change a decision is logged; asked at that decision, the log gives what `Documents` said then."""
    keeper = DecisionKeeper(hive, Settings(bounds=Bounds(file_age_s=2.5 if rotated else 1e9)))
    wanted = {}
    for number, change in enumerate(CHANGES):
        change(*regions)
        keeper.look(number)
        revision = keeper.data.revision._asdict()
        keeper.keep(event(decision_id=f"d{number}", data_revision=revision), "RT.main@test", number)
        wanted[f"d{number}"] = orjson.loads(keeper.data.documents.whole())
    keeper.close()
    assert (len(log_files(log_folder(hive))) > 1) == rotated
    for identity in wanted:
        assert data_of(hive, identity) == wanted[identity]


def data_of(hive: Hive, decision_id: str) -> dict[str, Any]:
    for span in spans(lines(hive), Report()):
        for steps, case in span.in_order():
            if case.decision_id == decision_id:
                return data_at(span, steps)
    raise AssertionError(f"{decision_id} is not in the log")


@pytest.mark.parametrize("seals", ["off", "require"])
def test_the_log_makes_the_same_data_as_a_router(hive: Hive, regions: Regions, seals: str) -> None:
    data = HiveData(hive.root, "test", seals)
    data.look()
    documents = Documents({"frontdesk": "SY.frontdesk.gov@test", "identity": True, "seals": seals})
    documents.set_tenant(TenantRecord(TENANT, TenantStatus.ACTIVE))
    documents.set(agent(1, capabilities=("billing",)))
    assert orjson.loads(data.documents.whole()) == orjson.loads(documents.whole())
    data.close()


def test_a_region_that_ends_leaves_its_last_state_and_its_next_writer_is_heard(
    hive: Hive, regions: Regions
) -> None:
    data = HiveData(hive.root, "test")
    data.look()
    regions[0].close()
    assert data.look() == []
    assert len(data.documents) == 1
    again = IlksWriter.create(hive.root, "test")
    again.fill([agent(5)])
    data.look()
    data.look()
    assert [record for number in range(9) if (record := data.documents.record(bytes([number]) * 16))] == [
        agent(5)
    ]
    again.close()
    data.close()


def test_a_burst_past_the_ring_is_read_anew(hive: Hive, regions: Regions) -> None:
    data = HiveData(hive.root, "test")
    data.look()
    for round_ in range(300):
        for number in range(2, 60):
            regions[0].put(agent(number, roles=(f"r{round_}",)))
    regions[0].remove(b"\x01" * 16)
    data.look()
    assert len(data.documents) == 58
    assert data.documents.record(b"\x01" * 16) is None
    data.close()


def test_a_customer_costs_nothing(hive: Hive, regions: Regions) -> None:
    data = HiveData(hive.root, "test")
    data.look()
    regions[0].put(IlkRecord(b"\x66" * 16, tenant=TENANT))
    assert data.look() == []
    data.close()
