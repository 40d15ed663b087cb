"""What is known of one interlocutor who is being registered: its step, its answers, its question, its proof.

Steps go forward only by what happened outside: `ASKING` until name and address are there, `PROVING` while a code is
out, `REGISTERING` from before SY.identity is asked until it has answered, `REGISTERED` from its ok until the question
was passed on; then the record goes, since identity has everything. Whatever the process dies of, the step says what
has to be done next, and doing it twice changes nothing.

Of a code only a salted hash is kept. Attempts, codes and kept questions are bounded.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final

from skep_nodes.gov.hearing import CODE_DIGITS, Heard

TURNS_MAX: Final = 5  # messages that bring nothing; then it asks no more and waits
CODE_MS: Final = 600_000  # ten minutes: mail may be slow
CODE_TRIES_MAX: Final = 5  # 5 of 1,000,000 codes
CODES_MAX: Final = 3  # in CODES_MS, for one applicant and for one address
CODES_MS: Final = 3_600_000
QUESTIONS_MAX: Final = 4
QUESTION_CHARS_MAX: Final = 4000  # all together; what a desk reads of one message


class Step(StrEnum):
    """Where a registration is."""

    ASKING = "asking"
    PROVING = "proving"
    REGISTERING = "registering"
    REGISTERED = "registered"


@dataclass(slots=True)
class Origin:
    """The message that an answer goes to: who sent it, in which thread, and with what."""

    source: str = ""  # uuid
    source_name: str = ""
    message_id: int = 0
    thread: str = ""
    trace: str = ""
    context: dict[str, Any] | None = None


@dataclass(slots=True)
class Applicant:
    """One row of the store."""

    ilk: str
    tenant: str = ""
    language: str = ""
    step: Step = Step.ASKING
    name: str = ""
    email: str = ""
    proven: bool = False
    asked: bool = False
    turns: int = 0
    questions: list[str] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)
    salt: str = ""
    code_hash: str = ""
    code_until_ms: int = 0
    code_tries: int = 0
    codes_ms: list[int] = field(default_factory=list)
    speaks_as: str = ""
    """Whom it became, once it is registered: itself, or the one it was joined with."""

    # ---- what it said --------------------------------------------------------------------------------------------

    def take(self, heard: Heard) -> bool:
        """Keeps what a message brought; whether that was anything."""
        self.name = heard.name or self.name
        if heard.email and heard.email != self.email:
            self.email, self.proven = heard.email, False
        self.ask(heard.question)
        return heard.useful

    def ask(self, question: str) -> None:
        """Keeps a question for later; past the bound the first ones stay, for they are why they came."""
        room = QUESTION_CHARS_MAX - sum(map(len, self.questions))
        if question and len(self.questions) < QUESTIONS_MAX and room > 0 and question not in self.questions:
            self.questions.append(question[:room])

    @property
    def question(self) -> str:
        return "\n".join(self.questions)

    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in ("name", "email") if not getattr(self, name))

    # ---- the proof -----------------------------------------------------------------------------------------------

    def may_send_code(self, now_ms: int) -> bool:
        self.codes_ms = [at for at in self.codes_ms if now_ms - at < CODES_MS]
        return len(self.codes_ms) < CODES_MAX

    def expect(self, code: str, now_ms: int) -> None:
        """A code was sent to its address."""
        self.salt = secrets.token_hex(16)
        self.code_hash, self.code_until_ms, self.code_tries = self._hash(code), now_ms + CODE_MS, 0
        self.codes_ms.append(now_ms)
        self.step = Step.PROVING

    def proves(self, code: str, now_ms: int) -> bool:
        """Whether this is the code; each question counts."""
        self.code_tries += 1
        if not self.code_hash or not self.code_is_valid(now_ms):
            return False
        if not hmac.compare_digest(self._hash(code), self.code_hash):
            return False
        self.proven, self.code_hash, self.step = True, "", Step.REGISTERING
        return True

    def code_is_valid(self, now_ms: int) -> bool:
        return now_ms < self.code_until_ms and self.code_tries <= CODE_TRIES_MAX

    def forget_email(self) -> None:
        """The address will not do: ask for another."""
        self.email, self.proven, self.code_hash, self.step = "", False, "", Step.ASKING

    def _hash(self, code: str) -> str:
        about = f"{self.ilk}|{self.email}|{code}".encode()
        return blake2b(about, key=bytes.fromhex(self.salt), digest_size=32).hexdigest()

    # ---- kept ----------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Applicant:
        """What was kept; members that this version does not know are passed over."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        values["step"], values["origin"] = Step(values["step"]), Origin(**values["origin"])
        return cls(**values)


def make_code() -> str:
    """Six digits that nobody guesses."""
    return f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}d}"
