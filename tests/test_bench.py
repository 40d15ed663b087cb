"""Every benchmark in its tiny size, results checked, so that none of them rots; and the runner's arithmetic.

The figures of such short runs say nothing. What is asserted is that each row can be measured, that counts agree
(a run whose counts differ is invalid), and that files, medians and comparisons are what docs/benchmarks.md says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]
if str(REPO) not in sys.path:  # the bench package lies beside the tests, not inside a package root
    sys.path.insert(0, str(REPO))

from bench import report, runner  # noqa: E402
from bench.brokers import Brokers  # noqa: E402
from bench.cli import all_cases  # noqa: E402
from bench.cli import main as bench_main  # noqa: E402
from bench.machine import NotRunError, facts  # noqa: E402
from bench.rows import LIMIT, TINY, Bench, Case, Goal, atleast, atmost, chosen, ratio  # noqa: E402

ROW_KEYS = {"name", "size", "skep", "peer", "peer_value", "ratio", "unit"}


def case_of(values: dict[str, list[float]], *goals: Goal) -> Case:
    """A case that yields the given values, one per round, or cannot run where there are none."""
    given = {peer: iter(rounds) for peer, rounds in values.items()}

    def measure(bench: Bench, peer: str) -> dict[str, float]:
        if peer not in given:
            raise NotRunError(f"{peer} is not here")
        return {"rate": next(given[peer])}

    return Case("made up", ("skep", "nats"), measure, goals)


def run_of(case: Case, rounds: int) -> dict[str, Any]:
    return runner.run([case], TINY, rounds, lambda text: None)


def test_rows_are_medians_over_rounds_and_a_ratio_above_one_is_better() -> None:
    goal = Goal("rate", "nats", "rate", "msg/s", target=atleast(1.2), size=256, required=">= 1.2 x")
    document = run_of(case_of({"skep": [10, 30, 20], "nats": [5, 10, 100]}, goal), 3)
    (row,) = document["results"]
    assert row.keys() >= ROW_KEYS
    assert (row["skep"], row["peer_value"], row["ratio"], row["pass"]) == (20, 10, 2.0, True)
    assert row["rounds"] == [2.0, 3.0, 0.2]
    assert document["schema"] == "skep.bench/1"
    assert document["machine"]["versions"].keys() >= {"nats-server", "nats-py", "pyzmq", "dbus-fast"}


def test_lower_is_better_turns_the_ratio_round() -> None:
    goal = Goal("p50", "nats", "rate", "us", lower_is_better=True, target=atmost(0.6))
    assert ratio(goal, skep=50, peer=100) == 2.0
    (row,) = run_of(case_of({"skep": [70], "nats": [100]}, goal), 1)["results"]
    assert row["pass"] is False


def test_a_limit_of_zero_is_met_by_zero_only() -> None:
    goal = Goal("silent", LIMIT, "rate", "messages", lower_is_better=True, target=1, limit=0)
    assert run_of(case_of({"skep": [0]}, goal), 1)["results"][0]["pass"] is True
    assert run_of(case_of({"skep": [1]}, goal), 1)["results"][0]["pass"] is False


def test_a_row_that_cannot_run_is_listed_with_its_reason() -> None:
    goal = Goal("rate", "nats", "rate", "msg/s", target=1, size=256)
    document = run_of(case_of({"skep": [1, 1]}, goal), 2)
    assert document["results"] == []
    assert document["not_run"] == [
        {"name": "rate", "size": 256, "peer": "nats-server", "reason": "nats is not here"}
    ]
    assert "1 rows not run" in report.summary(document)


def test_comparison_sets_ratio_beside_ratio() -> None:
    goal = Goal("rate", "nats", "rate", "msg/s", size=256)
    before = run_of(case_of({"skep": [10], "nats": [10]}, goal), 1)
    after = run_of(case_of({"skep": [30], "nats": [20]}, goal), 1)
    (row,) = report.compare(before, after)
    assert (row["before"], row["after"], row["change"]) == (1.0, 1.5, 1.5)
    gone = report.compare(before, {**after, "results": []})
    assert gone[0]["after"] is None


def test_files_that_are_no_results_are_refused_with_a_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"schema": "other/1"}')
    assert bench_main(["compare", str(path), str(path)]) == 2
    assert "python -m bench" in capsys.readouterr().err
    assert bench_main(["run", "--only", "no such row"]) == 2


def test_every_row_of_the_table_has_a_case() -> None:
    """docs/benchmarks.md names each row; each names what it must reach or says that it is only shown."""
    text = (REPO / "docs" / "benchmarks.md").read_text()
    cases = all_cases()
    assert not [case.name for case in cases if f"`{case.name}`" not in text]
    assert all(goal.required for case in cases for goal in case.goals if goal.target is not None)
    assert chosen(cases, "round trip", True)


def test_machine_facts_are_plain_json() -> None:
    assert json.loads(json.dumps(facts()))["cores"] >= 1


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    """One tiny run of everything but the long cases, which have tests of their own."""
    apart = ("G9", "kill", "interlocutors", "skep up", "SDK to SDK, 4096", "SDK to SDK, 256 B, one")
    cases = [case for case in all_cases() if case.quick and not case.name.startswith(apart)]
    return runner.run(cases, replace(TINY, seconds=0.05, warm_s=0.01), 1, lambda text: None)


@pytest.mark.needs("gcc", "nats-server")
def test_counts_agree_for_every_peer(tiny: dict[str, Any]) -> None:
    assert tiny["run"]["invalid"] == []


@pytest.mark.needs("gcc", "nats-server")
@pytest.mark.parametrize("peer", ["nats-server", "C relay", "nats-py", "raw1", "raw2", "pyzmq ROUTER"])
def test_each_peer_was_measured(tiny: dict[str, Any], peer: str) -> None:
    rows = [row for row in tiny["results"] if row["peer"] == peer]
    assert rows, [entry for entry in tiny["not_run"] if entry["peer"] == peer]
    assert all(row["skep"] > 0 and row["peer_value"] > 0 for row in rows)


@pytest.mark.needs("gcc", "dbus-broker", "root")
def test_dbus_was_measured(tiny: dict[str, Any]) -> None:
    assert [row for row in tiny["results"] if row["peer"] == "dbus-fast on dbus-broker"], tiny["not_run"]


@pytest.mark.needs("gcc", "nats-server", "dbus-broker", "opa", "root")
def test_nothing_was_left_out(tiny: dict[str, Any]) -> None:
    assert tiny["not_run"] == []


def test_identity_is_measured_with_the_databases_that_are_here() -> None:
    case = next(case for case in all_cases() if case.name.startswith("interlocutors"))
    document = runner.run([case], TINY, 1, lambda text: None)
    figures = document["figures"][case.name]
    assert figures["skep"]["kib_per_ilk"] < 1
    assert all(figures[peer]["ilk_p50_us"] > 0 for peer in figures)
    missing = {entry["peer"] for entry in document["not_run"] if "not installed" in entry["reason"]}
    assert {entry["peer"] for entry in document["not_run"]} == missing


@pytest.mark.needs("gcc", "root")
def test_a_flood_from_another_uid_is_measured() -> None:
    case = next(case for case in all_cases() if case.name == "G9 flood, valid messages, 50 connections")
    document = runner.run([case], replace(TINY, seconds=0.05, warm_s=0.01), 1, lambda text: None)
    assert document["not_run"] == []
    assert document["figures"][case.name]["skep"]["flood_sent"] > 0


@pytest.mark.goal("G1")
@pytest.mark.needs("gcc")
def test_after_a_kill_of_the_router_every_message_is_accounted_for() -> None:
    case = next(case for case in all_cases() if case.name.startswith("kill -9"))
    document = runner.run([case], TINY, 1, lambda text: None)
    assert document["not_run"] == []
    figures = document["figures"][case.name]["skep"]
    assert (figures["silent"], figures["ghosts"], figures["wrongly_lost"], figures["doubled"]) == (0, 0, 0, 0)
    assert figures["sent"] == figures["delivered"] + figures["lost"] + figures["unknown"] + figures["refused"]


@pytest.mark.needs("gcc")
def test_the_load_generator_notices_a_router_that_loses(tmp_path: Path) -> None:
    """The relay drops frames for numbers nobody has: the run must fail, not report a rate."""
    brokers = Brokers()
    try:
        relay = brokers.get("relay")
        done = subprocess.run(
            [sys.executable, "-c", LOSSY, relay.address, str(tmp_path / "lossy.sock")],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=REPO,
        )
    finally:
        brokers.close()
    assert done.returncode == 0, done.stderr


# A relay in front of the relay that swallows the 500th frame of whoever sends.
LOSSY = r"""
import socket, struct, subprocess, sys, threading
sys.path.insert(0, ".")
from bench import build
behind, path = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(8)
def pump(source, sink, lose):
    seen, rest = 0, b""
    while data := source.recv(65536):
        rest += data
        while len(rest) >= 4 and len(rest) >= (size := struct.unpack_from("<I", rest)[0]):
            seen += 1
            if not lose or seen != 500:
                sink.sendall(rest[:size])
            rest = rest[size:]
    sink.close()
def serve():
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(behind)
        threading.Thread(target=pump, args=(client, server, True), daemon=True).start()
        threading.Thread(target=pump, args=(server, client, False), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
done = subprocess.run([str(build.program("loadgen")), "--peer", "relay", "--addr", path, "--fpw", "8", "--window", "64",
                       "--seconds", "0.2", "--warm", "0", "--patience", "0.5"], capture_output=True, text=True)
import json
told = json.loads(done.stdout) if done.stdout.strip() else {"sent": 1, "received": 0}
assert done.returncode or told["sent"] != told["received"] or told["errors"], done.stdout
"""


def test_micro_benchmarks_give_right_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "bench/micro", "-p", "no:cacheprovider", "-q"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=REPO,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_sweeps_of_shared_memory_have_a_line_for_each_variable() -> None:
    from bench import shm

    lines = shm.sweeps(50)
    assert {label for _, label, _, _ in lines} >= {"no writer", "writer at 1,000 Hz", "10,000 nodes"}
    assert all(p99 >= p50 > 0 for _, _, p50, p99 in lines)
