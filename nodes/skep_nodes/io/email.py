"""IO.email as a process: settings, secrets, readers, outbox. What it does with a letter is in `email_channel`."""

from __future__ import annotations

import logging
from typing import Any

from skep import Hive, Message, Node
from skep_nodes.io import process
from skep_nodes.io import settings as settings_files
from skep_nodes.io.counters import Counters, expose
from skep_nodes.io.email_channel import EmailChannel
from skep_nodes.io.email_code import VERB, CodeDesk
from skep_nodes.io.email_post import Post, by_smtp
from skep_nodes.io.email_reader import COUNTERS, Reader
from skep_nodes.io.email_settings import EmailSettings, load_accounts
from skep_nodes.io.mail_store import MailStore
from skep_nodes.io.provision import open_provision
from skep_nodes.io.provision_ask import IdentityVoice
from skep_nodes.io.store import ChannelStore
from skep_nodes.sy.standing import sender_of

log = logging.getLogger("skep.nodes.email")


class EmailNode:
    """The process: a node, its readers, its stores, opened and closed in order."""

    def __init__(self, settings: EmailSettings, hive: Hive) -> None:
        self._settings, self._hive = settings, hive
        secrets = process.secrets_path(hive, settings.name, settings.secrets_file)
        self._accounts = load_accounts(secrets, settings)
        self.node = Node(settings.name, hive=hive.root)
        places = [(box.tenant_id, box.address) for box in settings.mailboxes]
        self._provision = open_provision(self.node, hive, settings.identity, settings.threads, places)
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)

    async def _start(self) -> None:
        settings = self._settings
        path = process.store_path(self._hive, settings.name)
        self._targets = ChannelStore(path)
        self._store = MailStore(path.with_suffix(".letters.sqlite"))
        self._post = Post(settings, self._store, by_smtp(settings, self._accounts))
        channel = EmailChannel(
            settings, self.node, self._targets, self._store, self._post, provision=self._provision,
            voice=IdentityVoice(self.node),
        )  # fmt: skip
        codes = CodeDesk(settings, self._post)
        self._serve(channel, codes)
        counters = Counters(COUNTERS, log)
        self._readers = [
            Reader(
                box, self._accounts[box.address][0], channel, poll_s=settings.poll_s,
                reconnect_s=settings.reconnect_s, counters=counters,
            )
            for box in settings.mailboxes
        ]  # fmt: skip
        expose(
            self.node, channel=channel.counters, post=self._post.counters, codes=codes.counters, reader=counters,
            identity=self._provision.counters,
        )  # fmt: skip
        self._post.start()
        for reader in self._readers:
            reader.start()
        log.info("reading %s", ", ".join(box.address for box in settings.mailboxes))

    def _serve(self, channel: EmailChannel, codes: CodeDesk) -> None:
        async def send_code(message: Message) -> dict[str, Any]:
            return codes.handle(message.payload, sender_of(self._hive.root, message.source))

        self.node.on_message(channel.deliver)
        self.node.on_system(VERB)(send_code)

    async def _stop(self) -> None:
        for reader in self._readers:
            await reader.close()
        await self._post.close()
        self._provision.close()
        self._store.close()
        self._targets.close()


def main() -> None:
    options = settings_files.arguments(EmailSettings.__doc__ or "").parse_args()
    settings = settings_files.load(EmailSettings, options)
    EmailNode(settings, process.hive_of(options.hive)).node.run()


if __name__ == "__main__":
    raise SystemExit(process.run_main(main))
