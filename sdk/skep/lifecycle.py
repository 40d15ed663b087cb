"""What every node answers without its author writing a line: is it alive, how is it, what is its configuration.

States: UNCONFIGURED (nothing set, and the contract requires something), CONFIGURED, FAILED_CONFIG (what is stored does
not pass). A new configuration is checked, stored, and only then applied; when applying fails the stored one is put
back, so a restart never finds a configuration that the running node refused.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from copy import deepcopy
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Any

from skep.config_store import ConfigStore, Stored
from skep.contract import (
    INVALID_CONFIG,
    SYSTEM,
    Contract,
    check_fields,
    check_version,
    read_config_set,
    redacted,
)
from skep.errors import ConfigError, RemoteError
from skep.handlers import Route
from skep.protocol.header import MessageClass, Selector

if TYPE_CHECKING:
    from skep.message import Message
    from skep.node import Node

Apply = Callable[[dict[str, Any]], Awaitable[None]]


@unique
class ConfigState(StrEnum):
    UNCONFIGURED = "UNCONFIGURED"
    CONFIGURED = "CONFIGURED"
    FAILED_CONFIG = "FAILED_CONFIG"


@unique
class Health(StrEnum):
    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    ERROR = "ERROR"
    UNKNOWN = "UNKNOWN"


class Lifecycle:
    """Status and configuration of one node."""

    def __init__(self, node: Node, contract: Contract) -> None:
        self._node = node
        self.contract = contract
        self.apply: Apply | None = None
        self.health = Health.HEALTHY
        self.state = ConfigState.UNCONFIGURED
        self.stored = Stored()
        self._store: ConfigStore | None = None
        self._routes = {
            "PING": self._ping,
            "ECHO": self._ping,
            "STATUS": self._status,
            "CONFIG_GET": self._config_get,
            "CONFIG_SET": self._config_set,
            "DEGREE_CHANGED": self._degree_changed,
        }
        if os.environ.get("NODE_STATUS_DEFAULT_HANDLER_ENABLED", "true").lower() not in ("0", "false", "no"):
            self._routes["NODE_STATUS_GET"] = self._node_status

    @property
    def config(self) -> dict[str, Any]:
        """The effective configuration with secrets in their places, for the node itself. Never to be shown."""
        return deepcopy(self.stored.config or {})

    @property
    def secrets(self) -> dict[str, str]:
        """Secret values by storage key. Never to be shown."""
        return dict(self.stored.secrets)

    @property
    def system(self) -> dict[str, Any]:
        """The `_system` block its launcher wrote."""
        return deepcopy(self.stored.system or {})

    # ---- loading -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Reads what is stored and applies it; trouble is a state, not an end: the node must be able to be told."""
        self._store = ConfigStore(self._node.place.hive, self._node.name)
        try:
            self.stored = self._store.load()
            await self._take_up()
        except ConfigError:
            self.state = ConfigState.FAILED_CONFIG
            self.health = Health.DEGRADED

    async def _take_up(self) -> None:
        if self.stored.config is None and (self.contract.required_fields or self.contract.secrets):
            return
        check_fields(self.config, self.stored.secrets, self.contract)
        if self.stored.config is not None:
            await self._apply(self.config)
        self.state = ConfigState.CONFIGURED

    async def _apply(self, config: dict[str, Any]) -> None:
        if self.apply is None:
            return
        try:
            await self.apply(config)
        except ValueError as error:
            raise ConfigError(INVALID_CONFIG, str(error)) from error

    # ---- verbs ---------------------------------------------------------------------------------------------------

    def route(self, selector: Selector) -> Route:
        """The default handler for a flow that the node itself has none for."""
        known = self._routes.get(selector.verb) if selector.message_class is MessageClass.SYSTEM else None
        return Route(known or self._unknown)

    async def _unknown(self, message: Message) -> None:
        """Nobody handles this: whoever waits is told, everything else passes by."""
        if message.wants_reply:
            what = " ".join(part for part in (message.type, message.verb, message.action) if part)
            raise RemoteError("no_handler", f"{self._node.name} has no handler for {what}")

    async def _ping(self, message: Message) -> Any:
        return message.payload if message.verb == "ECHO" else {}

    async def _node_status(self, message: Message) -> dict[str, Any]:
        forced = os.environ.get("NODE_STATUS_DEFAULT_HEALTH_STATE", "").upper()
        health = forced if forced in Health.__members__ else self._own_health().value
        return {"status": "ok", "health_state": health}

    async def _status(self, message: Message) -> dict[str, Any]:
        guard = self._node.guard
        return {
            "status": "ok",
            "node_name": self._node.name,
            "health_state": self._own_health().value,
            "state": self.state.value,
            "config_version": self.stored.version,
            "version": self._node.version,
            **({} if guard is None else {"degree": guard.shown()}),
        }

    def _own_health(self) -> Health:
        """A node whose degree is not valid is in error, whatever else is well with it."""
        guard = self._node.guard
        return Health.ERROR if guard is not None and guard.look() is not None else self.health

    async def _degree_changed(self, message: Message) -> dict[str, Any]:
        """The registrar says that the degree changed. Anybody else is told no: a look costs a signature check."""
        guard = self._node.guard
        if not message.source_name.startswith("SY."):
            raise RemoteError("forbidden", f"{message.source_name or 'an unnamed node'} is no system node")
        if guard is None:
            return {"status": "ok", "node_name": self._node.name, "degree": None}
        guard.recheck()
        return {"status": "ok", "node_name": self._node.name, "degree": guard.shown()}

    async def _config_get(self, message: Message) -> dict[str, Any]:
        return self._response(effective_config=self._shown(), contract=self._described())

    async def _config_set(self, message: Message) -> dict[str, Any]:
        try:
            await self._set(message)
        except ConfigError as error:
            return self._response(ok=False, error={"code": error.code, "detail": error.detail})
        return self._response(effective_config=self._shown())

    # ---- setting -------------------------------------------------------------------------------------------------

    async def _set(self, message: Message) -> None:
        offered = read_config_set(message.payload, self._node.name, self.contract)
        family = self._node.name.split(".")[0]
        if not check_version(family, self.stored.version, offered.version):
            return
        secrets = {**self.stored.secrets, **offered.secrets}
        check_fields(offered.config, secrets, self.contract)
        before = self.stored
        self._persist(Stored(offered.version, offered.config, secrets, before.system), message)
        try:
            await self._apply(self.config)
        except ConfigError:
            self._persist(before, message)
            raise
        self.state = ConfigState.CONFIGURED
        self.health = Health.HEALTHY
        if self._node.guard is not None:
            self._node.guard.recheck()  # a new configuration may come with a new degree

    def _persist(self, stored: Stored, message: Message) -> None:
        """Secrets first: a configuration that needs one must never be found without it."""
        assert self._store is not None
        if stored.secrets != self.stored.secrets:
            self._store.save_secrets(
                stored.secrets, by=message.source_name, ilk=message.src_ilk, trace_id=message.trace_id
            )
        if stored.version:
            self._store.save(stored.version, self.contract.schema_version, stored.config or {})
        else:
            self._store.forget()  # nothing was set at run time: the launcher's configuration stands again
        self.stored = stored

    # ---- answers -------------------------------------------------------------------------------------------------

    def _shown(self) -> dict[str, Any]:
        shown = redacted(self.config, self.contract, set(self.stored.secrets))
        return {**shown, SYSTEM: self.system} if self.stored.system is not None else shown

    def _described(self) -> dict[str, Any]:
        return self.contract.describe(self._node.name, set(self.stored.secrets))

    def _response(self, *, ok: bool = True, **members: Any) -> dict[str, Any]:
        return {
            "ok": ok,
            "node_name": self._node.name,
            "state": self.state.value,
            "schema_version": self.contract.schema_version,
            "config_version": self.stored.version,
            **members,
        }
