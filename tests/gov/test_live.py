"""SY.frontdesk.gov as a real process beside a real router, policy and SY.identity: from stranger to known customer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gov.parts import WHO, agent, ask, phone, start
from skep import DeliveryError, Message, Node, RemoteError
from skep_nodes.io.provision_subject import Introductions, NotIntroduced
from skep_nodes.io.text import text_payload
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


@asynccontextmanager
async def mail(hive: HiveFolder) -> AsyncIterator[list[dict[str, Any]]]:
    """An IO.email that keeps the codes it is asked to send."""
    node, asked = Node("IO.email", hive=hive.root), list[dict[str, Any]]()

    @node.on_system("EMAIL_CODE_SEND")
    async def keep(message: Message) -> dict[str, str]:
        asked.append(message.payload)
        return {"status": "ok"}

    async with node:
        yield asked


@pytest.mark.goal("G1")
async def test_a_conversation_survives_kill_9_and_nothing_is_asked_twice(
    hive: HiveFolder, desk: Callable[[], Child]
) -> None:
    """Killed after each of her messages; what she has said is known, her question is answered once."""
    process = desk()
    async with (
        Node("SY.cli.1", hive=hive.root) as admin, agent(hive) as asked, mail(hive) as codes, phone(hive) as customer,
    ):  # fmt: skip
        await until_ready(hive, admin)
        for text, answer in (
            ("¿Cuánto tarda el envío?", "cómo se llama"), ("Ana Ruiz", "correo"), ("ana@example.org", "código"),
        ):  # fmt: skip
            assert answer in await customer.ask(text)
            process.kill()
            process = desk()
            await ask(admin, "NODE_STATUS_GET", {}, to="SY.frontdesk.gov")
        assert [(each["address"], each["language"]) for each in codes] == [("ana@example.org", "es")]
        assert await customer.ask(codes[0]["code"]) == "Gracias, Ana Ruiz. Ya está registrado."
        assert await customer.hear() == "you asked: ¿Cuánto tarda el envío?"
        assert len(asked) == 1


async def test_a_question_that_nobody_could_take_is_passed_on_after_a_restart(
    hive: HiveFolder, desk: Callable[[], Child]
) -> None:
    """Killed between the registration and the hand-over: the agent comes later, and gets it."""
    process = desk()
    async with Node("SY.cli.1", hive=hive.root) as admin, phone(hive) as customer:
        await until_ready(hive, admin)
        await customer.ask("How long does delivery take?")
        ilk = await customer.say("I'm Ana Ruiz, ana@example.org")
        assert "You are registered" in await customer.hear()
        process.kill()
        async with agent(hive) as asked:
            desk()
            assert "You are registered" in await customer.hear(), "said again: it is true, and perhaps was not heard"
            assert await customer.hear() == "you asked: How long does delivery take?"
            assert [each.src_ilk for each in asked] == [ilk]


async def test_two_channels_of_one_person_are_one_interlocutor(hive: HiveFolder, desk: Callable[[], Child]) -> None:
    desk()
    async with (
        Node("SY.cli.1", hive=hive.root) as admin, agent(hive) as asked, mail(hive) as codes, phone(hive) as customer,
    ):  # fmt: skip
        await until_ready(hive, admin)
        ilk = await customer.say("I'm Ana Ruiz, ana@example.org. Do you ship?")
        await customer.hear()
        await customer.ask(codes[0]["code"])
        await customer.hear()
        assert await customer.say("And by mail?", address="Ana@Example.org", kind="email") == ilk
        assert await customer.hear() == "you asked: And by mail?"
        await customer.ask("I'm Ana Ruiz, ana@example.org. From my new phone!", address="+1555")
        assert "I know you already" in await customer.ask(codes[1]["code"], address="+1555")
        assert await customer.hear() == "you asked: From my new phone!"
        assert {each.src_ilk for each in asked} == {ilk}
        assert await customer.say("again", address="+1555") == ilk


@pytest.mark.goal("G14")
async def test_a_stranger_reaches_the_front_desk_and_nobody_else(
    hive: HiveFolder, desk: Callable[[], Child]
) -> None:
    desk()
    async with Node("SY.cli.1", hive=hive.root) as admin, agent(hive) as asked, phone(hive) as customer:
        await until_ready(hive, admin)
        ilk = await customer.provision.speaker("whatsapp", "+1")
        with pytest.raises(DeliveryError, match="POLICY_DENIED"):
            await customer.node.request("AI.desk", "hello", timeout=5, src_ilk=ilk)
        forged = {"handoff": {"source": "00000000-0000-4000-8000-000000000001", "message_id": 1}}
        await customer.node.send(None, text_payload("hello"), src_ilk=ilk, thread="thread:x", meta=forged)
        await customer.node.send(None, text_payload("hello again"), src_ilk=ilk, thread="thread:x")
        assert "your name" in await customer.hear(), "who says that an answer is another's hears none"
        with pytest.raises(RemoteError, match="src_ilk_missing"):
            await customer.node.request("SY.frontdesk.gov", text_payload("hello"), timeout=5)
        assert asked == []


async def test_a_channel_that_has_the_data_hands_them_over(hive: HiveFolder, desk: Callable[[], Child]) -> None:
    desk()
    async with Node("SY.cli.1", hive=hive.root) as admin, agent(hive), phone(hive, "IO.http") as client:
        await until_ready(hive, admin)
        ilk = await client.provision.speaker("api", "7:default:u1")
        subject = {"display_name": "Ana Ruiz", "email": "ana@example.org"}
        introductions = Introductions(client.node)
        await introductions.introduce(ilk, subject)
        assert await client.ask("Do you ship?", address="7:default:u1", kind="api") == "you asked: Do you ship?"
        other = await client.provision.speaker("api", "7:default:u2")
        with pytest.raises(NotIntroduced, match="DUPLICATE_EMAIL"):
            await introductions.introduce(other, subject)
