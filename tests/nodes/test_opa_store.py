"""The policy's files: damage is told, never served; what one copy lost another has; and what a start makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodes.opa_parts import KEY, Bench, a_bench, a_store, compiled, open_one, sign
from skep.protocol.errors import PolicyError
from skep_nodes.sy.opa_desk import state_of
from skep_nodes.sy.opa_shelf import Entry, Shelf
from skep_nodes.sy.opa_start import Start, start_with
from skep_nodes.sy.opa_store import SHELF, Loaded
from skep_policy.authority import Authority
from skep_policy.bundle import Compiled, hash_of, pack
from skep_shm import PolicyState, PolicyStatus


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Version 2 in force, 1 before it, 3 staged."""
    bench = a_bench(tmp_path)
    bench.do("compile_apply", "second")
    bench.do("compile", "third")
    return bench


def damages(whole: bytes) -> Iterator[bytes]:
    """Flipped bits all over the file, cuts, a zeroed page, nothing, and more than there was."""
    for index in range(0, len(whole), max(1, len(whole) // 40)):
        yield whole[:index] + bytes([whole[index] ^ 1 << index % 8]) + whole[index + 1 :]
        yield whole[:index]
    yield whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    yield bytes(len(whole))
    yield whole + b"\0"


def started(
    folder: Path, left: PolicyState | None = None, default: Callable[[], Compiled] | None = None
) -> Start:
    make = default or (lambda: compiled("default"))
    return start_with(a_store(folder).load(), left or PolicyState(), make, open_one, sign)


# -- damage ------------------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(tmp_path: Path, bench: Bench) -> None:
    assert a_store(tmp_path).load() == Loaded(bench.desk.shelf)


@pytest.mark.goal("G4")
def test_every_damage_to_the_shelf_file_is_named_and_the_copy_serves(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / SHELF
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1 << index % 8]) + whole[index + 1 :])
        loaded = a_store(tmp_path).load()
        assert loaded.shelf == bench.desk.shelf
        assert loaded.warnings[0].startswith("shelf.json: ")
    for damage in damages(whole):
        path.write_bytes(damage)
        loaded = a_store(tmp_path).load()
        assert (loaded.shelf, len(loaded.warnings)) == (bench.desk.shelf, 1)
    store = a_store(tmp_path)
    store.repair(bench.desk.shelf)
    assert store.load() == Loaded(bench.desk.shelf)


@pytest.mark.goal("G4")
def test_with_both_shelf_files_damaged_the_folders_are_asked(tmp_path: Path, bench: Bench) -> None:
    for damage in (b"", b"# skep-opa/1 sha256:" + b"0" * 64 + b"\n{}", bytes(9000)):
        for name in (SHELF, SHELF + ".bak"):
            (tmp_path / name).write_bytes(damage)
        loaded = a_store(tmp_path).load()
        assert loaded.shelf == bench.desk.shelf
        assert "recovered current, staged, backup" in loaded.warnings[-1]


@pytest.mark.goal("G4")
@pytest.mark.parametrize("slot", ["current", "staged", "backup"])
def test_a_damaged_bundle_is_set_aside_and_its_copy_serves(tmp_path: Path, bench: Bench, slot: str) -> None:
    entry = bench.desk.shelf.entries()[slot]
    first, second = tmp_path / "bundles" / f"{entry.name}.bundle", tmp_path / slot / "bundle"
    for damage in damages(entry.data):
        first.write_bytes(damage)
        store = a_store(tmp_path)
        loaded = store.load()
        assert loaded.shelf == bench.desk.shelf
        assert not loaded.lost
        assert f"{entry.name}.bundle" in loaded.warnings[0]
        assert "set aside" in loaded.warnings[0]
        store.repair(bench.desk.shelf)
        assert first.read_bytes() == second.read_bytes() == entry.data
    second.write_bytes(b"")
    assert a_store(tmp_path).load().shelf == bench.desk.shelf


@pytest.mark.goal("G4")
def test_no_damaged_bundle_is_ever_served(tmp_path: Path, bench: Bench) -> None:
    entry = bench.desk.shelf.current
    assert entry is not None
    for damage in damages(entry.data):
        (tmp_path / "bundles" / f"{entry.name}.bundle").write_bytes(damage)
        (tmp_path / "current" / "bundle").write_bytes(damage)
        loaded = a_store(tmp_path).load()
        assert loaded.lost
        assert loaded.shelf is not None
        assert loaded.shelf.current is None
        assert loaded.shelf.backup == bench.desk.shelf.backup
        assert "current policy is lost" in loaded.warnings[-1]


