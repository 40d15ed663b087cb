"""AI.desk: answers from a folder of documents, and passes on what they do not answer.

The answer to a question is the node's reply, with its citations. When the desk does not know, it (1) tells the person's
node the conversation so far, asking for its receipt to be confirmed, so that nobody is promised a colleague who is not
there; (2) binds the thread to that node, so that the next message goes straight to it; (3) tells the asker. After the
person hands the thread back, messages come here again.

It knows the conversation, not only the thread: what one person said on another channel counts as said (`conversation`).
Each tenant may have documents of its own, in an index of its own; nobody is answered from another tenant's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from skep import Hive, Message, Node, RemoteError, SkepError
from skep_nodes.ai.conversation import ATTEMPTS, Conversation, Conversations
from skep_nodes.ai.decision import Decision, Desk, Sayings
from skep_nodes.ai.index import DocumentIndex
from skep_nodes.ai.model import Endpoint
from skep_nodes.ai.words import Lexicon
from skep_nodes.identity import ids
from skep_nodes.io import process
from skep_nodes.io import settings as settings_files
from skep_nodes.io.counters import expose
from skep_nodes.io.provision_ask import IdentityVoice
from skep_nodes.io.settings import SettingsError, read_secrets
from skep_nodes.io.text import text_payload, words_of

log = logging.getLogger("skep.nodes.desk")

DEMO_DOCUMENTS = Path(__file__).parent.parent / "demo_documents"
QUESTION_CHARS_MAX = 4000  # a longer text is a letter, and letters are for people
SAME_WORDS = (
    ("cost", "price", "fee"),
    ("delivery", "shipping", "ship", "deliver"),
    ("parcel", "package"),
    ("cancel", "cancellation"),
    ("pay", "payment", "paid"),
)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """An OpenAI-compatible endpoint; without a base_url the desk answers in the documents' own words."""

    base_url: str = ""
    """Such as http://127.0.0.1:8000/v1; `/chat/completions` is added."""
    model: str = ""
    timeout_s: float = 20.0
    """Seconds for an answer; then the extractive one is given."""


@dataclass(frozen=True, slots=True)
class TenantDocuments:
    """The documents of one tenant, instead of the common ones."""

    tenant_id: str
    documents: Path


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """AI.desk's settings."""

    name: str = "AI.desk"
    documents: Path = DEMO_DOCUMENTS
    """Folder of .md and .txt files, only read; changes are seen within two seconds."""
    tenants: tuple[TenantDocuments, ...] = ()
    """Tenants with documents of their own; all others, and who is of none, are answered from `documents`."""
    escalate_to: str = "IO.terminal"
    """The node of the person who gets what the documents do not answer; empty for nobody."""
    lease_s: float = 14_400.0
    """Seconds after which a handed-over thread comes back by itself, should the person's node be gone: four hours."""
    confidence_min: float = 0.6
    """Below this estimated probability of being right, the desk does not answer."""
    show_sources: bool = True
    """Whether an answer's text ends with the documents' names; citations are in the payload in any case."""
    same_words: tuple[tuple[str, ...], ...] = SAME_WORDS
    """Words of the trade that mean the same; the first of each group stands for all."""
    secrets_file: Path | None = None
    """JSON {model_key}, mode 0600; needed only when the model's endpoint wants a key."""
    degree: Path | None = None
    """Folder of the degree that the desk must hold to speak, such as state/degrees/agents/AI.desk; its prompt is
    given to the model before the desk's own instructions."""
    model: ModelSettings = field(default_factory=ModelSettings)
    sayings: Sayings = field(default_factory=Sayings)


