"""`skep` as a process beside a real hive: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.forked import SKEP, skep_command
from support.hives import REPO, HiveFolder, environment, private_hive
from support.wait import eventually

STOP_S = 12.0
READY_WITHIN_S = 4.0


def skep(*arguments: str, root: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return skep_command(*arguments, stdin=stdin, **({"SKEP_HIVE": str(root)} if root else {}))


class Up:
    """A running `skep up` and what it said."""

    def __init__(self, hive: HiveFolder, *arguments: str) -> None:
        self.root = hive.root
        self.child = hive.start("up", [*SKEP, "up", "--hive", str(hive.root), *arguments])
        eventually(self.ready, within=15, what="skep up is ready")

    def ready(self) -> bool:
        assert self.child.running(), self.child.log()
        return " ready in " in self.child.log() and f"hive {'test'} ready" in self.child.log()

    def skep(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return skep(*arguments, root=self.root, stdin=stdin)

    def json(self, *arguments: str) -> Any:
        done = self.skep(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pids(self) -> dict[str, int]:
        return {node["name"].partition("@")[0]: node["pid"] for node in self.json("node", "ls")["nodes"]}


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with private_hive() as hive:
        yield Up(hive)


def test_version_is_quick_and_alone_on_stdout() -> None:
    began = time.monotonic()
    done = subprocess.run([*SKEP, "version"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert re.fullmatch(r"skep \d+\.\d+\.\d+\S*\n", done.stdout)
    assert time.monotonic() - began < 2.0, "150 ms on a quiet machine; this only catches a heavy import"


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys; from skep_nodes.cli import main; main(['version']); "
        "print(sorted({'typer','rich','pydantic','asyncio','ruamel.yaml','textual','uvloop'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1] == "[]"


def test_reading_commands_load_nothing_heavy(up: Up) -> None:
    code = (
        "import sys; from skep_nodes.cli import main; main(['node', 'ls']); "
        "print(sorted({'rich', 'textual', 'ruamel.yaml', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    env = environment(SKEP_HIVE=str(up.root))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments", [["nod"], ["route", "add"], ["events", "--nope"], ["version", "-o", "xml"]]
)
def test_usage_errors_are_2_and_say_what_to_run(arguments: list[str]) -> None:
    done = skep(*arguments)
    assert done.returncode == 2
    assert "error USAGE" in done.stderr
    assert "next: skep" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_a_hive_it_is_3(tmp_path: Path) -> None:
    done = skep("node", "ls", "--hive", str(tmp_path))
    assert done.returncode == 3
    assert "HIVE_NOT_FOUND" in done.stderr
    assert "skep up" in done.stderr


def test_errors_are_json_for_scripts(tmp_path: Path) -> None:
    done = skep("node", "ls", "--hive", str(tmp_path), "-o", "json")
    document = json.loads(done.stderr)
    assert document["schema"] == "skep.error/1"
    assert document["error"]["code"] == "HIVE_NOT_FOUND"


def test_a_hive_that_does_not_run_is_3(hive_folder: HiveFolder) -> None:
    for command in (
        ["node", "ls"],
        ["events"],
        ["route", "add", "AI.x", "--drop"],
        ["msg", "req", "AI.x", "{}"],
    ):
        done = skep(*command, root=hive_folder.root)
        assert done.returncode == 3, command
        assert "NOT_RUNNING" in done.stderr, command


def test_nodes_are_listed_and_described(up: Up) -> None:
    assert {"SY.config.routes", "SY.threads", "SY.tap"} <= set(up.pids())
    info = up.json("node", "info", "SY.tap")
    assert (info["schema"], info["framing"]) == ("skep.node/1", "native")
    assert up.skep("node", "info", "AI.none").returncode == 3
    nodes = up.json("node", "ls")["nodes"]
    assert all(node["up_s"] >= 0 for node in nodes), "a script gets numbers beside the text for people"
    assert "SY.tap@test\n" in up.skep("node", "ls", "-o", "name").stdout


def test_a_route_is_added_listed_refused_twice_and_removed(up: Up) -> None:
    added = up.skep("route", "add", "AI.bad.*", "--drop")
    assert (added.returncode, added.stdout) == (0, "")
    assert "added; configuration is now version" in added.stderr
    assert "AI.bad.*" in up.skep("route", "ls", "-o", "name").stdout
    assert up.skep("route", "add", "AI.bad.*", "--drop").returncode == 6
    assert up.skep("route", "rm", "AI.bad.*").returncode == 2
    removed = up.skep("route", "rm", "AI.bad.*", "--yes", "--json")
    assert json.loads(removed.stdout)["done"] == "removed"
    assert up.json("route", "ls")["routes"] == []
    assert up.skep("route", "rm", "AI.bad.*", "--yes").returncode == 3


def test_a_dry_run_changes_nothing(up: Up) -> None:
    done = up.skep("vpn", "add", "AI.*", "7", "--dry-run")
    assert "would be added (dry run)" in done.stderr
    assert up.json("vpn", "ls")["vpns"] == []
    assert up.skep("vpn", "add", "A*B", "7", "--dry-run").returncode == 2


def test_a_stale_version_is_a_conflict(up: Up) -> None:
    done = up.skep("grant", "add", "65534", "AI.*", "--version", "999")
    assert done.returncode == 6
    assert "VERSION_CONFLICT" in done.stderr


def test_a_message_is_asked_answered_and_explained(up: Up) -> None:
    sub = subprocess.Popen(
        [*SKEP, "msg", "sub", "AI.ear", "-n", "1", "--timeout", "20", "--json"],
        env=environment(SKEP_HIVE=str(up.root)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: "AI.ear" in up.pids(), within=10)
    sent = up.skep("msg", "send", "AI.ear", '{"a": 1}')
    assert sent.returncode == 0, sent.stderr
    heard, _ = sub.communicate(timeout=20)
    assert json.loads(heard)["payload"] == {"a": 1}
    steps = up.json("explain", sent.stdout.strip())["steps"]
    assert (steps[0]["step"], steps[0]["dest"]) == ("sent on", "AI.ear@test")
    assert up.skep("explain", sent.stdout[:8]).returncode == 0


def test_unknown_destinations_traces_and_kinds(up: Up) -> None:
    assert up.skep("msg", "req", "AI.nobody", "{}", "--timeout", "2").returncode == 3
    assert up.skep("explain", "ffffffffffff").returncode == 3
    assert up.skep("explain", "xyz").returncode == 2
    assert up.skep("events", "--kind", "NOISE").returncode == 2
    assert up.skep("events", "--since", "soon").returncode == 2


def test_events_name_who_joined(up: Up) -> None:
    found = up.json("events", "--kind", "node_joined")["events"]
    assert "SY.threads@test" in {event["source"] for event in found}
    assert all(event["kind"] == "NODE_JOINED" for event in found)


def test_shared_memory_is_listed_dumped_and_sound(up: Up) -> None:
    regions = [region["region"] for region in up.json("shm", "ls")["regions"]]
    assert {"config", "threads"} <= set(regions)
    dumped = json.loads(up.skep("shm", "dump", "config").stdout)
    assert dumped["schema"] == "skep.region/1"
    assert up.skep("shm", "check").returncode == 0
    assert "#ifndef" in up.skep("shm", "header").stdout


def test_doctor_finds_nothing_wrong(up: Up) -> None:
    done = up.skep("doctor", "-o", "json")
    assert done.returncode == 0, done.stdout
    levels = {check["check"]: check["level"] for check in json.loads(done.stdout)["checks"]}
    assert levels["routers"] == levels["shared memory"] == "ok"


def test_top_prints_one_picture(up: Up) -> None:
    done = up.skep("top", "--once")
    assert done.returncode == 0, done.stderr
    assert "SY.threads@test" in done.stdout
    assert "frames/s" in done.stdout


def test_no_line_of_the_help_is_cut() -> None:
    for noun in ([], ["node"], ["msg"], ["shm"], ["route"], ["grant"], ["config"]):
        assert "..." not in skep(*noun, "--help").stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = skep("completion", shell)
    assert done.returncode == 0
    assert "_SKEP_COMPLETE" in done.stdout


def test_a_closed_pipe_is_no_error(up: Up) -> None:
    command = f"{sys.executable} -m skep_nodes.cli shm header | head -n 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("0", "130")
    assert done.stderr == ""


def _hear_ctrl_c() -> None:
    """A shell starts background jobs with SIGINT ignored, and a child inherits that; a terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_130(up: Up) -> None:
    child = subprocess.Popen(
        [*SKEP, "events", "-w"],
        env=environment(SKEP_HIVE=str(up.root)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_hear_ctrl_c,
    )
    assert child.stdout is not None
    assert child.stdout.readline()
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert child.stderr is not None
    assert child.stderr.read() == b""


# -- the hive itself ---------------------------------------------------------------------------------------------


@pytest.mark.goal("G1")
def test_a_killed_child_comes_back_and_a_stopped_hive_leaves_nothing(hive_folder: HiveFolder) -> None:
    up = Up(hive_folder)
    before = up.pids()
    os.kill(before["SY.threads"], signal.SIGKILL)
    eventually(lambda: up.pids().get("SY.threads", before["SY.threads"]) != before["SY.threads"], within=10)
    assert "was ended by SIGKILL; again in 0.1 s" in up.child.log()
    up.child.process.send_signal(signal.SIGINT)
    assert up.child.process.wait(STOP_S) == 0, "Ctrl-C is the ordinary way to end a hive"
    assert hive_folder.segments() == []
    assert "Traceback" not in up.child.log()


@pytest.mark.goal("G1")
def test_a_killed_router_comes_back_with_all_its_nodes(hive_folder: HiveFolder) -> None:
    up = Up(hive_folder)
    router = int(re.search(r"RT.main\s+pid (\d+)", up.child.log())[1])  # type: ignore[index]
    os.kill(router, signal.SIGKILL)
    eventually(lambda: up.child.log().count("RT.main") >= 4, within=10, what="the router is ready again")
    eventually(lambda: {"SY.config.routes", "SY.threads", "SY.tap"} <= set(up.pids()), within=10)
    assert up.skep("route", "add", "AI.x", "--drop").returncode == 0


@pytest.mark.parametrize("where", ["path", "PYTHONPATH"])
def test_the_smallest_node_runs_as_a_child(hive_folder: HiveFolder, where: str) -> None:
    """The first example, which calls node.run() and reads no arguments, with a module outside the package."""
    (hive_folder.root / "mine").mkdir()
    shutil.copy(REPO / "examples" / "01_echo.py", hive_folder.root / "mine" / "echo.py")
    paths = os.pathsep.join([str(hive_folder.root / "mine"), environment()["PYTHONPATH"]])
    place = "path: mine" if where == "path" else f"env: {{PYTHONPATH: '{paths}'}}"
    text = f"hive_id: test\nnodes:\n- name: AI.echo\n  module: echo\n  {place}\n"
    (hive_folder.root / "hive.yaml").write_text(text)
    up = Up(hive_folder)
    answer = up.skep("msg", "req", "AI.echo", "[7]", "-o", "json")
    assert json.loads(answer.stdout)["payload"] == {"echo": [7]}


def test_a_hive_is_ready_within_seconds(hive_folder: HiveFolder) -> None:
    """From the start of `skep up` to a policy that decides and every process in the router's table; one of three.
    Two seconds are promised on an idle machine, and measured there (`make bench`); a busy one gets twice that."""
    found = []
    for number in range(3):
        began = time.monotonic()
        child = hive_folder.start(f"up{number}", [*SKEP, "up", "--hive", str(hive_folder.root)])
        eventually(lambda: "hive test ready" in child.log(), within=15)  # noqa: B023  asked before the next turn
        found.append(time.monotonic() - began)
        child.stop(STOP_S)
        if found[-1] <= READY_WITHIN_S:
            return
    assert not found, f"seconds: {found}"


def test_a_config_without_its_owner_is_3(hive_folder: HiveFolder, router: object) -> None:
    done = skep("route", "ls", root=hive_folder.root)
    assert done.returncode == 3
    assert "NOT_RUNNING" in done.stderr


def test_a_second_skep_up_is_a_conflict(up: Up) -> None:
    done = up.skep("up")
    assert done.returncode == 6
    assert "ALREADY_RUNNING" in done.stderr


def test_a_node_that_cannot_start_is_named(hive_folder: HiveFolder) -> None:
    (hive_folder.root / "fails.py").write_text("import no_such\n")
    text = f"hive_id: test\nready_s: 3\nnodes:\n- name: AI.no\n  module: fails\n  path: {hive_folder.root}\n"
    (hive_folder.root / "hive.yaml").write_text(text)
    done = skep("up", "--hive", str(hive_folder.root))
    assert done.returncode == 5
    assert "NOT_READY" in done.stderr
    assert "AI.no" in done.stderr
    assert "no_such" in done.stderr


def test_the_demo_ends_ok() -> None:
    done = skep("demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("demo: ok\n")
    assert max(map(len, done.stdout.splitlines())) <= 80
