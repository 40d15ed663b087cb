"""Where a node belongs: the hive's folder, its uuid, its lock, its ticket."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from skep import find_hive
from skep.connector import UnixDialer
from skep.errors import HiveError, IdentityError
from skep.identity import persistent, read_ticket


def test_the_order_in_which_a_hive_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flag", "env", "context", "state"):
        folder = tmp_path / name / ("skep" if name == "state" else "")
        folder.mkdir(parents=True)
        (folder / "hive.yaml").write_text(f"# a comment\nhive_id: {name}  # the id\nrole: worker\n")
    (tmp_path / "config" / "skep").mkdir(parents=True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SKEP_HIVE", raising=False)
    assert find_hive().hive_id == "state"
    (tmp_path / "config" / "skep" / "context").write_text(f"{tmp_path / 'context'}\n")
    assert find_hive().hive_id == "context"
    monkeypatch.setenv("SKEP_HIVE", str(tmp_path / "env"))
    assert find_hive().hive_id == "env"
    assert find_hive(tmp_path / "flag").hive_id == "flag"


def test_a_missing_or_nameless_hive_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HiveError, match="skep up"):
        find_hive(tmp_path)
    (tmp_path / "hive.yaml").write_text("hive_id: two words\n")
    with pytest.raises(HiveError, match="hive_id"):
        find_hive(tmp_path)


def test_a_persistent_uuid_is_kept_private_and_the_same(root: Path) -> None:
    hive = find_hive(root)
    first = persistent(hive, "AI.kept")
    path = hive.state_dir / "nodes" / "AI.kept.uuid"
    assert UUID(path.read_text().strip()).bytes == first.uuid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.close()
    second = persistent(hive, "AI.kept")
    assert second.uuid == first.uuid
    second.close()


@pytest.mark.goal("G14")
def test_two_processes_cannot_hold_one_persistent_uuid(root: Path) -> None:
    mine = persistent(find_hive(root), "AI.kept")
    code = f"from skep import find_hive, identity\nidentity.persistent(find_hive({str(root)!r}), 'AI.kept')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert "another process runs as AI.kept" in other.stderr
    mine.close()
    assert subprocess.run([sys.executable, "-c", code], env=_environment()).returncode == 0


def test_a_damaged_uuid_file_is_an_error_and_not_a_new_uuid(root: Path) -> None:
    hive = find_hive(root)
    path = hive.state_dir / "nodes" / "AI.kept.uuid"
    path.parent.mkdir(parents=True)
    path.write_text("half a uu")
    with pytest.raises(IdentityError, match="holds no uuid"):
        persistent(hive, "AI.kept")
    assert path.read_text() == "half a uu"


def test_a_ticket_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"ticket-1\n")
    os.close(writing)
    monkeypatch.setenv("SKEP_TICKET_FD", str(reading))
    assert read_ticket() == "ticket-1"
    assert read_ticket() is None
    assert "SKEP_TICKET_FD" not in os.environ


def test_sockets_are_tried_from_the_one_the_name_hashes_to(root: Path) -> None:
    folder = root / "run" / "routers"
    folder.mkdir(parents=True)
    for name in ("a.sock", "b.sock", "c.sock", "irp-d.sock", "e.txt"):
        (folder / name).touch()
    places = [Path(place).name for place in UnixDialer(folder).places("SY.test")]
    start = 0x3A77F8C8E5EC1C3D % 3
    assert places == (["a.sock", "b.sock", "c.sock"] * 2)[start : start + 3]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize(
    ("line", "milliseconds"), [("import skep", 80), ("from skep import Node, connect", 270)]
)
def test_importing_is_quick_and_lean(line: str, milliseconds: int) -> None:
    """Bounds four times what it takes on an idle core, and the best of nine: a test machine is none."""
    code = f"import time, sys; t = time.process_time(); {line}; d = time.process_time() - t\n"
    code += "print(d * 1000, 'pydantic' in sys.modules, 'skep.sync' in sys.modules, 'skep.testing' in sys.modules)"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=True
        )
        for _ in range(9)
    ]
    fastest = min(float(run.stdout.split()[0]) for run in runs)
    assert fastest < milliseconds
    assert runs[0].stdout.split()[1:] == ["False", "False", "False"]
