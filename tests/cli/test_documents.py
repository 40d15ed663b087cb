"""The two operating documents say what the code does: every command, code and key stands in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skep_nodes.cli.app import app
from skep_nodes.cli.hive_file import _ENVIRONMENT, HiveFile, NodeEntry
from skep_nodes.sy.config_change import SECTIONS, SUBSYSTEMS

REPO = Path(__file__).resolve().parents[2]
OPERATIONS = (REPO / "docs" / "operations.md").read_text()
CONFIGURATION = (REPO / "docs" / "configuration.md").read_text()
CLI = sorted((REPO / "nodes" / "skep_nodes" / "cli").glob("*.py"))
SY = sorted((REPO / "nodes" / "skep_nodes" / "sy").glob("*.py"))


def commands() -> list[str]:
    single = [(info.name or info.callback.__name__) for info in app.registered_commands if info.callback]
    return [*single, *(group.name for group in app.registered_groups if group.name)]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    assert re.search(rf"`{command}[ `]", OPERATIONS), f"docs/operations.md does not name skep {command}"


def codes() -> list[str]:
    raised = re.compile(r'(?:Failure|Refusal|ThreadRefusal)\(\s*"([A-Z_]+)"')
    found = {code for path in [*CLI, *SY] for code in raised.findall(path.read_text())}
    return sorted(found | {section.duplicate for section in SECTIONS.values()})


@pytest.mark.parametrize("code", codes())
def test_every_code_is_documented(code: str) -> None:
    assert f"`{code}`" in OPERATIONS


@pytest.mark.parametrize("key", [*HiveFile.model_fields, *NodeEntry.model_fields, *_ENVIRONMENT])
def test_every_setting_is_documented(key: str) -> None:
    assert f"`{key}`" in CONFIGURATION


@pytest.mark.parametrize("subsystem", SUBSYSTEMS)
def test_every_subsystem_is_documented(subsystem: str) -> None:
    assert f"`{subsystem}`" in OPERATIONS


def test_the_example_of_a_hive_file_is_valid() -> None:
    from ruamel.yaml import YAML

    found = re.search(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    assert found is not None
    settings = HiveFile.model_validate(YAML(typ="safe", pure=True).load(found[1]))
    assert [node.name for node in settings.nodes] == ["AI.desk", "IO.http"]


def test_exit_codes_are_documented() -> None:
    from skep_nodes.cli.failure import Exit

    _, _, after = OPERATIONS.partition("**Exit codes.**")
    sentence = after.partition("\n\n")[0]
    assert all(re.search(rf"\b{code.value}\s", sentence) for code in Exit)
