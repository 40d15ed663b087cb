"""Hand-offs of channels: upstream's result objects, and nothing that nobody proved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gov.test_desk import Voice
from identity.parts import Office
from identity.parts import office as make_office
from skep_nodes.gov.handoff import Handoffs, is_handoff
from skep_nodes.gov.registry import Registry
from skep_nodes.identity.sqlite import SqliteStore


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with make_office(SqliteStore(tmp_path / "identity.db"), tmp_path) as one:
        yield one


def payload(**changes: Any) -> dict[str, Any]:
    subject = {"display_name": "Ana Ruiz", "email": "ana@example.org", "company_name": "Acme"}
    whole = {"type": "frontdesk_handoff", "schema_version": 1, "operation": "complete_registration"}
    return {**whole, "subject": subject, **changes}


async def test_a_subject_is_registered_once(office: Office) -> None:
    tenant = await office.tenant("lobby")
    ilk = await office.provision(tenant, "7:default:u1", "api")
    desk = Handoffs(Registry(Voice(office)))
    result = await desk.take(ilk, payload(tenant_id=tenant), "IO.http")
    assert (result["status"], result["result_code"]) == ("ok", "REGISTERED")
    assert (result["ilk_id"], result["tenant_id"], result["registration_status"]) == (ilk, tenant, "complete")
    again = await desk.take(ilk, payload(), "IO.http")
    assert again["result_code"] == "ALREADY_COMPLETE"
    known = (await office.whole(ilk))["identification"]
    assert (known["company_name"], known["email_verified"]) == ("Acme", False)


@pytest.mark.goal("G14")
async def test_what_is_not_in_order_registers_nobody(office: Office) -> None:
    tenant, acme = await office.tenant("lobby"), await office.tenant("Acme")
    await office.person(tenant, "+1", "taken@example.org")
    ilk = await office.provision(tenant, "7:default:u1", "api")
    voice = Voice(office)
    desk = Handoffs(Registry(voice))
    subject = {"display_name": "Ana", "email": "taken@example.org"}
    cases: list[tuple[dict[str, Any], str, str]] = [
        (payload(tenant_id=acme), "IO.http", "INVALID_REQUEST"),
        (payload(), "AI.desk", "INVALID_REQUEST"),
        (payload(schema_version=2), "IO.http", "INVALID_REQUEST"),
        (payload(operation="delete"), "IO.http", "INVALID_REQUEST"),
        (payload(subject="Ana"), "IO.http", "INVALID_REQUEST"),
        (payload(subject={"display_name": "x" * 300, "email": ""}), "IO.http", "INVALID_REQUEST"),
        (payload(subject={"display_name": "Ana"}), "IO.http", "MISSING_REQUIRED_FIELDS"),
        (payload(subject={"display_name": "Ana", "email": "nobody"}), "IO.http", "REGISTER_FAILED"),
        (payload(subject=subject), "IO.http", "REGISTER_FAILED"),
    ]
    for given, sender, code in cases:
        result = await desk.take(ilk, given, sender)
        assert result["result_code"] == code, (given, result)
        assert result["registration_status"] is None
    assert result["error_code"] == "DUPLICATE_EMAIL"
    voice.away = {"ILK_GET"}
    assert (await desk.take(ilk, payload(), "IO.http"))["result_code"] == "IDENTITY_UNAVAILABLE"
    assert (await office.whole(ilk))["registration_status"] == "temporary"
    assert is_handoff(payload())
    assert not is_handoff({"type": "text", "content": "frontdesk_handoff"})
