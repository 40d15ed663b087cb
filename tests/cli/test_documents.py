"""The two operating documents say what the code does: every command, code and key stands in them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from skep_nodes.ai.desk import DeskSettings, ModelSettings, TenantDocuments
from skep_nodes.cli.app_identity import app
from skep_nodes.cli.children import SYSTEM_MODULES
from skep_nodes.cli.hive_file import _ENVIRONMENT, HiveFile, NodeEntry
from skep_nodes.identity.refusal import Code
from skep_nodes.identity.verbs import Settings
from skep_nodes.identity.verbs import verbs as verbs_of_identity
from skep_nodes.io.callbacks import Webhook
from skep_nodes.io.email_settings import EmailSettings, Mailbox
from skep_nodes.io.http_channel import HttpSettings
from skep_nodes.io.mail_place import Place
from skep_nodes.io.terminal import TerminalSettings
from skep_nodes.io.whatsapp_channel import Number, WhatsappSettings
from skep_nodes.sy.config_change import SECTIONS, SUBSYSTEMS
from skep_nodes.sy.identity_config import KNOWN

REPO = Path(__file__).resolve().parents[2]
OPERATIONS = (REPO / "docs" / "operations.md").read_text()
CONFIGURATION = (REPO / "docs" / "configuration.md").read_text()
ERRORS = (REPO / "docs" / "errors.md").read_text()
CLI = sorted((REPO / "nodes" / "skep_nodes" / "cli").glob("*.py"))
SY = sorted((REPO / "nodes" / "skep_nodes" / "sy").glob("*.py"))


def commands() -> list[str]:
    single = [(info.name or info.callback.__name__) for info in app.registered_commands if info.callback]
    return [*single, *(group.name for group in app.registered_groups if group.name)]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    assert re.search(rf"`{command}[ `]", OPERATIONS), f"docs/operations.md does not name skep {command}"


def verbs() -> list[tuple[str, str]]:
    return [
        (group.name, info.name or info.callback.__name__)
        for group in app.registered_groups
        if group.name and group.typer_instance
        for info in group.typer_instance.registered_commands
        if info.callback
    ]


@pytest.mark.parametrize(("noun", "verb"), verbs())
def test_every_verb_of_a_command_is_documented(noun: str, verb: str) -> None:
    rows = [row for row in OPERATIONS.splitlines() if row.startswith("| `") and f"`{noun} " in row]
    assert any(re.search(rf"[ |\\]{verb}\b", row) for row in rows), f"no row of `skep {noun}` names {verb}"


def codes() -> list[str]:
    raised = re.compile(r'(?:Failure|Refusal|ThreadRefusal)\(\s*"([A-Z_]+)"')
    found = {code for path in [*CLI, *SY] for code in raised.findall(path.read_text())}
    return sorted(found | {section.duplicate for section in SECTIONS.values()})


@pytest.mark.parametrize("code", codes())
def test_every_code_is_documented(code: str) -> None:
    assert f"`{code}`" in OPERATIONS


@pytest.mark.parametrize("code", list(Code))
def test_every_refusal_of_identity_is_explained(code: Code) -> None:
    section = ERRORS.partition("## Identity")[2].partition("\n## ")[0]
    assert f"`{code}`" in section


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


@pytest.mark.parametrize("key", sorted(KNOWN | {"postgres_url"}))
def test_every_setting_of_identity_is_documented(key: str) -> None:
    assert f"`{key}`" in CONFIGURATION


OF_EVERY_CHANNEL = {"to", "identity", "threads"}
SETTINGS = {
    "IO.http": (HttpSettings, Webhook), "IO.whatsapp": (WhatsappSettings, Number),
    "IO.email": (EmailSettings, Mailbox, Place), "AI.desk": (DeskSettings, ModelSettings, TenantDocuments),
    "IO.terminal": (TerminalSettings,),
}  # fmt: skip


@pytest.mark.parametrize("node", SETTINGS)
def test_every_setting_of_a_channel_or_agent_is_in_its_row(node: str) -> None:
    section = CONFIGURATION.partition("## Settings of channels and agents")[2]
    row = next(line for line in section.splitlines() if line.startswith(f"| `{node}` |"))
    names = {each.name for settings in SETTINGS[node] for each in dataclasses.fields(settings)}
    stated = set(re.findall(r"`(\w+)`", row)) | OF_EVERY_CHANNEL | {"name", "secrets_file"}
    assert not names - stated


def test_the_example_of_who_is_who_fills_a_hive() -> None:
    from ruamel.yaml import YAML

    from skep_nodes.identity.first_start import _MEMBERS

    found = re.search(r"```yaml\n(.*?)```", OPERATIONS, re.DOTALL)
    assert found is not None
    document = YAML(typ="safe", pure=True).load(found[1])
    assert document.keys() == _MEMBERS
    assert document["default_tenant"] in [tenant["name"] for tenant in document["tenants"]]


@pytest.mark.parametrize("verb", sorted(verbs_of_identity(Settings("hive"))))
def test_every_verb_of_identity_says_from_whom(verb: str) -> None:
    section = OPERATIONS.partition("| Verb to `SY.identity`")[2].partition("\n\n")[0]
    assert f"`{verb}`" in section


def test_every_system_node_is_in_the_listing_and_in_the_order_of_starts() -> None:
    start = (REPO / "docs" / "start.md").read_text()
    listing = OPERATIONS.partition("```console\n$ skep up")[2].partition("```")[0]
    assert not [name for name in SYSTEM_MODULES if f"\n{name} " not in listing]
    assert not [name for name in SYSTEM_MODULES if f"| `{name}` |" not in start]


def test_exit_codes_are_documented() -> None:
    from skep_nodes.cli.failure import Exit

    _, _, after = OPERATIONS.partition("**Exit codes.**")
    sentence = after.partition("\n\n")[0]
    assert all(re.search(rf"\b{code.value}\s", sentence) for code in Exit)
