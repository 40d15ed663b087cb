"""IO.whatsapp as a process: settings, secrets, server. What it does with a message is in `whatsapp_channel`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from skep import Hive, Node
from skep_nodes.io import process
from skep_nodes.io import settings as settings_files
from skep_nodes.io.counters import expose
from skep_nodes.io.http_server import (
    HttpLimits,
    HttpServer,
)
from skep_nodes.io.provision import open_provision
from skep_nodes.io.settings import SettingsError, read_secrets
from skep_nodes.io.store import ChannelStore
from skep_nodes.io.whatsapp_channel import SECRETS, WhatsappChannel, WhatsappSettings

log = logging.getLogger("skep.nodes.whatsapp")


def load_whatsapp_secrets(path: Path) -> dict[str, Any]:
    """The secrets; empty without a file, which leaves the node up and telling Meta that it is not configured."""
    if not path.exists():
        log.warning("%s is missing: webhooks are answered 503 until it holds %s", path, ", ".join(SECRETS))
        return {}
    secrets = read_secrets(path)
    missing = [each for each in SECRETS if not isinstance(secrets.get(each), str) or not secrets[each]]
    if missing:
        raise SettingsError(f"{path}: {missing[0]} must be text")
    return secrets


class WhatsappNode:
    """The process: a node, a server and a store, opened and closed in order."""

    def __init__(self, settings: WhatsappSettings, hive: Hive) -> None:
        self._settings, self._hive = settings, hive
        self._secrets = load_whatsapp_secrets(
            process.secrets_path(hive, settings.name, settings.secrets_file)
        )
        self.node = Node(settings.name, hive=hive.root)
        places = {(each.tenant_id, each.phone_number_id) for each in settings.numbers}
        self._provision = open_provision(self.node, hive, settings.identity, settings.threads, places)
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)

    async def _start(self) -> None:
        settings = self._settings
        self._store = ChannelStore(process.store_path(self._hive, settings.name))
        self._channel = WhatsappChannel(
            settings, self._secrets, self.node, self._store, provision=self._provision
        )
        self.node.on_message(self._channel.deliver)
        self._server = HttpServer(self._channel.routes(), HttpLimits(body_bytes_max=settings.body_bytes_max))
        expose(
            self.node,
            channel=self._channel.counters,
            lanes_in=self._channel.lanes_in.counters,
            lanes_out=self._channel.lanes_out.counters,
            http=self._server.counters,
            identity=self._provision.counters,
        )
        port = await self._server.start(settings.host, settings.port)
        self._address = process.announce_listening(self._hive, settings.name, settings.host, port)
        log.info("listening on %s:%d", settings.host, port)

    async def _stop(self) -> None:
        self._address.unlink(missing_ok=True)
        await self._server.close()
        await self._channel.close()
        self._provision.close()
        self._store.close()


def main() -> None:
    options = settings_files.arguments(WhatsappSettings.__doc__ or "").parse_args()
    settings = settings_files.load(WhatsappSettings, options)
    WhatsappNode(settings, process.hive_of(options.hive)).node.run()


if __name__ == "__main__":
    raise SystemExit(process.run_main(main))
