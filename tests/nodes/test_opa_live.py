"""SY.opa.rules as a real process beside a real router."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from skep import DeliveryError, Message, Node
from skep.protocol.codes import Reason
from skep_policy.authority import KEY_PATH, public_key
from skep_policy.bundle import Bundle, open_bundle
from skep_shm import PolicyReader, RegionError, nodes_readers
from support.hives import REPO, SHM, Child, HiveFolder, environment
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
    bundle = opened(hive, state.bundle)
    assert bundle.version == state.version
    return bundle


def opened(hive: HiveFolder, data: bytes) -> Bundle:
    return open_bundle(data, public_key(hive.root), hive.hive_id)


def present(hive: HiveFolder) -> Bundle:
    bundle = in_force(hive)
    assert bundle is not None
    return bundle


def listed(hive: HiveFolder, name: str = OWNER) -> bool:
    """Whether this node is in the router's table."""
    names = []
    for reader in nodes_readers(hive.root):
        names += [record.name for record in reader.all()]
        reader.close()
    return f"{name}@{hive.hive_id}" in names


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
    for name in MODULES:  # a process that is ended while it starts leaves its region for the next one
        eventually(lambda name=name: listed(hive_folder, name))


async def query(node: Node, action: str) -> dict[str, Any]:
    return await ask(node, {}, type="query", action=action)


@pytest.mark.needs("opa")
async def test_the_life_of_a_policy(hive_folder: HiveFolder, owner: dict[str, Child]) -> None:
    async with joined(hive_folder) as node:
        checked = await ask(node, wanted("check", rego=rules("none")))
        assert (checked["status"], checked["check_only"]) == ("ok", True)
        staged = await ask(node, wanted("compile", rego=rules("one")))
        assert (staged["status"], staged["version"]) == ("ok", 2), "a check spends no number"
        assert present(hive_folder).version == 1
        applied = await ask(node, wanted("apply", version=2))
        assert (applied["status"], applied["version"]) == ("ok", 2), applied
        assert present(hive_folder).rego == rules("one")
        assert [(row["router"], row["status"]) for row in applied["routers"]] == [
            (node.client.router_name, "ok")
        ]
        assert applied["pending"] == []
        both = await ask(node, wanted("compile_apply", rego=rules("two")))
        assert both["version"] == 3
        rolled = await ask(node, wanted("rollback"))
        assert (rolled["version"], present(hive_folder).rego) == (4, rules("one"))
        policy = await query(node, "get_policy")
        assert (policy["rego"], policy["version"]) == (rules("one"), 4)
        status = await query(node, "get_status")
        assert (status["current_version"], status["backup_version"], status["next_version"]) == (4, 3, 5)


