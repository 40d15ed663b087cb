"""G5: a full /dev/shm is told when a region is made or grows, by every kind of writer: no signal, nothing left behind.

A tmpfs of each size takes the place of /dev/shm in a mount namespace; there each writer makes its region and fills it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.hives import environment
from support.tools import need

KIB = (4, 64, 1024)
ENOUGH_KIB = 65536
CODE = """
import os, subprocess, sys
from pathlib import Path
from shm.test_identity_regions import KINDS
from shm.test_other_regions import STATE, binding, record
from shm.writers import ROUTER, node
from skep_shm import *

root = Path(sys.argv[1])

def keyed(kind):
    writer = kind.writer.create(root, "test")
    try:
        writer.fill([])
    except BaseException:
        writer.close()
        raise
    return writer, lambda number: writer.put(kind.make(number))

def nodes():
    writer = NodesWriter.create(root, ROUTER, "RT.main@test", "test")
    return writer, lambda number: writer.add(node(number))

def records():
    writer = RecordsWriter.create(root, ROUTER)
    return writer, lambda number: writer.append(record(number))

def threads():
    writer = ThreadsWriter.create(root)
    return writer, lambda number: writer.bind(binding(number))

def config():
    writer = ConfigWriter.create(root, "test")
    return writer, lambda number: writer.publish(STATE)

def policy():
    writer = PolicyWriter.create(root, "test")
    return writer, lambda number: writer.publish(PolicyState(number + 1, PolicyStatus.OK, bytes(number * 500)))

def used(make):
    try:
        writer, change = make()
        try:
            for number in range(3000):
                change(number)
        finally:
            writer.close()
    except RegionError as error:
        assert error.code is RegionCode.NO_SPACE and "free space in /dev/shm" in str(error), error
        return 1
    return 0

makers = {"nodes": nodes, "records": records, "threads": threads, "config": config, "policy": policy}
makers |= {name: lambda kind=kind: keyed(kind) for name, kind in KINDS.items()}
for kib in map(int, sys.argv[2].split(",")):
    subprocess.run(["mount", "-o", f"remount,size={kib}k", "/dev/shm"], check=True)
    for name, make in makers.items():
        child = os.fork()
        if not child:
            os._exit(used(make))
        status = os.waitpid(child, 0)[1]
        assert os.WIFEXITED(status), f"{name} in {kib} KiB ended by signal {os.WTERMSIG(status)}"
        assert os.listdir("/dev/shm") == [], (name, kib)
        print(kib, name, os.WEXITSTATUS(status))
"""


@pytest.mark.goal("G5")
def test_every_writer_tells_that_there_is_no_room(tmp_path: Path) -> None:
    sizes = ",".join(map(str, (*KIB, ENOUGH_KIB)))
    command = f'mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "{sys.executable}" -c "$0" "{tmp_path}" {sizes}'
    argv = [need("unshare"), "--mount", "--propagation", "private", "sh", "-c", command, CODE]
    env = environment() | {"PYTHONPATH": ":".join(each for each in sys.path if each)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if "mount" in done.stderr and "ermi" in done.stderr:
        pytest.skip("needs the right to mount a tmpfs in a mount namespace: run as root outside a container")
    assert done.returncode == 0, done.stderr
    told = {(int(kib), name): int(code) for kib, name, code in map(str.split, done.stdout.splitlines())}
    assert len(told) == 8 * (len(KIB) + 1)
    assert all(code == 1 for (kib, _), code in told.items() if kib <= 64)
    assert all(code == 0 for (kib, _), code in told.items() if kib == ENOUGH_KIB)
