"""Real processes: router, SY.identity, SY.registrar, commands, and an agent that loses its degree and gets it back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from skep import DeliveryError, Message, Node, RemoteError
from skep.degree import degree_folder
from skep.errors import DegreeError
from skep.protocol.message import format_ilk
from skep_shm import IlkRecord, IlksReader, RegionError, SealStatus
from support.forked import command
from support.hives import HiveFolder, environment
from support.wait import eventually, eventually_async

pytestmark = pytest.mark.slow

AGENT = "AI.desk@test"
SYSTEM = {
    "SY.config.routes": "skep_nodes.sy.config_routes",
    "SY.identity": "skep_nodes.sy.identity",
    "SY.registrar": "skep_nodes.sy.registrar",
}
WHO = "agents:\n  - {node: AI.desk, capabilities: [orders]}\n  - {node: AI.other}\n"


@pytest.fixture
def hive(hive_folder: HiveFolder, router: object) -> HiveFolder:
    return in_service(hive_folder)


def in_service(hive_folder: HiveFolder) -> HiveFolder:
    """The hive with its system nodes, and its agents known."""
    (hive_folder.root / "config" / "identity.yaml").write_text(WHO)
    for name, module in SYSTEM.items():
        hive_folder.start(name, [sys.executable, "-m", module, "--hive", str(hive_folder.root)])
    eventually(lambda: record_of(hive_folder, AGENT) is not None, within=20, what="identity published the agent")
    return hive_folder


def record_of(hive: HiveFolder, handler: str) -> IlkRecord | None:
    try:
        reader = IlksReader.attach(hive.root)
    except RegionError:
        return None
    try:
        return next((record for record in reader.all() if record.handler == handler), None)
    finally:
        reader.close()


def has_seal(hive: HiveFolder, status: SealStatus, degree: str = "") -> bool:
    record = record_of(hive, AGENT)
    return record is not None and record.seal is status and (not degree or record.degrees == (degree,))


def skep(hive: HiveFolder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(arguments, environment(SKEP_HIVE=str(hive.root)))


def done(hive: HiveFolder, *arguments: str) -> Any:
    result = skep(hive, *arguments, "-o", "json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def teach(hive: HiveFolder, version: str, text: str) -> str:
    """Publish, compose and graduate with the commands; returns the degree."""
    file = hive.root / "prompt.txt"
    file.write_text(text)
    eventually(lambda: skep(hive, "module", "ls").returncode == 0, within=20, what="SY.registrar answers")
    module = done(hive, "module", "publish", "tone", version, str(file), "--category", "tone")
    assert module["hash"].startswith("sha256:")
    done(hive, "degree", "create", "support", "-m", f"tone@{version}", "-c", "refunds")
    answer = done(hive, "degree", "graduate", "AI.desk", "support", "--reason", "test")
    assert answer["identity"] == "ok"
    return str(answer["degree"])


@asynccontextmanager
async def agent(hive: HiveFolder) -> AsyncIterator[Node]:
    node = Node("AI.desk", hive=hive.root, degree=degree_folder(hive.root, "AI.desk"))

    @node.on_message
    async def speak(message: Message) -> dict[str, str]:
        return {"prompt": node.degree.prompt}

    async with node:
        yield node


async def prompt_of(node: Node) -> str:
    """What the agent speaks with, or why it does not."""
    try:
        reply = await node.request(AGENT, {"q": 1}, timeout=5)
    except RemoteError as error:
        return f"{error.code} {error.detail}"
    except DeliveryError as error:
        return f"not delivered: {error.reason}"
    return str(reply.payload["prompt"])


async def test_a_degree_is_taught_lost_by_one_character_and_given_back(hive: HiveFolder) -> None:
    degree = teach(hive, "1.0.0", "Be kind.\n")
    record = record_of(hive, AGENT)
    assert record is not None
    assert (record.seal, record.degrees) == (SealStatus.VALID, (degree,))
    assert set(record.capabilities) == {"orders", "refunds"}, "a degree adds its capabilities to the agent's own"
    async with agent(hive), Node("IO.test", hive=hive.root) as asker:
        assert await prompt_of(asker) == "Be kind."
        text = next((degree_folder(hive.root, "AI.desk") / "modules").iterdir())
        text.write_text("Be kinD.\n")
        found = await eventually_async(lambda: until_refused(asker), within=10)
        assert found.startswith("degree_invalid MODULE_CHANGED")
        assert "tone@1.0.0" in found
        assert str(hive.root) not in found
        await eventually_async(lambda: has_seal(hive, SealStatus.BROKEN), within=10)
        with pytest.raises(DegreeError, match="put the sealed file back"):
            async with agent(hive):
                pass
        text.write_text("Be kind.\n")
        assert await eventually_async(lambda: until(asker, "Be kind."), within=10)
        await eventually_async(lambda: has_seal(hive, SealStatus.VALID), within=10)


async def until_refused(asker: Node) -> str:
    found = await prompt_of(asker)
    return found if found.startswith("degree_invalid") else ""


async def until(asker: Node, prompt: str) -> bool:
    return await prompt_of(asker) == prompt


async def test_a_running_agent_takes_up_a_new_degree_and_falls_silent_when_it_is_revoked(hive: HiveFolder) -> None:
    first = teach(hive, "1.0.0", "Be kind.")
    async with agent(hive) as node, Node("IO.test", hive=hive.root) as asker:
        second = teach(hive, "2.0.0", "Be curt.")
        assert first.rpartition("/")[0] == second.rpartition("/")[0]
        await eventually_async(lambda: until(asker, "Be curt."), within=10)
        done(hive, "degree", "graduate", "AI.desk", "support", "--version", "1")
        await eventually_async(lambda: until(asker, "Be kind."), within=10)
        assert has_seal(hive, SealStatus.VALID, first)
        done(hive, "degree", "rotate-key", "--reseal", "--revoke-old")
        assert await prompt_of(asker) == "Be kind."
        assert [each["state"] for each in done(hive, "degree", "ls", "--keys")["keys"]] == ["revoked", "active"]
        done(hive, "degree", "revoke", "AI.desk", "--yes", "--reason", "left")
        assert has_seal(hive, SealStatus.REVOKED)
        record = record_of(hive, AGENT)
        assert record is not None
        assert record.capabilities == ("orders",), "what a degree granted goes with it"
        await eventually_async(lambda: until_refused(asker), within=10)
        assert node.guard is not None
        assert node.guard.refusal is not None
        assert node.guard.refusal.code == "SEAL_REVOKED"
        status = await asker.request(AGENT, {}, timeout=5, type="system", verb="STATUS")
        assert status.payload["health_state"] == "ERROR"
        assert status.payload["degree"]["code"] == "SEAL_REVOKED"


async def test_a_router_that_requires_seals_routes_only_to_the_sealed(hive_folder: HiveFolder) -> None:
    """Missing, valid, broken, revoked: as SY.registrar and SY.identity say it, and without the agent's own check."""
    hive_folder.start_router("RT.main", "--seals", "require")
    hive = in_service(hive_folder)
    async with Node("AI.desk", hive=hive.root) as node, Node("IO.test", hive=hive.root) as asker:

        @node.on_message
        async def speak(message: Message) -> dict[str, str]:
            return {"prompt": "here I am"}

        await eventually_async(lambda: hears(asker, "SEAL_REQUIRED"), within=20, what="no seal, no message")
        teach(hive, "1.0.0", "Be kind.")
        await eventually_async(lambda: hears(asker, "here I am"), within=10, what="sealed")
        text = next((degree_folder(hive.root, "AI.desk") / "modules").iterdir())
        text.write_text("Be kinD.")
        await eventually_async(lambda: hears(asker, "SEAL_REQUIRED"), within=10, what="broken")
        text.write_text("Be kind.")
        await eventually_async(lambda: hears(asker, "here I am"), within=10, what="whole again")
        done(hive, "degree", "revoke", "AI.desk", "--yes")
        await eventually_async(lambda: hears(asker, "SEAL_REQUIRED"), within=10, what="revoked")


