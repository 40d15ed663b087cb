"""The nightly ledger, the fuzzers and the locks: what `make nightly`, `make fuzz` and a bare clone rely on."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support import fuzzing
from support.markdown import REPO


def tool(name: str) -> ModuleType:
    """A program of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", REPO / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_finding_is_kept_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz = tool("fuzz")
    monkeypatch.setattr(fuzz, "KEEP", tmp_path)

    def check(data: bytes) -> None:
        if data == b"x":
            raise KeyError(data)

    target = fuzzing.Target("broken", lambda: [b"x", b"y"], check, check)
    assert fuzzing.run_many(target, target.seeds()) == [b"x"]
    assert fuzz._keep(target, b"x") == 1
    assert [path.read_bytes() for path in (tmp_path / "findings").iterdir()] == [b"x"]


def test_every_nightly_job_names_a_goal_and_a_program() -> None:
    nightly = tool("nightly")
    jobs = nightly.read_jobs()
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        assert all((REPO / word).is_file() for word in job.argv if word.endswith(".py")), job
        assert 0 < job.nightly <= job.release, job
        assert re.fullmatch(r"G\d+", job.goal), job


def test_the_nightly_slice_goes_on_where_the_ledger_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = tool("nightly")
    monkeypatch.setattr(nightly, "LEDGER", tmp_path / "ledger.jsonl")
    script = tmp_path / "job.py"
    script.write_text("""import sys; print('noise'); print('{"done": 5, "failures": 0}')""")
    job = nightly.Job("one", "G13", "units", (str(script),), 10, 100)
    nightly._slice([job], "nightly", 60)
    lines = [json.loads(line) for line in nightly.LEDGER.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert [line["done"] for line in lines] == [5, 5]
    assert "done" in list(nightly.table([job], nightly.read_ledger(), "nightly"))[1]


def test_a_nightly_job_that_dies_is_a_failure_and_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = tool("nightly")
    monkeypatch.setattr(nightly, "LEDGER", tmp_path / "ledger.jsonl")
    job = nightly.Job("dead", "G13", "units", ("-c", "raise SystemExit('no')"), 10, 100)
    nightly._slice([job], "nightly", 60)
    progress = nightly.read_ledger()["dead"]
    assert (progress.turns, progress.failures) == (1, 1)
    assert "FAILED" in list(nightly.table([job], nightly.read_ledger(), "nightly"))[1]


@pytest.mark.parametrize("name", ["run", "dev"])
def test_a_lock_has_a_hash_for_every_version_and_no_address(name: str) -> None:
    text = (REPO / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 20
    assert not [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry]
    assert not re.search(r"https?://|^--", text, re.MULTILINE)


def test_the_two_locks_agree() -> None:
    pinned = [
        dict(
            re.findall(
                r"^([a-z0-9-]+)==(\S+)", (REPO / "requirements" / f"{name}.txt").read_text(), re.MULTILINE
            )
        )
        for name in ("run", "dev")
    ]
    assert {name: pinned[1][name] for name in pinned[0] if name in pinned[1]} == {
        name: version for name, version in pinned[0].items() if name in pinned[1]
    }
