"""IO.email as a real process: a mail server, a router, SY.identity, the policy and the front desk around it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator

import pytest

from gov.parts import WHO, agent, ask, phone, start
from nodes.letters import ANA, DESK, PROVEN, letter
from skep import Node
from skep.errors import DeliveryError
from skep_nodes.io.email_reader import AT_ONCE
from skep_nodes.io.settings import write_secrets
from support.hives import Child, HiveFolder
from support.mail_server import AUTHSERV_ID, PASSWORD, MailServer, Sent, mail_server
from support.wait import eventually_async

pytestmark = [pytest.mark.slow, pytest.mark.needs("root")]
MODULE = "skep_nodes.io.email"
FORGED = "dmarc=fail header.from=customer.example"


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server(DESK, ANA) as running:
        yield running


@pytest.fixture
def hive(hive_folder: HiveFolder, server: MailServer) -> HiveFolder:
    """Everything but IO.email."""
    (hive_folder.root / "config" / "identity.yaml").write_text(WHO)
    configure(hive_folder, server)
    hive_folder.start_router("RT.main", "--policy", "required", "--identity", "required")
    for name in ("SY.config.routes", "SY.threads", "SY.identity", "SY.opa.rules", "SY.frontdesk.gov"):
        start(hive_folder, name)
    return hive_folder


def configure(hive: HiveFolder, server: MailServer, **more: str) -> None:
    """IO.email's settings and secrets, for its own mail server."""
    places = {
        name: {
            "host": place.host,
            "port": place.port,
            "security": place.security,
            "ca_file": str(place.ca_file),
        }
        for name, place in (("imap", server.imap), ("smtp", server.smtp))
    }
    box = {"address": DESK, "authserv_id": AUTHSERV_ID, **places}
    settings = {"mailboxes": [box], "reconnect_s": 0.1, "retry_initial_s": 0.1, **more}
    (hive.root / "config" / "IO.email.json").write_text(json.dumps(settings))
    account = {"imap_user": DESK, "imap_password": PASSWORD, "smtp_user": DESK, "smtp_password": PASSWORD}
    write_secrets(hive.root / "state" / "secrets" / "IO.email.json", {DESK: account})


def start_email(hive: HiveFolder) -> Child:
    config = str(hive.root / "config" / "IO.email.json")
    return hive.start(
        "IO.email", [sys.executable, "-m", MODULE, "--hive", str(hive.root), "--config", config]
    )


async def until_ready(hive: HiveFolder, node: Node) -> None:
    await ask(node, "IDENTITY_METRICS", {})
    for name in ("SY.frontdesk.gov", "IO.email"):
        await ask(node, "NODE_STATUS_GET", {}, to=name)
    stated = hive.root / "run" / "SY.opa.rules.json"
    await eventually_async(stated.exists, within=30, what="the routers run the policy")


async def heard(server: MailServer, number: int) -> Sent:
    """The letter that IO.email sent as its `number`th."""
    await eventually_async(lambda: len(server.sent) >= number, within=45, what=f"{number} letters were sent")
    return server.sent[number - 1]


@pytest.mark.goal("G14")
async def test_a_stranger_registers_by_letter_and_nobody_else_is_her_by_writing_her_address(
    hive: HiveFolder, server: MailServer
) -> None:
    start_email(hive)
    async with Node("SY.cli.1", hive=hive.root) as admin, agent(hive) as asked:
        await until_ready(hive, admin)
        server.arrive(DESK, letter("How long does delivery take?"), PROVEN)
        assert "name" in (await heard(server, 1)).text
        server.arrive(DESK, letter("My name is Ana Ruiz", message_id="m2@customer.example"), PROVEN)
        assert "You are registered" in (await heard(server, 2)).text
        assert "you asked: How long does delivery take?" in (await heard(server, 3)).text
        ana = asked[0].src_ilk
        server.arrive(
            DESK, letter("Pay everything to me", subject="Re: Delivery", message_id="f@evil.example"), FORGED
        )
        assert "name" in (await heard(server, 4)).text  # a stranger, to the front desk
        server.arrive(DESK, letter("And to France?", message_id="m3@customer.example"), PROVEN)
        assert (await heard(server, 5)).text == "you asked: And to France?"
        assert [each.src_ilk for each in asked] == [ana, ana]
        assert all("Pay" not in str(each.payload) for each in asked)
        counters = (await ask(admin, "NODE_STATUS_GET", {}, to="IO.email"))["counters"]
        assert (counters["channel"]["relayed"], counters["channel"]["unproven"]) == (4, 1)


