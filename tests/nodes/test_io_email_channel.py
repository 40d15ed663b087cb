"""IO.email's decisions, without servers: fates, threads, senders and interlocutors, rates, answers, codes, settings."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nodes.letters import ANA, DESK, letter, proven
from nodes.web import Came, StandInHive
from skep.errors import DeliveryError
from skep.protocol.codes import Reason
from skep_nodes.io.email_channel import EmailChannel, Fate
from skep_nodes.io.email_code import CODES_PER_ADDRESS, CodeDesk
from skep_nodes.io.email_post import KEEP_MS, Post
from skep_nodes.io.email_rates import Rate
from skep_nodes.io.email_settings import EmailSettings, Mailbox, check, load_accounts
from skep_nodes.io.mail_place import Place
from skep_nodes.io.mail_smtp import NotSent
from skep_nodes.io.mail_store import MailStore, Waiting, key_of
from skep_nodes.io.provision import Provision
from skep_nodes.io.provision_ask import IdentityVoice
from skep_nodes.io.settings import SettingsError, build, write_secrets
from skep_nodes.io.store import ChannelStore
from skep_nodes.sy.standing import Sender, Standing
from support.mail_server import AUTHSERV_ID

HERE = Place("127.0.0.1", 1, "none")
BOX = Mailbox(DESK, HERE, HERE, AUTHSERV_ID, "tnt:6a1f0c2e-0000-4000-8000-000000000001")
OTHER = Mailbox("desk@other.test", HERE, HERE, AUTHSERV_ID, "tnt:6a1f0c2e-0000-4000-8000-000000000002")


async def no_sleep(_seconds: float) -> None:
    return None


class Identity(StandInHive):
    """A hive with SY.identity: provisions by (kind, address, tenant), and says what it is told of an ILK."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[str, str, str], str] = {}
        self.complete: set[str] = set()
        self.asked: list[str] = []

    async def request(self, to: str, payload: Any, timeout: float = 30.0, **options: Any) -> Came:
        self.asked.append(options["verb"])
        if options["verb"] == "ILK_PROVISION":
            key = (payload["channel_type"], payload["address"], payload.get("tenant_id", ""))
            return Came({"status": "ok", "ilk_id": self.known.setdefault(key, f"ilk:{uuid.uuid4()}")})
        ilk = payload["ilk_id"]
        status = "complete" if ilk in self.complete else "temporary"
        return Came(
            {
                "status": "ok",
                "ilk": {"ilk_id": ilk, "registration_status": status, "tenant_id": BOX.tenant_id},
            }
        )


@dataclass
class Fixture:
    channel: EmailChannel
    hive: StandInHive
    store: MailStore
    post: Post
    out: list[Waiting] = field(default_factory=list)
    now: list[float] = field(default_factory=lambda: [0.0])

    async def take(self, data: bytes, box: Mailbox = BOX) -> Fate:
        return await self.channel.take(box, data)

    @property
    def threads(self) -> list[str]:
        return [each[2]["thread"] for each in self.hive.sent]

    @property
    def contents(self) -> list[str]:
        return [each[1]["content"] for each in self.hive.sent]


def channel(hive: StandInHive | None = None, root: Path | None = None, **changes: Any) -> Fixture:
    hive, store = hive or StandInHive(), MailStore(None, outbox_max=8)
    settings = EmailSettings(mailboxes=(BOX, OTHER), send_retries=1, **changes)
    out: list[Waiting] = []
    post = Post(settings, store, out.append)
    now = [0.0]
    voice = IdentityVoice(hive, sleep=no_sleep)
    provision = Provision(root, voice, "on") if root is not None else None
    made = EmailChannel(
        settings, hive, ChannelStore(None), store, post, provision=provision, voice=voice, sleep=no_sleep,
        now=lambda: now[0],
    )  # fmt: skip
    return Fixture(made, hive, store, post, out, now)


# ---- threads and duplicates -----------------------------------------------------------------------------------------