async def hears(asker: Node, word: str) -> bool:
    return word in await prompt_of(asker)


@pytest.mark.goal("G1")
async def test_what_was_acknowledged_survives_kill_9_of_the_registrar(hive: HiveFolder) -> None:
    degree = teach(hive, "1.0.0", "Be kind.")
    for name, verb in (("SY.registrar", "revoke"), ("SY.registrar", "graduate")):
        if verb == "revoke":
            done(hive, "degree", "revoke", "AI.desk", "--yes")
        else:
            done(hive, "degree", "graduate", "AI.desk", "support")
        child = next(child for child in hive.children if child.name == name and child.running())
        child.kill()
        hive.start(name, [sys.executable, "-m", SYSTEM[name], "--hive", str(hive.root)])
        wanted = "REVOKED" if verb == "revoke" else "VALID"
        eventually(lambda wanted=wanted: carriers(hive) == {AGENT: (wanted, degree)}, within=20)
        assert has_seal(hive, SealStatus[wanted])


def carriers(hive: HiveFolder) -> dict[str, tuple[str, str]]:
    result = skep(hive, "degree", "ls", "--carriers", "-o", "json")
    if result.returncode:
        return {}
    return {each["handler"]: (each["seal_status"], each["degree"]) for each in json.loads(result.stdout)["carriers"]}


