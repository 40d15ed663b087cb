"""Deaths, full disks and power cuts: nothing that was acknowledged is lost, and nothing half done is there."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import pytest

from identity.ledgers import Ledger, check, run_child
from identity.postgres_server import PostgresServer
from skep_nodes.identity import publisher, service
from skep_shm import hive_prefix
from support import tools

SHIM = Path(__file__).with_name("disk_shim.c")
DATABASE_POINTS = ("write.before", "write.after", "head.before", "publish.before", "answer.before")
KILLED = -signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A hive's folder; a killed writer's segments go with it."""
    yield tmp_path
    prefix = hive_prefix(tmp_path)
    for segment in Path("/dev/shm").glob(f"{prefix.lstrip('/')}*"):
        segment.unlink()


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled."""
    made = tmp_path_factory.mktemp("shim") / "shim.so"
    gcc = tools.need("gcc")
    subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-o", made, SHIM, "-ldl"], check=True)
    return made


def points() -> list[tuple[str, int]]:
    """Every named place, early and in the middle of the load."""
    early = [(point, 1) for point in (*service.CRASH_POINTS, *publisher.CRASH_POINTS)]
    return early + [(point, 4) for point in service.CRASH_POINTS]


@pytest.mark.goal("G2")
@pytest.mark.parametrize(("point", "nth"), points())
async def test_a_crash_at_every_named_point(folder: Path, point: str, nth: int) -> None:
    code, ledger = run_child(folder, point, str(nth))
    assert code == KILLED, "the point was reached"
    assert not ledger.done
    await check(folder, ledger)


@pytest.mark.goal("G2")
@pytest.mark.parametrize("point", DATABASE_POINTS)
async def test_a_crash_around_a_commit_of_postgres(
    folder: Path, postgres: PostgresServer, point: str
) -> None:
    postgres.empty("identity")
    url = postgres.url("identity")
    code, ledger = run_child(folder, point, "4", url)
    assert code == KILLED
    assert ledger.people
    await check(folder, ledger, url)


@pytest.mark.goal("G1")
@pytest.mark.parametrize("op", ["write", "sync"])
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 13, 21, 34])
async def test_kill_9_inside_the_database(folder: Path, shim: Path, op: str, nth: int) -> None:
    """At the n-th write or sync of SQLite itself, in the middle of a commit or of making the file."""
    told = {"SHIM_OP": op, "SHIM_NTH": str(nth), "SHIM_ERROR": "0"}
    code, ledger = run_child(folder, LD_PRELOAD=str(shim), SHIM_FOLDER=str(folder / "identity.db"), **told)
    assert code == KILLED or ledger.done
    await check(folder, ledger)


@pytest.mark.goal("G5")
@pytest.mark.parametrize("nth", [1, 4, 9, 16, 25, 40])
async def test_a_full_disk_fails_requests_and_nothing_else(folder: Path, shim: Path, nth: int) -> None:
    """ENOSPC once: that group is refused, those after it are kept."""
    told = {"SHIM_OP": "write", "SHIM_NTH": str(nth), "SHIM_ERROR": str(errno.ENOSPC)}
    code, ledger = run_child(folder, LD_PRELOAD=str(shim), SHIM_FOLDER=str(folder / "identity.db"), **told)
    assert code == 0
    assert ledger.refused
    if ledger.tenant and ledger.people:
        assert set(ledger.refused) == {"DB_WRITE_FAILED"}
        assert ledger.done
    await check(folder, ledger)


@pytest.mark.goal("G5")
@pytest.mark.parametrize("nth", [9, 11, 13])
async def test_a_failed_sync_is_final(folder: Path, shim: Path, nth: int) -> None:
    """Only one sync fails; a store that tried again would go on, and must not."""
    trace = folder / "trace"
    told = {"SHIM_OP": "sync", "SHIM_NTH": str(nth), "SHIM_ERROR": str(errno.EIO), "SHIM_TRACE": str(trace)}
    code, ledger = run_child(folder, LD_PRELOAD=str(shim), SHIM_FOLDER=str(folder / "identity.db"), **told)
    assert code == 0
    assert ledger.refused
    assert set(ledger.refused) == {"DB_WRITE_FAILED"}
    calls = [(record.op, record.name) for record in recorded(trace)]
    after = calls[calls.index(("F", "identity.db-wal")) + 1 :]
    assert ("W", "identity.db-wal") not in after, "no transaction is begun after the one whose sync failed"
    await check(folder, ledger)


@pytest.mark.goal("G1")
async def test_kill_9_of_postgres_itself(folder: Path, postgres: PostgresServer) -> None:
    """The server dies under load and comes back: whoever was answered is there, and the service goes on by itself."""
    import asyncio

    from identity.parts import CHANNEL, channel_of
    from identity.parts import office as make_office
    from skep_nodes.identity.postgres import PostgresStore

    postgres.empty("identity")
    url = postgres.url("identity")
    acknowledged: dict[str, str] = {}
    async with make_office(PostgresStore(url), folder) as office:
        tenant = await office.tenant()
        stopping = asyncio.Event()

        async def caller(number: int) -> None:
            count = 0
            while not stopping.is_set():
                address = f"+{number}000{count}"
                answer = await office.say("ILK_PROVISION", channel_of(address, tenant), CHANNEL)
                if answer["status"] == "ok":
                    acknowledged[address] = answer["ilk_id"]
                    count += 1

        callers = [asyncio.create_task(caller(number)) for number in range(1, 17)]
        for _ in range(5):
            wanted = len(acknowledged) + 100
            while len(acknowledged) < wanted:
                await asyncio.wait(callers, timeout=0.01)
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.start)
        stopping.set()
        await asyncio.gather(*callers)
        assert not office.service.broken
    await check(folder, Ledger(tenant, acknowledged), url, regions=False)


# -- power cuts ------------------------------------------------------------------------------------------------------

_RECORD = Struct("<cBQI")
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Op:
    """One call of the child that touched its disk."""

    op: str
    name: str
    at: int
    data: bytes


def recorded(trace: Path) -> list[Op]:
    data, at, found = trace.read_bytes(), 0, []
    while at < len(data):
        op, name_length, where, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        name = data[at : at + name_length].decode()
        at += name_length
        found.append(Op(op.decode(), name, where, data[at : at + length]))
        at += length
    return found


def cut(ops: list[Op], end: int, dice: random.Random) -> dict[str, bytes]:
    """The files after a power cut before call `end`: what was synced is there, of the rest each sector by chance."""
    files: dict[str, bytearray] = {}
    synced = {op.name: number for number, op in enumerate(ops[:end]) if op.op == "S"}
    for number, op in enumerate(ops[:end]):
        if op.name == "ledger":
            continue
        file = files.setdefault(op.name, bytearray())
        if op.op == "T":
            if number <= synced.get(op.name, -1) or dice.random() < 0.5:
                del file[op.at :]
                file.extend(bytes(op.at - len(file)))
        elif op.op == "W":
            whole = number <= synced.get(op.name, -1)
            _write(file, op, whole, dice)
    return {name: bytes(file) for name, file in files.items()}


def _write(file: bytearray, op: Op, whole: bool, dice: random.Random) -> None:
    for start in range(0, len(op.data), SECTOR):
        piece = op.data[start : start + SECTOR]
        if whole or dice.random() < 0.5:
            at = op.at + start
            file.extend(bytes(max(0, at + len(piece) - len(file))))
            file[at : at + len(piece)] = piece


@pytest.mark.goal("G3")
@pytest.mark.slow
async def test_two_hundred_power_cuts(
    folder: Path, shim: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trace = tmp_path_factory.mktemp("trace") / "trace"
    code, whole = run_child(folder, LD_PRELOAD=str(shim), SHIM_FOLDER=str(folder), SHIM_TRACE=str(trace))
    assert (code, whole.done) == (0, True)
    ops = [
        op
        for op in recorded(trace)
        if op.name in ("identity.db", "identity.db-wal", "identity.head", "ledger")
    ]
    made = next(
        number for number, op in enumerate(ops) if op.name == "ledger"
    )  # the file and its schema are there
    dice = random.Random(4)
    ledgers = []
    for number in range(200):
        end = dice.randrange(made, len(ops) + 1)
        ledger = Ledger.of(b"".join(op.data for op in ops[:end] if op.name == "ledger").decode())
        place = folder / f"cut{number}"
        place.mkdir()
        for name, data in cut(ops, end, dice).items():
            (place / name).write_bytes(data)
        await check(place, ledger, regions=False)
        shutil.rmtree(place)
        ledgers.append(len(ledger.people))
    assert min(ledgers) == 0
    assert max(ledgers) == len(whole.people)
