"""IO.email: letters on one side, the hive on the other.

In: a letter is read within bounds, judged (`mail_letter`, `mail_trust`), told from repeated ones, given its
interlocutor and its thread, and sent into the hive. What became of it decides what happens to it in the mailbox: it is
marked as seen only when the hive has it or when it needs nothing; one that a person should look at is flagged besides;
one that could not be sent just now stays unseen and comes again.

Who wrote it is an interlocutor by the channel `email` only where the sender is proven. Otherwise the channel is
`email-unproven`, a kind of its own: an address that somebody merely wrote there never finds the registered owner of
that address, and an unproven interlocutor that is registered by now is not spoken for either.

Out: whatever the hive says on a letter's thread goes to the address that wrote it, in answer to its last letter,
through the synced outbox. No message of the hive and no Reply-To can name another address. Each letter of a person
opens room for a few answers, machines are not answered at all: there are no loops.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Final

from skep.errors import DeliveryError, LinkClosed
from skep.protocol.names import kind_of
from skep_nodes.io import context
from skep_nodes.io.counters import Counters
from skep_nodes.io.email_post import Post, wall_ms
from skep_nodes.io.email_rates import Rate
from skep_nodes.io.email_settings import EmailSettings, Mailbox
from skep_nodes.io.hive_port import HivePort, Incoming, outcome_unknown, retryable
from skep_nodes.io.http_client import Retry, Sleep
from skep_nodes.io.mail_head import BadLetter, domain_of
from skep_nodes.io.mail_letter import Letter, read_letter
from skep_nodes.io.mail_store import MailStore, key_of
from skep_nodes.io.mail_trust import judge
from skep_nodes.io.mail_write import SUBJECT_CHARS_MAX, Outgoing, answer_subject, compose, new_message_id
from skep_nodes.io.provision import Provision, thread_of
from skep_nodes.io.provision_ask import IdentityAway, IdentityRefused, IdentityVoice
from skep_nodes.io.store import ChannelStore
from skep_nodes.io.text import CONTENT_BYTES_MAX, text_payload, words_of

log = logging.getLogger("skep.nodes.email")

PROVEN: Final = "email"
UNPROVEN: Final = "email-unproven"
TEXT_BYTES_MAX: Final = CONTENT_BYTES_MAX - 8_192  # leaves room for the subject and the names of attachments
REFERENCES_MAX: Final = 20
COUNTERS: Final = (
    "relayed", "unproven", "duplicates", "automatic", "refused", "over_rate", "unproven_refused", "later", "answered",
    "lost", "unclaimed", "over_answers", "repeated_answers",
)  # fmt: skip


class Fate(Enum):
    """What became of a letter, for its mailbox."""

    TAKEN = auto()
    """The hive has it, or it needs nothing."""
    FLAGGED = auto()
    """It was not taken; a person should look at it."""
    LATER = auto()
    """It could not be sent now."""


class EmailChannel:
    """The node's behaviour, given a hive to speak to, stores, and an outbox."""

    def __init__(
        self,
        settings: EmailSettings,
        hive: HivePort,
        targets: ChannelStore,
        store: MailStore,
        post: Post,
        *,
        provision: Provision | None = None,
        voice: IdentityVoice | None = None,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.counters = Counters(COUNTERS, log)
        self._hive, self._targets, self._store, self._post = hive, targets, store, post
        self._provision, self._voice, self._sleep, self._now = provision, voice, sleep, now
        self._boxes = {box.address: box for box in settings.mailboxes}
        self._retry = Retry(settings.send_retries + 1, 0.5, 4.0)
        self._rates = {
            PROVEN: Rate(settings.letters_per_sender, settings.rate_window_s),
            UNPROVEN: Rate(settings.unproven_per_sender, settings.rate_window_s),
        }

    # ---- in ------------------------------------------------------------------------------------------------------

    async def take(self, box: Mailbox, data: bytes, *, cut: bool = False) -> Fate:
        """One letter of a mailbox."""
        try:
            letter = read_letter(data, cut=cut)
        except BadLetter as error:
            self.counters.trouble("refused", "a letter to %s is left for a person: %s", box.address, error)
            return Fate.FLAGGED
        if letter.automatic or letter.sender in self._boxes:
            self.counters["automatic"] += 1
            return Fate.TAKEN
        kind = self._kind_of(box, letter)
        if kind is None:
            what = "a letter to %s is left for a person: its sender is not proven"
            self.counters.trouble("unproven_refused", what, box.address)
            return Fate.FLAGGED
        return await self._take_new(box, letter, kind)

    def _kind_of(self, box: Mailbox, letter: Letter) -> str | None:
        """The channel's kind; None for a letter that is refused."""
        if self.settings.sender_proof == "off":
            return PROVEN
        verdict = judge(letter.results, box.authserv_id, domain_of(letter.sender))
        if verdict.proven:
            return PROVEN
        self.counters["unproven"] += 1
        log.info("a letter to %s is of an unproven sender: %s", box.address, verdict.why)
        return UNPROVEN if self.settings.sender_proof == "require" else None

    async def _take_new(self, box: Mailbox, letter: Letter, kind: str) -> Fate:
        own = self._key(box, kind, letter.sender, letter.message_id)
        if self._store.root(own) is not None:
            self.counters["duplicates"] += 1
            return Fate.TAKEN
        if not self._rates[kind].allows(f"{box.address} {letter.sender}", self._now()):
            what = "more letters to %s of one sender than are taken; left for a person"
            self.counters.trouble("over_rate", what, box.address)
            return Fate.FLAGGED
        root = self._root(box, letter, kind)
        conversation = f"{len(letter.sender)}:{letter.sender}:{root}"
        thread = thread_of(self.settings.threads, box.tenant_id, kind, box.address, conversation)
        self._targets.remember(thread, self._target(box, letter, kind, root), wall_ms())
        fate = await self._relay(box, letter, kind, thread)
        if fate is Fate.TAKEN:
            self._store.learn(own, root, wall_ms())
        return fate

    def _root(self, box: Mailbox, letter: Letter, kind: str) -> str:
        """What the conversation is told by: the first letter of it that is known here, else the first that it cites,
        else its subject. An unproven letter is never told by its subject: anybody can write that."""
        for cited in reversed(letter.references):
            known = self._store.root(self._key(box, kind, letter.sender, cited))
            if known is not None:
                return known
        if letter.references:
            return letter.references[0]
        if kind == PROVEN and letter.root_subject:
            return key_of("subject", letter.root_subject).hex()
        return letter.message_id

    def _key(self, box: Mailbox, kind: str, sender: str, message_id: str) -> bytes:
        return key_of("letter", box.tenant_id, box.address, kind, sender, message_id)

    def _target(self, box: Mailbox, letter: Letter, kind: str, root: str) -> dict[str, str]:
        references = [*letter.references[1 - REFERENCES_MAX :], letter.message_id]
        return {
            "mailbox": box.address, "to": letter.sender, "kind": kind, "root": root,
            "subject": letter.subject[:SUBJECT_CHARS_MAX], "references": json.dumps(references),
            "left": str(self.settings.answers_per_letter),
        }  # fmt: skip

    async def _relay(self, box: Mailbox, letter: Letter, kind: str, thread: str) -> Fate:
        words = letter.text.strip() or letter.subject
        if not words:
            self._say(thread, self.settings.unreadable, automatic=True)
            return Fate.TAKEN
        try:
            speaks = await self._speaker(box, letter, kind)
        except IdentityAway as error:
            self.counters.trouble("later", "a letter to %s waits: %s", box.address, error)
            return Fate.LATER
        except IdentityRefused as error:
            self.counters.trouble("refused", "a letter to %s is left for a person: %s", box.address, error)
            return Fate.FLAGGED
        options = {
            "thread": thread,
            "context": _context(box, letter, kind, thread),
            "ack": "routed",
            **speaks,
        }
        to = None if speaks else box.to or self.settings.to
        return await self._send(to, _payload(letter, words), options)

    async def _speaker(self, box: Mailbox, letter: Letter, kind: str) -> dict[str, str]:
        """Who wrote it, as an option of the send; empty in a hive without identity. Raises IdentityAway, and
        IdentityRefused for an unproven letter in the name of somebody who is registered."""
        if self._provision is None or not self._provision.present:
            return {}
        ilk = await self._provision.speaker(kind, letter.sender, box.tenant_id)
        if kind == UNPROVEN:
            await self._check_stranger(ilk)
        return {"src_ilk": ilk}

    async def _check_stranger(self, ilk: str) -> None:
        if self._voice is None:
            raise IdentityAway("nobody to ask who an unproven sender is")
        answer = await self._voice.ask("ILK_GET", {"ilk_id": ilk})
        known = answer.get("ilk")
        if not isinstance(known, dict) or known.get("registration_status") != "temporary":
            self.counters["unproven_refused"] += 1
            detail = "the sender is not proven, and who is registered under this address is spoken for by proof only"
            raise IdentityRefused({"error_code": "SENDER_UNPROVEN", "message": detail})

    async def _send(self, to: str | None, payload: dict[str, Any], options: dict[str, Any]) -> Fate:
        for attempt in range(1, self._retry.attempts + 1):
            try:
                await self._hive.send(to, payload, **options)
                self.counters["relayed"] += 1
                return Fate.TAKEN
            except (DeliveryError, LinkClosed) as error:
                if outcome_unknown(error):
                    self.counters["relayed"] += 1
                    return Fate.TAKEN  # perhaps delivered: sending it again could ask twice
                if not retryable(error):
                    self.counters.trouble("refused", "a letter is left for a person: %s", error)
                    return Fate.FLAGGED
                last = error
            if attempt < self._retry.attempts:
                await self._sleep(self._retry.delay_s(attempt))
        self.counters.trouble("later", "a letter waits: %s", last)
        return Fate.LATER

    # ---- out -----------------------------------------------------------------------------------------------------

    async def deliver(self, message: Incoming) -> None:
        """A message of the hive: to whom its thread belongs."""
        thread, text = message.thread_id or "", words_of(message.payload)
        target = self._targets.target(thread)
        if target is None or text is None or target["mailbox"] not in self._boxes:
            what = "message from %s is for no conversation of this node"
            self.counters.trouble("unclaimed", what, message.source_name)
            return
        once = key_of("answer", thread, message.source_name, message.trace_id, str(message.message_id), text)
        if self._store.root(once) is not None:
            self.counters["repeated_answers"] += 1
            return
        if self._say(thread, text, automatic=kind_of(message.source_name) != "IO"):
            self._store.learn(once, thread, wall_ms())

    def _say(self, thread: str, text: str, *, automatic: bool) -> bool:
        """Puts an answer into the outbox; False when it may not or cannot."""
        target = self._targets.target(thread) or {}
        left = int(target.get("left", "0"))
        if left < 1:
            self.counters.trouble("over_answers", "a letter had all the answers that it may have")
            return False
        box, references = self._boxes[target["mailbox"]], json.loads(target["references"])
        message_id = new_message_id(box.address)
        letter = Outgoing(
            box.address, target["to"], answer_subject(target["subject"]), text, message_id, tuple(references),
            automatic, box.name,
        )  # fmt: skip
        if not self._post.put(box.address, target["to"], message_id, compose(letter, wall_ms())):
            self.counters["lost"] += 1
            return False
        own = self._key(box, target["kind"], target["to"], message_id)
        self._store.learn(own, target["root"], wall_ms())
        self._targets.remember(thread, {**target, "left": str(left - 1)}, wall_ms())
        self.counters["answered"] += 1
        return True


def _payload(letter: Letter, words: str) -> dict[str, Any]:
    more: dict[str, Any] = {"subject": letter.subject[:SUBJECT_CHARS_MAX]}
    if letter.attachments:
        named = [{"name": each.name, "type": each.type, "bytes": each.bytes} for each in letter.attachments]
        more["attachments_left"] = named
    text = context.cut(words, TEXT_BYTES_MAX)
    if letter.cut or len(text) < len(words):
        more["truncated"] = True
    return text_payload(text, **more)


def _context(box: Mailbox, letter: Letter, kind: str, thread: str) -> dict[str, Any]:
    sent = datetime.fromtimestamp(letter.date_ms / 1000, UTC).isoformat() if letter.date_ms > 0 else ""
    inbound = context.Inbound(
        channel=kind, entrypoint_kind="mailbox", entrypoint_id=box.address, sender=letter.sender,
        conversation_kind="direct", conversation_id=letter.references[0] if letter.references else letter.message_id,
        thread=thread, message_id=letter.message_id, timestamp=sent, reply_kind="email", reply_address=letter.sender,
    )  # fmt: skip
    return context.io_context(inbound)