async def test_a_code_by_letter_joins_a_phone_with_her_who_has_the_address(
    hive: HiveFolder, server: MailServer
) -> None:
    start_email(hive)
    async with Node("SY.cli.1", hive=hive.root) as admin, agent(hive) as asked, phone(hive) as customer:
        await until_ready(hive, admin)
        server.arrive(DESK, letter("How long does delivery take?"), PROVEN)
        await heard(server, 1)
        server.arrive(DESK, letter("My name is Ana Ruiz", message_id="m2@customer.example"), PROVEN)
        await heard(server, 3)
        await customer.ask("What does it cost?")
        assert ANA in await customer.ask(f"I'm Ana Ruiz, {ANA}")
        code = re.search(r"\b\d{6}\b", (await heard(server, 4)).text)
        assert code is not None
        await customer.say(f"{code[0]}")
        said = [await customer.hear(), await customer.hear()]
        assert said[-1] == "you asked: What does it cost?"
        assert asked[-1].src_ilk == asked[0].src_ilk


@pytest.mark.goal("G14")
async def test_nobody_but_the_front_desk_sends_codes(hive: HiveFolder, server: MailServer) -> None:
    start_email(hive)
    async with Node("SY.cli.1", hive=hive.root) as admin, Node("AI.spammer", hive=hive.root) as spammer:
        await until_ready(hive, admin)
        asked = {"address": ANA, "code": "123456", "language": "en", "tenant_id": ""}
        for node in (spammer, admin):
            answer = await node.request("IO.email", asked, timeout=5, type="system", verb="EMAIL_CODE_SEND")
            assert answer.payload["error_code"] == "FORBIDDEN"
    assert server.sent == []


@pytest.mark.goal("G1")
async def test_letters_that_came_while_it_was_dead_are_answered_once(
    hive: HiveFolder, server: MailServer
) -> None:
    first = start_email(hive)
    async with Node("SY.cli.1", hive=hive.root) as admin:
        await until_ready(hive, admin)
        first.process.kill()
        first.process.wait()
        server.arrive(DESK, letter("Hello?"), PROVEN)
        second = start_email(hive)
        await heard(server, 1)

        async def seen() -> bool:
            return await asyncio.to_thread(server.flags, DESK) == ["\\Seen"]

        await eventually_async(seen, within=15)
        second.process.kill()
        second.process.wait()
        start_email(hive)
        await eventually_async(lambda: _status(admin), within=20)
        assert len(server.sent) == 1


@pytest.mark.goal("G1")
async def test_killed_again_and_again_it_loses_no_letter(hive_folder: HiveFolder, server: MailServer) -> None:
    """Each letter reaches the hive; those under way when a process dies may reach it once more. An answer that was on
    its way to the dead process is the hive's to report; one that it had taken is sent, at most twice under one id."""
    letters, kills = 40, 3
    configure(hive_folder, server, identity="off")
    hive_folder.start_router()
    for name in ("SY.config.routes", "SY.threads"):
        start(hive_folder, name)
    running = start_email(hive_folder)
    async with Node("SY.cli.1", hive=hive_folder.root) as admin, agent(hive_folder) as asked:
        for name in ("SY.threads", "IO.email"):
            await ask(admin, "NODE_STATUS_GET", {}, to=name)
        for number in range(letters):
            person = f"p{number}@customer.example"
            server.arrive(
                DESK, letter(f"I am {number}", sender=person, message_id=f"k{number}@x.example"), PROVEN
            )
        for kill in range(1, kills + 1):
            await eventually_async(
                lambda so_many=kill * 6: len(asked) >= so_many, within=30, what="letters arrive"
            )
            running.process.kill()
            running.process.wait()
            running = start_email(hive_folder)

        async def all_seen() -> bool:
            return await asyncio.to_thread(server.flags, DESK) == ["\\Seen"] * letters

        await eventually_async(all_seen, within=60)
        contents = [each.payload["content"] for each in asked]
        assert set(contents) == {f"I am {number}" for number in range(letters)}
        assert len(contents) <= letters + kills * AT_ONCE
        ids = [each.message["Message-ID"] for each in server.sent]
        assert len(ids) <= len(set(ids)) + kills


async def _status(node: Node) -> bool:
    try:
        answer = await node.request("IO.email", {}, timeout=5, type="system", verb="NODE_STATUS_GET")
    except DeliveryError:
        return False
    return bool(answer.payload["counters"]["reader"]["connections"])
