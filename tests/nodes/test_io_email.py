"""IO.email against a real mail server (Dovecot, aiosmtpd), with a stand-in hive behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from nodes.letters import ANA, DESK, PROVEN, letter
from nodes.web import Came, StandInHive
from skep.errors import DeliveryError
from skep.protocol.codes import Reason
from skep_nodes.io.email_channel import EmailChannel
from skep_nodes.io.email_post import Post, by_smtp
from skep_nodes.io.email_reader import Reader
from skep_nodes.io.email_settings import EmailSettings, Mailbox
from skep_nodes.io.mail_imap import Imap, ImapError
from skep_nodes.io.mail_place import Account
from skep_nodes.io.mail_smtp import NotSent, hand_over
from skep_nodes.io.mail_store import MailStore
from skep_nodes.io.store import ChannelStore
from support.mail_server import AUTHSERV_ID, PASSWORD, MailServer, certificate, mail_server
from support.wait import eventually_async

FREE = [f"desk{number}@hive.test" for number in range(32)]
pytestmark = pytest.mark.needs("root")


@pytest.fixture(scope="module")
def server() -> Iterator[MailServer]:
    with mail_server(*FREE) as running:
        yield running


@pytest.fixture
def desk(server: MailServer) -> str:
    """A mailbox of the test's own."""
    server.sent.clear()
    server.replies.clear()
    return FREE.pop()


@dataclass
class Line:
    """A customer's mail program on one end, a hive on the other."""

    server: MailServer
    address: str
    hive: StandInHive
    channel: EmailChannel
    post: Post
    store: MailStore

    def arrive(self, data: bytes, results: str = PROVEN) -> None:
        self.server.arrive(self.address, data, results)

    async def seen(self, *flags: str) -> None:
        async def as_told() -> bool:
            return await asyncio.to_thread(self.server.flags, self.address) == list(flags)

        await eventually_async(as_told, within=15)

    async def relayed(self, number: int = 1) -> tuple[Any, Any, dict[str, Any]]:
        await eventually_async(lambda: len(self.hive.sent) >= number, within=15)
        return self.hive.sent[number - 1]


@asynccontextmanager
async def line(
    server: MailServer, address: str, store: MailStore | None = None, **changes: Any
) -> AsyncIterator[Line]:
    hive, store = StandInHive(), store or MailStore(None)
    box = Mailbox(address, server.imap, server.smtp, AUTHSERV_ID)
    settings = EmailSettings(
        mailboxes=(box,), retry_initial_s=0.05, send_retries=0, identity="off", **changes
    )
    account = Account(address, PASSWORD)
    post = Post(settings, store, by_smtp(settings, {address: (account, account)}))
    channel = EmailChannel(settings, hive, ChannelStore(None), store, post)
    reader = Reader(box, account, channel, poll_s=5, reconnect_s=0.05)
    post.start()
    reader.start()
    try:
        yield Line(server, address, hive, channel, post, store)
    finally:
        await reader.close()
        await post.close()


async def test_a_letter_reaches_the_hive_and_its_answer_the_customer(server: MailServer, desk: str) -> None:
    async with line(server, desk) as a:
        a.arrive(letter("¿Cuánto tarda el envío?"))
        to, payload, options = await a.relayed()
        assert (to, payload["content"], payload["subject"], options["ack"]) == (
            "AI.desk", "¿Cuánto tarda el envío?", "Delivery", "routed",
        )  # fmt: skip
        io = options["context"]["io"]
        assert (io["channel"], io["entrypoint"]["id"], io["sender"]) == ("email", desk, ANA)
        await a.seen("\\Seen")
        await a.channel.deliver(Came({"content": "De 3 a 5 días — siempre."}, options["thread"]))
        await eventually_async(lambda: len(server.sent) == 1)
        sent = server.sent[0]
        assert (sent.sender, sent.recipients, sent.tls, sent.user) == (desk, [ANA], True, desk)
        assert sent.text == "De 3 a 5 días — siempre."
        head = sent.message
        assert (head["Subject"], head["In-Reply-To"]) == ("Re: Delivery", "<m1@customer.example>")
        assert (head["References"], head["Auto-Submitted"]) == ("<m1@customer.example>", "auto-generated")
        assert head["Message-ID"].endswith("@hive.test>")


async def test_a_letter_that_comes_while_it_waits_is_told_by_the_server(
    server: MailServer, desk: str
) -> None:
    async with line(server, desk) as a:
        a.arrive(letter("first"))
        await a.relayed()
        await a.seen("\\Seen")
        a.arrive(letter("second", message_id="m2@customer.example"))
        assert (await a.relayed(2))[1]["content"] == "second"


async def test_the_answers_answer_stays_in_the_conversation(server: MailServer, desk: str) -> None:
    async with line(server, desk) as a:
        a.arrive(letter())
        thread = (await a.relayed())[2]["thread"]
        await a.channel.deliver(Came("Three days.", thread))
        await eventually_async(lambda: len(server.sent) == 1)
        own = server.sent[0].message["Message-ID"].strip("<>")
        a.arrive(letter("And abroad?", subject="Re: Delivery", message_id="m2@x.example", references=own))
        assert (await a.relayed(2))[2]["thread"] == thread


