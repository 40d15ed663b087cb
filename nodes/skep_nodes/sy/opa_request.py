"""What SY.opa.rules may be asked, in each of the two forms, as one request that is checked before any work is done.

`CONFIG_CHANGED` of subsystem `opa` names an action and carries `config {rego, entrypoint}`; the query and command form
names it in `meta.action` and carries the same members flat. Bounds and types are checked here, so that a request that
will be refused costs no compiler run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from skep_nodes.sy.config_change import Refusal
from skep_policy.bundle import REGO_BYTES_MAX, VERSION_MAX
from skep_policy.manifest import ENTRYPOINTS, TARGET

SUBSYSTEM: Final = "opa"
COMPILES: Final = frozenset({"compile", "check", "compile_apply", "shadow"})
ACTIONS: Final = ("compile", "check", "compile_apply", "apply", "rollback", "shadow", "shadow_stop")
COMMANDS: Final = {
    "compile_policy": "compile", "check_policy": "check", "compile_apply_policy": "compile_apply",
    "apply_policy": "apply", "rollback_policy": "rollback",
}  # fmt: skip
QUERIES: Final = ("get_policy", "get_status")


@dataclass(frozen=True, slots=True)
class Request:
    """One change that is asked for. `rego` None: the policy in force, compiled again."""

    action: str
    version: int = 0
    rego: str | None = None
    entrypoint: str = TARGET
    dry_run: bool = False

    @property
    def compiles(self) -> bool:
        return self.action in COMPILES


def changed_request(payload: Mapping[str, Any]) -> Request:
    """The request of a CONFIG_CHANGED. Raises Refusal INVALID_PAYLOAD."""
    config = payload.get("config", {})
    if config is None:
        config = {}
    if not isinstance(config, Mapping):
        raise Refusal("INVALID_PAYLOAD", "config must be an object")
    action = payload.get("action")
    if action == "compile" and payload.get("auto_apply", config.get("auto_apply")) is True:
        action = "compile_apply"
    return _request(action, payload, config)


def command_request(action: str, payload: object) -> Request:
    """The request of a command. Raises Refusal INVALID_PAYLOAD."""
    facts = payload if isinstance(payload, Mapping) else {}
    return _request(COMMANDS.get(action, action), facts, facts)


def _request(action: object, facts: Mapping[str, Any], config: Mapping[str, Any]) -> Request:
    if not isinstance(action, str) or action not in ACTIONS:
        raise Refusal("INVALID_PAYLOAD", f"action {str(action)[:40]!r} is not one of {', '.join(ACTIONS)}")
    return Request(
        action, _version(facts.get("version")), _rego(config.get("rego")), _entrypoint(config.get("entrypoint")),
        facts.get("dry_run") is True,
    )  # fmt: skip


def _version(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= VERSION_MAX:
        raise Refusal("INVALID_PAYLOAD", f"version {str(value)[:40]!r} is not a whole number")
    return value


def _rego(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise Refusal(
            "INVALID_PAYLOAD", "rego must be a text; leave it out to compile the policy in force again"
        )
    if len(value) > REGO_BYTES_MAX:
        raise Refusal("REGO_TOO_LARGE", f"{len(value)} characters of Rego, {REGO_BYTES_MAX} at most")
    return value


def _entrypoint(value: object) -> str:
    if value in (None, ""):
        return TARGET
    if value not in ENTRYPOINTS:
        raise Refusal(
            "INVALID_PAYLOAD", f"entrypoint {str(value)[:40]!r} is not one of {', '.join(ENTRYPOINTS)}"
        )
    return str(value)
