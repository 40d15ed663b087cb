"""Two become one and two again: channels, aliases, history and what is said about it, on both databases."""

from __future__ import annotations

import pytest

from identity.parts import DESK, START_MS, Office, agent, human, new_ich, new_ilk
from skep_nodes.identity import audit, ids
from skep_nodes.identity.expiry import Expire
from skep_nodes.identity.records import Entry
from skep_nodes.identity.store import scan
from skep_nodes.identity.tables import AUDIT, ILKS

WHY = {"change_reason": "the same person"}


async def merged(office: Office, target: str, source: str, **more: object) -> dict[str, object]:
    return await office.ok("ILK_MERGE", {"ilk_id": target, "merge_from_ilk_id": source, **WHY, **more})


async def split(office: Office, source: str) -> dict[str, object]:
    return await office.ok("ILK_SPLIT", {"ilk_id": source, "change_reason": "two people after all"})


async def canonical(office: Office, ilk: str) -> str:
    return str((await office.ok("ILK_GET", {"ilk_id": ilk}))["canonical_ilk_id"])


async def expire(office: Office) -> None:
    due = await office.service.store.due(office.now_ms, 100)
    await office.service.submit(Expire(tuple(due)))


async def test_the_same_customer_on_whatsapp_and_by_email_is_one(office: Office) -> None:
    """As the front desk does it: the address that she gives belongs to somebody, and she proved that it is hers."""
    tenant = await office.tenant()
    ana = await office.person(tenant, "+1", "ana@example.org")
    stranger = await office.provision(tenant, "ana@example.org", "email")
    answer = await office.say("ILK_REGISTER", human(stranger, tenant, "ana@example.org"), DESK)
    assert (answer["error_code"], answer["existing_ilk_id"]) == ("DUPLICATE_EMAIL", ana)
    email = {"ich_id": new_ich(), "type": "email", "address": "ana@example.org"}
    asked = {
        "ilk_id": ana,
        "channel": email,
        "merge_from_ilk_id": stranger,
        "change_reason": "code confirmed",
    }
    added = await office.ok("ILK_ADD_CHANNEL", asked, DESK)
    assert added == {"status": "ok", "ilk_id": ana, "change_reason": "code confirmed"}
    assert await office.owner(tenant, "Ana@Example.org", "email") == ana
    got = await office.ok("ILK_GET", {"ilk_id": stranger})
    assert (got["ilk_id"], got["alias_resolved"]) == (ana, True)
    assert got["queried_alias"]["expires_at_ms"] == START_MS + 3_600_000
    assert [alias["old_ilk_id"] for alias in got["merged_aliases"]] == [stranger]
    assert len(got["ilk"]["channels"]) == 2


async def test_messages_in_flight_mean_the_one_it_became(office: Office) -> None:
    tenant = await office.tenant()
    ana, old = await office.person(tenant, "+1", "a@b.cd"), await office.provision(tenant, "+2")
    await merged(office, ana, old)
    await office.ok("ILK_UPDATE", {"ilk_id": old, "add_roles": ["vip"]})
    assert (await office.whole(ana))["roles"] == ["vip"]
    office.now_ms += 3_600_000
    assert await office.refused("ILK_UPDATE", {"ilk_id": old, "add_roles": ["more"]}) == "ILK_NOT_FOUND"


async def test_an_alias_that_ends_is_published_once_as_a_change(office: Office) -> None:
    tenant = await office.tenant()
    ana, old = await office.person(tenant, "+1", "a@b.cd"), await office.provision(tenant, "+2")
    await merged(office, ana, old, alias_ttl_secs=60)
    office.now_ms += 59_999
    await expire(office)
    assert await canonical(office, old) == ana
    office.now_ms += 1
    office.published.changes.clear()
    await expire(office)
    (change,) = [each for each in office.published.changes if each.table is ILKS]
    assert (ids.ilk_text(change.key), change.record.deleted_at_ms) == (old, office.now_ms)
    await expire(office)
    assert len([each for each in office.published.changes if each.table is ILKS]) == 1
    assert await office.owner(tenant, "+2") == ana, "its channel stays with whom it became"


@pytest.mark.parametrize("after_the_alias_ended", [False, True])
async def test_a_wrong_merge_is_taken_back_whole(office: Office, after_the_alias_ended: bool) -> None:
    tenant = await office.tenant()
    ana, bob = await office.person(tenant, "+1", "ana@b.cd"), await office.person(tenant, "+2", "bob@b.cd")
    before = {name: await office.whole(name) for name in (ana, bob)}
    done = await merged(office, ana, bob)
    assert await office.owner(tenant, "+2") == ana
    office.now_ms += 7_200_000 if after_the_alias_ended else 1000
    await expire(office)
    told = await split(office, bob)
    assert (told["merge_id"], told["split_from_ilk_id"]) == (done["merge_id"], ana)
    assert (told["merged_at_ms"], told["split_at_ms"]) == (START_MS, office.now_ms), (
        "turns between are told apart by these"
    )
    assert await office.owner(tenant, "+2") == bob
    for name, whole in before.items():
        now = await office.whole(name)
        assert now | {"updated_at_ms": 0} == whole | {"updated_at_ms": 0}
    actions = [entry["action"] for entry in (await office.ok("ILK_HISTORY", {"ilk_id": bob}))["history"]]
    assert actions[0] == "ILK_SPLIT"
    assert "ILK_MERGE" in actions
    assert await office.refused("ILK_SPLIT", {"ilk_id": bob, **WHY}) == "INVALID_SPLIT"