class DeskNode:
    """The desk, joined to a node."""

    def __init__(
        self, settings: DeskSettings, node: Node, desk: Desk, tenants: Mapping[str, Desk] | None = None
    ) -> None:
        self.settings, self.node, self.desk, self.tenants = settings, node, desk, dict(tenants or {})
        self.conversations = Conversations(IdentityVoice(node, attempts=ATTEMPTS))
        for each in (desk, *self.tenants.values()):
            each.counters = desk.counters
            if settings.degree is not None:
                each.taught = lambda: node.degree.prompt
            node.on_stop(each.close)
        expose(node, desk=desk.counters)
        node.on_message(self.receive)
        node.on_start(self._start)

    async def _start(self) -> None:
        for each in (self.desk, *self.tenants.values()):
            log.info("%d sentences of %s", await each.start(), "all" if each is self.desk else "one tenant")

    async def receive(self, message: Message) -> dict[str, Any] | None:
        """One message: the reply to it."""
        text = words_of(message.payload)
        if text is None:
            raise RemoteError("invalid_payload", "this node reads text messages only")
        if len(text) > QUESTION_CHARS_MAX:
            raise RemoteError("payload_too_large", f"a question may have {QUESTION_CHARS_MAX} characters")
        conversation = await self.conversations.of(message)
        desk = self._desk_of(conversation)
        turns = desk.memory.turns(conversation.key)
        decision = await desk.decide(conversation.key, text)
        said = decision.text
        if decision.reason and not await self._escalate(message, decision, turns):
            said = desk.sayings.nobody
        desk.said(conversation.key, said)
        return text_payload(said, **decision.payload_members())

    def _desk_of(self, conversation: Conversation) -> Desk:
        """The desk with the documents for this tenant, knowing all that was said in the conversation."""
        desk = self.tenants.get(conversation.tenant, self.desk)
        desk.memory.join(conversation.key, conversation.before)
        return desk

    async def _escalate(self, message: Message, decision: Decision, turns: tuple[Any, ...]) -> bool:
        """Whether a person has the conversation now."""
        to = self.settings.escalate_to
        if not to or not message.thread_id:
            return False
        said = [{"role": each.role, "text": each.text} for each in turns]
        conversation = {
            "type": "conversation",
            "turns": said,
            "reason": decision.reason,
            "asker": self._asker(message),
        }
        try:
            await self.node.send(
                to, conversation, thread=message.thread_id, trace=message.trace_id, ack="routed"
            )
            await self.node.escalate(message, to, decision.reason, self.settings.lease_s)
        except SkepError as error:
            log.warning("conversation %s could not be passed to %s: %s", message.thread_id, to, error)
            return False
        return True


    @staticmethod
    def _asker(message: Message) -> str:
        """The channel that the asker is on, though another node passed the message on."""
        return message.client.name_of(message.origin[0]) if message.origin else message.source_name


def make_desk(settings: DeskSettings, database: Path | None, model_key: str = "") -> Desk:
    """The desk that `settings` describe. Raises SettingsError when the folder is not there."""
    if not settings.documents.is_dir():
        raise SettingsError(f"documents: {settings.documents} is not a folder")
    lexicon = Lexicon(settings.same_words)
    model = settings.model
    endpoint = Endpoint(model.base_url, model.model, model_key, model.timeout_s) if model.base_url else None
    return Desk(
        lambda: DocumentIndex(settings.documents, database, lexicon),
        lexicon,
        confidence_min=settings.confidence_min,
        show_sources=settings.show_sources,
        sayings=settings.sayings,
        endpoint=endpoint,
    )


def tenant_desks(settings: DeskSettings, hive: Hive, model_key: str) -> dict[str, Desk]:
    """A desk for each tenant that has documents of its own; they share nothing. Raises SettingsError."""
    desks: dict[str, Desk] = {}
    for each in settings.tenants:
        if ids.parse(ids.TENANT, each.tenant_id) is None or each.tenant_id in desks:
            raise SettingsError(f"tenants: {each.tenant_id!r} is no tnt:<uuid>, or stands there twice")
        name = f"{process.base_of(settings.name)}.{each.tenant_id.removeprefix('tnt:')}.sqlite"
        own = replace(settings, documents=each.documents)
        desks[each.tenant_id] = make_desk(own, hive.state_dir / "desk" / name, model_key)
    return desks


def load_model_key(settings: DeskSettings, hive: Hive) -> str:
    """The endpoint's key; empty when no file holds one, which a local server may well accept."""
    path = process.secrets_path(hive, settings.name, settings.secrets_file)
    if not settings.model.base_url or (settings.secrets_file is None and not path.exists()):
        return ""
    key = read_secrets(path).get("model_key", "")
    if not isinstance(key, str):
        raise SettingsError(f"{path}: model_key must be text")
    return key


def main() -> None:
    options = settings_files.arguments(DeskSettings.__doc__ or "").parse_args()
    settings = settings_files.load(DeskSettings, options)
    hive = process.hive_of(options.hive)
    database = hive.state_dir / "desk" / f"{process.base_of(settings.name)}.sqlite"
    key = load_model_key(settings, hive)
    desk = make_desk(settings, database, key)
    node = Node(settings.name, hive=hive.root, degree=settings.degree)
    DeskNode(settings, node, desk, tenant_desks(settings, hive, key))
    node.run()


if __name__ == "__main__":
    raise SystemExit(process.run_main(main))
