"""IO.http as a process: settings, keys, server, webhooks. What it does with a request is in `http_channel`."""

from __future__ import annotations

import logging
import secrets as random_secrets
from pathlib import Path

from skep import Hive, Node
from skep_nodes.io import api_wire, process
from skep_nodes.io import settings as settings_files
from skep_nodes.io.api_wire import Caller
from skep_nodes.io.callbacks import Callbacks
from skep_nodes.io.counters import expose
from skep_nodes.io.http_channel import HttpChannel, HttpSettings
from skep_nodes.io.http_server import (
    ADDRESS_CONNECTIONS_MAX,
    HttpLimits,
    HttpServer,
)
from skep_nodes.io.provision import open_provision
from skep_nodes.io.settings import SECRET_BYTES, SettingsError, read_secrets, write_secrets
from skep_nodes.io.store import ChannelStore

log = logging.getLogger("skep.nodes.http")


def load_callers(path: Path, settings: HttpSettings) -> tuple[tuple[Caller, ...], dict[str, str]]:
    """Callers and webhook secrets. Without a file one is made, with one fresh key."""
    if not path.exists() and settings.secrets_file is None:
        token = random_secrets.token_urlsafe(SECRET_BYTES)
        write_secrets(path, {"api_keys": [{"key_id": "first", "token": token}]})
        log.info("made %s with a first API key", path)
    secrets = read_secrets(path)
    webhook_secrets = secrets.get("webhook_secrets") or {}
    if not isinstance(webhook_secrets, dict):
        raise SettingsError(f"{path}: webhook_secrets must be a mapping")
    try:
        return api_wire.callers_from(secrets), {
            str(key): str(value) for key, value in webhook_secrets.items()
        }
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


class HttpNode:
    """The process: a node, a server, a store and the webhooks, opened and closed in order."""

    def __init__(self, settings: HttpSettings, hive: Hive) -> None:
        self._settings, self._hive = settings, hive
        path = process.secrets_path(hive, settings.name, settings.secrets_file)
        self._callers, self._webhook_secrets = load_callers(path, settings)
        self.node = Node(settings.name, hive=hive.root)
        places = {(each.tenant_id, each.integration_id) for each in self._callers}
        self._provision = open_provision(self.node, hive, settings.identity, settings.threads, places)
        self.node.on_start(self._start)
        self.node.on_stop(self._stop)

    async def _start(self) -> None:
        settings = self._settings
        self._store = ChannelStore(process.store_path(self._hive, settings.name))
        webhooks = {each.integration_id: each for each in settings.webhooks}
        prefix = settings.webhook_header_prefix
        self._callbacks = Callbacks(self._store, webhooks, self._webhook_secrets, header_prefix=prefix)
        self._callbacks.start()
        channel = HttpChannel(
            settings, self._callers, self.node, self._store, self._callbacks, provision=self._provision
        )
        self.node.on_message(channel.deliver)
        requests_max = settings.requests_max
        limits = HttpLimits(
            requests_max=requests_max,
            body_bytes_max=settings.body_bytes_max,
            connections_per_address_max=max(requests_max, ADDRESS_CONNECTIONS_MAX),
        )
        self._server = HttpServer(channel.routes(), limits)
        expose(
            self.node, channel=channel.counters, webhooks=self._callbacks.counters, http=self._server.counters,
            identity=self._provision.counters,
        )  # fmt: skip
        port = await self._server.start(settings.host, settings.port)
        self._address = process.announce_listening(self._hive, settings.name, settings.host, port)
        log.info("listening on %s:%d", settings.host, port)

    async def _stop(self) -> None:
        self._address.unlink(missing_ok=True)
        await self._server.close()
        await self._callbacks.close()
        self._provision.close()
        self._store.close()


def main() -> None:
    options = settings_files.arguments(HttpSettings.__doc__ or "").parse_args()
    settings = settings_files.load(HttpSettings, options)
    HttpNode(settings, process.hive_of(options.hive)).node.run()


if __name__ == "__main__":
    raise SystemExit(process.run_main(main))
