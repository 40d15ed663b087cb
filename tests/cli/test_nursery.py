"""The nursery: what it bears is what a new interpreter would be, is ours, and does not depend on it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep_nodes.cli import nursery as nursery_module
from skep_nodes.cli.children import Child, log_path, python
from skep_nodes.cli.nursery import QUESTION_BYTES_MAX, Birth, Nursery
from support.hives import HiveFolder, environment
from support.wait import eventually

SKEP = [sys.executable, "-m", "skep_nodes.cli"]
ABOUT = """
import gc, json, os, random, sys, threading, uuid
def main():
    print(json.dumps({
        "random": random.random(), "uuid": uuid.uuid4().hex, "threads": threading.active_count(), "gc": gc.isenabled(),
        "argv": sys.argv, "name": __name__, "here": os.getcwd(), "session": os.getsid(0) == os.getpid(),
        "open": sorted(int(each) for each in os.listdir("/proc/self/fd")), "env": os.environ.get("MINE"),
        "ticket": os.read(3, 99).decode() if "SKEP_TICKET_FD" in os.environ else None, "hive": os.environ["SKEP_HIVE"],
        "shown": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0"), "comm": open("/proc/self/comm").read(),
        "imported": "skep_nodes.cli.nursery" in sys.modules, "safe": sys.flags.safe_path,
    }))
main()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.py").write_text(ABOUT)
    (tmp_path / "mine" / "ends.py").write_text("import os, sys\nsys.exit(7)\n")
    (tmp_path / "mine" / "waits.py").write_text("import signal\nprint('waiting')\nsignal.pause()\n")
    (tmp_path / "mine" / "leaves.py").write_text(
        "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)\n"
    )
    paths = [str(tmp_path / "mine"), environment()["PYTHONPATH"]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


@pytest.fixture
def nursery(folder: Path) -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def born(nursery: Nursery, root: Path, child: Child) -> Child:
    child.start(nursery, root, 0.0)
    return child


def ended(child: Child) -> int:
    process = child.process
    assert process is not None
    eventually(lambda: process.poll() is not None, within=15)
    code = process.poll()
    assert code is not None
    return code


def said(nursery: Nursery, root: Path, child: Child) -> dict[str, Any]:
    assert ended(born(nursery, root, child)) == 0, log_path(root, child.name).read_text()
    facts: dict[str, Any] = json.loads(log_path(root, child.name).read_text())
    return facts


def test_a_fork_is_what_a_new_interpreter_would_be(nursery: Nursery, folder: Path) -> None:
    command = python("about", "--hive", "x y")
    facts = said(nursery, folder, Child("AI.one", command, ticket="secret"))
    assert (facts["name"], facts["argv"][1:], facts["safe"]) == ("__main__", ["--hive", "x y"], True)
    assert (facts["here"], facts["hive"]) == (str(folder), str(folder))
    assert (facts["ticket"], facts["session"], facts["threads"], facts["gc"]) == ("secret", True, 1, True)
    assert (facts["shown"], facts["comm"]) == (command, "AI.one\n")
    assert facts["open"][:5] == [0, 1, 2, 3, 4], "standard ones, the ticket, and the folder that is listed"
    assert len(facts["open"]) == 5
    assert facts["imported"], "what the nursery had imported is there"


def test_two_forks_share_no_randomness(nursery: Nursery, folder: Path) -> None:
    one, two = (said(nursery, folder, Child(name, python("about"))) for name in ("AI.one", "AI.two"))
    assert one["random"] != two["random"]
    assert one["uuid"] != two["uuid"]


@pytest.mark.parametrize("own", ["env", "path"])
def test_a_node_with_an_environment_of_its_own_starts_afresh(nursery: Nursery, folder: Path, own: str) -> None:
    given: dict[str, Any] = {"env": {"MINE": "1"}} if own == "env" else {"path": str(folder / "mine")}
    facts = said(nursery, folder, Child("AI.own", python("about", "-x"), **given))
    assert not facts["imported"]
    assert facts["env"] == ("1" if own == "env" else None)
    assert facts["argv"][1:] == ["-x"]
    assert facts["open"] == [0, 1, 2, 3]


def test_how_it_ended_is_known(nursery: Nursery, folder: Path) -> None:
    assert ended(born(nursery, folder, Child("AI.seven", python("ends")))) == 7
    waiting = born(nursery, folder, Child("AI.waits", python("waits")))
    eventually(lambda: "waiting" in log_path(folder, "AI.waits").read_text(), within=10)
    waiting.signal(signal.SIGKILL)
    assert ended(waiting) == -signal.SIGKILL
    assert ended(born(nursery, folder, Child("AI.no", python("no_such_module")))) == 1
    assert "no_such_module" in log_path(folder, "AI.no").read_text()


def test_what_cannot_be_started_is_an_error_of_the_system(nursery: Nursery, folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        born(nursery, folder, Child("AI.none", ["/no/such/program"]))
    with pytest.raises(FileNotFoundError):
        nursery.bear(Birth("AI.x", python("about"), {}, str(folder / "gone")), [1])
    with pytest.raises(OSError, match="bytes"):
        born(nursery, folder, Child("AI.long", python("about", "x" * QUESTION_BYTES_MAX)))
    nursery.reap_strangers(set())
    assert nursery.pid, "it is still there"


@pytest.mark.goal("G1")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_nursery_takes_nobody_along_and_is_replaced(
    nursery: Nursery, folder: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = born(nursery, folder, Child("AI.waits", python("waits")))
    before = nursery.pid
    monkeypatch.setattr(nursery_module, "ANSWER_S", 15.0)
    nursery._socket.settimeout(0.5)
    os.kill(before, how)
    assert ended(born(nursery, folder, Child("AI.seven", python("ends")))) == 7
    assert nursery.pid != before
    assert not Path(f"/proc/{before}").exists()
    assert waiting.process is not None
    assert waiting.process.poll() is None
    waiting.signal(signal.SIGKILL)
    ended(waiting)


def test_what_a_child_leaves_behind_is_ended_and_reaped(nursery: Nursery, folder: Path) -> None:
    child = born(nursery, folder, Child("AI.leaves", python("leaves")))
    assert ended(child) == 0
    left = int(log_path(folder, "AI.leaves").read_text())
    child.signal(signal.SIGKILL)

    def gone() -> bool:
        nursery.reap_strangers({child.pid})
        return not Path(f"/proc/{left}").exists()

    eventually(gone, within=10)


@pytest.mark.goal("G1")
def test_nothing_outlives_a_killed_skep_up_and_a_nursery_is_replaced(hive_folder: HiveFolder) -> None:
    up = hive_folder.start("up", [*SKEP, "up", "--hive", str(hive_folder.root)])
    eventually(lambda: "hive test ready" in up.log(), within=20)
    children = family(up.pid)
    nursery = next(pid for pid in children if (Path(f"/proc/{pid}/comm").read_text()) == "skep-nursery\n")
    os.kill(nursery, signal.SIGKILL)
    tap = next(pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "SY.tap\n")
    os.kill(tap, signal.SIGKILL)
    eventually(lambda: up.log().count("SY.tap ") >= 4, within=20, what="SY.tap is born by another nursery")
    later = family(up.pid)
    assert children - later == {nursery, tap}, "nobody else was touched"
    up.kill()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in later), within=15)


def family(pid: int) -> set[int]:
    """The children of a process."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
