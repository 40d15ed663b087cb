"""What a child acknowledged, and whether a store still has all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from identity.crash_child import store_of
from identity.parts import CHANNEL, HIVE, channel_of
from identity.parts import office as make_office
from skep_nodes.identity import audit, ids
from skep_nodes.identity.publisher import Regions, read_key
from skep_nodes.identity.store import scan
from skep_nodes.identity.tables import AUDIT, CHANNELS, ILKS
from skep_shm import ChannelsReader, IlksReader, channel_key
from support.hives import environment

CHILD = Path(__file__).with_name("crash_child.py")
TESTS = Path(__file__).resolve().parents[1]


@dataclass(slots=True)
class Ledger:
    """Lines of a child's ledger."""

    tenant: str = ""
    people: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    done: bool = False

    @classmethod
    def of(cls, text: str) -> Ledger:
        ledger = cls()
        for line in text.splitlines():
            first, _, rest = line.partition(" ")
            if first == "tenant":
                ledger.tenant = rest
            elif first in ("-", "!"):
                ledger.refused.append(rest)
            elif line == "done":
                ledger.done = True
            elif rest:
                ledger.people[first] = rest
        return ledger


def run_child(folder: Path, *words: str, **shim: str) -> tuple[int, Ledger]:
    """Run the child; its exit code and its ledger."""
    env = environment(**shim)
    env["PYTHONPATH"] += os.pathsep + str(TESTS)
    command = [sys.executable, str(CHILD), str(folder), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    path = folder / "ledger"
    return done.returncode, Ledger.of(path.read_text() if path.exists() else "")


async def check(folder: Path, ledger: Ledger, url: str = "", regions: bool = True) -> None:
    """Everything acknowledged is there, once, in database and regions, and the chain is whole."""
    async with make_office(store_of(folder, url), folder) as office:
        store = office.service.store
        entries = [entry async for found in scan(store, AUDIT) for _, entry in found.rows]
        assert audit.broken_at(entries) == 0
        rows = [row async for found in scan(store, CHANNELS) for _, row in found.rows]
        known = {row.ilk async for found in scan(store, ILKS) for _, row in found.rows}
        by_address = {row.address: ids.ilk_text(row.ilk) for row in rows}
        assert len(by_address) == len(rows)
        assert {row.ilk for row in rows} == known, (
            "no channel without its owner, no owner without its channel"
        )
        for address, ilk in ledger.people.items():
            assert by_address.get(address) == ilk, address
            again = await office.ok("ILK_PROVISION", channel_of(address, ledger.tenant), CHANNEL)
            assert again["ilk_id"] == ilk
        if regions:
            await check_regions(folder, ledger, office.service.store)


async def check_regions(folder: Path, ledger: Ledger, store: object) -> None:
    """A new writer fills the regions from the database, whatever the dead one left."""
    key = read_key(folder / "channel.key")
    made = Regions(folder, HIVE, key)
    try:
        await made.fill(store, [])  # type: ignore[arg-type]
        channels, ilks = ChannelsReader.attach(folder), IlksReader.attach(folder)
        for address, ilk in ledger.people.items():
            found = channels.find(
                channel_key(key, "whatsapp", address, ids.parse(ids.TENANT, ledger.tenant) or b"")
            )
            assert found is not None
            assert ids.ilk_text(found.ilk) == ilk
            assert ilks.find(found.ilk) is not None
        channels.close()
        ilks.close()
    finally:
        made.close()
