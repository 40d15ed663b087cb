"""SY.opa.rules as a real process beside a real router."""

from __future__ import annotations

import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from skep import DeliveryError, Node
from skep_policy.authority import KEY_PATH, public_key
from skep_policy.bundle import Bundle, open_bundle
from skep_shm import PolicyReader, RegionError
from support.hives import Child, HiveFolder
from support.wait import eventually, eventually_async

OWNER = "SY.opa.rules"
MODULES = {OWNER: "skep_nodes.sy.opa_rules", "SY.config.routes": "skep_nodes.sy.config_routes"}
RULES = """package router

default target := null

target := "AI.{name}" if input.meta.action == "x"

default allow := true
"""


def rules(name: str) -> str:
    return RULES.replace("{name}", name)


def start(hive: HiveFolder, name: str = OWNER) -> Child:
    return hive.start(name, [sys.executable, "-m", MODULES[name], "--hive", str(hive.root)])


@pytest.fixture
def owner(hive_folder: HiveFolder, router: object) -> dict[str, Child]:
    return {name: start(hive_folder, name) for name in MODULES}


@asynccontextmanager
async def joined(hive: HiveFolder, name: str = "SY.cli.1") -> AsyncIterator[Node]:
    async with Node(name, hive=hive.root) as node:
        yield node


async def ask(node: Node, payload: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Ask until somebody answers: the node may be starting."""
    how = options or {"type": "system", "verb": "CONFIG_CHANGED"}

    async def answer() -> Any:
        try:
            return (await node.request(OWNER, payload, timeout=30, **how)).payload
        except DeliveryError:
            return None

    found: dict[str, Any] = await eventually_async(answer, within=40, what=f"{OWNER} answers")
    return found


def wanted(action: str, **config: Any) -> dict[str, Any]:
    return {"subsystem": "opa", "action": action, "version": config.pop("version", 0), "config": config}


def in_force(hive: HiveFolder) -> Bundle | None:
    """What a router finds, verified as a router does it."""
    try:
        reader = PolicyReader.attach(hive.root)
    except RegionError:
        return None
    state = reader.read()
    reader.close()
    if not state.bundle:
        return None
    bundle = open_bundle(state.bundle, public_key(hive.root), hive.hive_id)
    assert bundle.version == state.version
    return bundle


def test_the_first_start_makes_the_key_and_publishes_the_packaged_policy(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    bundle = eventually(lambda: in_force(hive_folder), within=20)
    assert bundle.version == 1
    assert "package router" in bundle.rego
    assert stat.S_IMODE((hive_folder.root / KEY_PATH).stat().st_mode) == 0o600
    folder = hive_folder.root / "state" / "opa" / "current"
    eventually(lambda: (folder / "bundle").exists())
    assert (folder / "policy.wasm").read_bytes() == bundle.wasm
    assert (folder / "policy.rego").read_text() == bundle.rego


@pytest.mark.needs("opa")
async def test_the_life_of_a_policy(hive_folder: HiveFolder, owner: dict[str, Child]) -> None:
    async with joined(hive_folder) as node:
        staged = await ask(node, wanted("compile", rego=rules("one")))
        assert (staged["status"], staged["version"]) == ("ok", 2), staged
        assert in_force(hive_folder).version == 1  # type: ignore[union-attr]
        applied = await ask(node, wanted("apply", version=2))
        assert (applied["status"], applied["version"]) == ("ok", 2), applied
        assert in_force(hive_folder).rego == rules("one")  # type: ignore[union-attr]
        print(applied)
