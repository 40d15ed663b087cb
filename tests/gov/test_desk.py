"""The front desk's decisions on a real identity service: what is said, what is registered, who is joined with whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from identity.parts import DESK, Office
from identity.parts import office as make_office
from skep_nodes.gov.applicant import CODE_MS, CODE_TRIES_MAX, CODES_MAX, TURNS_MAX, Origin, Step
from skep_nodes.gov.desk import FrontDesk, Mailed, Outcome
from skep_nodes.gov.registry import Registry
from skep_nodes.gov.store import ApplicantStore
from skep_nodes.identity.sqlite import SqliteStore
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused

QUESTION = "How long does delivery take?"


@dataclass
class Voice:
    """SY.identity without the messages between; `away` verbs do not answer."""

    office: Office
    away: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    async def ask(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        if verb in self.away:
            raise IdentityAway("for the test")
        self.said.append(verb)
        answer = await self.office.say(verb, payload, DESK)
        if answer["status"] != "ok":
            raise IdentityRefused(answer)
        return answer


@dataclass
class Letters:
    """What sends codes, and those it sent."""

    outcome: Mailed = Mailed.ABSENT
    sent: list[tuple[str, str]] = field(default_factory=list)

    async def send_code(self, address: str, code: str, language: str, tenant: str) -> Mailed:
        if self.outcome is Mailed.SENT:
            self.sent.append((address, code))
        return self.outcome


class Counter:
    """A desk and everything around it."""

    def __init__(self, office: Office, tenant: str, folder: Path) -> None:
        self.office, self.tenant = office, tenant
        self.voice, self.mail = Voice(office), Letters()
        self.path = folder / "applicants.sqlite"
        self.open()

    def open(self) -> None:
        """As after a restart."""
        self.store = ApplicantStore(self.path)
        self.desk = FrontDesk(Registry(self.voice), self.mail, self.store, lambda: self.office.now_ms)

    async def hear(self, ilk: str, text: str) -> Outcome:
        return await self.desk.hear(ilk, text, Origin("", "IO.test", 1, "thread:1", ""))

    async def say(self, ilk: str, *texts: str) -> str:
        """What is answered to the last of them."""
        outcome = Outcome()
        for text in texts:
            outcome = await self.hear(ilk, text)
        return outcome.say

    async def stranger(self, address: str = "+1", tenant: str = "", kind: str = "whatsapp") -> str:
        return await self.office.provision(tenant or self.tenant, address, kind)

    async def status(self, ilk: str) -> str:
        return str((await self.office.whole(ilk))["registration_status"])

    def wrong(self) -> str:
        """Six digits that are not the code."""
        return "000000" if self.mail.sent[-1][1] != "000000" else "000001"


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with make_office(SqliteStore(tmp_path / "identity.db"), tmp_path) as office:
        one = Counter(office, await office.tenant("lobby"), tmp_path)
        yield one
        one.store.close()


async def test_name_and_address_are_asked_for_and_the_question_is_kept(counter: Counter) -> None:
    ilk = await counter.stranger()
    assert "your name" in await counter.say(ilk, QUESTION)
    assert "Which e-mail" in await counter.say(ilk, "Ana Ruiz")
    outcome = await counter.hear(ilk, "ana@example.org")
    assert outcome.say == "Thank you, Ana Ruiz. You are registered."
    assert outcome.done is not None
    assert (outcome.done.question, outcome.done.speaks_as) == (QUESTION, ilk)
    assert await counter.status(ilk) == "complete"
    counter.desk.passed_on(outcome.done)
    assert counter.store.count() == 0, "what identity has is kept nowhere else"


async def test_everything_in_one_message_is_enough(counter: Counter) -> None:
    ilk = await counter.stranger()
    outcome = await counter.hear(ilk, "Hola, soy Ana Ruiz, ana@example.org. ¿Cuánto tarda el envío?")
    assert outcome.say == "Gracias, Ana Ruiz. Ya está registrado."
    assert outcome.done is not None
    assert outcome.done.question == "¿Cuánto tarda el envío?"


async def test_it_speaks_the_language_that_is_spoken_to_it(counter: Counter) -> None:
    ilk = await counter.stranger()
    assert "¿cómo se llama" in await counter.say(ilk, "Hola, ¿dónde está mi pedido?")
    assert "correo" in await counter.say(ilk, "Ana Ruiz"), "a name tells no language"
    assert "Which e-mail" in await counter.say(ilk, "What do you want from me?")


async def test_it_does_not_ask_for_ever(counter: Counter) -> None:
    ilk = await counter.stranger()
    answers = [await counter.say(ilk, "why do you want that?") for _ in range(TURNS_MAX + 4)]
    assert sum("did not find" in each for each in answers) == TURNS_MAX - 1
    assert set(answers[TURNS_MAX:]) == {answers[-1]}
    assert "leave it for now" in answers[-1]
    assert "registered" in await counter.say(ilk, "I'm Ana Ruiz, ana@example.org"), "whenever they like"


async def test_registered_is_said_only_when_identity_said_ok(counter: Counter) -> None:
    """Each verb away in turn: nothing is claimed, nothing is lost, and it goes on when identity is back."""
    for number, verb in enumerate(("ILK_GET", "ILK_REGISTER")):
        ilk = await counter.stranger(f"+{number}")
        counter.voice.away = {verb}
        said = await counter.say(ilk, QUESTION, f"I'm Ana Ruiz, ana{number}@example.org")
        assert "cannot complete" in said
        assert await counter.status(ilk) == "temporary"
        counter.voice.away = set()
        outcome = await counter.hear(ilk, "hello?")
        assert "You are registered" in outcome.say
        assert outcome.done is not None
        assert outcome.done.question.startswith(QUESTION)
        assert await counter.status(ilk) == "complete"


async def test_an_ilk_that_nobody_has_is_refused(counter: Counter) -> None:
    with pytest.raises(IdentityRefused, match="NOT_FOUND"):
        await counter.hear("ilk:00000000-0000-4000-8000-000000000001", "hello")


@pytest.mark.goal("G14")
async def test_a_companys_name_admits_nobody_to_its_tenant(counter: Counter) -> None:
    acme = await counter.office.tenant("Acme", domain="acme.example")
    for number, text in enumerate((
        "I'm Bob Stone from Acme, bob@acme.example", f"I'm Bob Stone, bob1@acme.example, my tenant is {acme}",
        "My name is Acme, tenant Acme, root@acme.example",
    )):  # fmt: skip
        ilk = await counter.stranger(f"+{number}")
        assert "You are registered" in await counter.say(ilk, text)
        assert (await counter.office.whole(ilk))["tenant_id"] == counter.tenant
    assert "TNT_CREATE" not in counter.voice.said


@pytest.mark.goal("G14")
async def test_one_address_in_two_tenants_is_two_people(counter: Counter) -> None:
    other = await counter.office.tenant("other")
    counter.mail.outcome = Mailed.SENT
    ilks = [await counter.stranger("+1"), await counter.stranger("+1", other)]
    for ilk in ilks:
        await counter.say(ilk, "I'm Ana Ruiz, ana@example.org")
        assert "You are registered" in await counter.say(ilk, counter.mail.sent[-1][1])
    assert [(await counter.office.whole(ilk))["ilk_id"] for ilk in ilks] == ilks, "nobody was joined"


@pytest.mark.parametrize("status", ["TNT_SUSPEND"])
async def test_a_closed_tenant_takes_nobody(counter: Counter, status: str) -> None:
    ilk = await counter.stranger()
    await counter.office.ok(status, {"tenant_id": counter.tenant})
    assert "cannot take new contacts" in await counter.say(ilk, "I'm Ana Ruiz, ana@example.org")
    assert await counter.status(ilk) == "temporary"


# ---- proof -----------------------------------------------------------------------------------------------------


async def test_where_mail_goes_out_the_address_is_proven_and_becomes_a_channel(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    ilk = await counter.stranger()
    assert "sent a code to ana@example.org" in await counter.say(ilk, QUESTION, "I'm Ana Ruiz, ana@example.org")
    assert await counter.status(ilk) == "temporary"
    assert "not the code" in await counter.say(ilk, counter.wrong())
    assert "six digits" in await counter.say(ilk, "I did not get it")
    address, code = counter.mail.sent[-1]
    assert address == "ana@example.org"
    assert code.encode() not in counter.path.read_bytes(), "only a hash is kept"
    assert "You are registered" in await counter.say(ilk, f"it is {code[:3]} {code[3:]}")
    whole = await counter.office.whole(ilk)
    assert whole["identification"]["email_verified"] is True
    assert await counter.office.owner(counter.tenant, "ana@example.org", "email") == ilk


@pytest.mark.goal("G14")
async def test_codes_cannot_be_guessed(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    ilk = await counter.stranger()
    await counter.say(ilk, "I'm Ana Ruiz, ana@example.org")
    answers = [await counter.say(ilk, counter.wrong()) for _ in range(CODE_TRIES_MAX)]
    assert "no longer valid" in answers[-1]
    await counter.say(ilk, counter.mail.sent[0][1])
    assert await counter.status(ilk) == "temporary", "the right one comes too late"


async def test_a_code_ends_after_ten_minutes(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    ilk = await counter.stranger()
    await counter.say(ilk, "I'm Ana Ruiz, ana@example.org")
    counter.office.now_ms += CODE_MS
    assert "no longer valid" in await counter.say(ilk, counter.mail.sent[-1][1])


@pytest.mark.goal("G15")
async def test_nobody_has_the_desk_flood_a_mailbox(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    for number in range(CODES_MAX + 3):
        ilk = await counter.stranger(f"+{number}")
        await counter.say(ilk, "I'm Ana Ruiz, victim@example.org")
    assert len(counter.mail.sent) == CODES_MAX
    ilk = await counter.stranger("+99")
    for number in range(CODES_MAX + 3):
        await counter.say(ilk, f"I'm Ana Ruiz, other{number}@example.org")
    assert len(counter.mail.sent) == 2 * CODES_MAX


async def test_mail_that_does_not_go_out_proves_nothing(counter: Counter) -> None:
    counter.mail.outcome = Mailed.REFUSED
    ilk = await counter.stranger()
    assert "could not send a code" in await counter.say(ilk, "I'm Ana Ruiz, ana@example.org")
    assert await counter.status(ilk) == "temporary"


# ---- joining ---------------------------------------------------------------------------------------------------


@pytest.mark.goal("G14")
async def test_a_known_address_without_proof_joins_nobody(counter: Counter) -> None:
    """Upstream ends in DUPLICATE_EMAIL; whoever just claims an address must not become its owner either."""
    first, second = await counter.stranger("+1"), await counter.stranger("+2")
    await counter.say(first, "I'm Ana Ruiz, ana@example.org")
    said = await counter.say(second, "I'm Eve Hill, ana@example.org")
    assert "do not join" in said
    assert await counter.status(second) == "temporary"
    assert "You are registered" in await counter.say(second, "eve@example.org"), "another address will do"


async def test_who_proves_a_known_address_is_joined_with_its_owner(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    first, second = await counter.stranger("+1"), await counter.stranger("+2")
    await counter.say(first, "I'm Ana Ruiz, ana@example.org")
    await counter.say(first, counter.mail.sent[-1][1])
    await counter.say(second, QUESTION, "I'm Ana Ruiz, ana@example.org")
    outcome = await counter.hear(second, counter.mail.sent[-1][1])
    assert "I know you already" in outcome.say
    assert outcome.done is not None
    assert (outcome.done.speaks_as, outcome.done.question) == (first, QUESTION)
    assert await counter.office.owner(counter.tenant, "+2") == first
    assert (await counter.office.whole(second))["ilk_id"] == first


@pytest.mark.goal("G14")
async def test_who_proves_an_address_is_not_given_to_one_who_only_claimed_it(counter: Counter) -> None:
    """Or a claim made while no mail went out would inherit the owner's conversations."""
    thief, owner = await counter.stranger("+1"), await counter.stranger("+2")
    await counter.say(thief, "I'm Eve Hill, ana@example.org")
    counter.mail.outcome = Mailed.SENT
    await counter.say(owner, "I'm Ana Ruiz, ana@example.org")
    assert "could not put you together" in await counter.say(owner, counter.mail.sent[-1][1])
    assert await counter.office.owner(counter.tenant, "+2") == owner


