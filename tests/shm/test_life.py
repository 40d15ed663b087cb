"""The life of a region: two writers, dead writers, growth under readers, full memory, files that must be refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shm.writers import LAST_SLOT, ROUTER, Crash, node, spawn
from skep_shm import (
    Binding,
    ConfigReader,
    ConfigState,
    ConfigWriter,
    NodesReader,
    NodesWriter,
    RecordsReader,
    RecordsWriter,
    RegionCode,
    RegionError,
    Route,
    ThreadsReader,
    ThreadsWriter,
    hive_prefix,
    inspect,
    nodes_readers,
)
from skep_shm import segment as segments
from skep_shm.anchor import _claim_file
from skep_shm.layouts import ANCHOR, HEADER, VERSION, RegionKind
from skep_shm.region import Owner
from skep_shm.segment import SHM_DIR, segment_names
from skep_shm.seqlock import sealed
from support.hives import environment
from support.tools import need
from support.wait import eventually

KILLS = 20
Crashing = Callable[..., Crash]


def create(root: Path, **options: int) -> NodesWriter:
    return NodesWriter.create(root, ROUTER, "RT.main@test", "test", **options)  # type: ignore[arg-type]


def anchor_path(root: Path) -> Path:
    return SHM_DIR / f"{hive_prefix(root)[1:]}nodes-{ROUTER.hex()}"


def segment_path(root: Path) -> Path:
    return next(SHM_DIR.glob(f"{anchor_path(root).name}.g*"))


def attached(root: Path) -> NodesReader | None:
    """None while there is nothing to attach to, as between two writers."""
    try:
        return NodesReader.attach(root, ROUTER)
    except RegionError:
        return None


def refusal(root: Path, **options: int) -> RegionError:
    with pytest.raises(RegionError) as caught:
        NodesReader.attach(root, ROUTER, **options)
    return caught.value


# -- writers --------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_while_the_first_lives(clean_root: Path) -> None:
    writer = create(clean_root)
    writer.add(node(1))
    with pytest.raises(RegionError) as caught:
        create(clean_root)
    assert caught.value.code is RegionCode.BUSY
    assert "another process writes this region" in str(caught.value)
    assert caught.value.hint
    assert NodesReader.attach(clean_root, ROUTER).all() == [node(1)], "the refusal disturbed nothing"
    writer.close()
    create(clean_root).close()


def test_a_second_process_is_refused_while_the_first_lives(root: Path) -> None:
    child = spawn("endless", root, 1)
    try:
        with pytest.raises(RegionError) as caught:
            create(root)
        assert caught.value.code is RegionCode.BUSY
    finally:
        child.kill()
        child.wait()
    create(root).close()


@pytest.mark.goal("G18")
def test_a_writer_killed_in_the_middle_of_a_store_leaves_the_last_good_versions(
    root: Path, crashing: Crashing
) -> None:
    """20 kills, each in another store of an update: half a record, half an undo copy, or between."""
    slowest = 0.0
    rng = random.Random(18)
    for kill in range(KILLS):
        crashing("half_update", rng.randrange(1, 60) if kill > 4 else kill + 1)
        reader = NodesReader.attach(root, ROUTER)
        for slot in range(LAST_SLOT + 1):
            begun = time.perf_counter()
            found = reader.get(slot)
            slowest = max(slowest, time.perf_counter() - begun)
            assert found is not None
            assert found in (node(slot), node(slot)._replace(uid=slot, flags=slot))
            assert reader.find(node(slot).uuid) == found
        assert reader.damaged == 0
        assert len(reader.all()) == LAST_SLOT + 1
        reader.close()
    assert slowest <= 0.001, f"{slowest * 1e6:.0f} us"


@pytest.mark.goal("G18")
def test_a_writer_killed_while_adding_and_removing_never_shows_half_a_node(
    root: Path, crashing: Crashing
) -> None:
    for stores in range(1, 2 * KILLS, 2):
        crashing("half_add", stores)
        reader = NodesReader.attach(root, ROUTER)
        for found in reader.all():
            long_one = node(found.uid, "AI." + "x" * 200 + "@test")
            assert found in (node(found.uid), long_one)
        assert reader.find(node(0).uuid) == node(0)
        assert reader.find(b"nobody has this!") is None
        reader.close()


@pytest.mark.goal("G18")
def test_random_kills_of_a_flat_out_writer_and_a_new_one_takes_over(root: Path) -> None:
    """The reader stays attached through every death: no restart of a writer is a restart of its readers."""
    reader = None
    last_revision = 0
    for _ in range(4):
        child = spawn("endless", root, 8)
        reader = reader or NodesReader.attach(root, ROUTER)
        eventually(lambda: len(reader.all()) == 8, what="the new table is seen")  # noqa: B023
        child.kill()
        child.wait()
        assert reader.revision > last_revision
        last_revision = reader.revision
        for number in range(8):
            found = reader.find(node(number).uuid)
            assert found is not None
            assert found.uid == found.pid == found.vpn_id == found.flags
    assert reader is not None
    codes = {finding.code for finding in inspect.check(root)}
    assert inspect.FindingCode.DEAD_WRITER in codes
    writer = create(root)
    assert reader.all() == [], "connections died with the router: no ghosts"
    assert reader.changes(last_revision) is None
    assert inspect.check(root) == []
    writer.close()
    assert segment_names(hive_prefix(root)) == []


def test_bindings_and_configuration_survive_their_writers_death(root: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from skep_shm import *
root = Path(sys.argv[1])
threads, config = ThreadsWriter.create(root), ConfigWriter.create(root, "test")
threads.bind(Binding(b"t" * 32, "IO.terminal@test"))
config.publish(ConfigState(3, (Route("AI.x@test"),)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(root)], env=environment(), check=False)
    bound, state = Binding(b"t" * 32, "IO.terminal@test"), ConfigState(3, (Route("AI.x@test"),))
    thread_reader, config_reader = ThreadsReader.attach(root), ConfigReader.attach(root)
    seen = thread_reader.revision, config_reader.revision
    threads, config = ThreadsWriter.create(root), ConfigWriter.create(root, "test")
    assert thread_reader.all() == [bound]
    assert config_reader.read() == state
    assert thread_reader.revision > seen[0]
    assert config_reader.revision > seen[1]
    for writer in (threads, config):
        writer.close()
    threads = ThreadsWriter.create(root, adopt=False)
    assert ThreadsReader.attach(root).all() == []
    threads.close()


def test_a_writer_dead_between_generation_and_revision_is_read_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two stores that end a start are two: whoever reads after a death in between is served."""
    config = ConfigWriter.create(root, "test")
    config.publish(ConfigState(3))
    reader = ConfigReader.attach(root)
    config._owner.anchor.close()  # as death does: the lock is gone, everything else stays
    with monkeypatch.context() as patched:
        patched.setattr(Owner, "publish", lambda self, revision: None)
        config = ConfigWriter.create(root, "test")
    assert reader.read() == ConfigReader.attach(root).read() == ConfigState(3)
    config.publish(ConfigState(4))
    assert reader.read() == ConfigState(4)
    config.close()