@pytest.mark.goal("G14")
async def test_nobody_but_an_administrator_changes_what_is_taught(hive: HiveFolder) -> None:
    teach(hive, "1.0.0", "Be kind.")
    requests = {
        "MODULE_PUBLISH": {"name": "a", "version": "1.0.0", "content": "eA=="},
        "DEGREE_CREATE": {"name": "a", "modules": ["tone@1.0.0"]},
        "DEGREE_GRADUATE": {"ilk": "ilk:" + "0" * 8, "handler": "AI.desk", "degree": "support"},
        "DEGREE_REVOKE": {"agent": "AI.desk"},
        "DEGREE_ROTATE_KEY": {"revoke_old": True},
    }
    async with Node("AI.rogue", hive=hive.root) as rogue, Node("SY.storage", hive=hive.root) as system:
        for node in (rogue, system):
            for verb, payload in requests.items():
                answer = await ask(node, "SY.registrar", verb, payload)
                assert answer["error_code"] == "FORBIDDEN", (node.name, verb, answer)
        seal = {"ilk": "ilk:00000000-0000-4000-8000-000000000001", "serial": "", "status": "VALID", "reason": ""}
        answer = await ask(rogue, "SY.identity", "SEAL_STATUS", seal)
        assert answer["error_code"] == "UNAUTHORIZED_REGISTRAR"
    assert carriers(hive)[AGENT][0] == "VALID"


async def ask(node: Node, to: str, verb: str, payload: Any) -> Any:
    async def answer() -> Any:
        try:
            return (await node.request(to, payload, timeout=3, type="system", verb=verb)).payload
        except DeliveryError:
            return None

    return await eventually_async(answer, within=10, what=f"{to} answers {verb}")


def test_each_mistake_at_the_command_line_has_its_code(hive: HiveFolder, tmp_path: Path) -> None:
    teach(hive, "1.0.0", "Be kind.")
    text = hive.root / "prompt.txt"
    archive = tmp_path / "bad.tar"
    archive.write_bytes(b"no archive")
    large = tmp_path / "large.txt"
    large.write_bytes(b"x" * 70_000)
    cases = {
        ("module", "publish", "tone", "1.0.0", str(text)): ("MODULE_EXISTS", 6),
        ("module", "publish", "../x", "1.0.0", str(text)): ("INVALID_NAME", 2),
        ("module", "publish", "x", "one", str(text)): ("INVALID_VERSION", 2),
        ("module", "publish", "x", "1.0.0", str(archive)): ("INVALID_ARCHIVE", 2),
        ("module", "publish", "x", "1.0.0", str(large)): ("MODULE_TOO_LARGE", 2),
        ("module", "show", "nobody"): ("NOT_FOUND", 3),
        ("degree", "show", "nobody"): ("NOT_FOUND", 3),
        ("degree", "graduate", "AI.nobody", "support"): ("ILK_NOT_FOUND", 3),
        ("degree", "revoke", "AI.desk"): ("NOT_CONFIRMED", 2),
        ("degree", "revoke"): ("USAGE", 2),
    }
    for arguments, (code, exit_code) in cases.items():
        result = skep(hive, *arguments, "-o", "json")
        assert (json.loads(result.stderr)["error"]["code"], result.returncode) == (code, exit_code), arguments
    assert skep(hive, "degree", "verify").returncode == 0
    assert skep(hive, "degree", "verify", "AI.desk", "--prompt").stdout == "Be kind.\n"
    assert skep(hive, "module", "show", "tone", "--content").stdout == "Be kind."
    mended = next((degree_folder(hive.root, "AI.desk") / "modules").iterdir())
    mended.write_text("Be kinD.")
    broken = skep(hive, "degree", "verify")
    assert broken.returncode == 1
    assert "MODULE_CHANGED" in broken.stderr
    degree_folder(hive.root, "AI.desk").rename(hive.root / "aside")
    gone = skep(hive, "degree", "verify")
    assert gone.returncode == 1
    assert "AI.desk" in gone.stdout + gone.stderr  # whoever graduated is looked for, folder or not
    (hive.root / "aside").rename(degree_folder(hive.root, "AI.desk"))


def test_an_ilk_that_identity_does_not_know_does_not_graduate(hive: HiveFolder) -> None:
    teach(hive, "1.0.0", "Be kind.")
    ilk = "ilk:00000000-0000-4000-8000-00000000dead"
    result = skep(hive, "degree", "graduate", "AI.ghost", "support", "--ilk", ilk, "-o", "json")
    assert json.loads(result.stderr)["error"]["code"] == "ILK_NOT_FOUND"
    other = record_of(hive, "AI.other@test")
    assert other is not None
    theirs = format_ilk(other.ilk)
    wrong = skep(hive, "degree", "graduate", "AI.ghost", "support", "--ilk", theirs, "-o", "json")
    assert json.loads(wrong.stderr)["error"]["code"] == "INVALID_REQUEST"
    assert {name: status for name, (status, _) in carriers(hive).items()}[AGENT] == "VALID"