async def test_letters_that_cite_each_other_are_one_conversation() -> None:
    a = channel()
    await a.take(proven(letter("one", message_id="m1@x.example")))
    await a.take(proven(letter("two", subject="Other", message_id="m2@x.example", references="m1@x.example")))
    await a.take(
        proven(letter("three", subject="Third", message_id="m3@x.example", references="m2@x.example"))
    )
    await a.take(proven(letter("four", subject="Re: AW: delivery", message_id="m4@x.example")))
    await a.take(proven(letter("five", subject="New", message_id="m5@x.example")))
    assert len(set(a.threads[:4])) == 1
    assert a.threads[4] != a.threads[0]


async def test_nobody_gets_into_anothers_conversation_by_citing_it() -> None:
    a = channel()
    await a.take(proven(letter("one", message_id="m1@x.example")))
    evil = letter("hi", sender="evil@evil.example", message_id="e1@evil.example", references="m1@x.example")
    await a.take(proven(evil, "dmarc=pass header.from=evil.example"))
    await a.take(letter("hi", message_id="e2@evil.example", references="m1@x.example"))
    assert len(set(a.threads)) == 3
    await a.channel.deliver(Came("secret", a.threads[0]))
    await a.post.work_once()
    assert [each.recipient for each in a.out] == [ANA]


async def test_unproven_letters_are_no_conversation_by_their_subject() -> None:
    a = channel()
    await a.take(letter("one", message_id="m1@x.example"))
    await a.take(letter("two", message_id="m2@x.example"))
    await a.take(letter("three", message_id="m3@x.example", references="m1@x.example"))
    assert len(set(a.threads)) == 2
    assert a.threads[2] == a.threads[0]


async def test_a_repeated_letter_is_taken_once_and_nobody_can_use_up_anothers_id() -> None:
    a = channel()
    await a.take(letter("forged", message_id="m1@x.example"))
    evil = letter("forged", sender="evil@evil.example", message_id="m1@x.example")
    await a.take(proven(evil, "dmarc=pass header.from=evil.example"))
    for _ in range(3):
        assert await a.take(proven(letter("real", message_id="m1@x.example"))) is Fate.TAKEN
    assert a.contents == ["forged", "forged", "real"]
    assert a.channel.counters["duplicates"] == 2


@pytest.mark.goal("G14")
async def test_tenants_have_threads_and_duplicates_of_their_own() -> None:
    a = channel()
    await a.take(proven(letter()))
    await a.take(proven(letter()), OTHER)
    await a.take(proven(letter("more", message_id="m2@x.example", references="m1@customer.example")), OTHER)
    assert len(a.hive.sent) == 3
    assert a.threads[0] not in a.threads[1:]
    assert a.threads[1] == a.threads[2]


# ---- who wrote it ---------------------------------------------------------------------------------------------------


@pytest.mark.goal("G14")
async def test_a_forged_sender_is_never_the_registered_interlocutor(tmp_path: Path) -> None:
    hive = Identity()
    a = channel(hive, tmp_path)
    await a.take(proven(letter("it is I", message_id="1@x.example")))
    registered = hive.known[("email", ANA, BOX.tenant_id)]
    hive.complete.add(registered)
    await a.take(letter("it is I", message_id="2@x.example"))
    ilks = [each[2]["src_ilk"] for each in hive.sent]
    assert ilks == [registered, hive.known[("email-unproven", ANA, BOX.tenant_id)]]
    assert ilks[0] != ilks[1]
    assert [each[0] for each in hive.sent] == [None, None]  # the policy decides


@pytest.mark.goal("G14")
async def test_an_unproven_interlocutor_who_is_registered_by_now_is_not_spoken_for(tmp_path: Path) -> None:
    hive = Identity()
    a = channel(hive, tmp_path)
    await a.take(letter("hello", message_id="1@x.example"))
    hive.complete.add(hive.known[("email-unproven", ANA, BOX.tenant_id)])
    assert await a.take(letter("pay them", message_id="2@x.example")) is Fate.FLAGGED
    assert (a.contents, a.channel.counters["unproven_refused"]) == (["hello"], 1)


@pytest.mark.parametrize(
    ("proof", "fate", "kinds"), [("refuse", Fate.FLAGGED, []), ("off", Fate.TAKEN, ["email"])]
)
async def test_the_setting_says_what_is_done_with_unproven_letters(
    proof: str, fate: Fate, kinds: list[str]
) -> None:
    a = channel(sender_proof=proof)
    assert await a.take(letter()) is fate
    assert [each[2]["context"]["io"]["channel"] for each in a.hive.sent] == kinds


