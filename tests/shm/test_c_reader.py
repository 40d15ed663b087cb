"""The generated header, compiled: a C program reads a live region and agrees with Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shm.writers import ROUTER, node, spawn
from skep_shm import NodesReader, NodesWriter, cheader
from support.tools import need

PROGRAM = Path(__file__).with_name("read_nodes.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    (folder / "skep_shm.h").write_text(cheader.text())
    binary = folder / "read_nodes"
    argv = [need("gcc"), "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(folder), str(PROGRAM)]
    subprocess.run([*argv, "-o", str(binary)], check=True)
    return binary


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