async def test_what_was_added_after_the_merge_stays(office: Office) -> None:
    tenant = await office.tenant()
    ana, bob = await office.person(tenant, "+1", "ana@b.cd"), await office.person(tenant, "+2", "bob@b.cd")
    await merged(office, ana, bob)
    later = {"ich_id": new_ich(), "type": "email", "address": "later@b.cd"}
    await office.ok("ILK_ADD_CHANNEL", {"ilk_id": bob, "channel": later})
    assert (await split(office, bob))["returned_channels"] == [
        c["ich_id"] for c in (await office.whole(bob))["channels"]
    ]
    assert await office.owner(tenant, "later@b.cd", "email") == ana


async def test_merges_on_merges(office: Office) -> None:
    """An alias never points at an alias, and each merge can still be taken back by itself."""
    tenant = await office.tenant()
    a, b, c = [await office.person(tenant, f"+{n}", f"p{n}@b.cd") for n in (1, 2, 3)]
    await merged(office, b, a)
    await merged(office, c, b)
    assert await canonical(office, a) == c
    assert [await office.owner(tenant, f"+{n}") for n in (1, 2, 3)] == [c, c, c]
    await split(office, b)
    assert (await canonical(office, a), await canonical(office, b)) == (b, b)
    assert [await office.owner(tenant, f"+{n}") for n in (1, 2, 3)] == [b, b, c]
    await split(office, a)
    assert [await office.owner(tenant, f"+{n}") for n in (1, 2, 3)] == [a, b, c]


async def test_the_inner_merge_taken_back_first(office: Office) -> None:
    tenant = await office.tenant()
    a, b, c = [await office.person(tenant, f"+{n}", f"p{n}@b.cd") for n in (1, 2, 3)]
    await merged(office, b, a)
    await merged(office, c, b)
    await split(office, a)
    assert [await office.owner(tenant, f"+{n}") for n in (1, 2, 3)] == [a, c, c]
    await split(office, b)
    assert [await office.owner(tenant, f"+{n}") for n in (1, 2, 3)] == [a, b, c]


async def test_who_cannot_be_merged(office: Office) -> None:
    one, two = await office.tenant("one"), await office.tenant("two")
    ana, there = await office.person(one, "+1", "a@b.cd"), await office.provision(two, "+1")
    robot = (await office.ok("ILK_REGISTER", agent(new_ilk(), one)))["ilk_id"]
    gone = await office.provision(one, "+3")
    await merged(office, ana, gone)
    for source in (ana, there, robot, gone, new_ilk()):
        asked = {"ilk_id": ana, "merge_from_ilk_id": source, **WHY}
        assert await office.refused("ILK_MERGE", asked) == "INVALID_MERGE_SOURCE"
    complete = await office.person(one, "+4", "d@b.cd")
    channel = {"ich_id": new_ich(), "type": "email", "address": "x@b.cd"}
    asked = {"ilk_id": ana, "channel": channel, "merge_from_ilk_id": complete}
    assert await office.refused("ILK_ADD_CHANNEL", asked, DESK) == "INVALID_MERGE_SOURCE"
    assert await office.owner(one, "x@b.cd", "email") != ana, "the channel was not added either"


async def test_a_split_waits_for_an_address_that_somebody_else_has_by_now(office: Office) -> None:
    tenant = await office.tenant()
    ana, bob = await office.person(tenant, "+1", "ana@b.cd"), await office.person(tenant, "+2", "bob@b.cd")
    await merged(office, ana, bob)
    other = await office.person(tenant, "+3", "bob@b.cd")
    answer = await office.say("ILK_SPLIT", {"ilk_id": bob, **WHY})
    assert (answer["error_code"], answer["existing_ilk_id"]) == ("DUPLICATE_EMAIL", other)


@pytest.mark.goal("G25")
async def test_the_audit_chain_tells_of_every_alteration(office: Office) -> None:
    tenant = await office.tenant()
    ana, bob = await office.person(tenant, "+1", "ana@b.cd"), await office.person(tenant, "+2", "bob@b.cd")
    await merged(office, ana, bob)
    await split(office, bob)
    entries: list[Entry] = []
    async for found in scan(office.service.store, AUDIT):
        entries += [record for _, record in found.rows]
    assert audit.broken_at(entries) == 0
    for at in range(len(entries)):
        for altered in (
            entries[at]._replace(reason="nothing"), entries[at]._replace(actor="SY.nobody@test"),
            entries[at]._replace(at_ms=entries[at].at_ms + 1), entries[at]._replace(detail='{"x":1}'),
        ):  # fmt: skip
            assert audit.broken_at([*entries[:at], altered, *entries[at + 1 :]]) == at + 1
        if at < len(entries) - 1:
            assert audit.broken_at([*entries[:at], *entries[at + 1 :]]) == at + 1