async def test_a_forged_sender_is_not_the_customer(server: MailServer, desk: str) -> None:
    """The same From, and a result that it wrote itself: another channel, another thread, other answers."""
    async with line(server, desk) as a:
        a.arrive(letter("It is I."))
        proven = (await a.relayed())[2]
        claim = f"Authentication-Results: {AUTHSERV_ID}; {PROVEN}"
        a.arrive(
            letter("It is I.", claim, message_id="f1@evil.example"), "dmarc=fail header.from=customer.example"
        )
        forged = (await a.relayed(2))[2]
        a.arrive(letter("It is I.", claim, message_id="f2@evil.example"), "")
        unchecked = (await a.relayed(3))[2]
        channels = [each["context"]["io"]["channel"] for each in (proven, forged, unchecked)]
        assert channels == ["email", "email-unproven", "email-unproven"]
        assert len({each["thread"] for each in (proven, forged, unchecked)}) == 3
        assert a.channel.counters["unproven"] == 2


async def test_a_letter_is_marked_only_when_the_hive_has_it(server: MailServer, desk: str) -> None:
    async with line(server, desk) as a:
        a.hive.errors = [DeliveryError(Reason.NOT_READY, 1)]
        a.arrive(letter())
        await eventually_async(lambda: a.channel.counters["later"] == 1, within=15)
        await a.seen("")
        assert a.hive.sent == []
    async with line(server, desk) as b:  # a new start looks at it again
        await b.relayed()
        await b.seen("\\Seen")


async def test_a_letter_that_was_taken_but_not_marked_is_known(server: MailServer, desk: str) -> None:
    store = MailStore(None)
    async with line(server, desk, store) as a:
        a.arrive(letter())
        await a.relayed()
        await a.seen("\\Seen")
    client = server.client(desk)
    client.select("INBOX")
    client.store("1", "-FLAGS", "\\Seen")
    client.logout()
    async with line(server, desk, store) as b:
        await b.seen("\\Seen")
        assert (b.hive.sent, b.channel.counters["duplicates"]) == ([], 1)


async def test_what_a_person_should_see_is_flagged_and_machines_are_not_answered(
    server: MailServer, desk: str
) -> None:
    async with line(server, desk) as a:
        a.arrive(letter(sender="a@x.example, b@y.example", message_id="two@x.example"))
        a.arrive(letter("I am away.", "Auto-Submitted: auto-replied", message_id="auto@x.example"))
        a.arrive(letter("Undelivered", "Return-Path: <>", message_id="bounce@x.example"))
        a.arrive(letter("own", sender=desk, message_id="own@x.example"))
        await a.seen("\\Flagged \\Seen", "\\Seen", "\\Seen", "\\Seen")
        assert a.hive.sent == []
        assert a.channel.counters["automatic"] == 3


async def test_a_letter_is_tried_again_until_the_server_takes_it(server: MailServer, desk: str) -> None:
    async with line(server, desk) as a:
        a.arrive(letter())
        thread = (await a.relayed())[2]["thread"]
        server.replies = ["451 come back later", "421 closing"]
        await a.channel.deliver(Came("Three days.", thread))
        await eventually_async(lambda: len(server.sent) == 1, within=15)
        assert (a.post.counters["retried"], a.store.waiting()) == (2, 0)
        server.replies = ["550 no such user"]
        await a.channel.deliver(Came("Really.", thread, message_id=8))
        await eventually_async(lambda: a.post.counters["given_up"] == 1)
        assert a.store.waiting() == 0


async def test_only_the_begin_of_a_long_letter_is_read(server: MailServer, desk: str) -> None:
    async with line(server, desk) as a:
        big = b"A" * 70 + b"\r\n"
        head = letter("The words come first.").replace(
            b"Content-Type: text/plain; charset=utf-8",
            b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"',
        )
        top, _, words = head.partition(b"\r\n\r\n")
        parts = (
            b"--b\r\nContent-Type: text/plain\r\n\r\n"
            + words
            + b"--b\r\nContent-Type: image/png; name=a.png\r\n"
        )
        parts += b"Content-Transfer-Encoding: base64\r\n\r\n" + big * 20_000 + b"--b--\r\n"
        a.arrive(top + b"\r\n\r\n" + parts)
        payload = (await a.relayed())[1]
        assert (payload["content"], payload["truncated"]) == ("The words come first.", True)
        assert payload["attachments_left"][0]["name"] == "a.png"


@pytest.mark.goal("G14")
async def test_a_server_with_another_certificate_gets_no_password(
    server: MailServer, desk: str, tmp_path: Any
) -> None:
    certificate(tmp_path)
    account = Account(desk, PASSWORD)
    with pytest.raises(ImapError, match="certificate"):
        await Imap.open(replace(server.imap, ca_file=tmp_path / "cert.pem"), account)
    with pytest.raises(NotSent, match="certificate"):
        await asyncio.to_thread(
            hand_over, replace(server.smtp, ca_file=tmp_path / "cert.pem"), account, desk, DESK, b"x"
        )
    assert server.sent == []


async def test_wrong_passwords_are_said_and_not_shown(server: MailServer, desk: str) -> None:
    with pytest.raises(ImapError, match="LOGIN") as refused:
        await Imap.open(server.imap, Account(desk, "wrong-secret"))
    assert "wrong-secret" not in str(refused.value)
    with pytest.raises(NotSent, match="535") as not_sent:
        await asyncio.to_thread(hand_over, server.smtp, Account(desk, "wrong-secret"), desk, DESK, b"x")
    assert not not_sent.value.final
