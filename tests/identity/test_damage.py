"""Flipped bits and cut files: told every time, never served, and nothing else lost with it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from identity.parts import Office
from identity.parts import office as make_office
from identity.postgres_server import PostgresServer
from skep_nodes.identity import tables
from skep_nodes.identity.audit import HeadFile
from skep_nodes.identity.postgres import PostgresStore
from skep_nodes.identity.sqlite import SqliteStore
from skep_nodes.identity.store import Store, StoreBroken, StoreError, scan
from skep_nodes.identity.tables import ALL, CHANNELS

FLIPS = 500
WHY = {"change_reason": "one"}


async def filled(office: Office) -> None:
    tenant = await office.tenant()
    people = [await office.person(tenant, f"+{number}", f"p{number}@b.cd") for number in range(40)]
    await office.ok("ILK_MERGE", {"ilk_id": people[0], "merge_from_ilk_id": people[1], **WHY})
    await office.ok("VOCABULARY_ADD", {"tag": "vip", "category": "role"})


async def rows_of(store: Store) -> tuple[set[tuple[str, str]], int]:
    """Every row that is served, and how many are not."""
    rows, damaged = set(), 0
    for table in ALL:
        async for found in scan(store, table):
            rows |= {(each.name, repr(record)) for each, record in found.rows}
            damaged += len(found.damaged)
    return rows, damaged


async def outcome(path: Path, data: bytes, whole: set[tuple[str, str]]) -> str:
    """What becomes of damaged bytes: refused as a whole, named row by row, or harmless. Never anything else."""
    path.write_bytes(data)
    store = SqliteStore(path)
    try:
        await store.open()
        rows, damaged = await rows_of(store)
    except (StoreBroken, StoreError):
        return "refused"
    finally:
        await store.close()
        path.unlink()
    assert rows <= whole, "a row that never was is served"
    assert len(rows) + damaged == len(whole), "a row is missing without a word"
    return "named" if damaged else "harmless"


async def a_database(folder: Path) -> tuple[bytes, set[tuple[str, str]]]:
    folder.mkdir()
    async with make_office(SqliteStore(folder / "identity.db"), folder) as office:
        await filled(office)
        whole, _ = await rows_of(office.service.store)
    return (folder / "identity.db").read_bytes(), whole


@pytest.mark.goal("G4")
async def test_five_hundred_flipped_bits(tmp_path: Path) -> None:
    data, whole = await a_database(tmp_path / "source")
    dice, outcomes = random.Random(7), {"refused": 0, "named": 0, "harmless": 0}
    for number in range(FLIPS):
        bit = dice.randrange(len(data) * 8)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        outcomes[await outcome(tmp_path / f"{number}.db", damaged, whole)] += 1
    assert outcomes["refused"] > 50, outcomes
    assert outcomes["named"] > 50, outcomes


@pytest.mark.goal("G4")
async def test_a_cut_at_every_page(tmp_path: Path) -> None:
    data, whole = await a_database(tmp_path / "source")
    for size in range(2048, len(data), 2048):
        assert await outcome(tmp_path / "cut.db", data[:size], whole) == "refused", size
    assert await outcome(tmp_path / "cut.db", data[:-100], whole) != "harmless"


@pytest.mark.goal("G4")
async def test_a_bit_in_the_log_does_not_undo_what_was_acknowledged(tmp_path: Path) -> None:
    """SQLite ends its log at the first bad frame and says nothing; the note beside the database does."""
    source = tmp_path / "source"
    source.mkdir()
    async with make_office(SqliteStore(source / "identity.db"), source) as office:
        await filled(office)
        for name in ("identity.db", "identity.db-wal", "identity.head"):
            shutil.copy(source / name, tmp_path / name)
    log = (tmp_path / "identity.db-wal").read_bytes()
    assert log
    dice, noticed = random.Random(9), 0
    for number in range(60):
        place = tmp_path / str(number)
        place.mkdir()
        for name in ("identity.db", "identity.head"):
            shutil.copy(tmp_path / name, place / name)
        damaged = bytearray(log)
        damaged[dice.randrange(len(log))] ^= 1 << dice.randrange(8)
        (place / "identity.db-wal").write_bytes(damaged)
        try:
            async with make_office(SqliteStore(place / "identity.db"), place) as office:
                assert office.service.head == HeadFile(place / "identity.head").read()
        except (StoreBroken, StoreError):
            noticed += 1
    assert noticed > 50


@pytest.mark.goal("G4")
async def test_an_older_copy_in_its_place_is_noticed(make_store: Callable[[], Store], tmp_path: Path) -> None:
    async with make_office(make_store(), tmp_path) as office:
        await filled(office)
        head = office.service.head
    note = HeadFile(tmp_path / "identity.head")
    note.write(head._replace(seq=head.seq + 3))
    note.close()
    with pytest.raises(StoreBroken, match="was acknowledged"):
        async with make_office(make_store(), tmp_path):
            pass
    (tmp_path / "identity.head").unlink()
    async with make_office(make_store(), tmp_path) as office:
        assert office.service.head == head


@pytest.mark.goal("G4")
async def test_a_row_that_somebody_changed_in_postgres_is_not_served(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.empty("identity")
    url = postgres.url("identity")
    async with make_office(PostgresStore(url), tmp_path) as office:
        await filled(office)
        tenant = (await office.ok("TNT_LIST", {}))["tenants"][0]["tenant_id"]
        victim = await office.owner(tenant, "+5")
        postgres.sql("identity", f"UPDATE {tables.ILKS.name} SET roles = 'admin' WHERE email = 'p5@b.cd'")
        assert await office.refused("ILK_GET", {"ilk_id": victim}) == "NOT_FOUND"
        assert len(office.service.damaged) == 1
        seen = [line["ilk_id"] for line in (await office.ok("ILK_LIST", {}))["ilks"]]
        assert victim not in seen
        assert len(seen) == 39, "all others are"


async def test_the_databases_refuse_to_rewrite_history(
    make_store: Callable[[], Store], tmp_path: Path
) -> None:
    async with make_office(make_store(), tmp_path) as office:
        await filled(office)
        store = office.service.store
        for text in ("UPDATE identity_audit SET reason = 'x'", "DELETE FROM identity_audit WHERE seq = 1"):
            with pytest.raises(Exception, match="only ever added to"):
                if isinstance(store, SqliteStore):
                    store._db.execute(text)
                else:
                    await store._connection.execute(text)  # type: ignore[attr-defined]
        rows = [row async for found in scan(store, CHANNELS) for row in found.rows]
        assert len(rows) == 40
