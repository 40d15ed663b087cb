"""Identity regions under measurement: a SQLite file of interlocutors and channels, and the regions filled from it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = bytes(range(32))
TENANTS = [bytes([number]) * 16 for number in range(50)]
CHANNELS_PER_ILK = 2
_BATCH = 10_000
_TABLES = """
create table ilks (ilk blob primary key, subtype int, registration int, tenant blob, roles text) without rowid;
create table channels (key blob primary key, ilk blob, tenant blob, kind text) without rowid;
"""

Address = tuple[str, str, bytes]


@dataclass(slots=True)
class Filled:
    """Regions of `size` interlocutors with two channels each, their writer and reader in this process."""

    size: int
    root: Path
    ilks: Any
    channels: Any
    fill_s: float

    def shared_bytes(self) -> int:
        from skep_shm import hive_prefix

        pattern = f"{hive_prefix(self.root)[1:]}*"
        return sum(path.stat().st_size for path in Path("/dev/shm").glob(pattern))


def ilk_of(number: int) -> bytes:
    """The n-th ILK, spread as real ones are."""
    return random.Random(number).randbytes(16)


def address_of(number: int, channel: int) -> Address:
    """Kind, address and tenant of one of an interlocutor's channels."""
    tenant = TENANTS[number % len(TENANTS)]
    if channel == 0:
        return "whatsapp", f"+549115{number:07d}", tenant
    return "email", f"person{number}@example.com", tenant


@contextmanager
def filled(size: int) -> Iterator[Filled]:
    folder = Path(tempfile.mkdtemp(prefix="ski", dir="/tmp"))
    opened: list[Any] = []
    try:
        _write_database(folder / "identity.sqlite", size)
        yield _fill(folder, size, opened)
    finally:
        for each in opened:
            each.close()
        shutil.rmtree(folder, ignore_errors=True)


def _write_database(path: Path, size: int) -> None:
    from skep_shm import channel_key

    database = sqlite3.connect(path)
    database.executescript(_TABLES)
    for start in range(0, size, _BATCH):
        numbers = range(start, min(start + _BATCH, size))
        ilks = [(ilk_of(n), 2, 2, TENANTS[n % 50], "customer" if n % 2 else "") for n in numbers]
        places = [(n, address_of(n, each)) for n in numbers for each in range(CHANNELS_PER_ILK)]
        keys = [(channel_key(SECRET, *place), ilk_of(n), place[2], place[0]) for n, place in places]
        database.executemany("insert into ilks values (?,?,?,?,?)", ilks)
        database.executemany("insert into channels values (?,?,?,?)", keys)
    database.commit()
    database.close()


def _fill(folder: Path, size: int, opened: list[Any]) -> Filled:
    """What SY.identity does at its start: both regions from the database, timed."""
    from skep_shm import ChannelRecord, ChannelsWriter, IlkKind, IlkRecord, IlksWriter, Registration, Subtype

    database = sqlite3.connect(folder / "identity.sqlite")
    opened.append(database)
    subtypes, registrations = tuple(Subtype), tuple(Registration)
    begun = time.monotonic()
    ilks = IlksWriter.create(folder, "bench", expected=size)
    opened.append(ilks)
    ilks.fill(
        IlkRecord(ilk, IlkKind.HUMAN, subtypes[sub], registrations[reg], tenant=tenant, roles=_roles(roles))
        for ilk, sub, reg, tenant, roles in database.execute("select * from ilks")
    )
    channels = ChannelsWriter.create(folder, "bench", expected=CHANNELS_PER_ILK * size)
    opened.append(channels)
    channels.fill(ChannelRecord(*row) for row in database.execute("select * from channels"))
    return Filled(size, folder, ilks, channels, time.monotonic() - begun)


def _roles(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def sample(size: int, count: int) -> list[int]:
    """Numbers of interlocutors in a fixed random order."""
    return random.Random(1).choices(range(size), k=min(count, 1 << 16))


def newcomer() -> bytes:
    return os.urandom(16)
