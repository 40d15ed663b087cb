"""What interlocutors and tenants may become, on both databases: every field, every refusal, nothing half done."""

from __future__ import annotations

from typing import Any

import pytest

from identity.parts import (
    ADMIN,
    AGENT,
    CHANNEL,
    DESK,
    ORCHESTRATOR,
    Office,
    agent,
    channel_of,
    human,
    new_ich,
    new_ilk,
)


async def test_a_first_message_makes_a_temporary_interlocutor_once(office: Office) -> None:
    tenant = await office.tenant()
    first = await office.ok("ILK_PROVISION", channel_of("+54 9 11 5555-0000", tenant), CHANNEL)
    again = await office.ok("ILK_PROVISION", channel_of("+5491155550000", tenant, "WhatsApp"), CHANNEL)
    assert first == again
    assert first.keys() == {"status", "ilk_id", "registration_status"}
    assert first["registration_status"] == "temporary"


async def test_the_same_address_in_two_tenants_is_two_people(office: Office) -> None:
    one, two = await office.tenant("one"), await office.tenant("two")
    assert await office.provision(one, "+1") != await office.provision(two, "+1")


async def test_registering_completes_and_history_keeps_what_was(office: Office) -> None:
    tenant = await office.tenant()
    ilk = await office.provision(tenant, "+1")
    await office.ok("ILK_REGISTER", human(ilk, tenant, "Ana@Example.org", roles=["buyer"]), DESK)
    await office.ok(
        "ILK_UPDATE", {"ilk_id": ilk, "add_roles": ["vip"], "change_reason": "asked"}, ORCHESTRATOR
    )
    whole = await office.whole(ilk)
    assert (whole["registration_status"], whole["roles"]) == ("complete", ["buyer", "vip"])
    assert whole["human_subtype"] == "external"
    history = (await office.ok("ILK_HISTORY", {"ilk_id": ilk}))["history"]
    assert [entry["action"] for entry in history] == ["ILK_UPDATE", "ILK_REGISTER", "ILK_CREATED"]
    assert history[0]["detail"]["was"]["roles"] == ["buyer"]
    assert (history[0]["actor"], history[0]["reason"]) == ("SY.orchestrator@test", "asked")
    assert [entry["actor"] for entry in history[1:]] == [DESK.name, CHANNEL.name]


async def test_an_agent_keeps_its_interlocutor_across_restarts(office: Office) -> None:
    tenant = await office.tenant()
    first = await office.ok("ILK_REGISTER", agent(new_ilk(), tenant, capabilities=["orders"]), ORCHESTRATOR)
    again = await office.ok("ILK_REGISTER", agent(new_ilk(), tenant, "AI.desk@test"), ORCHESTRATOR)
    assert first["ilk_id"] == again["ilk_id"]
    whole = await office.whole(first["ilk_id"])
    assert (whole["ilk_type"], whole["identification"]["node_name"]) == ("agent", "AI.desk@test")


async def test_changing_the_tenant_takes_the_channels_along(office: Office) -> None:
    """Upstream leaves the rows behind, and the next message makes a second interlocutor."""
    one, two = await office.tenant("one"), await office.tenant("two")
    ilk = await office.provision(one, "+1")
    await office.ok("ILK_REGISTER", human(ilk, two))
    assert await office.owner(two, "+1") == ilk
    assert await office.owner(one, "+1") != ilk
    assert await office.refused("ILK_REGISTER", human(ilk, one)) == "INVALID_TENANT"


FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("ILK_PROVISION", {}, "INVALID_REQUEST"),
    ("ILK_PROVISION", {**channel_of("+1"), "tenant": "x"}, "INVALID_REQUEST"),
    ("ILK_PROVISION", {**channel_of("+1"), "tenant_id": "acme"}, "INVALID_REQUEST"),
    ("ILK_PROVISION", {**channel_of("+1"), "address": "x" * 257}, "INVALID_REQUEST"),
    ("ILK_PROVISION", {**channel_of("+1"), "channel_type": "x" * 33}, "INVALID_REQUEST"),
    ("ILK_PROVISION", {**channel_of("+1"), "ich_id": "ich:1"}, "INVALID_REQUEST"),
    ("ILK_PROVISION", {**channel_of("+1"), "address": "a\nb"}, "INVALID_REQUEST"),
    ("ILK_REGISTER", human(new_ilk(), "tnt:x"), "INVALID_REQUEST"),
    ("ILK_REGISTER", {**human(new_ilk(), ""), "ilk_type": "robot"}, "INVALID_REQUEST"),
    ("ILK_REGISTER", {**human(new_ilk(), "", "not an address")}, "INVALID_REQUEST"),
    ("ILK_ADD_CHANNEL", {"ilk_id": new_ilk(), "channel": {"type": "email"}}, "INVALID_REQUEST"),
    ("ILK_UPDATE", {"ilk_id": new_ilk(), "add_degrees": []}, "INVALID_REQUEST"),
    ("ILK_UPDATE", {"ilk_id": new_ilk(), "add_roles": ["Big Boss"]}, "VOCABULARY_INVALID"),
    ("ILK_UPDATE", {"ilk_id": new_ilk(), "add_roles": ["x" * 65]}, "VOCABULARY_INVALID"),
    ("ILK_UPDATE", {"ilk_id": new_ilk(), "add_roles": ["x"] * 49}, "INVALID_REQUEST"),
    ("ILK_MERGE", {"ilk_id": new_ilk(), "merge_from_ilk_id": new_ilk()}, "INVALID_REQUEST"),
    ("TNT_CREATE", {"name": "x" * 129}, "INVALID_REQUEST"),
    ("TNT_CREATE", {"name": "x", "status": "suspended"}, "INVALID_REQUEST"),
    ("TNT_CREATE", {"name": "x", "settings": {"max_ilk": 3}}, "INVALID_REQUEST"),
    ("TNT_CREATE", {"name": "x", "domain": "no domain"}, "INVALID_REQUEST"),
    ("ILK_LIST", {"limit": 101}, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("verb", "payload", "code"), FIELDS)
async def test_a_payload_that_is_not_as_it_must_be(
    office: Office, verb: str, payload: dict[str, Any], code: str
) -> None:
    answer = await office.say(verb, payload, CHANNEL if verb == "ILK_PROVISION" else ADMIN)
    assert (answer["status"], answer["error_code"]) == ("error", code)
    assert answer["message"], "the sentence stands beside the code"


async def test_unknown_interlocutors_and_tenants(office: Office) -> None:
    tenant, nobody = await office.tenant(), new_ilk()
    ghost = "tnt:" + nobody[4:]
    email = {"ich_id": new_ich(), "type": "email", "address": "a@b.c"}
    assert await office.refused("ILK_ADD_CHANNEL", {"ilk_id": nobody, "channel": email}) == "ILK_NOT_FOUND"
    assert await office.refused("ILK_UPDATE", {"ilk_id": nobody}) == "ILK_NOT_FOUND"
    assert await office.refused("ILK_GET", {"ilk_id": nobody}) == "NOT_FOUND"
    assert await office.refused("TNT_APPROVE", {"tenant_id": ghost}) == "INVALID_TENANT"
    assert await office.refused("ILK_REGISTER", human(nobody, ghost)) == "INVALID_TENANT"
    by = {"tenant_id": tenant, "approved_by": nobody}
    assert await office.refused("TNT_APPROVE", by) == "ILK_NOT_FOUND"


async def test_what_is_unique(office: Office) -> None:
    one, two = await office.tenant("one"), await office.tenant("two")
    ana = await office.person(one, "+1", "ana@example.org")
    other = await office.provision(one, "+2")
    answer = await office.say("ILK_REGISTER", human(other, one, "ANA@example.org "), DESK)
    assert (answer["error_code"], answer["existing_ilk_id"]) == ("DUPLICATE_EMAIL", ana)
    await office.person(two, "+1", "ana@example.org")
    taken = {"ilk_id": other, "channel": {"ich_id": new_ich(), "type": "whatsapp", "address": "+1"}}
    answer = await office.say("ILK_ADD_CHANNEL", taken, DESK)
    assert (answer["error_code"], answer["existing_ilk_id"]) == ("DUPLICATE_ICH", ana)
    assert await office.owner(one, "+1") == ana, "no silent takeover"
    same_id = {**channel_of("+9", one), "ich_id": (await office.whole(ana))["channels"][0]["ich_id"]}
    assert await office.refused("ILK_PROVISION", same_id, CHANNEL) == "DUPLICATE_ICH"