async def test_a_letter_waits_for_identity_that_is_away(tmp_path: Path) -> None:
    hive = Identity()
    hive.request = lambda *_, **__: _raise(DeliveryError(Reason.NODE_NOT_FOUND, 1))  # type: ignore[method-assign]
    a = channel(hive, tmp_path)
    assert await a.take(proven(letter())) is Fate.LATER
    assert hive.sent == []


async def _raise(error: Exception) -> Any:
    raise error


# ---- fates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "fate", "sent"),
    [
        ([], Fate.TAKEN, 1),
        ([Reason.QUEUE_FULL], Fate.TAKEN, 1),
        ([Reason.NOT_READY] * 2, Fate.LATER, 0),
        ([Reason.TENANT_BLOCKED], Fate.FLAGGED, 0),
        ([Reason.UNKNOWN], Fate.TAKEN, 0),
    ],
)
async def test_what_becomes_of_a_letter(errors: list[Reason], fate: Fate, sent: int) -> None:
    a = channel(StandInHive(errors=[DeliveryError(each, 1) for each in errors]))
    assert await a.take(proven(letter())) is fate
    assert len(a.hive.sent) == sent
    known = await a.take(proven(letter())) is Fate.TAKEN and a.channel.counters["duplicates"] == 1
    assert known == (fate is Fate.TAKEN)


async def test_one_sender_has_a_rate_and_others_do_not_wait() -> None:
    a = channel(letters_per_sender=3, unproven_per_sender=1)
    fates = [await a.take(proven(letter(message_id=f"{n}@x.example"))) for n in range(5)]
    assert fates == [Fate.TAKEN] * 3 + [Fate.FLAGGED] * 2
    assert [await a.take(letter(message_id=f"u{n}@x.example")) for n in range(2)] == [
        Fate.TAKEN,
        Fate.FLAGGED,
    ]
    other = proven(letter(sender="bo@customer.example", message_id="b@x.example"))
    assert await a.take(other) is Fate.TAKEN
    a.now[0] = 601.0
    assert await a.take(proven(letter(message_id="9@x.example"))) is Fate.TAKEN
    assert a.channel.counters["over_rate"] == 3


def test_a_rate_forgets_who_was_quiet_longest() -> None:
    rate = Rate(1, 10.0, senders_max=2)
    assert [rate.allows(each, 0.0) for each in "aabca"] == [True, False, True, True, True]


async def test_letters_without_words_are_told_so_once() -> None:
    a = channel()
    assert await a.take(proven(letter("", subject=""))) is Fate.TAKEN
    await a.post.work_once()
    assert (a.hive.sent, len(a.out)) == ([], 1)
    assert await a.take(proven(letter("", subject="Only this?", message_id="2@x.example"))) is Fate.TAKEN
    assert a.contents == ["Only this?"]


# ---- answers --------------------------------------------------------------------------------------------------------


async def test_an_answer_goes_out_once_and_only_to_who_wrote() -> None:
    a = channel()
    await a.take(proven(letter("x", "Reply-To: victim@other.example", "Cc: all@other.example")))
    for _ in range(3):
        await a.channel.deliver(Came({"content": "hi", "to": "victim@other.example"}, a.threads[0]))
    await a.channel.deliver(Came("hi", "thread:sha256:" + "0" * 64))
    await a.post.work_once()
    assert [each.recipient for each in a.out] == [ANA]
    counters = a.channel.counters
    assert (counters["answered"], counters["repeated_answers"], counters["unclaimed"]) == (1, 2, 1)


async def test_a_letter_opens_room_for_a_few_answers() -> None:
    a = channel(answers_per_letter=2)
    await a.take(proven(letter()))
    for number in range(5):
        await a.channel.deliver(Came(f"answer {number}", a.threads[0], message_id=number))
    assert (a.channel.counters["answered"], a.channel.counters["over_answers"]) == (2, 3)
    await a.take(proven(letter("more", message_id="m2@x.example", references="m1@customer.example")))
    await a.channel.deliver(Came("answer", a.threads[1], message_id=9))
    assert a.channel.counters["answered"] == 3


