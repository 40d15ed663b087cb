"""SY.frontdesk.gov as a real process beside a real router, policy and SY.identity: from stranger to known customer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gov.parts import WHO, agent, ask, phone, start
from skep import Node
from support.hives import Child, HiveFolder
from support.wait import eventually_async

pytestmark = pytest.mark.slow


@pytest.fixture
def hive(hive_folder: HiveFolder) -> HiveFolder:
    (hive_folder.root / "config" / "identity.yaml").write_text(WHO)
    hive_folder.start_router("RT.main", "--policy", "required", "--identity", "required")
    for name in ("SY.config.routes", "SY.threads", "SY.identity", "SY.opa.rules"):
        start(hive_folder, name)
    return hive_folder


@pytest.fixture
def desk(hive: HiveFolder) -> Callable[[], Child]:
    return lambda: start(hive, "SY.frontdesk.gov")


async def until_ready(hive: HiveFolder, node: Node) -> None:
    """Who is who is known, and the routers run the policy."""
    await ask(node, "IDENTITY_METRICS", {})
    await ask(node, "NODE_STATUS_GET", {}, to="SY.frontdesk.gov")
    stated = hive.root / "run" / "SY.opa.rules.json"
    await eventually_async(stated.exists, within=30, what="the routers run the policy")


async def test_a_stranger_is_registered_and_her_first_question_is_answered(
    hive: HiveFolder, desk: Callable[[], Child]
) -> None:
    desk()
    async with Node("SY.cli.1", hive=hive.root) as admin, agent(hive) as asked, phone(hive) as customer:
        await until_ready(hive, admin)
        welcome = await customer.ask("How long does delivery take?")
        assert "your name" in welcome
        assert "kept your question" in welcome
        ilk = await customer.say("I'm Ana Ruiz, ana@example.org")
        assert await customer.hear() == "Thank you, Ana Ruiz. You are registered."
        assert await customer.hear() == "you asked: How long does delivery take?"
        assert asked[0].src_ilk == ilk
        known = (await ask(admin, "ILK_GET", {"ilk_id": ilk}))["ilk"]
        assert known["registration_status"] == "complete"
        assert known["identification"] == {
            "display_name": "Ana Ruiz", "email": "ana@example.org", "email_verified": False,
        }  # fmt: skip
        assert await customer.ask("And to France?") == "you asked: And to France?"
