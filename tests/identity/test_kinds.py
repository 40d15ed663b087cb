"""The kinds of channels in the ilks region: they follow every change of whose a channel is, and a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from identity.parts import HIVE, Office, human, new_ich
from identity.parts import office as make_office
from skep_nodes.identity import ids
from skep_nodes.identity.publisher import Regions
from skep_nodes.identity.store import Store
from skep_shm import IlksReader

KEY = bytes(range(32))
WHY = {"change_reason": "the same person"}


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    made = Regions(tmp_path, HIVE, KEY)
    yield made
    made.close()


def email(address: str) -> dict[str, str]:
    return {"ich_id": new_ich(), "type": "email", "address": address}


async def shown(office: Office, regions: Regions) -> None:
    await regions.fill(office.service.store, [])
    office.service.publisher = regions


@pytest.mark.goal("G14")
async def test_kinds_follow_every_change(office: Office, regions: Regions, tmp_path: Path) -> None:
    await shown(office, regions)
    reader = IlksReader.attach(tmp_path)

    def kinds(ilk: str) -> tuple[str, ...]:
        record = reader.find(ids.parse(ids.ILK, ilk) or b"")
        assert record is not None
        return record.channel_kinds

    tenant = await office.tenant()
    one, two = await office.provision(tenant, "+1"), await office.provision(tenant, "+2", "sms")
    assert (kinds(one), kinds(two)) == (("whatsapp",), ("sms",))
    await office.ok("ILK_REGISTER", human(one, tenant))
    assert kinds(one) == ("whatsapp",), "a change of something else keeps them"
    await office.ok("ILK_ADD_CHANNEL", {"ilk_id": one, "channel": email("a@b.cd"), **WHY})
    assert kinds(one) == ("email", "whatsapp")
    await office.ok("ILK_UPDATE", {"ilk_id": one, "add_channels": [email("e@b.cd")]})
    assert kinds(one) == ("email", "whatsapp"), "each once"
    await office.ok("ILK_MERGE", {"ilk_id": one, "merge_from_ilk_id": two, **WHY})
    assert (kinds(one), kinds(two)) == (("email", "sms", "whatsapp"), ())
    await office.ok("ILK_SPLIT", {"ilk_id": two, **WHY})
    assert (kinds(one), kinds(two)) == (("email", "whatsapp"), ("sms",))
    reader.close()


async def test_a_start_shows_the_same(make_store: Callable[[], Store], tmp_path: Path) -> None:
    """Several owners around the edges of the pieces that are read, one without a channel among them."""
    async with make_office(make_store(), tmp_path) as office:
        tenant = await office.tenant()
        ilks = [await office.provision(tenant, f"+{number}") for number in range(5)]
        for ilk in ilks[1:4:2]:
            await office.ok("ILK_ADD_CHANNEL", {"ilk_id": ilk, "channel": email(f"{ilk[4:]}@b.cd"), **WHY})
        await office.ok("ILK_MERGE", {"ilk_id": ilks[4], "merge_from_ilk_id": ilks[2], **WHY})
    store = make_store()
    await store.open()
    scan_rows = store.scan_rows
    store.scan_rows = lambda table, size=0, by="": scan_rows(table, 2, by)  # type: ignore[method-assign,misc]
    regions = Regions(tmp_path, HIVE, KEY)
    await regions.fill(store, [])
    with_both = ("email", "whatsapp")
    found = {record.ilk: record.channel_kinds for record in IlksReader.attach(tmp_path).all()}
    assert [found[ids.parse(ids.ILK, ilk) or b""] for ilk in ilks] == [
        ("whatsapp",), with_both, (), with_both, ("whatsapp",),
    ]  # fmt: skip
    regions.close()
    await store.close()
