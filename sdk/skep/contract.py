"""The configuration contract: what a node says it can be configured with, and which CONFIG_SET it accepts.

Pure: no files, no clock. A CONFIG_SET replaces the whole configuration (`apply_mode` is always `replace`), carries a
version that never goes back, and never touches the `_system` block, which belongs to whoever launched the node. Secrets
are taken out before anything else sees the configuration, so that there is no path on which one could be shown.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from skep.errors import ConfigError

MASK: Final = "***REDACTED***"
SYSTEM: Final = "_system"
INVALID_ENVELOPE: Final = "invalid_envelope"
INVALID_CONFIG: Final = "invalid_config"
UNSUPPORTED_APPLY_MODE: Final = "unsupported_apply_mode"
STALE: Final = "stale_config_version"
PERSIST: Final = "config_persist_error"
VERSION_MAX: Final = 2**53 - 1  # what every JSON reader counts exactly


@dataclass(frozen=True, slots=True)
class Secret:
    """A member of the configuration that is kept apart. `field` is its dotted path."""

    field: str
    required: bool = False
    storage_key: str = ""

    @property
    def key(self) -> str:
        return self.storage_key or self.field


@dataclass(frozen=True, slots=True)
class Contract:
    """What CONFIG_GET tells about a node's configuration."""

    required_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    schema_version: int = 1
    notes: tuple[str, ...] = ()
    examples: tuple[dict[str, Any], ...] = ()
    validate: Callable[[dict[str, Any]], object] | None = None  # raises ConfigError or ValueError

    def describe(self, node_name: str, configured: set[str]) -> dict[str, Any]:
        """The `contract` member of a CONFIG_RESPONSE."""
        parts = node_name.split("@")[0].split(".")
        return {
            "node_family": parts[0],
            "node_kind": ".".join(parts[:2]),
            "supports": ["CONFIG_GET", "CONFIG_SET"],
            "required_fields": list(self.required_fields),
            "optional_fields": list(self.optional_fields),
            "secrets": [_describe_secret(secret, secret.key in configured) for secret in self.secrets],
            "notes": list(self.notes),
            "examples": list(self.examples),
        }


@dataclass(frozen=True, slots=True)
class ConfigSet:
    """A CONFIG_SET that was read: its configuration without secrets, and the secrets by storage key."""

    version: int
    config: dict[str, Any]
    secrets: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)


def read_config_set(payload: Any, node_name: str, contract: Contract) -> ConfigSet:
    """Checks a CONFIG_SET payload. Raises ConfigError with the contract's codes."""
    if not isinstance(payload, dict):
        raise ConfigError(INVALID_ENVELOPE, "the payload must be an object")
    if payload.get("node_name") not in (node_name, node_name.split("@")[0]):
        raise ConfigError(INVALID_ENVELOPE, f"node_name must be {node_name}")
    version = _whole(payload, "config_version")
    if _whole(payload, "schema_version") != contract.schema_version:
        raise ConfigError(INVALID_ENVELOPE, f"schema_version must be {contract.schema_version}")
    if payload.get("apply_mode", "replace") != "replace":
        raise ConfigError(UNSUPPORTED_APPLY_MODE, "apply_mode must be replace")
    config = payload.get("config")
    if not isinstance(config, dict):
        raise ConfigError(INVALID_CONFIG, "config must be an object")
    config = deepcopy(config)
    config.pop(SYSTEM, None)
    return ConfigSet(version, config, take_secrets(config, contract), {})


def check_version(family: str, current: int, offered: int) -> bool:
    """Whether to apply; False for a repetition that changes nothing. Raises ConfigError when it is too old.

    An AI node takes an equal version as the same configuration sent again; a channel must see it grow.
    """
    if offered > current:
        return True
    if offered == current and family != "IO":
        return False
    raise ConfigError(STALE, f"config_version {offered} is not newer than {current}")


def check_fields(config: dict[str, Any], secrets: dict[str, str], contract: Contract) -> None:
    """What the contract asks for must be there, and the node's own check must agree. Raises ConfigError."""
    missing = [name for name in contract.required_fields if look(config, name) is None]
    missing += [s.field for s in contract.secrets if s.required and s.key not in secrets]
    if missing:
        raise ConfigError(INVALID_CONFIG, f"missing: {', '.join(missing)}")
    if contract.validate is None:
        return
    try:
        contract.validate(config)
    except ValueError as error:
        raise ConfigError(INVALID_CONFIG, str(error).splitlines()[0] if str(error) else "refused") from error


def take_secrets(config: dict[str, Any], contract: Contract) -> dict[str, str]:
    """Removes every secret from `config`: declared ones, and all below a member called `secrets`."""
    found: dict[str, str] = {}
    for secret in contract.secrets:
        value = _remove(config, secret.field)
        if isinstance(value, str) and value and value != MASK:
            found[secret.key] = value
    declared = {secret.field: secret.key for secret in contract.secrets}
    for path, value in _leaves(config.pop("secrets", None), "secrets"):
        if isinstance(value, str) and value and value != MASK:
            found[declared.get(path, path)] = value
    return found


def redacted(config: dict[str, Any], contract: Contract, configured: set[str]) -> dict[str, Any]:
    """A copy in which each configured secret shows as a mask."""
    shown = deepcopy(config)
    for secret in contract.secrets:
        if secret.key in configured:
            _put(shown, secret.field, MASK)
    for key in configured - {secret.key for secret in contract.secrets}:
        _put(shown, key, MASK)
    return shown


def look(config: dict[str, Any], path: str) -> Any:
    """The member at a dotted path, or None."""
    at: Any = config
    for name in path.split("."):
        at = at.get(name) if isinstance(at, dict) else None
    return at


def _describe_secret(secret: Secret, configured: bool) -> dict[str, Any]:
    return {
        "field": secret.field,
        "storage_key": secret.key,
        "required": secret.required,
        "configured": configured,
        "value_redacted": True,
        "persistence": "local_file",
    }


def _whole(payload: dict[str, Any], name: str) -> int:
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= VERSION_MAX:
        raise ConfigError(INVALID_ENVELOPE, f"{name} must be a whole number above 0")
    return value


def _remove(config: dict[str, Any], path: str) -> Any:
    *parents, last = path.split(".")
    at: Any = config
    for name in parents:
        at = at.get(name) if isinstance(at, dict) else None
    return at.pop(last, None) if isinstance(at, dict) else None


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    at = config
    for name in parents:
        inner = at.get(name)
        if not isinstance(inner, dict):
            inner = at[name] = {}
        at = inner
    at[last] = value


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{path}.{name}")]
    return [] if value is None else [(path, value)]