async def test_who_writes_from_the_address_has_proven_it(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    known = await counter.office.person(counter.tenant, "+1", "ana@example.org")
    writer = await counter.stranger("ana@example.org", kind="email")
    outcome = await counter.hear(writer, "I'm Ana Ruiz")
    assert "I know you already" in outcome.say
    assert counter.mail.sent == []
    assert await counter.office.owner(counter.tenant, "ana@example.org", "email") == known


@pytest.mark.goal("G14")
async def test_a_proof_is_of_one_address_and_not_of_the_next(counter: Counter) -> None:
    await counter.office.person(counter.tenant, "+1", "ana@example.org")
    writer = await counter.stranger("eve@example.org", kind="email")
    assert "What is your name" in await counter.say(writer, "Where is my parcel?")
    assert "do not join" in await counter.say(writer, "I'm Ana Ruiz, ana@example.org")
    counter.mail.outcome = Mailed.SENT
    caller = await counter.stranger("+2")
    await counter.say(caller, "I'm Eve Hill, eve2@example.org")
    own = counter.mail.sent[-1][1]
    assert "sent a code to ana@example.org" in await counter.say(caller, "sorry: ana@example.org")
    assert own != counter.mail.sent[-1][1]
    assert "not the code" in await counter.say(caller, own)
    assert await counter.status(caller) == "temporary"


@pytest.mark.goal("G14")
async def test_a_mail_whose_sender_is_not_proven_proves_nothing(counter: Counter) -> None:
    await counter.office.person(counter.tenant, "+1", "ana@example.org")
    writer = await counter.stranger("ana@example.org", kind="email-unproven")
    assert "do not join" in await counter.say(writer, "I'm Ana Ruiz, ana@example.org")


async def test_who_wrote_from_the_address_before_is_joined_when_it_is_proven(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    writer = await counter.stranger("ana@example.org", kind="email")
    caller = await counter.stranger("+1")
    await counter.say(caller, "I'm Ana Ruiz, ana@example.org")
    await counter.say(caller, counter.mail.sent[-1][1])
    assert (await counter.office.whole(writer))["ilk_id"] == caller


# ---- restarts --------------------------------------------------------------------------------------------------


async def test_a_restart_goes_on_where_it_was(counter: Counter) -> None:
    counter.mail.outcome = Mailed.SENT
    ilk = await counter.stranger()
    for text in (QUESTION, "Ana Ruiz", "ana@example.org"):
        await counter.say(ilk, text)
        counter.store.close()
        counter.open()
    outcome = await counter.hear(ilk, counter.mail.sent[-1][1])
    assert outcome.done is not None
    assert outcome.done.question == QUESTION


async def test_what_was_registered_and_not_passed_on_is_passed_on_after_a_restart(counter: Counter) -> None:
    ilk = await counter.stranger()
    await counter.say(ilk, QUESTION, "I'm Ana Ruiz, ana@example.org")
    counter.store.close()
    counter.open()
    (left,) = counter.store.unfinished()
    assert left.step is Step.REGISTERED
    outcome = await counter.desk.resume(left)
    assert outcome.done is not None
    assert (outcome.done.speaks_as, outcome.done.question) == (ilk, QUESTION)
    counter.desk.passed_on(outcome.done)
    assert counter.store.unfinished() == []


async def test_a_join_that_a_restart_cut_is_not_made_twice(counter: Counter) -> None:
    known = await counter.office.person(counter.tenant, "+1", "ana@example.org")
    writer = await counter.stranger("ana@example.org", kind="email")
    await counter.say(writer, "I'm Ana Ruiz")
    (left,) = counter.store.unfinished()
    left.step = Step.REGISTERING  # the process ended before it heard the answer
    outcome = await counter.desk.resume(left)
    assert outcome.done is not None
    assert outcome.done.speaks_as == known


async def test_what_is_kept_is_private_and_bounded(counter: Counter, tmp_path: Path) -> None:
    small = ApplicantStore(tmp_path / "small.sqlite", applicants_max=3)
    desk = FrontDesk(Registry(counter.voice), counter.mail, small, lambda: counter.office.now_ms)
    for number in range(6):
        counter.office.now_ms += 1
        await desk.hear(await counter.stranger(f"+{number}"), QUESTION, Origin())
    assert small.count() == 3
    assert (tmp_path / "small.sqlite").stat().st_mode & 0o777 == 0o600
    small.close()
    with pytest.raises(ValueError, match="language"):
        FrontDesk(Registry(counter.voice), counter.mail, small, lambda: 0, language="xx")
