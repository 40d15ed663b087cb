"""SY.identity as a real process beside a real router: proven callers, one answer each, regions first, kill -9."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from identity.parts import agent, channel_of, human, new_ilk
from protocol.plain_client import PlainClient
from skep import DeliveryError, Node
from skep_nodes.identity import ids
from skep_nodes.identity.publisher import KEY_FILE
from skep_shm import (
    ChannelsReader,
    IlksReader,
    RegionError,
    SealStatus,
    TenantsReader,
    TenantStatus,
    channel_key,
)
from support.hives import Child, HiveFolder, run_as
from support.wait import eventually, eventually_async

NAME = "SY.identity"
GUEST = 4242
MODULES = {"SY.config.routes": "skep_nodes.sy.config_routes", NAME: "skep_nodes.sy.identity"}


def start(hive: HiveFolder, name: str = NAME) -> Child:
    return hive.start(name, [sys.executable, "-m", MODULES[name], "--hive", str(hive.root)])


@pytest.fixture
def system(hive_folder: HiveFolder, router: object) -> dict[str, Child]:
    return {name: start(hive_folder, name) for name in MODULES}


@asynccontextmanager
async def joined(hive: HiveFolder, name: str) -> AsyncIterator[Node]:
    async with Node(name, hive=hive.root) as node:
        yield node


async def ask(node: Node, verb: str, payload: dict[str, Any], to: str = NAME) -> dict[str, Any]:
    """Ask until somebody answers: the node may be starting."""

    async def answer() -> Any:
        try:
            return await node.request(to, payload, timeout=5, type="system", verb=verb)
        except DeliveryError:
            return None

    message = await eventually_async(answer, within=15, what=f"{to} answers {verb}")
    assert message.verb == f"{verb}_RESPONSE"
    found: dict[str, Any] = message.payload
    return found


async def ok(node: Node, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
    answer = await ask(node, verb, payload)
    assert answer["status"] == "ok", answer
    return answer


def key_of(hive: HiveFolder, address: str, tenant: str) -> bytes:
    secret = bytes.fromhex((hive.root / "state" / "identity" / KEY_FILE).read_text())
    return channel_key(secret, "whatsapp", address, ids.parse(ids.TENANT, tenant) or b"")


async def test_what_is_answered_is_visible_already(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "IO.whatsapp") as channel:
        tenant = (await ok(admin, "TNT_CREATE", {"name": "acme", "status": "active"}))["tenant_id"]
        channels, ilks = ChannelsReader.attach(hive_folder.root), IlksReader.attach(hive_folder.root)
        tenants = TenantsReader.attach(hive_folder.root)
        made = await ok(channel, "ILK_PROVISION", channel_of("+54 11 5555", tenant))
        found = channels.find(key_of(hive_folder, "+54115555", tenant))
        assert found is not None
        assert ids.ilk_text(found.ilk) == made["ilk_id"]
        await ok(admin, "ILK_REGISTER", human(made["ilk_id"], tenant, roles=["buyer"]))
        record = ilks.find(found.ilk)
        assert record is not None
        assert (record.registration.name, record.roles) == ("COMPLETE", ("buyer",))
        robot = (await ok(admin, "ILK_REGISTER", agent(new_ilk(), tenant)))["ilk_id"]
        agent_record = ilks.find(ids.parse(ids.ILK, robot) or b"")
        assert agent_record is not None
        assert (agent_record.handler, agent_record.seal) == ("AI.desk@test", SealStatus.NONE)
        await ok(admin, "TNT_SUSPEND", {"tenant_id": tenant})
        state = tenants.find(ids.parse(ids.TENANT, tenant) or b"")
        assert state is not None
        assert state.status is TenantStatus.SUSPENDED
        for reader in (channels, ilks, tenants):
            reader.close()


@pytest.mark.goal("G21")
async def test_no_name_and_no_address_stands_in_shared_memory(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "IO.whatsapp") as channel:
        tenant = (await ok(admin, "TNT_CREATE", {"name": "CanaryTenant", "status": "active"}))["tenant_id"]
        made = await ok(channel, "ILK_PROVISION", channel_of("+777000777", tenant))
        known = human(made["ilk_id"], tenant, "canary@example.org")
        known["identification"]["display_name"] = "CanaryName"
        await ok(admin, "ILK_REGISTER", known)
        held = b"".join((Path("/dev/shm") / name).read_bytes() for name in hive_folder.segments())
        for canary in (b"CanaryTenant", b"CanaryName", b"canary@example.org", b"777000777"):
            assert canary not in held
        assert ids.parse(ids.ILK, made["ilk_id"]) in held, "the regions were looked at"
        assert b"CanaryName" not in system[NAME].log_path.read_bytes()
        folder = hive_folder.root / "state" / "identity"
        assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o640
        assert (folder / "identity.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.goal("G14")
async def test_a_caller_is_whom_the_router_says(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    async with joined(hive_folder, "AI.mallory") as mallory, joined(hive_folder, "IO.x") as channel:
        answer = await ask(mallory, "TNT_CREATE", {"name": "mine"})
        assert answer["error_code"] == "UNAUTHORIZED_REGISTRAR"
        assert (answer["action"], answer["src_l2_name"]) == ("TNT_CREATE", "AI.mallory@test")
        assert answer["src_uuid"]
        for verb in ("ILK_REGISTER", "ILK_LIST", "TNT_APPROVE", "ILK_MERGE", "ILK_SPLIT", "ILK_UPDATE"):
            assert (await ask(channel, verb, {}))["error_code"] == "UNAUTHORIZED_REGISTRAR"


@pytest.mark.needs("root")
@pytest.mark.goal("G14")
async def test_a_channel_of_another_account_has_its_grant_and_no_more(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as admin:
        one = (await ok(admin, "TNT_CREATE", {"name": "one", "status": "active"}))["tenant_id"]
        two = (await ok(admin, "TNT_CREATE", {"name": "two", "status": "active"}))["tenant_id"]
        grant = {
            "uid": GUEST,
            "pattern": "IO.guest",
            "ilk": "any",
            "tenant": one,
            "channel_kinds": "whatsapp",
        }
        change = {"subsystem": "grants", "action": "add", "version": 0, "config": {"grant": grant}}
        assert (await ask_config(admin, change))["status"] == "ok"
        script = [
            (channel_of("+1", one), "ok"), (channel_of("+1"), "ok"), (channel_of("+1", two), "CHANNEL_NOT_GRANTED"),
            (channel_of("a@b.cd", one, "email"), "CHANNEL_NOT_GRANTED"),
        ]  # fmt: skip
        async with joined(hive_folder, "IO.mail") as mail:
            known = await ok(mail, "ILK_PROVISION", channel_of("ana@b.cd", one, "email"))
        spoken = (known["ilk_id"], "ILK_FORBIDDEN")
        assert await asyncio.to_thread(run_as, GUEST, lambda: as_guest(hive_folder, script, spoken)) == 0


async def ask_config(admin: Node, change: dict[str, Any]) -> dict[str, Any]:
    message = await admin.request("SY.config.routes", change, timeout=5, type="system", verb="CONFIG_CHANGED")
    found: dict[str, Any] = message.payload
    return found


def as_guest(hive: HiveFolder, script: list[tuple[dict[str, Any], str]], spoken: tuple[str, str]) -> None:
    """Provision by `script`; then speak for its own person, whom it may, and for `spoken`, of another kind."""
    (path,) = hive.sockets()

    def guest() -> PlainClient | None:
        try:
            return PlainClient(str(path), "IO.guest")
        except ConnectionError:
            return None

    client = eventually(guest, within=5)
    own = ""
    for payload, expected in script:
        client.send(NAME, "system", payload, msg="ILK_PROVISION")
        answer = client.receive()["payload"]
        assert answer.get("error_code", answer["status"]) == expected, (payload, answer)
        own = answer.get("ilk_id", own)
    for ilk, expected in ((own, "POLICY_DENIED"), spoken):  # not registered, but its own to speak for
        client.send("AI.nobody", "user", {"text": "hello"}, src_ilk=ilk)
        told = client.receive()
        assert told["payload"].get("reason") == expected, (ilk, told)
    client.close()


@pytest.mark.goal("G1")
async def test_what_was_acknowledged_survives_kill_9_under_load(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    """Five kills while sixteen callers provision: whoever was acknowledged is found again, in database and region."""
    acknowledged: dict[str, str] = {}
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "IO.whatsapp") as channel:
        tenant = (await ok(admin, "TNT_CREATE", {"name": "acme", "status": "active"}))["tenant_id"]
        done, up = asyncio.Event(), asyncio.Event()
        up.set()

        async def caller(number: int) -> None:
            count = 0
            while not done.is_set():
                address = f"+{number}-{count}".replace("-", "0000")
                try:
                    payload = channel_of(address, tenant)
                    message = await channel.request(
                        NAME, payload, timeout=10, type="system", verb="ILK_PROVISION"
                    )
                except DeliveryError:
                    await up.wait()
                    continue  # it was killed; the same address again must not make a second one
                assert message.payload["status"] == "ok", message.payload
                acknowledged[address] = message.payload["ilk_id"]
                count += 1

        callers = [asyncio.create_task(caller(number)) for number in range(1, 17)]
        took = []
        for _ in range(5):
            before = len(acknowledged)
            await eventually_async(lambda before=before: len(acknowledged) > before + 100, within=30)
            up.clear()
            system[NAME].kill()
            began = time.monotonic()
            system[NAME] = start(hive_folder)
            await ok(admin, "IDENTITY_METRICS", {})
            up.set()
            before = len(acknowledged)
            await eventually_async(lambda before=before: len(acknowledged) > before + 16, within=30)
            took.append(time.monotonic() - began)
        done.set()
        await asyncio.gather(*callers)
        assert len(set(acknowledged.values())) == len(acknowledged)
        channels = ChannelsReader.attach(hive_folder.root)
        for address, ilk in acknowledged.items():
            found = channels.find(key_of(hive_folder, address, tenant))
            assert found is not None, address
            assert ids.ilk_text(found.ilk) == ilk
        channels.close()
        again = await ok(channel, "ILK_PROVISION", channel_of(next(iter(acknowledged)), tenant))
        assert again["ilk_id"] == next(iter(acknowledged.values()))
        assert min(took) < 3.0, took
        metrics = (await ok(admin, "IDENTITY_METRICS", {}))["metrics"]
        assert metrics["ilk_count"] >= len(acknowledged)


async def test_an_alias_ends_in_the_region_by_itself(
    hive_folder: HiveFolder, system: dict[str, Child]
) -> None:
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "IO.whatsapp") as channel:
        tenant = (await ok(admin, "TNT_CREATE", {"name": "acme", "status": "active"}))["tenant_id"]
        one = (await ok(channel, "ILK_PROVISION", channel_of("+1", tenant)))["ilk_id"]
        two = (await ok(channel, "ILK_PROVISION", channel_of("+2", tenant)))["ilk_id"]
        merge = {"ilk_id": one, "merge_from_ilk_id": two, "change_reason": "one", "alias_ttl_secs": 1}
        await ok(admin, "ILK_MERGE", merge)
        ilks = IlksReader.attach(hive_folder.root)
        key = ids.parse(ids.ILK, two) or b""
        alias = ilks.find(key)
        assert alias is not None
        assert ids.ilk_text(alias.canonical) == one
        await eventually_async(lambda: ilks.find(key) is None, within=10)
        await ok(admin, "ILK_SPLIT", {"ilk_id": two, "change_reason": "no"})
        back = ilks.find(key)
        assert back is not None
        assert back.canonical == bytes(16)
        ilks.close()


async def test_ping_status_and_metrics_are_open(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    async with joined(hive_folder, "AI.anybody") as node:
        status = await ask(node, "STATUS", {})
        assert (status["state"], status["store"], status["primary"]) == ("configured", "sqlite", True)
        metrics = (await ok(node, "IDENTITY_METRICS", {}))["metrics"]
        assert metrics["tenant_count"] == 1, "the hive's own default tenant"
        pong = await node.request(NAME, {}, timeout=5, type="system", verb="PING")
        assert pong.verb == "PONG"


@pytest.mark.goal("G21")
async def test_the_url_of_a_database_is_a_secret(hive_folder: HiveFolder, system: dict[str, Child]) -> None:
    async with joined(hive_folder, "SY.admin") as admin:
        await ok(admin, "IDENTITY_METRICS", {})
        secret = "postgresql://identity:s3cretword@/x"
        asked = {
            "node_name": "SY.identity@test", "config_version": 1, "schema_version": 1, "apply_mode": "replace",
            "config": {"database": "postgres", "secrets": {"postgres_url": secret}},
        }  # fmt: skip
        reply = await admin.request(NAME, asked, timeout=5, type="system", verb="CONFIG_SET")
        assert reply.payload["ok"] is True, reply.payload
        shown = await admin.request(
            NAME, {"node_name": "SY.identity@test"}, timeout=5, type="system", verb="CONFIG_GET"
        )
        assert "s3cretword" not in json.dumps(shown.payload)
    system[NAME].stop()
    again = start(hive_folder)
    assert again.process.wait(20) == 1, "it has a URL now, and nobody answers there"
    assert "does not answer" in again.log(), again.log()
    assert "s3cretword" not in again.log()


def test_a_missing_secret_and_a_bad_file_stop_the_start_with_a_word(
    hive_folder: HiveFolder, router: object
) -> None:
    folder = hive_folder.root / "state" / "nodes" / "SY" / "SY.identity@test"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"database": "postgres"}')
    first = start(hive_folder)
    assert first.process.wait(20) == 1
    assert "missing_secret" in first.log()
    (folder / "config.json").unlink()
    (hive_folder.root / "config" / "identity.yaml").write_text("tenants: [{nam: x}]\n")
    second = start(hive_folder)
    assert second.process.wait(20) == 1
    assert "identity.yaml: tenants[0]: unknown member 'nam'" in second.log()
    assert "Traceback" not in second.log()


async def test_the_small_file_fills_a_first_hive(hive_folder: HiveFolder, router: object) -> None:
    (hive_folder.root / "config" / "identity.yaml").write_text(
        "default_tenant: acme\n"
        "tenants: [{name: lobby}, {name: acme, domain: acme.example}]\n"
        "agents: [{node: AI.desk, tenant: acme, roles: [support], capabilities: [orders, spanish]}]\n"
        "humans:\n"
        "  - {display_name: Ana, email: ana@acme.example, subtype: internal,\n"
        "     channels: [{type: whatsapp, address: '+1'}]}\n"
    )
    start(hive_folder, "SY.config.routes")
    node = start(hive_folder)
    async with joined(hive_folder, "SY.cli.1") as admin, joined(hive_folder, "IO.whatsapp") as channel:
        listed = (await ok(admin, "ILK_LIST", {}))["ilks"]
        assert sorted((line["ilk_type"], line["tenant_name"]) for line in listed) == [
            ("agent", "acme"),
            ("human", "acme"),
        ]
        ana = (await ok(channel, "ILK_PROVISION", channel_of("+1")))["ilk_id"]
        whole = (await ok(admin, "ILK_GET", {"ilk_id": ana}))["ilk"]
        assert (whole["identification"]["display_name"], whole["human_subtype"]) == ("Ana", "internal")
        node.stop()
        (hive_folder.root / "config" / "identity.yaml").write_text("this: is not read again\n")
        start(hive_folder)
        assert (await ok(admin, "ILK_LIST", {}))["ilks"] == listed


def test_the_regions_go_with_the_node(hive_folder: HiveFolder, router: object) -> None:
    node = start(hive_folder)

    def there() -> bool:
        try:
            IlksReader.attach(hive_folder.root).close()
        except RegionError:
            return False
        return True

    eventually(there, within=15)
    assert node.stop() == 0
    assert not there()
