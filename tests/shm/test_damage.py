"""G4: any flipped bit, zeroed page or truncation of a region is found, and no damaged record is served.

The commit tier flips 1,000 bits at random places in every kind of region and every file of it; SKEP_G4_FLIPS asks for
more.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shm.test_identity_regions import KINDS as IDENTITY
from shm.test_identity_regions import key16
from shm.test_other_regions import STATE, binding, record
from shm.writers import ROUTER, node, spawn
from skep_shm import (
    ChannelsReader,
    ConfigReader,
    ConfigState,
    ConfigWriter,
    IlksReader,
    NodesReader,
    NodesWriter,
    PolicyReader,
    PolicyState,
    PolicyStatus,
    PolicyWriter,
    RecordsReader,
    RecordsWriter,
    RegionError,
    TenantsReader,
    ThreadsReader,
    ThreadsWriter,
    hive_prefix,
    inspect,
)
from skep_shm.segment import SHM_DIR

FLIPS = int(os.environ.get("SKEP_G4_FLIPS", "1000"))
SEED = 4
PAGE = 4096
NAMES = [f"AI.n{number}@test" + "x" * (number * 7 % 200) for number in range(40)]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of region: how it is filled, and what may be read from it, damaged or not."""

    fill: Callable[[Path], Any]
    read: Callable[[Path], list[Any]]


def nodes_filled(root: Path) -> NodesWriter:
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test", capacity=128)
    slots = [writer.add(node(number, name)) for number, name in enumerate(NAMES)]
    for slot in slots[::9]:
        writer.remove(slot)
    writer.heartbeat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    return writer


def threads_filled(root: Path) -> ThreadsWriter:
    writer = ThreadsWriter.create(root)
    for number in range(50):
        writer.bind(binding(number, NAMES[number % 40]))
    return writer


def config_filled(root: Path) -> ConfigWriter:
    writer = ConfigWriter.create(root, "test")
    writer.publish(ConfigState(6))
    writer.publish(STATE)
    return writer


def records_filled(root: Path) -> RecordsWriter:
    writer = RecordsWriter.create(root, ROUTER, capacity=32)
    for number in range(50):
        writer.append(record(number))
    return writer


def policy_filled(root: Path) -> PolicyWriter:
    writer = PolicyWriter.create(root, "test")
    writer.publish(PolicyState(7, PolicyStatus.OK, b"signed" * 900, b"shadow" * 90))
    return writer


def identity_filled(name: str) -> Callable[[Path], Any]:
    """Fills a region of identity, then changes it a little, so that ring, undo and free slots hold something."""
    kind = IDENTITY[name]

    def fill(root: Path) -> Any:
        writer = kind.writer.create(root, "test")
        writer.fill(kind.make(number) for number in range(50))
        for number in range(0, 50, 9):
            writer.remove(key16(number))
            writer.put(kind.change(kind.make(number + 1)))
        return writer

    return fill


KINDS = {
    "policy": Kind(policy_filled, lambda root: [PolicyReader.attach(root).read()]),
    "ilks": Kind(identity_filled("ilks"), lambda root: IlksReader.attach(root).all()),
    "tenants": Kind(identity_filled("tenants"), lambda root: TenantsReader.attach(root).all()),
    "channels": Kind(identity_filled("channels"), lambda root: ChannelsReader.attach(root).all()),
    "nodes": Kind(nodes_filled, lambda root: NodesReader.attach(root, ROUTER).all()),
    "threads": Kind(threads_filled, lambda root: ThreadsReader.attach(root).all()),
    "config": Kind(config_filled, lambda root: [ConfigReader.attach(root).read()]),
    "records": Kind(records_filled, lambda root: RecordsReader.attach(root, ROUTER).since()[0]),
}


READERS: dict[str, Callable[[Path], Any]] = {
    "nodes": lambda root: NodesReader.attach(root, ROUTER),
    "threads": ThreadsReader.attach,
    "ilks": IlksReader.attach,
    "tenants": TenantsReader.attach,
    "channels": ChannelsReader.attach,
}
DAMAGED_BYTE = 25  # in the key, where a look-up might be misled


def files(root: Path) -> list[Path]:
    return sorted(SHM_DIR.glob(f"{hive_prefix(root)[1:]}*"))


def served(kind: Kind, root: Path) -> list[Any]:
    """What a reader gets; nothing when it refuses the region."""
    try:
        return kind.read(root)
    except RegionError:
        return []


