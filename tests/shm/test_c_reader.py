"""The generated header, compiled: C programs read live regions and agree with Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shm.test_identity_regions import channel, ilk, key16
from shm.writers import ROUTER, node, spawn
from skep_shm import (
    ChannelsReader,
    ChannelsWriter,
    IlksReader,
    IlksWriter,
    NodesReader,
    NodesWriter,
    cheader,
)
from support.tools import need

SOURCES = Path(__file__).parent


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles one of the programs beside this file."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "skep_shm.h").write_text(cheader.text())

    def compiled(name: str) -> Path:
        source, binary = SOURCES / f"{name}.c", folder / name
        argv = [need("gcc"), "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(folder), str(source)]
        subprocess.run([*argv, "-o", str(binary)], check=True)
        return binary

    return compiled


@pytest.fixture(scope="module")
def program(build: Callable[[str], Path]) -> Path:
    return build("read_nodes")


def read(program: Path, reader: NodesReader, times: int) -> list[list[str]]:
    """Lines of `slot uuid uid flags name`, as the C program saw them in its last of `times` rounds."""
    argv = [str(program), f"/dev/shm{reader._current().name}", str(times)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split(" ", 4) for line in done.stdout.splitlines()]


@pytest.mark.needs("gcc")
def test_c_and_python_agree(clean_root: Path, program: Path) -> None:
    writer = NodesWriter.create(clean_root, ROUTER, "RT.main@test", "test", capacity=64)
    slots = [writer.add(node(number, f"AI.n{number}@test" + "é" * (number * 6))) for number in range(20)]
    for slot in slots[::3]:
        writer.remove(slot)
    writer.update(slots[1], flags=4_000_000_000)
    reader = NodesReader.attach(clean_root, ROUTER)
    expected = [
        [str(slot), each.uuid.hex(), str(each.uid), str(each.flags), each.name]
        for slot, each in reader.items()
    ]
    assert read(program, reader, 1) == expected
    writer.close()


@pytest.mark.needs("gcc")
@pytest.mark.goal("G18")
def test_c_reads_nothing_torn_beside_a_flat_out_writer(root: Path, program: Path) -> None:
    child = spawn("endless", root, 4)
    try:
        reader = NodesReader.attach(root, ROUTER)
        lines = read(program, reader, 200_000)
    finally:
        child.kill()
        child.wait()
    assert len(lines) == 4
    assert all(uid == flags for _, _, uid, flags, _ in lines)


def found(program: Path, kind: str, reader: IlksReader | ChannelsReader, key: bytes) -> str:
    argv = [str(program), kind, f"/dev/shm{reader._current().name}", key.hex()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return done.stdout.rstrip("\n")


@pytest.mark.needs("gcc")
def test_c_finds_interlocutors_and_channels_by_key(clean_root: Path, build: Callable[[str], Path]) -> None:
    program = build("read_identity")
    ilks, channels = IlksWriter.create(clean_root, "test"), ChannelsWriter.create(clean_root, "test")
    ilks.fill(ilk(number) for number in range(600))
    channels.fill(channel(number) for number in range(600))
    ilks_reader, channels_reader = IlksReader.attach(clean_root), ChannelsReader.attach(clean_root)
    for number in (0, 1, 2, 5, 19, 599):
        one, other = ilk(number), channel(number)
        text = "|".join((one.handler, *one.roles, *one.capabilities, *one.degrees, *one.channel_kinds))
        counts = f"{len(one.roles)} {len(one.capabilities)} {len(one.degrees)} {len(one.channel_kinds)}"
        numbers = f"{one.kind:d} {one.subtype:d} {one.registration:d} {one.seal:d}"
        times = f"{one.alias_until_ms} {one.seal_until_ms}"
        ids = f"{one.ilk.hex()} {one.tenant.hex()} {one.canonical.hex()}"
        assert found(program, "ilk", ilks_reader, one.ilk) == f"{ids} {numbers} {times} {counts} {text}"
        shown = f"{other.key.hex()} {other.ilk.hex()} {other.tenant.hex()} {other.kind}"
        assert found(program, "channel", channels_reader, other.key) == shown
    assert found(program, "ilk", ilks_reader, key16(600)) == "none"
    assert found(program, "channel", channels_reader, key16(600)) == "none"
    for writer in (ilks, channels):
        writer.close()
