"""A process that provisions until it dies at a named place: `python crash_child.py FOLDER [POINT NTH [URL]]`.

What was acknowledged is appended to FOLDER/ledger, one line each, before the next is asked for. It dies by SIGKILL, so
nothing of Python's runs afterwards. What is refused is noted as well (`- code`), and the caller goes on: a full disk
must end nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from identity.parts import CHANNEL, HIVE, Office, Published, channel_of
from skep_nodes.identity.audit import HeadFile
from skep_nodes.identity.publisher import Regions, read_key
from skep_nodes.identity.service import Service
from skep_nodes.identity.sqlite import SqliteStore
from skep_nodes.identity.store import Store, StoreBroken, StoreError

CALLERS, ROUNDS = 6, 6
TENANT = {"name": "acme", "status": "active"}


def store_of(folder: Path, url: str) -> Store:
    if not url:
        return SqliteStore(folder / "identity.db")
    from skep_nodes.identity.postgres import PostgresStore

    return PostgresStore(url)


async def main(folder: Path, point: str, nth: int, url: str) -> None:
    ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    seen = 0

    def at(name: str) -> None:
        nonlocal seen
        seen += name == point
        if name == point and seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(line: str) -> None:
        os.write(ledger, f"{line}\n".encode())

    regions = Regions(folder, HIVE, read_key(folder / "channel.key"), at=at)
    service = Service(store_of(folder, url), regions, lambda: 1, HeadFile(folder / "identity.head"), at=at)
    try:
        await service.open()
    except (StoreError, StoreBroken) as error:
        note(f"! {error}")
        regions.close()
        return
    voice = Office(service, Published())
    made = await voice.say("TNT_CREATE", TENANT)
    tenant = made.get("tenant_id", "")
    note(f"tenant {tenant}" if tenant else f"- {made['error_code']}")

    async def caller(number: int) -> None:
        for round_ in range(ROUNDS if tenant else 0):
            address = f"+{number}00{round_}"
            answer = await voice.say("ILK_PROVISION", channel_of(address, tenant), CHANNEL)
            note(f"{address} {answer['ilk_id']}" if answer["status"] == "ok" else f"- {answer['error_code']}")

    await asyncio.gather(*(caller(number) for number in range(1, CALLERS + 1)))
    note("done")
    await service.close()
    regions.close()


if __name__ == "__main__":
    place, number, url = (*sys.argv[2:], "", "0", "")[:3] if len(sys.argv) < 5 else sys.argv[2:5]
    asyncio.run(main(Path(sys.argv[1]), place, int(number or 0), url))