def test_leftovers_of_a_dead_writer_are_swept_and_others_are_not(root: Path) -> None:
    orphan = Path(f"{anchor_path(root)}.g99")
    neighbour = SHM_DIR / f"{hive_prefix(root)[1:]}nodes-{bytes(16).hex()}.g1"
    for path in (orphan, neighbour):
        path.write_bytes(b"left")
    found = inspect.check(root)
    assert {finding.code for finding in found} == {inspect.FindingCode.ORPHAN_GENERATION}
    writer = create(root)
    assert not orphan.exists()
    assert neighbour.exists()
    writer.close()
    neighbour.unlink()


def test_an_anchor_that_was_unlinked_while_we_waited_is_not_ours(clean_root: Path) -> None:
    """A writer that opened the anchor just before its last holder closed must not lock a file without a name."""
    first = create(clean_root)
    fd = segments.open_file(first._owner.name, writable=True)
    first.close()
    assert _claim_file(f"/{anchor_path(clean_root).name}", fd, RegionKind.NODES) is None
    os.close(fd)
    create(clean_root).close()


# -- readers --------------------------------------------------------------------------------------------------


def test_a_reader_follows_through_many_generations_and_restarts(root: Path) -> None:
    child = spawn("grow", root, 40)
    try:
        reader = eventually(lambda: attached(root))
        deadline = time.monotonic() + 1.5
        seen: set[int] = set()
        codes = {_one_look(reader, seen) for _ in iter(lambda: time.monotonic() < deadline, False)}
        # Only these, and only for an instant: its writer closes and opens the region all the time.
        assert codes <= {None, RegionCode.MISSING, RegionCode.NOT_READY, RegionCode.UNSTABLE}
        assert len(seen) > 2
        reader.close()
    finally:
        child.kill()
        child.wait()