@pytest.mark.parametrize(
    ("source", "marked"),
    [("AI.desk@test", True), ("SY.frontdesk.gov@test", True), ("IO.terminal@test", False)],
)
async def test_machines_mark_their_answers(source: str, marked: bool) -> None:
    a = channel()
    await a.take(proven(letter()))
    await a.channel.deliver(Came("hi", a.threads[0], source_name=source))
    await a.post.work_once()
    assert (b"Auto-Submitted: auto-generated" in a.out[0].data) == marked


async def test_a_full_outbox_refuses_and_counts() -> None:
    a = channel(answers_per_letter=20)
    await a.take(proven(letter()))
    for number in range(10):
        await a.channel.deliver(Came(f"answer {number}", a.threads[0], message_id=number))
    assert (a.channel.counters["answered"], a.channel.counters["lost"], a.post.counters["refused"]) == (
        8,
        2,
        2,
    )


# ---- the outbox -----------------------------------------------------------------------------------------------------


async def test_the_outbox_survives_and_gives_up_in_time(tmp_path: Path) -> None:
    now = [1_000_000]
    settings = EmailSettings(send_attempts=3, retry_initial_s=10.0)
    store = MailStore(tmp_path / "out.sqlite")
    assert (tmp_path / "out.sqlite").stat().st_mode & 0o777 == 0o600
    first = Post(settings, store, _refusing([]), lambda: now[0])
    assert first.put(DESK, ANA, "1@h.test", b"letter")
    await first.work_once()
    store.close()
    store = MailStore(tmp_path / "out.sqlite")
    tries: list[str] = []
    post = Post(settings, store, _refusing(tries), lambda: now[0])
    await post.work_once()
    assert tries == []  # not due yet
    for _ in range(5):
        now[0] += 3_600_000
        await post.work_once()
    assert (len(tries), post.counters["given_up"], store.waiting()) == (2, 1, 0)
    assert post.put(DESK, ANA, "2@h.test", b"letter")
    now[0] += KEEP_MS
    await post.work_once()
    assert (len(tries), post.counters["given_up"]) == (2, 2)
    store.close()


def _refusing(tries: list[str]) -> Any:
    def hand_over(letter: Waiting) -> None:
        tries.append(letter.message_id)
        raise NotSent("451 later", final=False)

    return hand_over


def test_known_letters_are_bounded() -> None:
    store = MailStore(None, known_max=3)
    for number in range(5):
        store.learn(key_of(str(number)), "root", number)
        store.learn(key_of(str(number)), "root", number)
    assert [store.root(key_of(str(number))) for number in range(5)] == [None, None, "root", "root", "root"]
    assert key_of("a", "bc") != key_of("ab", "c")


# ---- codes ----------------------------------------------------------------------------------------------------------

FRONTDESK = Sender("SY.frontdesk.gov@test", Standing.SYSTEM)
ASKED = {"address": ANA, "code": "123456", "language": "es", "tenant_id": BOX.tenant_id}


async def test_a_code_goes_out_from_the_tenants_mailbox() -> None:
    a = channel()
    desk = CodeDesk(a.channel.settings, a.post)
    assert desk.handle(ASKED, FRONTDESK)["status"] == "ok"
    assert desk.handle({**ASKED, "tenant_id": OTHER.tenant_id, "language": "en"}, FRONTDESK)["status"] == "ok"
    assert desk.handle({**ASKED, "tenant_id": "tnt:none"}, FRONTDESK)["error_code"] == "MAILBOX_MISSING"
    await a.post.work_once()
    assert [(each.mailbox, each.recipient) for each in a.out] == [(DESK, ANA), (OTHER.address, ANA)]
    assert b"123456" in a.out[0].data
    assert a.out[0].until_ms - a.out[0].due_ms == 600_000


