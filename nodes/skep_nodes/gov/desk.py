"""The front desk's decisions: one message of somebody who is not registered in, what to say to them out.

                 name, address?            a code, if mail goes out          SY.identity
    ASKING ───────────────────► PROVING ───────────────────► REGISTERING ───────────────► REGISTERED ──► (gone)
       ▲  └── no mail here ─────────────────────────────────────▲    │ ok, or joined         question passed on
       └────────────── another address, please ──────────────────────┘

Invariants:
  "registered" is said after SY.identity answered ok, never before and never else;
  the tenant is the one of the channel that the stranger came by; no word of theirs moves them into another;
  who gives an address that somebody else has is joined with them only after proving that it is theirs: by a code sent
  to it, or by writing from it on a channel that checks its senders (`email`); and only if the other has proven it too,
  or an administrator wrote it down. Otherwise both stay apart, and they are told;
  what they asked is kept until somebody has it: it goes to the policy when they are registered.

Where mail goes out, everybody proves the address, so whether it is known is no answer to anybody else's question.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from skep_nodes.gov.applicant import CODE_TRIES_MAX, TURNS_MAX, Applicant, Origin, Step, make_code
from skep_nodes.gov.hearing import code_in, hear, language_of
from skep_nodes.gov.registry import Facts, Registry
from skep_nodes.gov.sayings import LANGUAGES, Sayings, in_language
from skep_nodes.gov.store import ApplicantStore
from skep_nodes.io.counters import Counters
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused

log = logging.getLogger("skep.nodes.frontdesk")

COUNTERS: Final = (
    "heard", "registered", "joined", "not_joined", "codes_sent", "codes_refused", "wrong_codes", "refused", "away",
    "passed_on", "question_lost", "foreign",
)  # fmt: skip
CLOSED: Final = frozenset({
    "INVALID_TENANT", "TENANT_PENDING", "TENANT_SUSPENDED", "TENANT_NOT_ADMITTED", "IDENTITY_LIMIT_REACHED",
    "CHANNEL_NOT_GRANTED", "UNAUTHORIZED_REGISTRAR",
})  # fmt: skip


class Mailed(Enum):
    """What became of a code."""

    SENT = auto()
    REFUSED = auto()
    """Mail goes out here, and this one did not."""
    ABSENT = auto()
    """No mail goes out here."""


class Mail(Protocol):
    """What sends codes."""

    async def send_code(self, address: str, code: str, language: str, tenant: str) -> Mailed: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to say, and who is done: its question is to be passed on as `speaks_as`."""

    say: str = ""
    done: Applicant | None = None


