"""Status and the configuration contract."""

from __future__ import annotations

import stat

import orjson
import pytest

from skep import Node
from skep.contract import MASK, Contract, Secret
from skep.errors import ConfigError
from skep.testing import Hive

CONTRACT = Contract(
    required_fields=("model",),
    optional_fields=("temperature",),
    secrets=(Secret("openai.api_key", required=True),),
)
KEY = "sk-canary-123"


def configurable(name: str = "AI.bot") -> tuple[Node, list[dict]]:
    node, applied = Node(name, contract=CONTRACT), []

    @node.on_config
    async def apply(config):
        if config.get("model") == "bad":
            raise ValueError("no such model")
        applied.append(config)

    return node, applied


def config_set(version: int, model: str = "m1", name: str = "AI.bot@test", **changes) -> dict:
    return {
        "node_name": name,
        "schema_version": 1,
        "config_version": version,
        "apply_mode": "replace",
        "config": {"model": model, "openai": {"api_key": KEY}},
        **changes,
    }


async def system(caller, verb: str, payload=None, dst: str = "AI.bot"):
    return (await caller.request(dst, payload or {}, type="system", verb=verb)).payload


async def test_status_is_answered_without_a_line_of_code() -> None:
    async with Hive() as hive:
        await hive.start(Node("AI.bot"))
        caller = await hive.node("SY.asks")
        assert await system(caller, "NODE_STATUS_GET") == {"status": "ok", "health_state": "HEALTHY"}
        assert await system(caller, "PING") == {}
        status = await system(caller, "STATUS")
        assert (status["node_name"], status["state"]) == ("AI.bot@test", "CONFIGURED")


async def test_upstream_style_query_gets_the_response_verb_and_trace() -> None:
    async with Hive() as hive:
        await hive.start(Node("AI.bot"))
        sender, receiver = await hive.connect("SY.asks", framing="json")
        receipt = await sender.send("AI.bot", {}, type="system", verb="NODE_STATUS_GET")
        message = await receiver.receive(5)
        assert message.verb == "NODE_STATUS_GET_RESPONSE"
        assert message.trace_id == receipt.trace_id


async def test_config_is_set_redacted_persisted_and_found_again() -> None:
    async with Hive() as hive:
        node, applied = configurable()
        await hive.start(node)
        caller = await hive.node("SY.admin")
        assert (await system(caller, "CONFIG_GET"))["state"] == "UNCONFIGURED"
        answer = await system(caller, "CONFIG_SET", config_set(3))
        assert answer["ok"], answer
        assert answer["config_version"] == 3
        assert answer["effective_config"] == {"model": "m1", "openai": {"api_key": MASK}}
        assert applied == [{"model": "m1", "openai": {}}]
        assert node.lifecycle.secrets == {"openai.api_key": KEY}
        folder = hive.root / "state" / "nodes" / "AI" / "AI.bot@test"
        assert KEY not in (folder / "state.json").read_text()
        assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        await node.stop()
        again, applied_again = configurable()
        await hive.start(again)
        assert applied_again == [{"model": "m1", "openai": {}}]
        got = await system(caller, "CONFIG_GET")
        assert (got["state"], got["config_version"]) == ("CONFIGURED", 3)
        assert got["contract"]["secrets"][0]["configured"] is True
        assert KEY not in orjson.dumps(got).decode()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"node_name": "AI.else@test"}, "invalid_envelope"),
        ({"schema_version": 2}, "invalid_envelope"),
        ({"config_version": 0}, "invalid_envelope"),
        ({"apply_mode": "merge_patch"}, "unsupported_apply_mode"),
        ({"config": {}}, "invalid_config"),
        ({"config": []}, "invalid_config"),
        ({"config_version": 1}, "stale_config_version"),
        ({"config_version": 6, "config": {"model": "bad"}}, "invalid_config"),
    ],
)
async def test_a_config_set_that_is_refused_changes_nothing(changes: dict, code: str) -> None:
    async with Hive() as hive:
        node, applied = configurable()
        await hive.start(node)
        caller = await hive.node("SY.admin")
        await system(caller, "CONFIG_SET", config_set(5))
        answer = await system(caller, "CONFIG_SET", config_set(6) | changes)
        assert (answer["ok"], answer["error"]["code"]) == (False, code)
        assert (answer["config_version"], node.lifecycle.config["model"]) == (5, "m1")
        state = orjson.loads((hive.root / "state/nodes/AI/AI.bot@test/state.json").read_bytes())
        assert (state["config_version"], state["config"]["model"]) == (5, "m1")
        assert len(applied) == 1


async def test_an_equal_version_is_idempotent_for_agents_and_stale_for_channels() -> None:
    async with Hive() as hive:
        for name in ("AI.bot", "IO.bot"):
            node, _ = configurable(name)
            await hive.start(node)
        caller = await hive.node("SY.admin")
        for name, ok in (("AI.bot", True), ("IO.bot", False)):
            full = f"{name}@test"
            await system(caller, "CONFIG_SET", config_set(2, name=full), name)
            assert (await system(caller, "CONFIG_SET", config_set(2, name=full), name))["ok"] is ok


async def test_the_system_block_is_the_launchers() -> None:
    async with Hive() as hive:
        folder = hive.root / "state/nodes/AI/AI.bot@test"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(
            '{"model":"launched","_system":{"ilk_id":"x","config_version":1}}'
        )
        node, _ = configurable()
        await hive.start(node)
        caller = await hive.node("SY.admin")
        forged = config_set(2)
        forged["config"]["_system"] = {"ilk_id": "forged"}
        answer = await system(caller, "CONFIG_SET", forged)
        assert answer["effective_config"]["_system"] == {"ilk_id": "x", "config_version": 1}
        assert node.lifecycle.system["ilk_id"] == "x"


async def test_a_disk_error_is_told_and_the_old_configuration_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Hive() as hive:
        node, _ = configurable()
        await hive.start(node)
        caller = await hive.node("SY.admin")
        await system(caller, "CONFIG_SET", config_set(1))

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("skep.config_store.write_atomic", full)
        answer = await system(caller, "CONFIG_SET", config_set(2, model="m2"))
        assert answer["error"]["code"] == "config_persist_error"
        assert node.lifecycle.config["model"] == "m1"


async def test_a_damaged_file_is_a_state_and_not_an_end() -> None:
    async with Hive() as hive:
        folder = hive.root / "state/nodes/AI/AI.bot@test"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{half")
        node, _ = configurable()
        await hive.start(node)
        caller = await hive.node("SY.admin")
        assert (await system(caller, "STATUS"))["state"] == "FAILED_CONFIG"
        assert (await system(caller, "CONFIG_SET", config_set(1)))["ok"] is True


async def test_a_handler_may_refuse_with_the_contracts_code() -> None:
    async with Hive() as hive:
        node = Node("AI.bot")

        @node.on_config
        async def apply(config):
            raise ConfigError("invalid_config", "not today")

        await hive.start(node)
        caller = await hive.node("SY.admin")
        answer = await system(caller, "CONFIG_SET", config_set(1))
        assert answer["error"] == {"code": "invalid_config", "detail": "not today"}
        assert not (hive.root / "state/nodes/AI/AI.bot@test/state.json").exists()
