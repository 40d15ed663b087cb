"""Fifty thousand interlocutors: filled, found, changed at the same speed as a few."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import pytest

from identity.parts import CHANNEL, channel_of
from identity.parts import office as make_office
from identity.people import TENANT, addresses_of, fill, ilk_of
from skep_nodes.identity import ids
from skep_nodes.identity.publisher import Regions
from skep_nodes.identity.sqlite import SqliteStore
from skep_shm import ChannelsReader, IlksReader, channel_key

SIZE = 50_000
KEY = bytes(range(32))
VISIBLE_S = 0.010


@pytest.mark.slow
async def test_fifty_thousand(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "identity.db")
    await store.open()
    await fill(store, SIZE)
    await store.close()
    took: list[float] = []
    began = 0.0

    def at(point: str) -> None:
        nonlocal began
        if point == "write.after":
            began = time.perf_counter()
        elif point == "publish.after":
            took.append(time.perf_counter() - began)

    async with make_office(SqliteStore(tmp_path / "identity.db"), tmp_path, at) as office:
        regions = Regions(tmp_path, "test", KEY)
        office.service.publisher = regions
        started = time.perf_counter()
        await regions.fill(office.service.store, [])
        assert time.perf_counter() - started < 60.0 / 5, "a million in a minute, with room for a busy machine"
        channels, ilks = ChannelsReader.attach(tmp_path), IlksReader.attach(tmp_path)
        for number in (0, 1, SIZE // 2, SIZE - 1):
            for kind, address in addresses_of(number):
                found = channels.find(channel_key(KEY, kind, address, TENANT))
                assert found is not None
                assert found.ilk == ilk_of(number)
            record = ilks.find(ilk_of(number))
            assert record is not None
            assert record.roles == ("buyer",)
        tenant = ids.tenant_text(TENANT)
        known = await office.ok("ILK_PROVISION", channel_of(addresses_of(7)[0][1], tenant), CHANNEL)
        assert ids.parse(ids.ILK, known["ilk_id"]) == ilk_of(7)
        for number in range(50):
            made = await office.ok("ILK_PROVISION", channel_of(f"+999{number}", tenant), CHANNEL)
            assert ilks.find(ids.parse(ids.ILK, made["ilk_id"]) or b"") is not None
        assert median(took) < VISIBLE_S, "from the disk to the region, whatever the size"
        channels.close()
        ilks.close()
        regions.close()