class FrontDesk:
    """Every registration of one hive. `now_ms` is wall time."""

    def __init__(
        self, registry: Registry, mail: Mail, store: ApplicantStore, now_ms: Callable[[], int], *,
        language: str = "en", make_code: Callable[[], str] = make_code,
    ) -> None:  # fmt: skip
        """Raises ValueError for a language that it does not speak."""
        if language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}")
        self._registry, self._mail, self._store, self._now_ms = registry, mail, store, now_ms
        self._language, self._make_code = language, make_code
        self.counters = Counters(COUNTERS, log)

    async def hear(self, ilk: str, text: str, origin: Origin) -> Outcome:
        """One message. Raises IdentityRefused for an ILK that nobody has."""
        self.counters["heard"] += 1
        applicant = self._store.get(ilk) or Applicant(ilk)
        applicant.language = language_of(text, applicant.language or self._language)
        applicant.origin = origin
        try:
            facts = await self._registry.who(ilk)
            applicant.tenant = facts.tenant
            outcome = await self._turn(applicant, facts, text)
        except IdentityAway as away:
            self.counters.trouble("away", "%s", away)
            applicant.take(hear(text, asked_name=applicant.asked))
            outcome = Outcome(self.words(applicant).away)
        if outcome.done is None:
            self._store.put(applicant, self._now_ms())
        return outcome

    async def resume(self, applicant: Applicant) -> Outcome:
        """A registration that a restart interrupted after SY.identity was asked."""
        facts = await self._registry.who(applicant.ilk)
        if facts.complete:
            return self._done(applicant, facts.ilk)
        return await self._register(applicant, facts)

    def keep(self, applicant: Applicant) -> None:
        """It goes on with its next message."""
        self._store.put(applicant, self._now_ms())

    def passed_on(self, applicant: Applicant) -> None:
        """Its question has arrived, or there was none: nothing is kept."""
        self._store.drop(applicant.ilk)
        self.counters["passed_on"] += bool(applicant.question)

    def passing(self, outcome: Outcome) -> str:
        """For one who waits for an answer and gets none from the desk itself."""
        return self.words(outcome.done).passing if outcome.done is not None else ""

    # ---- one turn ------------------------------------------------------------------------------------------------

    async def _turn(self, applicant: Applicant, facts: Facts, text: str) -> Outcome:
        if facts.complete:  # since it was sent; it has nothing to do here
            applicant.ask(text)
            return self._done(applicant, facts.ilk, say="")
        if applicant.step is Step.PROVING:
            return await self._prove(applicant, facts, text)
        useful = applicant.take(hear(text, asked_name=applicant.asked))
        if not applicant.email and facts.mailbox:
            applicant.email = facts.mailbox
        applicant.proven = applicant.proven or applicant.email == facts.mailbox != ""
        if applicant.missing():
            return self._ask(applicant, useful)
        return await self._proceed(applicant, facts)

    def _ask(self, applicant: Applicant, useful: bool) -> Outcome:
        """For what is missing; five times in vain, then no more until both come in one message."""
        words, missing = self.words(applicant), applicant.missing()
        first = not applicant.asked
        applicant.turns = 0 if first or useful else applicant.turns + 1
        applicant.asked = True
        if applicant.turns >= TURNS_MAX:
            return Outcome(words.later)
        question = {("name", "email"): words.ask_both, ("name",): words.ask_name, ("email",): words.ask_email}[missing]
        if first:
            return Outcome(f"{question} {words.kept}" if applicant.question else question)
        return Outcome(question if useful else f"{words.again} {question}")

    async def _proceed(self, applicant: Applicant, facts: Facts) -> Outcome:
        if not applicant.proven:
            mailed = await self._send_code(applicant)
            words = self.words(applicant)
            if mailed is Mailed.SENT:
                return Outcome(words.code_sent.format(email=applicant.email))
            if mailed is Mailed.REFUSED:
                said = words.code_unsent.format(email=applicant.email)
                applicant.forget_email()
                return Outcome(said)
        return await self._register(applicant, facts)

    # ---- the proof -----------------------------------------------------------------------------------------------

    async def _send_code(self, applicant: Applicant) -> Mailed:
        now_ms = self._now_ms()
        allowed = self._store.may_mail(applicant.tenant, applicant.email, now_ms)
        if not applicant.may_send_code(now_ms) or not allowed:
            self.counters.trouble("codes_refused", "too many codes were asked for within the hour")
            return Mailed.REFUSED
        code = self._make_code()
        mailed = await self._mail.send_code(applicant.email, code, applicant.language, applicant.tenant)
        if mailed is Mailed.SENT:
            applicant.expect(code, now_ms)
            self._store.mailed(applicant.tenant, applicant.email, now_ms)
            self.counters["codes_sent"] += 1
        return mailed

    async def _prove(self, applicant: Applicant, facts: Facts, text: str) -> Outcome:
        heard = hear(text)
        words = self.words(applicant)
        if heard.email and heard.email != applicant.email:
            applicant.forget_email()
            applicant.take(heard)
            return await self._proceed(applicant, facts)
        code = code_in(text)
        if not code:
            applicant.ask(heard.question)
            return Outcome(words.code_wanted.format(email=applicant.email))
        if applicant.proves(code, self._now_ms()):
            return await self._register(applicant, facts)
        self.counters["wrong_codes"] += 1
        if applicant.code_is_valid(self._now_ms()) and applicant.code_tries < CODE_TRIES_MAX:
            return Outcome(words.code_wrong)
        applicant.forget_email()
        return Outcome(words.code_void)

    # ---- SY.identity ---------------------------------------------------------------------------------------------

    async def _register(self, applicant: Applicant, facts: Facts) -> Outcome:
        applicant.step = Step.REGISTERING
        self._store.put(applicant, self._now_ms())
        try:
            await self._registry.register(applicant)
        except IdentityRefused as refused:
            if refused.code == "DUPLICATE_EMAIL":
                return await self._known_already(applicant, facts, str(refused.facts.get("existing_ilk_id", "")))
            return self._refused(applicant, refused)
        if applicant.proven and not facts.mailbox:
            await self._add_mailbox(applicant)
        self.counters["registered"] += 1
        return self._done(applicant, applicant.ilk)

    async def _add_mailbox(self, applicant: Applicant) -> None:
        """So that a mail of theirs is theirs. Who wrote from it before, unregistered, is the same person."""
        try:
            await self._registry.add_mailbox(applicant)
        except IdentityRefused as refused:
            other = str(refused.facts.get("existing_ilk_id", ""))
            if refused.code != "DUPLICATE_ICH" or not other:
                self.counters.trouble("refused", "a proven address is not added: %s", refused)
                return
            try:
                await self._registry.add_mailbox(applicant, joining=other)
            except IdentityRefused as again:
                self.counters.trouble("not_joined", "two with one proven address stay apart: %s", again)

    async def _known_already(self, applicant: Applicant, facts: Facts, known: str) -> Outcome:
        words = self.words(applicant)
        if not applicant.proven or not known:
            self.counters["not_joined"] += 1
            applicant.forget_email()
            return Outcome(words.email_known)
        try:
            if (await self._registry.who(known)).claimed:
                detail = "the other never proved the address: an administrator decides whose it is"
                raise IdentityRefused({"error_code": "NOT_PROVEN", "message": detail})
            await self._registry.join(applicant, facts, known)
        except IdentityRefused as refused:
            self.counters.trouble("not_joined", "%s", refused)
            applicant.forget_email()
            return Outcome(words.not_joined)
        self.counters["joined"] += 1
        return self._done(applicant, known, say=words.joined)

    def _refused(self, applicant: Applicant, refused: IdentityRefused) -> Outcome:
        self.counters.trouble("refused", "not registered: %s", refused)
        words = self.words(applicant)
        closed = refused.code in CLOSED
        if not closed:
            applicant.forget_email()
        applicant.step = Step.ASKING
        return Outcome(words.closed if closed else words.email_bad)

    def _done(self, applicant: Applicant, speaks_as: str, say: str | None = None) -> Outcome:
        """SY.identity has it. Kept until the question was passed on."""
        applicant.step, applicant.speaks_as = Step.REGISTERED, speaks_as
        self._store.put(applicant, self._now_ms())
        words = self.words(applicant)
        said = (words.registered if say is None else say).format(name=applicant.name).replace(", .", ".")
        if said and not applicant.question:
            said = f"{said} {words.nothing_asked}"
        return Outcome(said, applicant)

    @staticmethod
    def words(applicant: Applicant) -> Sayings:
        """The sayings in its language."""
        return in_language(applicant.language)