def _one_look(reader: NodesReader, seen: set[int]) -> RegionCode | None:
    """One look at everything; returns why it was refused."""
    try:
        assert reader.find(node(0).uuid) in (None, node(0))
        assert all(each == node(each.uid) for each in reader.all())
        seen.add(reader.header().generation)
    except RegionError as error:
        return error.code
    return None


@pytest.mark.goal("G18")
@pytest.mark.parametrize("ending", ["return", "sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_readers_exit_never_unlinks(clean_root: Path, ending: str) -> None:
    writer = create(clean_root)
    writer.add(node(1))
    code = f"""
import os, sys
from pathlib import Path
from skep_shm import nodes_readers
def main():
    readers = nodes_readers(Path(sys.argv[1]))
    assert len(readers[0].all()) == 1
    {ending}
main()
"""
    before = segment_names(hive_prefix(clean_root))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(clean_root)], env=environment(), check=False)
    assert segment_names(hive_prefix(clean_root)) == before
    assert NodesReader.attach(clean_root, ROUTER).all() == [node(1)]
    writer.close()


def test_nothing_there_is_an_error_with_a_hint(clean_root: Path) -> None:
    error = refusal(clean_root)
    assert error.code is RegionCode.MISSING
    assert error.hint == "start its writer"
    assert inspect.list_regions(clean_root) == []
    for attach in (ConfigReader.attach, ThreadsReader.attach):
        with pytest.raises(RegionError):
            attach(clean_root)
    with pytest.raises(RegionError):
        RecordsReader.attach(clean_root, ROUTER)


# -- files that are refused before they are mapped ------------------------------------------------------------


@pytest.fixture
def dead(root: Path) -> Path:
    """A region whose writer is gone, so that its files may be spoiled."""
    writer = create(root)
    writer.add(node(1))
    writer._owner.anchor.close()  # as death does: the lock is gone, everything else stays
    return root


@pytest.mark.goal("G18")
@pytest.mark.parametrize("which", [anchor_path, segment_path])
def test_a_truncated_file_is_refused_at_every_length(dead: Path, which: Callable[[Path], Path]) -> None:
    path = which(dead)
    whole = path.read_bytes()
    lengths = [0, 1, 7, 8, 40, 63, *range(64, len(whole), 997), len(whole) - 1, len(whole) + 64]
    for length in lengths:
        if length == len(whole):
            continue
        os.truncate(path, length)
        error = refusal(dead)
        assert error.code in (RegionCode.TRUNCATED, RegionCode.NOT_READY, RegionCode.DAMAGED), length
        assert inspect.check(dead), length
        os.truncate(path, len(whole))
        path.write_bytes(whole)
    assert NodesReader.attach(dead, ROUTER).all() == [node(1)]
    os.truncate(path, 5)
    writer = create(dead)
    writer.add(node(2))
    assert NodesReader.attach(dead, ROUTER).all() == [node(2)], "a new writer makes it anew"
    writer.close()