@pytest.mark.goal("G17")
def test_files_that_somebody_else_signed_are_not_used(tmp_path: Path, bench: Bench) -> None:
    """Whole, with the right hash in a whole shelf: only the signature tells."""

    def forged(one: Compiled, version: int) -> Entry:
        data = pack(one, version, "hive", Authority(bytes(32)))
        return replace(sign(one, version), data=data, name=hash_of(data))

    shelf = Shelf(9, current=forged(compiled("evil"), 9))
    store = a_store(tmp_path)
    store.save(shelf)
    store.show(shelf)
    loaded = a_store(tmp_path).load()
    assert loaded.lost
    assert "SIGNATURE_INVALID" in loaded.warnings[0]
    assert started(tmp_path).shelf.current is None


@pytest.mark.goal("G21")
def test_the_files_are_the_owners_alone_and_hold_no_key(tmp_path: Path, bench: Bench) -> None:
    seed = bytes(range(32))
    for path in tmp_path.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
        if path.is_file():
            assert seed not in path.read_bytes()
            assert seed.hex().encode() not in path.read_bytes()
    assert KEY.public


def test_folders_show_upstreams_files_and_an_empty_slot_shows_none(tmp_path: Path, bench: Bench) -> None:
    assert {path.name for path in (tmp_path / "staged").iterdir()} == {
        "bundle", "metadata.json", "policy.rego", "policy.wasm",
    }  # fmt: skip
    bench.do("apply")
    assert not list((tmp_path / "staged").iterdir())
    assert (tmp_path / "current" / "policy.wasm").read_bytes() == b"wasm of third"
    assert '"wasm_size_bytes": 13' in (tmp_path / "current" / "metadata.json").read_text()


# -- starting ----------------------------------------------------------------------------------------------------


def test_the_first_start_takes_the_packaged_policy(tmp_path: Path) -> None:
    start = started(tmp_path)
    assert start.changed
    assert start.shelf.current == sign(compiled("default"), 1)
    assert not start.warnings


def test_a_package_without_a_policy_starts_closed_and_says_so(tmp_path: Path) -> None:
    def missing() -> Compiled:
        raise PolicyError("MANIFEST_INVALID", "gone")

    start = started(tmp_path, default=missing)
    assert start.shelf == Shelf()
    assert state_of(start.shelf).status is PolicyStatus.LOADING
    assert "MANIFEST_INVALID" in start.warnings[0]


def test_the_next_start_finds_what_was_in_force(tmp_path: Path, bench: Bench) -> None:
    assert started(tmp_path, bench.region.last) == Start(bench.desk.shelf)


@pytest.mark.goal("G4")
def test_lost_files_are_made_good_from_the_region(tmp_path: Path, bench: Bench) -> None:
    lose(tmp_path, bench, "current")
    start = started(tmp_path, bench.region.last)
    assert start.changed
    assert start.shelf == bench.desk.shelf
    assert "taken over from shared memory" in start.warnings[-1]


@pytest.mark.goal("G4")
def test_with_the_region_gone_too_the_policy_before_is_in_force_under_a_new_number(
    tmp_path: Path, bench: Bench
) -> None:
    lose(tmp_path, bench, "current")
    start = started(tmp_path)
    assert start.shelf.current == sign(compiled("first"), 4)
    assert "in force again as 4" in start.warnings[-1]


@pytest.mark.goal("G17")
def test_with_everything_lost_no_policy_is_in_force_and_not_the_default(tmp_path: Path, bench: Bench) -> None:
    lose(tmp_path, bench, "current")
    lose(tmp_path, bench, "backup")
    start = started(tmp_path)
    assert start.shelf.current is None
    assert state_of(start.shelf).status is PolicyStatus.ERROR
    assert "skep policy apply" in start.warnings[-1]


def lose(folder: Path, bench: Bench, slot: str) -> None:
    name = bench.desk.shelf.entries()[slot].name
    (folder / "bundles" / f"{name}.bundle").write_bytes(b"x")
    (folder / slot / "bundle").write_bytes(b"x")


def test_files_from_a_backup_get_a_number_above_what_routers_have_seen(tmp_path: Path, bench: Bench) -> None:
    newer = sign(compiled("later"), 40)
    start = started(tmp_path, PolicyState(40, PolicyStatus.OK, newer.data))
    assert start.shelf.current == sign(compiled("second"), 41)
    assert "signed again as 41" in start.warnings[-1]


def test_a_region_that_lies_is_only_believed_about_numbers(tmp_path: Path) -> None:
    start = started(tmp_path, PolicyState(40, PolicyStatus.OK, b"not a bundle"))
    assert start.shelf.current == sign(compiled("default"), 41)
