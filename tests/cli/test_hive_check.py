"""What `skep up` refuses, `skep config validate` refuses in the same words; nothing is started or imported for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep.hive import Hive
from skep_nodes.cli.app import up
from skep_nodes.cli.config_commands import validate_command
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.hive_check import check_nodes
from skep_nodes.cli.hive_file import load
from skep_nodes.cli.hive_folder import make_hive
from skep_nodes.cli.output import Format, Output

HEAD = "hive_id: dev\nnodes:\n"


@pytest.fixture
def hive() -> Iterator[Hive]:
    """A hive that was made and never started, under a short path."""
    with tempfile.TemporaryDirectory(prefix="sk", dir="/tmp") as folder:
        yield make_hive(Path(folder) / "h", "dev")[1]


def refused(hive: Hive) -> Failure:
    with pytest.raises(Failure) as caught:
        validate_command(hive.root, Output(Format.json))
    return caught.value


WRONG = [
    ("- name: AI.x\n  module: skep_nodes.no_such\n", 4, "no module named 'skep_nodes.no_such'"),
    ("- name: AI.x\n  module: mine\n  path: elsewhere\n", 4, "no module named 'mine'"),
    ("- name: AI.x\n  module: mine.inner.deep\n  path: nodes\n", 4, "no module named 'mine.inner.deep'"),
    ("- name: AI.x\n  module: skep_nodes.ai\n", 4, "a package without `__main__`"),
    ("- name: AI.desk\n  module: skep_nodes.ai.desk\n  settings: {documnts: x}\n", 5, "unknown setting 'documnts'"),
    ("- name: IO.http\n  module: skep_nodes.io.http\n  settings:\n    port: many\n", 5, "nodes.0.settings.port"),
    ("- name: IO.http\n  module: skep_nodes.io.http\n  config: none.json\n", 5, "none.json"),
    ("- name: IO.http\n  module: skep_nodes.io.http\n  settings: {secrets_file: /none}\n", 5, "mode 0600"),
    ("- name: IO.http\n  module: skep_nodes.io.http\n  settings: {host: 2026-01-01}\n", 5, "not JSON serializable"),
    ("- name: IO.email\n  module: skep_nodes.io.email\n", 3, "nodes.0.settings"),
]


@pytest.mark.parametrize(("nodes", "line", "words"), WRONG)
def test_both_refuse_a_node_in_the_same_words(hive: Hive, nodes: str, line: int, words: str) -> None:
    (hive.root / "hive.yaml").write_text(HEAD + nodes)
    failure = refused(hive)
    assert (failure.code, failure.exit_code) == ("INVALID_CONFIG", Exit.USAGE)
    assert f"hive.yaml:{line}: " in failure.what
    assert words in failure.what
    with pytest.raises(Failure) as caught:
        up(hive.root, quiet=True)
    assert caught.value.text() == failure.text()
    assert not list((hive.root / "logs").iterdir()), "nothing was started"


def test_all_wrong_nodes_are_told(hive: Hive) -> None:
    (hive.root / "hive.yaml").write_text(HEAD + WRONG[0][0] + WRONG[4][0])
    assert "also" in refused(hive).why
    assert "documnts" in refused(hive).why


def test_numbers_of_yaml_are_numbers(hive: Hive) -> None:
    node = "- name: IO.http\n  module: skep_nodes.io.http\n  settings: {port: 0x1F90, wait_s: 2.5}\n"
    (hive.root / "hive.yaml").write_text(HEAD + node)
    check_nodes(hive, load(hive.root))


def test_a_module_is_found_where_its_process_would_find_it_and_not_run(hive: Hive) -> None:
    inner = hive.root / "nodes" / "mine" / "inner"
    inner.mkdir(parents=True)
    for file in (inner.parent / "__init__.py", inner / "node.py", inner / "__main__.py"):
        file.write_text("raise SystemExit('it was imported')\n")
    nodes = "".join(
        f"- name: AI.{name}\n  module: {module}\n  {where}\n"
        for name, module, where in [
            ("a", "mine.inner.node", "path: nodes"), ("b", "mine.inner", f"path: {hive.root}/nodes"),
            ("c", "mine.inner", f"env: {{PYTHONPATH: '{hive.root}/nodes'}}"), ("d", "json.tool", "restart: never"),
        ]
    )  # fmt: skip
    (hive.root / "hive.yaml").write_text(HEAD + nodes)
    check_nodes(hive, load(hive.root))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agents: 3\n", "agents must be a list"),
        ("agents:\n- {node: 'AI desk'}\n", "agents[0]"),
        ("agents: [\n", "identity.yaml"),
    ],
)
def test_the_file_of_a_first_start_is_played_through(hive: Hive, text: str, words: str) -> None:
    (hive.config_dir / "identity.yaml").write_text(text)
    failure = refused(hive)
    assert (failure.code, failure.exit_code) == ("INVALID_CONFIG", Exit.USAGE)
    assert failure.what.startswith("SY.identity: ")
    assert words in failure.what
    (hive.state_dir / "identity").mkdir()
    (hive.state_dir / "identity" / "identity.db").touch()
    assert validate_command(hive.root, Output(Format.table)) == Exit.OK, "later the file is not read any more"


def test_the_settings_of_identity_and_the_key_are_looked_at(hive: Hive) -> None:
    (hive.config_dir / "identity.yaml").write_text("agents:\n- {node: AI.desk}\n")
    assert validate_command(hive.root, Output(Format.table)) == Exit.OK
    assert not (hive.state_dir / "identity").exists(), "the hive itself was not filled"
    (hive.state_dir / "authority" / "hive.key").write_text("no key")
    assert refused(hive).code == "KEY_DAMAGED"