@pytest.mark.goal("G14")
@pytest.mark.parametrize(
    "sender",
    [
        Sender("AI.desk@test", Standing.OWN), Sender("SY.frontdesk.gov@test", Standing.OWN),
        Sender("SY.identity@test", Standing.SYSTEM), Sender("SY.frontdesk.gov.x@test", Standing.SYSTEM),
        Sender("", Standing.UNKNOWN),
    ],
)  # fmt: skip
def test_only_the_front_desk_may_ask_for_codes(sender: Sender) -> None:
    a = channel()
    desk = CodeDesk(a.channel.settings, a.post)
    assert desk.handle(ASKED, sender)["error_code"] == "FORBIDDEN"
    assert (desk.counters["forbidden"], a.store.waiting()) == (1, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"address": "a@x.example\r\nBcc: b@x.example"}, {"address": "no address"}, {"address": 7}, {"address": ""},
        {"code": "1"}, {"code": "12 34"}, {"code": "http://evil.example"}, {"code": None}, {"language": "tlh"},
        {"text": "buy this"},
    ],
)  # fmt: skip
def test_bad_requests_for_codes(changed: dict[str, Any]) -> None:
    a = channel()
    desk = CodeDesk(a.channel.settings, a.post)
    assert desk.handle({**ASKED, **changed}, FRONTDESK)["error_code"] == "INVALID_REQUEST"
    assert desk.handle([1], FRONTDESK)["error_code"] == "INVALID_REQUEST"
    assert a.store.waiting() == 0


def test_codes_have_a_rate() -> None:
    a = channel()
    now = [0.0]
    desk = CodeDesk(a.channel.settings, a.post, lambda: now[0])
    answers = [desk.handle(ASKED, FRONTDESK) for _ in range(CODES_PER_ADDRESS + 1)]
    assert [each["status"] for each in answers] == ["ok"] * CODES_PER_ADDRESS + ["error"]
    assert answers[-1]["error_code"] == "RATE_LIMITED"
    now[0] = 3601.0
    assert desk.handle(ASKED, FRONTDESK)["status"] == "ok"


# ---- settings -------------------------------------------------------------------------------------------------------

BOX_SETTINGS = {
    "address": DESK,
    "imap": {"host": "mail.hive.test", "port": 993},
    "smtp": {"host": "mail.hive.test", "port": 587, "security": "starttls"},
}


def test_settings_are_read_and_secrets_are_kept_close(tmp_path: Path) -> None:
    settings = build(EmailSettings, {"mailboxes": [BOX_SETTINGS]}, "t")
    path = tmp_path / "secrets.json"
    write_secrets(path, {DESK: {"imap_user": "u", "imap_password": "p"}})
    imap, smtp = load_accounts(path, settings)[DESK]
    assert (imap.user, imap.password, smtp.user) == ("u", "p", "")
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="others may read it"):
        load_accounts(path, settings)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"imap": {"host": "mail.hive.test", "port": 143, "security": "none"}}, "on this machine"),
        ({"smtp": {"host": "mail.hive.test", "port": 25, "security": "none"}}, "on this machine"),
        ({"imap": {"host": "h", "port": 143, "security": "starttls"}}, "must be one of"),
        ({"address": "Desk@hive.test"}, "lower case"),
        ({"address": "desk"}, "one address"),
    ],
)
def test_settings_that_are_refused(changed: dict[str, Any], says: str) -> None:
    settings = build(EmailSettings, {"mailboxes": [{**BOX_SETTINGS, **changed}]}, "t")
    with pytest.raises(SettingsError, match=says):
        check(settings)


def test_settings_without_a_mailbox_or_with_one_twice() -> None:
    for boxes in ([], [BOX_SETTINGS] * 2):
        with pytest.raises(SettingsError):
            check(build(EmailSettings, {"mailboxes": boxes}, "t"))
    with pytest.raises(SettingsError, match="sender_proof"):
        check(build(EmailSettings, {"mailboxes": [BOX_SETTINGS], "sender_proof": "maybe"}, "t"))


def test_a_mailbox_without_a_password(tmp_path: Path) -> None:
    write_secrets(tmp_path / "s.json", {DESK: {"imap_user": "u"}})
    with pytest.raises(SettingsError, match="imap_password"):
        load_accounts(tmp_path / "s.json", build(EmailSettings, {"mailboxes": [BOX_SETTINGS]}, "t"))
