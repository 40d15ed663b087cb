"""hive.yaml: every mistake is named with its line, and the layer that won is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.hive_file import load
from skep_nodes.cli.hive_folder import make_hive

GOOD = "hive_id: dev\nnodes:\n- name: AI.desk\n  module: skep_nodes.ai.desk\n"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name, as pytest's own do not."""
    with tempfile.TemporaryDirectory(prefix="sk", dir="/tmp") as folder:
        yield Path(folder)


def written(folder: Path, text: str) -> Path:
    (folder / "hive.yaml").write_text(text)
    return folder


def test_defaults_and_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hive.d").mkdir()
    (tmp_path / "hive.d" / "10-stop.yaml").write_text("# patience\nstop_s: 20\n")
    monkeypatch.setenv("SKEP_READY_S", "3")
    loaded = load(written(tmp_path, GOOD))
    assert (loaded.settings.stop_s, loaded.settings.ready_s, loaded.settings.tap) == (20, 3, True)
    assert loaded.settings.nodes[0].name == "AI.desk"
    assert loaded.origins["stop_s"].endswith("hive.d/10-stop.yaml:2")
    assert loaded.origins["nodes"].endswith("hive.yaml:2")
    assert (loaded.origins["ready_s"], loaded.origins["tap"]) == ("SKEP_READY_S", "default")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("hive_id: dev\nnods: []\n", 2, "did you mean 'nodes'"),
        ("hive_id: dev\nwan: {}\n", 2, "unknown key 'wan'; known are"),
        (GOOD + "  modul: x\n", 5, "did you mean 'module'"),
        ("hive_id: dev\nstop_s: soon\n", 2, "stop_s"),
        ("hive_id: dev\nnodes:\n- module: a.b\n", 3, "nodes.0.name: Field required"),
        ("hive_id: dev\nnodes:\n- name: sy.x\n  module: a\n", 3, "capitals"),
        ("hive_id: dev\nnodes:\n- name: SY.x\n  module: a\n", 3, "started by `skep up` itself"),
        ("hive_id: dev\nnodes:\n- name: AI.x\n  module: a; rm\n", 4, "module"),
        (GOOD + GOOD.partition("\n")[2].partition("\n")[2], 2, "two nodes are called AI.desk"),
        ("hive_id: 'a b'\n", 1, "hive_id"),
        ("hive_id: [\n", 2, ""),
        ("- a\n", 1, "must be a mapping"),
        ("hive_id: dev\nhive_id: dev\n", 2, "duplicate key"),
        ("hive_id: dev\nnodes: " + "[" * 2000, 1, "nested too deeply"),
        ("hive_id: dev\nnodes: &a [*a]\n", 2, "nodes.0"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(Failure) as caught:
        load(written(tmp_path, text))
    assert caught.value.exit_code == Exit.USAGE
    assert f"hive.yaml:{line}: " in caught.value.what
    assert words in caught.value.what


def test_several_mistakes_are_all_told(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        load(written(tmp_path, "hive_id: dev\nstop_s: -1\nready_s: x\n"))
    assert "ready_s" in caught.value.what + caught.value.why
    assert "stop_s" in caught.value.what + caught.value.why


def test_the_environment_is_named_when_it_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEP_STOP_S", "never")
    with pytest.raises(Failure, match="SKEP_STOP_S: stop_s"):
        load(written(tmp_path, GOOD))


def test_making_a_hive_twice_changes_nothing(short: Path) -> None:
    made, hive = make_hive(short / "h", "dev")
    assert (made, hive.hive_id) == (True, "dev")
    before = (short / "h" / "hive.yaml").read_text()
    assert make_hive(short / "h", "other") == (False, hive)
    assert (short / "h" / "hive.yaml").read_text() == before
    assert (short / "h" / "state").stat().st_mode & 0o777 == 0o700
    assert load(hive.root).settings.hive_id == "dev"


def test_a_folder_too_long_for_a_socket_is_refused(short: Path) -> None:
    with pytest.raises(Failure, match="too long for a hive") as caught:
        make_hive(short / ("x" * 90))
    assert "107" in caught.value.why
    assert not (short / ("x" * 90)).exists()


@pytest.mark.parametrize("hive_id", ["a b", "a.b", "../x", "x" * 65, "ä"])
def test_a_wrong_hive_id_is_refused(short: Path, hive_id: str) -> None:
    with pytest.raises(Failure, match="INVALID_NAME"):
        make_hive(short / "h", hive_id)
    assert not (short / "h").exists()


def test_without_an_id_the_host_gives_its_name(short: Path) -> None:
    assert make_hive(short / "h")[1].hive_id