@pytest.mark.needs("opa")
async def test_a_policy_that_does_not_compile_says_where_and_changes_nothing(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    async with joined(hive_folder) as node:
        refused = await ask(node, wanted("compile_apply", rego="package router\n\ntarget := {\n"))
        assert refused["error_code"] == "COMPILE_ERROR"
        assert refused["problems"][0]["line"] >= 3
        assert present(hive_folder).version == 1
        assert "COMPILE_ERROR" in (await query(node, "get_status"))["last_error"]
        assert (await ask(node, wanted("apply")))["error_code"] == "NOTHING_STAGED"
        assert (await ask(node, wanted("rollback")))["error_code"] == "NO_BACKUP"
        assert (await ask(node, wanted("compile", version=1)))["error_code"] == "VERSION_CONFLICT"


@pytest.mark.needs("opa")
@pytest.mark.parametrize("framing", ["json", "native"])
async def test_a_broadcast_change_gets_exactly_one_answer(
    hive_folder: HiveFolder, owner: dict[str, Child], framing: str
) -> None:
    """As an upstream SY.admin does it: broadcast, then count; what is not about the policy is another's."""
    answers: list[dict[str, Any]] = []
    admin = Node("SY.admin", hive=hive_folder.root, framing=framing)

    @admin.on_system("CONFIG_RESPONSE")
    async def keep(message: Message) -> None:
        answers.append(message.payload)

    async with admin:
        await query(admin, "get_status")
        for payload in (
            wanted("compile", rego=rules("one")), wanted("compile", rego="no", version=1), {"subsystem": "storage"},
            wanted("apply", version=2), wanted("explode"), wanted("apply", version=2),
        ):  # fmt: skip
            before = len(answers)
            await admin.broadcast(payload, type="system", verb="CONFIG_CHANGED", scope="global")
            if payload["subsystem"] == "opa":
                await eventually_async(lambda before=before: len(answers) > before, within=20)
        await query(admin, "get_status")
        mine = [(answer["action"], answer.get("error_code", "ok")) for answer in answers]
        assert mine == [
            ("compile", "ok"), ("compile", "VERSION_CONFLICT"), ("apply", "ok"), ("", "INVALID_PAYLOAD"),
            ("apply", "NOTHING_STAGED"),
        ]  # fmt: skip


@pytest.mark.needs("opa")
async def test_a_second_change_hears_busy_and_reads_are_answered_meanwhile(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    async with joined(hive_folder) as node, joined(hive_folder, "SY.cli.2") as other:
        await query(node, "get_status")
        await query(other, "get_status")
        first = asyncio.ensure_future(ask(other, wanted("compile", rego=rules("one"))))
        second = await eventually_async(lambda: busy(node), within=10)
        assert second["error_code"] == "BUSY"
        assert (await query(node, "get_policy"))["version"] == 1
        assert (await first)["version"] == 2
        assert (await ask(node, wanted("compile", rego=rules("two"))))["version"] == 3


@pytest.mark.needs("opa")
async def test_policies_change_under_load_and_no_message_is_lost_or_reordered(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    heard: list[int] = []
    sink, source = Node("AI.sink", hive=hive_folder.root), Node("IO.source", hive=hive_folder.root)

    @sink.on_message
    async def hear(message: Message) -> None:
        heard.append(message.payload["n"])

    async with sink, source, joined(hive_folder) as admin:
        await ask(admin, wanted("compile_apply", rego=rules("first")))
        done, sent = asyncio.Event(), 0

        async def flood() -> None:
            nonlocal sent
            while not done.is_set():
                await source.send("AI.sink", {"n": sent}, ack="routed")
                sent += 1

        flooding = asyncio.create_task(flood())
        for name in ("second", "third"):
            answer = await ask(admin, wanted("compile_apply", rego=rules(name)))
            assert (answer["status"], answer["pending"]) == ("ok", [])
            assert answer["routers"][0]["took_ms"] < 3000, "one second on a quiet machine"
        done.set()
        await flooding
        await eventually_async(lambda: len(heard) >= sent, within=10)
        assert sent > 100
        assert heard == list(range(sent))


async def busy(node: Node) -> dict[str, Any] | None:
    """The answer to a change while another one is under way."""
    answer = await ask(node, wanted("apply"))
    return answer if answer["error_code"] == "BUSY" else None


@pytest.mark.goal("G14")
async def test_an_ordinary_node_neither_reads_nor_changes_the_policy(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    async with joined(hive_folder) as admin, joined(hive_folder, "AI.mallory") as mallory:
        await query(admin, "get_status")
        for action, kind in (
            ("get_policy", "query"), ("get_status", "query"),
            ("apply_policy", "command"), ("rollback_policy", "command"),
        ):  # fmt: skip
            assert await eventually_async(lambda a=action, k=kind: refusal(mallory, a, k), within=10) in (
                "FORBIDDEN", "POLICY_DENIED",
            )  # fmt: skip
        assert (await query(admin, "get_status"))["current_version"] == 1


async def refusal(node: Node, action: str, kind: str) -> str:
    """Who says no, the owner or the router, once the router has its configuration."""
    try:
        answer = (await node.request(OWNER, {}, timeout=5, type=kind, action=action)).payload
    except DeliveryError as error:
        return "" if error.reason is Reason.NOT_READY else error.reason.value
    return str(answer["error_code"])


# -- crashes -----------------------------------------------------------------------------------------------------


@pytest.mark.needs("opa")
@pytest.mark.goal("G1", "G17")
async def test_an_acknowledged_policy_survives_kill_9(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    async with joined(hive_folder) as node:
        for number in range(3):
            answer = await ask(node, wanted("compile_apply", rego=rules(f"n{number}")))
            assert answer["status"] == "ok"
            owner[OWNER].kill()
            assert present(hive_folder).version == answer["version"], "readers do not notice"
            owner[OWNER] = start(hive_folder)
            status = await query(node, "get_status")
            assert status["current_version"] == answer["version"]
            assert (await query(node, "get_policy"))["rego"] == rules(f"n{number}")


# Calls of one rollback: a bundle (5), the shelf file (6: the 11th is its rename's sync), its copy (6), then folders.
POINTS = [
    (1, False),
    (4, False),
    (5, True),
    (6, False),
    (10, False),
    (10, True),
    (11, True),
    (16, False),
    (20, True),
]


@pytest.mark.needs("opa")
@pytest.mark.goal("G2", "G17")
async def test_killed_in_the_middle_of_a_change_it_comes_back_with_one_whole_policy(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    """kill -9 by the disk itself, before or after a step; the region and the files then agree on a signed policy."""
    async with joined(hive_folder) as node:
        await ask(node, wanted("compile_apply", rego=rules("one")))
        owner[OWNER].stop()
        for nth, after in POINTS:
            before = present(hive_folder).version if in_force(hive_folder) else 0
            killed = killing_owner(hive_folder, nth, after)
            await eventually_async(lambda: listed(hive_folder), within=20)
            with pytest.raises(DeliveryError):
                await node.request(
                    OWNER, wanted("rollback"), timeout=10, type="system", verb="CONFIG_CHANGED"
                )
            assert killed.process.wait(10) == -signal.SIGKILL
            published = present(hive_folder).version
            restarted = start(hive_folder)
            status = await query(node, "get_status")
            assert status["current_version"] >= published >= before
            assert present(hive_folder).version == status["current_version"]
            shown = (hive_folder.root / "state" / "opa" / "current" / "bundle").read_bytes()
            assert opened(hive_folder, shown).version == status["current_version"]
            restarted.kill()


def killing_owner(hive: HiveFolder, nth: int, after: bool) -> Child:
    argv = [sys.executable, "-m", "nodes.opa_killed", "--hive", str(hive.root), "--nth", str(nth)]
    environ = environment()
    environ["PYTHONPATH"] += os.pathsep + str(REPO / "tests")
    return hive.start(OWNER, argv + (["--after"] if after else []), env=environ)


@pytest.mark.goal("G4")
async def test_damaged_files_are_named_and_the_last_good_policy_is_in_force(
    hive_folder: HiveFolder, owner: dict[str, Child]
) -> None:
    bundle = eventually(lambda: in_force(hive_folder), within=20)
    eventually(lambda: (hive_folder.root / "state" / "opa" / "current" / "bundle").exists())
    owner[OWNER].kill()
    folder = hive_folder.root / "state" / "opa"
    for path in [*(folder / "bundles").iterdir(), folder / "current" / "bundle", folder / "shelf.json"]:
        path.write_bytes(path.read_bytes()[:-1])
    owner[OWNER] = start(hive_folder)
    async with joined(hive_folder) as node:
        status = await query(node, "get_status")
    assert status["current_version"] == bundle.version
    log = owner[OWNER].log()
    assert "shelf.json" in log
    assert "set aside" in log
    assert "taken over from shared memory" in log
    assert "Traceback" not in log


def test_a_key_that_others_can_read_stops_the_start(hive_folder: HiveFolder, owner: dict[str, Child]) -> None:
    eventually(lambda: listed(hive_folder), within=20)
    owner[OWNER].stop()
    (hive_folder.root / KEY_PATH).chmod(0o644)
    again = start(hive_folder)
    assert again.process.wait(15) == 1
    assert "KEY_EXPOSED" in again.log()
    assert "Traceback" not in again.log()


@pytest.mark.needs("opa")
@pytest.mark.goal("G21")
async def test_the_key_is_nowhere_but_in_its_file(hive_folder: HiveFolder, owner: dict[str, Child]) -> None:
    """After a life of changes and refusals: not in logs, arguments, environments, shared memory or other files."""
    async with joined(hive_folder) as node:
        await ask(node, wanted("compile_apply", rego=rules("one")))
        await ask(node, wanted("rollback"))
        await ask(node, wanted("compile", rego="no"))
        seed = bytes.fromhex((hive_folder.root / KEY_PATH).read_text().split()[1])
        forms = (seed, seed.hex().encode(), base64.b64encode(seed), repr(seed).encode()[2:-1])
        places = [path for path in hive_folder.root.rglob("*") if path.is_file() and path.name != "hive.key"]
        places += [SHM / name for name in hive_folder.segments()]
        for child in hive_folder.children:
            places += [Path(f"/proc/{child.pid}/{name}") for name in ("cmdline", "environ")]
        assert len(places) > 10
        assert not [path for path in places for form in forms if form in path.read_bytes()]
