"""System nodes as real processes beside a real router: what is acknowledged survives, and everyone is answered once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.plain_client import PlainClient
from skep import DeliveryError, Message, Node
from skep.protocol.codes import Reason
from skep_nodes.sy.spool import spool_files
from skep_nodes.sy.tap import read_turns
from skep_shm import ConfigReader, RegionError, ThreadsReader
from support.hives import SHM, Child, HiveFolder, run_as
from support.wait import eventually, eventually_async

OWNER = "SY.config.routes"
THREAD = "thread:sha256:" + "cd" * 32
GUEST = 4242
GRANT = {
    "subsystem": "grants", "action": "add", "version": 0,
    "config": {"grant": {"uid": GUEST, "pattern": "IO.guest"}},
}  # fmt: skip
SYSTEM = {
    "SY.config.routes": "skep_nodes.sy.config_routes",
    "SY.threads": "skep_nodes.sy.threads",
    "SY.tap": "skep_nodes.sy.tap",
}


def start(hive: HiveFolder, name: str) -> Child:
    return hive.start(name, [sys.executable, "-m", SYSTEM[name], "--hive", str(hive.root)])


@pytest.fixture
def system(hive_folder: HiveFolder, router: object) -> dict[str, Child]:
    return {name: start(hive_folder, name) for name in SYSTEM}


@asynccontextmanager
async def joined(hive: HiveFolder, name: str) -> AsyncIterator[Node]:
    async with Node(name, hive=hive.root) as node:
        yield node


async def ask(node: Node, to: str, verb: str, payload: Any) -> Any:
    """Ask until somebody answers: the node may be starting."""

    async def answer() -> Any:
        try:
            return (await node.request(to, payload, timeout=2, type="system", verb=verb)).payload
        except DeliveryError:
            return None

    return await eventually_async(answer, within=10, what=f"{to} answers {verb}")


async def ready_change(node: Node, prefix: str) -> dict[str, Any]:
    return await ask(node, "SY.config.routes", "CONFIG_CHANGED", change(prefix))  # type: ignore[no-any-return]


async def full_state(node: Node) -> dict[str, Any]:
    return await ask(node, "SY.config.routes", "CONFIG_ROUTES_GET", {})  # type: ignore[no-any-return]


async def ask_ok(node: Node, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await ask(node, "SY.threads", verb, payload)
    assert answer["status"] == "ok", answer
    return answer


def change(prefix: str, version: int = 0) -> dict[str, Any]:
    route = {"prefix": prefix, "action": "DROP"}
    return {"subsystem": "routes", "action": "add", "version": version, "config": {"route": route}}


async def test_a_change_reaches_disk_region_and_router_before_its_answer(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as node:
        answer = await ready_change(node, "AI.bad.*")
        assert answer["status"] == "ok"
        reader = ConfigReader.attach(hive_folder.root)
        assert [route.prefix for route in reader.read().routes] == ["AI.bad.*"]
        reader.close()
        assert "AI.bad.*" in (hive_folder.root / "config" / "sy-config-routes.yaml").read_text()
        stale = await ask(
            node, "SY.config.routes", "CONFIG_CHANGED", change("AI.x", version=answer["version"])
        )
        assert stale["error_code"] == "VERSION_CONFLICT"
        full = await ask(node, "SY.config.routes", "CONFIG_ROUTES_GET", {})
        assert full["config_version"] == answer["version"]

        async def router_has_it() -> bool:
            stats = await ask(node, node.client.router_name, "ROUTER_STATS", {})
            return bool(stats["config_version"] == answer["version"])

        await eventually_async(router_has_it)


@pytest.mark.goal("G1")
async def test_an_acknowledged_change_survives_kill_9(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as node:
        for number in range(5):
            answer = await ready_change(node, f"AI.n{number}")
            system["SY.config.routes"].kill()
            system["SY.config.routes"] = start(hive_folder, "SY.config.routes")
            full = await full_state(node)
            assert full["config_version"] == answer["version"]
            assert len(full["routes"]) == number + 1


@pytest.mark.goal("G14")
async def test_an_ordinary_node_cannot_change_the_configuration(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "AI.mallory") as mallory:
        before = await full_state(admin)

        async def refusal() -> str:
            """Why it was refused, once the router has its configuration."""
            with pytest.raises(DeliveryError) as caught:
                await mallory.request(OWNER, change("AI.x"), timeout=3, type="system", verb="CONFIG_CHANGED")
            return "" if caught.value.reason is Reason.NOT_READY else caught.value.reason

        assert await eventually_async(refusal) is Reason.FORBIDDEN
        assert (await full_state(admin))["config_version"] == before["config_version"]


async def test_admin_actions_are_answered_as_commands(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.admin") as node:
        await full_state(node)
        vpn = {"pattern": "AI.*", "vpn_id": 4}
        added = await node.request("SY.config.routes", vpn, timeout=5, type="command", action="add_vpn")
        assert (added.type, added.payload["vpn"]) == ("command_response", vpn)
        listed = await node.request("SY.config.routes", {}, timeout=5, type="query", action="list_vpns")
        assert (listed.type, listed.payload["vpns"][0]["vpn_id"]) == ("query_response", 4)


@pytest.mark.parametrize("framing", ["json", "native"])
async def test_a_broadcast_change_gets_exactly_one_answer(
    hive_folder: HiveFolder, system: dict[str, Child], framing: str
) -> None:
    """As an upstream SY.admin does it: broadcast, then count the answers by trace."""
    answers: list[dict[str, Any]] = []
    admin = Node("SY.admin", hive=hive_folder.root, framing=framing)

    @admin.on_system("CONFIG_RESPONSE")
    async def keep(message: Message) -> None:
        answers.append(message.payload)

    async with admin:
        version = (await full_state(admin))["config_version"]
        for subsystem, stated in (("opa", 1), ("routes", version), ("routes", version + 1), ("vpn", 1)):
            config = {"routes": [{"prefix": "AI.x", "action": "DROP"}], "vpns": []}
            payload = {"subsystem": subsystem, "version": stated, "config": config}
            await admin.broadcast(payload, type="system", verb="CONFIG_CHANGED", scope="global")
        await full_state(admin)
        await eventually_async(lambda: len(answers) >= 3, within=5)
        found = [(answer["subsystem"], answer.get("error_code", "ok")) for answer in answers]
        assert found == [("routes", "VERSION_CONFLICT"), ("routes", "ok"), ("vpn", "VERSION_CONFLICT")]


def test_damaged_configuration_starts_from_the_copy_and_says_so(
    hive_folder: HiveFolder, router: object
) -> None:
    first = start(hive_folder, "SY.config.routes")
    eventually(lambda: "SY.config.routes@test" in _names(hive_folder.root), within=10)
    first.stop()
    from skep_nodes.sy.config_document import state_from
    from skep_nodes.sy.config_store import ConfigStore

    store = ConfigStore(hive_folder.root / "config")
    store.save(state_from({"version": 7, "routes": [{"prefix": "AI.x", "action": "DROP"}]}), "now")
    store.path.write_bytes(store.path.read_bytes()[:-5])
    second = start(hive_folder, "SY.config.routes")
    eventually(lambda: _version(hive_folder.root) == 7, within=10)
    assert "WARNING" in second.log()
    assert "using the copy" in second.log()
    eventually(lambda: "SY.config.routes@test" in _names(hive_folder.root), within=10)
    second.stop()
    store.backup.write_bytes(b"\0")
    third = start(hive_folder, "SY.config.routes")
    assert third.process.wait(10) == 1
    assert "cannot start" in third.log()
    assert "Traceback" not in third.log()


def _version(root: Path) -> int:
    try:
        reader = ConfigReader.attach(root)
    except RegionError:
        return 0
    version = reader.read().version
    reader.close()
    return version


# -- threads -----------------------------------------------------------------------------------------------------


async def test_a_binding_steers_the_next_message(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue(8)
    desk, person = Node("AI.desk", hive=hive_folder.root), Node("IO.person", hive=hive_folder.root)
    for node in (desk, person):

        @node.on_message
        async def hear(message: Message, node: Node = node) -> None:
            heard.put_nowait(f"{node.requested_name} {message.text}")

    async with desk, person, joined(hive_folder, "IO.channel") as channel:
        await ask_ok(desk, "THREAD_BIND", {"thread_id": THREAD, "handler": "IO.person", "reason": "refund"})
        await channel.send("AI.desk", "one", thread=THREAD)
        assert await asyncio.wait_for(heard.get(), 5) == "IO.person one"
        refused = await ask(
            channel, "SY.threads", "THREAD_BIND", {"thread_id": THREAD, "handler": "IO.channel"}
        )
        assert refused["error_code"] == "FORBIDDEN"
        await ask_ok(person, "THREAD_UNBIND", {"thread_id": THREAD})
        await channel.send("AI.desk", "two", thread=THREAD)
        assert await asyncio.wait_for(heard.get(), 5) == "AI.desk two"


@pytest.mark.goal("G1")
async def test_an_acknowledged_binding_survives_kill_9(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as node:
        for number in range(5):
            await ask_ok(
                node, "THREAD_BIND", {"thread_id": f"t{number}", "handler": "IO.person", "lease_s": 600}
            )
            system["SY.threads"].kill()
            system["SY.threads"] = start(hive_folder, "SY.threads")
            listed = await ask_ok(node, "THREAD_LIST", {})
            assert listed["count"] == number + 1
        await ask_ok(node, "THREAD_BIND", {"thread_id": "t0", "handler": "IO.other"})
        await ask_ok(node, "THREAD_UNBIND", {"thread_id": "t1"})
        reader = ThreadsReader.attach(hive_folder.root)
        handlers = sorted(binding.handler for binding in reader.all())
        assert handlers == ["IO.other@test", *["IO.person@test"] * 3]
        reader.close()


async def test_a_lease_ends_and_the_region_forgets(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    async with joined(hive_folder, "SY.cli.1") as node:
        await ask_ok(node, "THREAD_BIND", {"thread_id": "t", "handler": "IO.person", "lease_s": 1})
        got = await ask_ok(node, "THREAD_GET", {"thread_id": "t"})
        assert got["handler"] == "IO.person@test"
        reader = ThreadsReader.attach(hive_folder.root)
        await eventually_async(lambda: not reader.all(), within=6)
        reader.close()
        assert (await ask_ok(node, "THREAD_GET", {"thread_id": "t"}))["handler"] is None


@pytest.mark.needs("root")
@pytest.mark.goal("G14")
async def test_a_granted_node_of_another_uid_takes_over_no_conversation(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    """It may do nothing but hand on or give back what it was given."""
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "AI.desk") as desk:
        granted = await ask(admin, OWNER, "CONFIG_CHANGED", GRANT)
        assert granted["status"] == "ok", granted
        taking = {"thread_id": THREAD, "handler": "IO.guest"}
        script: list[tuple[str, dict[str, Any], str]] = [
            ("THREAD_BIND", taking, "FORBIDDEN"), ("THREAD_UNBIND", {"thread_id": THREAD}, "FORBIDDEN"),
            ("THREAD_GET", {"thread_id": THREAD}, "FORBIDDEN"), ("THREAD_LIST", {}, "FORBIDDEN"),
        ]  # fmt: skip
        assert await as_guest(hive_folder, script) == 0
        assert (await ask_ok(desk, "THREAD_GET", {"thread_id": THREAD}))["handler"] is None
        await ask_ok(desk, "THREAD_BIND", taking)
        held: list[tuple[str, dict[str, Any], str]] = [
            ("THREAD_GET", {"thread_id": THREAD}, "ok"), ("THREAD_LIST", {}, "FORBIDDEN"),
            ("THREAD_BIND", {"thread_id": THREAD, "handler": "AI.desk"}, "ok"), ("THREAD_BIND", taking, "FORBIDDEN"),
        ]  # fmt: skip
        assert await as_guest(hive_folder, held) == 0
        got = await ask_ok(desk, "THREAD_GET", {"thread_id": THREAD})
        assert (got["handler"], got["bound_by"]) == ("AI.desk@test", "IO.guest@test")


def granted_guest(path: Path) -> PlainClient | None:
    """The guest, once the router has read its grant."""
    try:
        return PlainClient(str(path), "IO.guest")
    except ConnectionError:
        return None


async def as_guest(hive: HiveFolder, script: list[tuple[str, dict[str, Any], str]]) -> int:
    """Asks SY.threads from a process of another uid; 0 when every answer was the expected one."""
    (path,) = hive.sockets()

    def say_all() -> None:
        guest = eventually(lambda: granted_guest(path), within=5)
        for verb, payload, expected in script:
            guest.send("SY.threads", "system", payload, msg=verb)
            answer = guest.receive()["payload"]
            assert answer.get("error_code", answer.get("status")) == expected, (verb, answer)
        guest.close()

    return await asyncio.to_thread(run_as, GUEST, say_all)


@pytest.mark.goal("G1")
async def test_regions_that_somebody_removed_come_back_with_what_they_held(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as node:
        await ready_change(node, "AI.bad.*")
        await ask_ok(node, "THREAD_BIND", {"thread_id": "t0", "handler": "IO.person"})
        removed = [name for name in hive_folder.segments() if "-records-" not in name]
        for name in removed:
            (SHM / name).unlink()

        def back() -> bool:
            """Anchors under their names; segments are of a later generation."""
            return {each for each in removed if "." not in each} <= set(hive_folder.segments())

        await eventually_async(back, within=5)
        await eventually_async(lambda: "SY.cli.1@test" in _names(hive_folder.root), within=5)
        reader = ThreadsReader.attach(hive_folder.root)
        assert [binding.handler for binding in reader.all()] == ["IO.person@test"]
        reader.close()
        assert _version(hive_folder.root) == (await full_state(node))["config_version"]
        await ask_ok(node, "THREAD_BIND", {"thread_id": "t1", "handler": "IO.person"})
        assert (await ask_ok(node, "THREAD_LIST", {}))["count"] == 2
        again = await ready_change(node, "AI.worse.*")

        async def router_has_it() -> bool:
            stats = await ask(node, node.client.router_name, "ROUTER_STATS", {})
            return bool(stats["config_version"] == again["version"])

        await eventually_async(router_has_it)


# -- tap ---------------------------------------------------------------------------------------------------------


async def test_every_turn_is_in_the_spool(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    folder = hive_folder.root / "state" / "tap"
    sink = Node("AI.sink", hive=hive_folder.root)

    @sink.on_message
    async def take(message: Message) -> None:
        """Nothing: only the copy matters."""

    async with sink, joined(hive_folder, "IO.x") as node:
        await full_state(node)
        await eventually_async(lambda: bool(spool_files(folder)), within=5)
        nodes_joined = f"SY.tap@{hive_folder.hive_id}"
        await eventually_async(lambda: nodes_joined in _names(hive_folder.root), within=5)
        for number in range(50):
            await node.send("AI.sink", f"turn {number}", thread=THREAD, ack="routed")
        await eventually_async(lambda: len(_payloads(folder)) == 50, within=5)
        assert _payloads(folder) == [f"turn {number}" for number in range(50)]


def _payloads(folder: Path) -> list[str]:
    return [json.loads(turn.frame.payload)["content"] for turn in read_turns(folder)]


def _names(root: Path) -> list[str]:
    from skep_shm import nodes_readers

    return [record.name for reader in nodes_readers(root) for record in reader.all()]