@pytest.mark.goal("G4")
@pytest.mark.parametrize("name", KINDS)
def test_any_flipped_bit_is_found_and_never_served(clean_root: Path, name: str) -> None:
    kind = KINDS[name]
    writer = kind.fill(clean_root)
    good = kind.read(clean_root)
    assert inspect.check(clean_root) == []
    rng = random.Random(f"{SEED} {name}")
    for flip in range(FLIPS // len(KINDS)):
        path = files(clean_root)[flip % 5 != 0]  # every fifth in the small anchor
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            place, bit = rng.randrange(len(mapping)), rng.randrange(8)
            mapping[place] ^= 1 << bit
            what = f"seed {SEED}: bit {bit} of byte {place} of {path.name}"
            assert inspect.check(clean_root), f"not found: {what}"
            got = served(kind, clean_root)
            assert all(value in good for value in got), f"damaged record served: {what}"
            assert len(got) >= len(good) - 1 or got == [], f"good records lost: {what}"
            mapping[place] ^= 1 << bit
    assert inspect.check(clean_root) == []
    assert kind.read(clean_root) == good
    writer.close()


@pytest.mark.goal("G4")
@pytest.mark.parametrize("name", READERS)
def test_one_damaged_record_hides_no_other(clean_root: Path, name: str) -> None:
    """Every record in turn: it is quarantined, all others are found by key, through a damaged chain, too."""
    kind = KINDS[name]
    writer = kind.fill(clean_root)
    good = kind.read(clean_root)
    reader: Any = READERS[name](clean_root)
    mapping = writer._table._segment.mapping

    def key(value: Any) -> Any:
        return getattr(value, reader.key)

    for slot, value in reader.items():
        place = writer._table._start(slot) + DAMAGED_BYTE
        mapping[place] ^= 4
        assert reader.get(slot) is None
        found = {key(each): reader.find(key(each)) for each in good}
        assert found.pop(key(value)) is None
        assert all(key(each) in found and found[key(each)] == each for each in good if each != value)
        mapping[place] ^= 4
        assert reader.get(slot) == value
    assert reader.damaged > 0
    writer.close()


@pytest.mark.goal("G4")
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_index_hides_nothing(clean_root: Path, name: str) -> None:
    """Each word of the index that leads somewhere, made to lead nowhere, elsewhere, and out of the table."""
    writer = KINDS[name].fill(clean_root)
    good = KINDS[name].read(clean_root)
    reader: Any = READERS[name](clean_root)
    words, index = writer._table._segment.words, writer._table._index
    for value in good:
        wanted = getattr(value, reader.key)
        for place in (index.bucket(wanted), index.links + index.first(wanted)):
            kept = words[place]
            for damage in (0, kept ^ 1, kept ^ 1 << 16, kept ^ 1 << 63, 0xFFFF_FFFF_FFFF_FFFF):
                words[place] = damage
                assert reader.find(wanted) == value
            words[place] = kept
    assert inspect.check(clean_root) == []
    writer.close()


@pytest.mark.goal("G4")
@pytest.mark.parametrize("name", KINDS)
def test_a_zeroed_page_is_found(clean_root: Path, name: str) -> None:
    kind = KINDS[name]
    writer = kind.fill(clean_root)
    good = kind.read(clean_root)
    for path in files(clean_root):
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            for start in range(0, len(mapping), PAGE):
                page = mapping[start : start + PAGE]
                if not page.strip(b"\0"):
                    continue  # zero already: nothing is lost
                mapping[start : start + PAGE] = bytes(len(page))
                assert inspect.check(clean_root), f"page at {start} of {path.name}"
                assert all(value in good for value in served(kind, clean_root))
                mapping[start : start + PAGE] = page
    assert inspect.check(clean_root) == []
    writer.close()


@pytest.mark.goal("G4")
@pytest.mark.parametrize("name", KINDS)
def test_truncation_at_every_record_boundary_is_found(root: Path, name: str) -> None:
    kind = KINDS[name]
    writer = kind.fill(root)
    writer._owner.anchor.close()  # as death does; nobody has the files mapped while they are cut
    for path in files(root):
        whole = path.read_bytes()
        step = 64 if len(whole) <= PAGE else 128 * (1 + len(whole) // 20_000)
        for length in range(0, len(whole), step):
            os.truncate(path, length)
            found = inspect.check(root)
            assert any(finding.fatal for finding in found), f"{path.name} cut at {length}"
            assert served(kind, root) == []
            path.write_bytes(whole)
    assert {finding.code for finding in inspect.check(root)} == set(), "this process lives: nothing is wrong"


def test_check_is_quiet_while_a_writer_works(root: Path) -> None:
    child = spawn("endless", root, 64)
    try:
        for _ in range(5):
            assert inspect.check(root) == []
    finally:
        child.kill()
        child.wait()


def test_a_stale_heartbeat_is_a_finding(clean_root: Path) -> None:
    writer = NodesWriter.create(clean_root, ROUTER, "RT.main@test", "test")
    writer.heartbeat(10**9)
    assert inspect.check(clean_root, now_ns=10**9 + inspect.HEARTBEAT_STALE_NS) == []
    found = inspect.check(clean_root, now_ns=2 * 10**9 + inspect.HEARTBEAT_STALE_NS)
    assert [finding.code for finding in found] == [inspect.FindingCode.STALE_HEARTBEAT]
    assert "RT.main@test" in found[0].detail
    assert not found[0].fatal
    writer.close()


def test_list_and_dump_show_every_region(clean_root: Path) -> None:
    writers = [kind.fill(clean_root) for kind in KINDS.values()]
    listed = inspect.list_regions(clean_root)
    assert {info.kind for info in listed} == set(KINDS)
    assert {info.state for info in listed} == {"live"}
    dumps = {info.kind: inspect.dump(clean_root, info.region) for info in listed}
    assert dumps["nodes"]["nodes"][0]["name"] == NAMES[1]
    assert dumps["nodes"]["header"]["router_name"] == "RT.main@test"
    assert dumps["config"]["config"]["routes"][0]["prefix"] == "AI.desk@test"
    assert dumps["threads"]["threads"][0]["thread"] == binding(0).thread.hex()
    assert dumps["records"]["records"][-1]["detail"] == "number 49"
    with pytest.raises(RegionError):
        inspect.dump(clean_root, "lsa-1")
    for writer in writers:
        writer.close()