async def test_a_refused_request_leaves_no_trace(office: Office) -> None:
    tenant = await office.tenant()
    await office.provision(tenant, "+1")
    ilk = await office.provision(tenant, "+2")
    before, seq = await office.whole(ilk), office.service.head.seq
    channels = [
        {"ich_id": new_ich(), "type": "email", "address": "new@example.org"},
        {"ich_id": new_ich(), "type": "whatsapp", "address": "+1"},
    ]
    asked = {"ilk_id": ilk, "add_roles": ["vip"], "add_channels": channels}
    assert await office.refused("ILK_UPDATE", asked) == "DUPLICATE_ICH"
    assert (await office.whole(ilk), office.service.head.seq) == (before, seq)
    assert await office.owner(tenant, "new@example.org", "email") != ilk


async def test_limits_of_a_tenant(office: Office) -> None:
    tenant = await office.tenant(settings={"max_ilks": 2, "allowed_channels": ["whatsapp"]})
    await office.provision(tenant, "+1")
    await office.provision(tenant, "+2")
    assert (
        await office.refused("ILK_PROVISION", channel_of("+3", tenant), CHANNEL) == "IDENTITY_LIMIT_REACHED"
    )
    email = channel_of("a@b.c", tenant, "email")
    assert await office.refused("ILK_PROVISION", email, CHANNEL) == "CHANNEL_NOT_GRANTED"
    assert await office.provision(tenant, "+1"), "who is there already is found"


async def test_a_vocabulary_is_checked_when_there_is_one(office: Office) -> None:
    tenant = await office.tenant()
    ilk = await office.provision(tenant, "+1")
    await office.ok("ILK_UPDATE", {"ilk_id": ilk, "add_roles": ["anything"]})
    await office.ok("VOCABULARY_ADD", {"tag": "vip", "category": "role", "description": "valued"})
    assert await office.refused("ILK_UPDATE", {"ilk_id": ilk, "add_roles": ["other"]}) == "VOCABULARY_INVALID"
    await office.ok("ILK_UPDATE", {"ilk_id": ilk, "add_roles": ["vip"], "add_capabilities": ["free"]})
    await office.ok("VOCABULARY_DEPRECATE", {"tag": "vip"})
    assert await office.refused("ILK_UPDATE", {"ilk_id": ilk, "add_roles": ["vip"]}) == "VOCABULARY_INVALID"
    assert "vip" in (await office.whole(ilk))["roles"]
    assert [word["tag"] for word in (await office.ok("VOCABULARY_LIST", {}, AGENT))["vocabulary"]] == ["vip"]


async def test_a_deleted_interlocutor_is_gone_and_its_id_stays_taken(office: Office) -> None:
    tenant = await office.tenant()
    ilk = await office.person(tenant, "+1", "ana@example.org")
    await office.ok("ILK_DELETE", {"ilk_id": ilk, "change_reason": "asked to be forgotten"})
    assert await office.refused("ILK_GET", {"ilk_id": ilk}) == "NOT_FOUND"
    assert await office.refused("ILK_REGISTER", human(ilk, tenant)) == "ILK_NOT_FOUND"
    assert await office.owner(tenant, "+1") != ilk
    assert await office.person(tenant, "+2", "ana@example.org") != ilk


async def test_lists_come_in_pages(office: Office) -> None:
    tenant = await office.tenant()
    made = sorted([await office.provision(tenant, f"+{number}") for number in range(7)])
    seen, after = [], {}
    while True:
        page = await office.ok("ILK_LIST", {"limit": 3, **after})
        seen += [line["ilk_id"] for line in page["ilks"]]
        if "next" not in page:
            break
        after = {"after": page["next"]}
    assert seen == made
    line = page["ilks"][0]
    assert (line["tenant_name"], line["channel_count"], page["total"]) == ("acme", 1, 7)
