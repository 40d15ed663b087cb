"""What goes wrong upstream (spec/identity.md §11), and must not here. On both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from identity.parts import (
    ADMIN,
    AGENT,
    CHANNEL,
    DESK,
    HIVE,
    ORCHESTRATOR,
    Office,
    agent,
    channel_of,
    human,
    new_ich,
    new_ilk,
)
from identity.parts import office as make_office
from skep import Hive
from skep_nodes.identity import ids
from skep_nodes.identity.callers import Caller
from skep_nodes.identity.first_start import first_start
from skep_nodes.identity.store import Store, scan
from skep_nodes.identity.tables import CHANNELS, TENANTS
from skep_nodes.sy.standing import Standing
from skep_shm import Grant, IlkMode, TenantStatus

# -- tenancy -------------------------------------------------------------------------------------------------------


async def test_there_is_no_arbitrary_default_tenant(office: Office) -> None:
    await office.tenant("first"), await office.tenant("second")
    assert await office.refused("ILK_PROVISION", channel_of("+1"), CHANNEL) == "INVALID_TENANT"


async def test_the_default_tenant_is_written_down_and_stays(
    make_store: Callable[[], Store], tmp_path: Path
) -> None:
    hive = Hive(tmp_path, HIVE)
    hive.config_dir.mkdir()
    said: list[str] = []
    async with make_office(make_store(), tmp_path) as office:
        await first_start(office.service, hive, said.append)
        await office.tenant("a tenant that comes first in every order")
        ilk = await office.provision("", "+1")
        default = (await office.whole(ilk))["tenant_id"]
    async with make_office(make_store(), tmp_path) as office:
        await first_start(office.service, hive, said.append)
        assert await office.provision(default, "+1") == ilk
        assert await office.provision("", "+1") == ilk, "an empty tenant is the default one, not a miss"
        assert len((await office.ok("TNT_LIST", {}))["tenants"]) == 2


@pytest.mark.parametrize(("verb", "code"), [("TNT_SUSPEND", "TENANT_SUSPENDED"), ("", "TENANT_PENDING")])
async def test_a_tenant_that_is_not_active_takes_nobody(office: Office, verb: str, code: str) -> None:
    tenant = await office.tenant(status="active" if verb else "pending")
    if verb:
        ilk = await office.provision(tenant, "+1")
        await office.ok(verb, {"tenant_id": tenant})
        email = {"ich_id": new_ich(), "type": "email", "address": "a@b.cd"}
        assert await office.refused("ILK_ADD_CHANNEL", {"ilk_id": ilk, "channel": email}, DESK) == code
        assert await office.refused("ILK_UPDATE", {"ilk_id": ilk, "add_roles": ["vip"]}) == code
    assert await office.refused("ILK_PROVISION", channel_of("+1", tenant), CHANNEL) == code
    assert await office.refused("ILK_REGISTER", human(new_ilk(), tenant)) == code
    assert await office.refused("ILK_REGISTER", agent(new_ilk(), tenant), ORCHESTRATOR) == code


async def test_suspending_is_published_and_taken_back(office: Office) -> None:
    tenant = await office.tenant()
    for verb, status in (("TNT_SUSPEND", TenantStatus.SUSPENDED), ("TNT_RESUME", TenantStatus.ACTIVE)):
        office.published.changes.clear()
        answer = await office.ok(verb, {"tenant_id": tenant, "change_reason": "bill"})
        assert answer["tenant_status"] == status.name.lower()
        assert [each.record.status for each in office.published.changes if each.table is TENANTS] == [status]
        again = await office.ok(verb, {"tenant_id": tenant})
        assert again == answer, "a repetition after a lost answer is no error"


async def test_unknown_tenants_are_refused(office: Office) -> None:
    ghost = ids.tenant_text(ids.new_id())
    assert await office.refused("ILK_PROVISION", channel_of("+1", ghost), CHANNEL) == "INVALID_TENANT"


async def test_only_an_administrator_approves(office: Office) -> None:
    assert (
        await office.refused("TNT_CREATE", {"name": "x", "status": "active"}, DESK)
        == "INVALID_TENANT_TRANSITION"
    )
    made = await office.ok("TNT_CREATE", {"name": "x"}, DESK)
    assert (made["tenant_status"], made["created"], made["matched_by"]) == ("pending", True, None)
    assert (
        await office.refused("TNT_APPROVE", {"tenant_id": made["tenant_id"]}, DESK)
        == "UNAUTHORIZED_REGISTRAR"
    )
    approved = await office.ok("TNT_APPROVE", {"tenant_id": made["tenant_id"]})
    assert approved["approved_by"] == ADMIN.name
    (tenant,) = (await office.ok("TNT_LIST", {}))["tenants"]
    assert (tenant["status"], tenant["approved_by"]) == ("active", ADMIN.name), "the approver is kept"
    suspended = await office.ok("TNT_SUSPEND", {"tenant_id": made["tenant_id"]})
    assert suspended["tenant_status"] == "suspended"
    approve = {"tenant_id": made["tenant_id"]}
    assert await office.refused("TNT_APPROVE", approve) == "INVALID_TENANT_TRANSITION"


async def test_a_companys_name_or_domain_admits_nobody(office: Office) -> None:
    lobby, acme = await office.tenant("lobby"), await office.tenant("Acme  Inc", domain="acme.example")
    mallory = await office.provision(lobby, "+666")
    for claim in ({"name": "ACME inc"}, {"name": "other", "domain": "Acme.example"}):
        answer = await office.say("TNT_CREATE", claim, DESK)
        assert answer["error_code"] == "TENANT_NOT_ADMITTED"
        assert acme not in str(answer), "who knows a name does not learn the id"
    asked = human(mallory, acme, "mallory@acme.example")
    assert await office.refused("ILK_REGISTER", asked, DESK) == "TENANT_NOT_ADMITTED"
    assert await office.refused("ILK_REGISTER", human(new_ilk(), acme), DESK) == "TENANT_NOT_ADMITTED"
    found = await office.ok("TNT_CREATE", {"name": "acme inc"})
    assert (found["tenant_id"], found["created"], found["matched_by"]) == (acme, False, "name")
    await office.ok("ILK_REGISTER", asked), "an administrator admits her"


async def test_a_tenant_made_for_somebody_admits_that_one_alone(office: Office) -> None:
    lobby = await office.tenant("lobby")
    ana, eve = await office.provision(lobby, "+1"), await office.provision(lobby, "+2")
    claim = {"name": "Ana Ltd", "requested_by_ilk": ana}
    made = (await office.ok("TNT_CREATE", claim, DESK))["tenant_id"]
    assert (await office.ok("TNT_CREATE", claim, DESK))["created"] is False, "a repetition finds it"
    assert await office.refused("ILK_REGISTER", human(ana, made), DESK) == "TENANT_PENDING"
    await office.ok("TNT_APPROVE", {"tenant_id": made})
    await office.ok("ILK_REGISTER", human(ana, made), DESK)
    assert await office.refused("ILK_REGISTER", human(eve, made), DESK) == "TENANT_NOT_ADMITTED"


# -- who may ask ---------------------------------------------------------------------------------------------------

ALLOWED: dict[str, tuple[Caller, ...]] = {
    "ILK_PROVISION": (CHANNEL,), "ILK_REGISTER": (ADMIN, DESK, ORCHESTRATOR), "ILK_ADD_CHANNEL": (ADMIN, DESK),
    "ILK_UPDATE": (ADMIN, ORCHESTRATOR), "ILK_DELETE": (ADMIN,), "ILK_MERGE": (ADMIN,), "ILK_SPLIT": (ADMIN,),
    "TNT_CREATE": (ADMIN, DESK), "TNT_APPROVE": (ADMIN,), "TNT_SUSPEND": (ADMIN,), "TNT_RESUME": (ADMIN,),
    "TNT_LIST": (ADMIN,), "ILK_LIST": (ADMIN,), "ILK_HISTORY": (ADMIN,), "VOCABULARY_ADD": (ADMIN,),
    "VOCABULARY_DEPRECATE": (ADMIN,), "IDENTITY_EXPORT": (ADMIN,), "IDENTITY_IMPORT": (ADMIN,),
    "ILK_GET": (ADMIN, DESK, ORCHESTRATOR, CHANNEL, AGENT),
    "VOCABULARY_LIST": (ADMIN, DESK, ORCHESTRATOR, CHANNEL, AGENT),
}  # fmt: skip
EVERYBODY = (ADMIN, DESK, ORCHESTRATOR, CHANNEL, AGENT)


@pytest.mark.goal("G14")
def test_every_verb_has_its_list_of_callers() -> None:
    from skep_nodes.identity.verbs import Settings, verbs

    known = verbs(Settings(HIVE))
    assert known.keys() == ALLOWED.keys()
    for name, verb in known.items():
        assert {caller for caller in EVERYBODY if verb.allows(caller, HIVE)} == set(ALLOWED[name]), name
        if name != "VOCABULARY_LIST":
            for base in ("SY.admin", "SY.frontdesk.gov", "SY.orchestrator", "IO.whatsapp", "AI.desk"):
                assert not verb.allows(Caller(f"{base}@elsewhere", Standing.SYSTEM), HIVE), (
                    "another hive's name"
                )
                assert not verb.allows(Caller(f"{base}@{HIVE}", Standing.UNKNOWN), HIVE), (
                    "a name that no router proved"
                )
            for name_ in (
                "",
                "SY.admin2@test",
                "SY.frontdesk@test",
                "SY.administrator@test",
                "AISY.admin@test",
            ):
                assert not verb.allows(Caller(name_, Standing.FOREIGN), HIVE)
    relay = Caller(f"SY.orchestrator.relay.9@{HIVE}", Standing.SYSTEM)
    assert known["ILK_REGISTER"].allows(relay, HIVE)
    assert verbs(Settings(HIVE, frontdesk="SY.lobby"))["ILK_REGISTER"].allows(
        Caller(f"SY.lobby@{HIVE}", Standing.SYSTEM), HIVE
    )


@pytest.mark.goal("G14")
async def test_a_channel_node_has_what_its_grants_name(office: Office) -> None:
    one, two = await office.tenant("one"), await office.tenant("two")
    granted = Grant(
        4242, "IO.wa", IlkMode.ANY, tenant=ids.parse(ids.TENANT, one) or b"", channel_kinds="whatsapp,sms"
    )
    foreign = Caller(f"IO.wa@{HIVE}", Standing.FOREIGN, (granted,))
    await office.ok("ILK_PROVISION", channel_of("+1", one), foreign)
    assert await office.ok("ILK_PROVISION", channel_of("+1"), foreign) == await office.ok(
        "ILK_PROVISION", channel_of("+1", one), foreign
    ), "without a tenant it is its own"
    assert await office.refused("ILK_PROVISION", channel_of("+1", two), foreign) == "CHANNEL_NOT_GRANTED"
    assert (
        await office.refused("ILK_PROVISION", channel_of("a@b.cd", one, "email"), foreign)
        == "CHANNEL_NOT_GRANTED"
    )
    for grants in ((), (Grant(4242, "IO.wa"),), (Grant(4242, "IO.wa", IlkMode.LISTED, ids.new_id()),)):
        nobody = Caller(f"IO.wa@{HIVE}", Standing.FOREIGN, grants)
        assert await office.refused("ILK_PROVISION", channel_of("+1", one), nobody) == "CHANNEL_NOT_GRANTED"


@pytest.mark.goal("G14")
async def test_tenants_never_see_each_other(office: Office) -> None:
    one, two = await office.tenant("one"), await office.tenant("two")
    ana = await office.person(one, "+1", "ana@b.cd")
    theirs = Grant(1, "AI.two", tenant=ids.parse(ids.TENANT, two) or b"")
    spy = Caller(f"AI.two@{HIVE}", Standing.FOREIGN, (theirs,))
    assert await office.refused("ILK_GET", {"ilk_id": ana}, spy) == "NOT_FOUND"
    own = Caller(
        f"AI.one@{HIVE}", Standing.FOREIGN, (Grant(1, "AI.one", tenant=ids.parse(ids.TENANT, one) or b""),)
    )
    got = await office.ok("ILK_GET", {"ilk_id": ana}, own)
    assert got["ilk"]["identification"] == {"display_name": "Ana"}
    assert "ana@b.cd" not in str(got), "an agent does not see addresses"
    assert "+1" not in str(got)


async def test_a_front_desk_registers_people_only(office: Office) -> None:
    tenant = await office.tenant()
    assert await office.refused("ILK_REGISTER", agent(new_ilk(), tenant), DESK) == "UNAUTHORIZED_REGISTRAR"


# -- look-ups ------------------------------------------------------------------------------------------------------


async def test_no_second_row_after_a_tenant_change(make_store: Callable[[], Store], tmp_path: Path) -> None:
    """Upstream finds two after a restart."""
    async with make_office(make_store(), tmp_path) as office:
        one, two = await office.tenant("one"), await office.tenant("two")
        ilk = await office.provision(one, "+1")
        await office.ok("ILK_REGISTER", human(ilk, two))
    async with make_office(make_store(), tmp_path) as office:
        rows = [row async for found in scan(office.service.store, CHANNELS) for _, row in found.rows]
        assert [(row.ilk, row.tenant) for row in rows] == [
            (ids.parse(ids.ILK, ilk), ids.parse(ids.TENANT, two))
        ]
        assert await office.owner(two, "+1") == ilk


async def test_a_tenant_change_that_would_take_over_a_channel_is_refused(office: Office) -> None:
    one, two = await office.tenant("one"), await office.tenant("two")
    ana, theirs = await office.provision(one, "+1"), await office.provision(two, "+1")
    answer = await office.say("ILK_REGISTER", human(ana, two))
    assert (answer["error_code"], answer["existing_ilk_id"]) == ("DUPLICATE_ICH", theirs)
    assert (await office.whole(ana))["registration_status"] == "temporary"


async def test_codes_never_carry_text(office: Office) -> None:
    for payload in ({}, {"name": ""}, {"name": "x" * 999}, {"name": 3}, {"nam": "x"}):
        answer = await office.say("TNT_CREATE", payload)
        assert answer["error_code"] == "INVALID_REQUEST"


# -- evidence ------------------------------------------------------------------------------------------------------


@pytest.mark.goal("G14")
async def test_an_unproven_address_joins_nobody(office: Office) -> None:
    """Whatever the front desk believes: letters in her name, and a person who only ever claimed an address."""
    tenant = await office.tenant()
    ana = await office.person(tenant, "+1", "ana@example.org")
    forged = await office.provision(tenant, "ana@example.org", "email-unproven")
    mail = {"ich_id": new_ich(), "type": "email", "address": "ana@example.org"}
    spoof = {"ich_id": new_ich(), "type": "email-unproven", "address": "ana@example.org"}
    asked = {"ilk_id": ana, "channel": mail, "merge_from_ilk_id": forged}
    said = await office.say("ILK_ADD_CHANNEL", asked, DESK)
    assert said["error_code"] == "EVIDENCE_UNPROVEN"
    assert "administrator" in said["message"]
    assert await office.refused("ILK_ADD_CHANNEL", {**asked, "proof": "sender"}, DESK) == "EVIDENCE_UNPROVEN"
    assert await office.refused("ILK_ADD_CHANNEL", {**asked, "proof": "looks"}, DESK) == "INVALID_REQUEST"
    caller = await office.provision(tenant, "+2")
    named = {"ilk_id": ana, "channel": spoof, "merge_from_ilk_id": caller}
    assert await office.refused("ILK_ADD_CHANNEL", named, DESK) == "EVIDENCE_UNPROVEN"
    claimed = await office.provision(tenant, "+3")
    known = human(claimed, tenant, "eve@example.org")
    known["identification"]["email_verified"] = False
    await office.ok("ILK_REGISTER", known, DESK)
    into = {"ilk_id": claimed, "channel": mail, "merge_from_ilk_id": caller, "proof": "code"}
    assert await office.refused("ILK_ADD_CHANNEL", into, DESK) == "EVIDENCE_UNPROVEN"
    for ilk in (forged, caller):
        assert (await office.whole(ilk))["registration_status"] == "temporary", "nothing was changed"


async def test_a_code_that_was_written_back_and_an_administrator_join_them(office: Office) -> None:
    tenant = await office.tenant()
    ana = await office.person(tenant, "+1", "ana@example.org")
    for address, caller, proof in (("a@example.org", DESK, {"proof": "code"}), ("b@example.org", ADMIN, {})):
        writer = await office.provision(tenant, address, "email-unproven")
        mail = {"ich_id": new_ich(), "type": "email", "address": address}
        await office.ok(
            "ILK_ADD_CHANNEL", {"ilk_id": ana, "channel": mail, "merge_from_ilk_id": writer, **proof}, caller
        )
        assert (await office.whole(writer))["ilk_id"] == ana
    links = (await office.ok("ILK_HISTORY", {"ilk_id": ana}))["history"]
    assert "code" in str(links), "what it was joined by is kept"