def rewrite(path: Path, offset: int, value: bytes, checked: int) -> None:
    """Changes bytes of a file and renews the checksum over its first `checked` bytes."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    data[:checked] = sealed(bytes(data[: checked - 4]))
    path.write_bytes(data)


@pytest.mark.goal("G18")
@pytest.mark.parametrize(("which", "checked"), [(anchor_path, 40), (segment_path, 464)])
@pytest.mark.parametrize("version", [0, 2, 999])
def test_another_version_is_refused_by_both_numbers(
    dead: Path, which: Callable[[Path], Path], checked: int, version: int
) -> None:
    rewrite(which(dead), 8, version.to_bytes(4, "little"), checked)
    error = refusal(dead)
    assert error.code is RegionCode.WRONG_VERSION
    assert f"version {version}" in str(error)
    assert f"version {VERSION}" in str(error)
    assert {finding.code for finding in inspect.check(dead)} >= {"WRONG_VERSION"}
    assert inspect.list_regions(dead)[0].state == "refused"
    create(dead).close()


@pytest.mark.parametrize(
    ("layout", "which", "checked", "field", "value", "code"),
    [
        (ANCHOR, anchor_path, 40, "kind", 3, RegionCode.WRONG_KIND),
        (ANCHOR, anchor_path, 40, "magic", 0, RegionCode.NOT_READY),
        (ANCHOR, anchor_path, 40, "magic", 1, RegionCode.DAMAGED),
        (ANCHOR, anchor_path, 40, "owner_uid", 4242, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "kind", 3, RegionCode.WRONG_KIND),
        (HEADER, segment_path, 464, "magic", 0, RegionCode.NOT_READY),
        (HEADER, segment_path, 464, "generation", 9, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "owner_uid", 4242, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "records_offset", 1 << 20, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "capacity", 1 << 30, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "record_bytes", 64, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "buckets", 1000, RegionCode.DAMAGED),
        (HEADER, segment_path, 464, "size_bytes", 1 << 40, RegionCode.TRUNCATED),
    ],
)
def test_a_header_that_lies_is_refused(
    dead: Path,
    layout: object,
    which: Callable[[Path], Path],
    checked: int,
    field: str,
    value: int,
    code: RegionCode,
) -> None:
    """With a valid checksum: what a program with a bug, not a bad bit, would leave."""
    assert layout in (ANCHOR, HEADER)
    offset, width = layout.offset(field), layout.width(field)  # type: ignore[attr-defined]
    rewrite(which(dead), offset, value.to_bytes(width, "little"), checked)
    assert refusal(dead).code is code
    create(dead).close()


@pytest.mark.goal("G18")
@pytest.mark.parametrize("which", [anchor_path, segment_path])
@pytest.mark.parametrize("mode", [0o660, 0o646, 0o666, 0o777])
def test_a_file_that_others_may_write_is_refused(
    dead: Path, which: Callable[[Path], Path], mode: int
) -> None:
    which(dead).chmod(mode)
    error = refusal(dead)
    assert error.code is RegionCode.WRONG_MODE
    assert f"{mode:04o}" in str(error)


@pytest.mark.goal("G18")
@pytest.mark.needs("root")
@pytest.mark.parametrize("which", [anchor_path, segment_path])
def test_a_foreign_owners_file_is_refused(dead: Path, which: Callable[[Path], Path]) -> None:
    os.chown(which(dead), 4242, -1)
    error = refusal(dead)
    assert error.code is RegionCode.FOREIGN_OWNER
    assert "4242" in str(error)
    assert nodes_readers(dead) == []
    assert any(finding.code == "FOREIGN_OWNER" for finding in inspect.check(dead))
    if which is anchor_path:
        with pytest.raises(RegionError) as caught:
            create(dead)
        assert caught.value.code is RegionCode.FOREIGN_OWNER, "a squatter's anchor is not taken over"


def test_the_expected_owner_can_be_named(clean_root: Path) -> None:
    writer = create(clean_root)
    assert NodesReader.attach(clean_root, ROUTER, owner_uid=os.geteuid()).all() == []
    assert refusal(clean_root, owner_uid=os.geteuid() + 1).code is RegionCode.FOREIGN_OWNER
    writer.close()


def test_mode_is_0640_whatever_the_umask(clean_root: Path) -> None:
    before = os.umask(0o777)
    try:
        writer = create(clean_root)
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in (anchor_path(clean_root), segment_path(clean_root))}
    assert modes == {"0o640"}
    writer.close()
    writer = create(clean_root, mode=0o600, group=os.getegid())
    assert segment_path(clean_root).stat().st_mode & 0o777 == 0o600
    writer.close()


def test_names_carry_uid_and_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    prefix = hive_prefix(one)
    assert prefix.startswith(f"/skep-{os.geteuid()}-")
    assert prefix != hive_prefix(two)
    (tmp_path / "link").symlink_to(one)
    assert hive_prefix(tmp_path / "link") == prefix, "the real path counts"


# -- a full /dev/shm ------------------------------------------------------------------------------------------


@pytest.mark.goal("G5")
@pytest.mark.needs("root")
@pytest.mark.needs("unshare")
def test_a_full_dev_shm_is_an_error_and_never_a_sigbus(root: Path) -> None:
    """On a 256 KiB tmpfs of its own: what was there stays readable, and goes on growing once there is room."""
    code = """
import os, subprocess, sys
from pathlib import Path
from skep_shm import *
root = Path(sys.argv[1])
writer = NodesWriter.create(root, bytes(16), "RT.main@test", "test", capacity=256)
reader = NodesReader.attach(root, bytes(16))
def node(n):
    return NodeRecord(n.to_bytes(16, "big"), f"AI.n{n}@test", 0, 0, 0, 0, 0)
added = 0
try:
    while True:
        writer.add(node(added))
        added += 1
except RegionError as error:
    print(error.code, added)
assert len(reader.all()) == added == 256
writer.update(0, flags=1)
assert reader.get(0).flags == 1
try:
    RecordsWriter.create(root, bytes(16))
except RegionError as error:
    print(error.code, error.hint)
left = sorted(os.listdir("/dev/shm"))
assert len(left) == 2, left
subprocess.run(["mount", "-o", "remount,size=4m", "/dev/shm"], check=True)
writer.add(node(added))
assert len(reader.all()) == added + 1
writer.close()
print("done")
"""
    command = f'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "{sys.executable}" -c "$0" "{root}"'
    argv = [need("unshare"), "--mount", "--propagation", "private", "sh", "-c", command, code]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    if "mount" in done.stderr and "ermi" in done.stderr:
        pytest.skip("needs the right to mount a tmpfs in a mount namespace: run as root outside a container")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "NO_SPACE 256"
    assert lines[1].startswith("NO_SPACE free space in /dev/shm")
    assert lines[-1] == "done"


@pytest.mark.goal("G5")
def test_no_room_for_a_larger_generation_leaves_the_table_in_force(
    clean_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with a kernel that says no, for machines where a tmpfs cannot be mounted."""
    writer = create(clean_root, capacity=2)
    slots = [writer.add(node(1)), writer.add(node(2))]
    reader = NodesReader.attach(clean_root, ROUTER)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(segments.os, "posix_fallocate", full)
        for _ in range(2):
            with pytest.raises(RegionError) as caught:
                writer.add(node(3))
            assert caught.value.code is RegionCode.NO_SPACE
        with pytest.raises(RegionError):
            RecordsWriter.create(clean_root, ROUTER)
    assert reader.all() == [node(1), node(2)]
    assert len(segment_names(hive_prefix(clean_root))) == 2
    writer.remove(slots[0])
    assert writer.add(node(3)) == slots[0]
    writer.add(node(4))
    assert sorted(reader.all()) == sorted([node(2), node(3), node(4)])
    writer.close()
