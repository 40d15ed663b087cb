"""Who may change the configuration, in which order, and what is answered: the core of SY.config.routes.

Owns the current state. A change goes through authorise, check the version, work it out, persist, publish; only
then does the state move. So a refused change leaves no trace, and an acknowledged one is on the disk. Exactly one
answer per request, also for a stale version or a change that changes nothing (upstream says nothing then, and its
callers wait).

`version` must be the current one plus one, or 0 for "whatever is next": two writers that read the same version
cannot both succeed. No socket, no clock: the shell passes time in and sends what is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skep_nodes.sy.config_change import SECTIONS, SUBSYSTEMS, Refusal, changed
from skep_nodes.sy.config_document import plain
from skep_nodes.sy.config_store import ConfigStore
from skep_nodes.sy.durable import StoreBroken
from skep_shm import ConfigState, RegionError


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back, whether routers should be told, and what an operator should read."""

    payload: dict[str, Any]
    published: bool = False
    warnings: tuple[str, ...] = ()


class ConfigDesk:
    """Current state plus the two places it must reach: the store, then the region."""

    def __init__(
        self, hive_id: str, state: ConfigState, store: ConfigStore, publish: Callable[[ConfigState], object]
    ) -> None:
        self.state = state
        self._hive_id, self._store, self._publish = hive_id, store, publish

    def full_state(self) -> dict[str, Any]:
        """Answer to CONFIG_ROUTES_GET."""
        return {
            "status": "ok",
            "hive": self._hive_id,
            "config_version": self.state.version,
            **plain(self.state),
        }

    def change(self, payload: object, source_name: str, now_ms: int, updated_at: str) -> Answer:
        """Carry out one CONFIG_CHANGED and say how it went."""
        facts = payload if isinstance(payload, Mapping) else {}
        subsystem = str(facts.get("subsystem", ""))
        try:
            self._authorise(source_name)
            return self._change(facts, subsystem, now_ms, updated_at)
        except Refusal as refusal:
            return Answer(self._error(subsystem, refusal.code, refusal.detail))

    def _authorise(self, source_name: str) -> None:
        if not source_name.startswith("SY."):
            raise Refusal(
                "FORBIDDEN", f"{source_name or 'an unnamed node'} may not change the configuration; SY.* may"
            )

    def _change(self, facts: Mapping[str, Any], subsystem: str, now_ms: int, updated_at: str) -> Answer:
        self._check_version(facts.get("version", 0))
        new = changed(self.state, subsystem, facts.get("config"), str(facts.get("action") or ""), now_ms)
        if new == self.state or facts.get("dry_run") is True:
            would = {"changed": new != self.state} | ({"dry_run": True} if facts.get("dry_run") else {})
            return Answer(self._ok(subsystem, self.state.version) | would)
        new = replace(new, version=self.state.version + 1)
        warnings = self._apply(new, updated_at)
        return Answer(self._ok(subsystem, new.version) | {"changed": True}, True, warnings)

    def _check_version(self, version: object) -> None:
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise Refusal("INVALID_PAYLOAD", f"version {version!r} is not a whole number")
        if version not in (0, self.state.version + 1):
            raise Refusal(
                "VERSION_CONFLICT",
                f"version {version} was asked for, {self.state.version + 1} is next; read the configuration again, "
                "repeat the change on it, and send it with that version",
            )

    def _apply(self, new: ConfigState, updated_at: str) -> tuple[str, ...]:
        """Disk first, region second; if the region refuses, the disk goes back to what is in force."""
        try:
            warnings = self._store.save(new, updated_at)
        except (OSError, StoreBroken) as error:
            raise Refusal("PERSIST_FAILED", f"nothing was changed: {error}") from error
        try:
            self._publish(new)
        except (RegionError, OSError) as error:
            raise Refusal("APPLY_FAILED", f"{error}; {self._withdraw(updated_at)}") from error
        self.state = new
        return warnings

    def _withdraw(self, updated_at: str) -> str:
        try:
            self._store.save(self.state, updated_at)
        except (OSError, StoreBroken) as error:
            return f"and the file could not be put back ({error}): it will come into force at the next start"
        return "nothing was changed"

    def _ok(self, subsystem: str, version: int) -> dict[str, Any]:
        return {"subsystem": subsystem, "version": version, "status": "ok", "hive": self._hive_id}

    def _error(self, subsystem: str, code: str, detail: str) -> dict[str, Any]:
        facts = {
            "subsystem": subsystem,
            "version": self.state.version,
            "status": "error",
            "hive": self._hive_id,
        }
        return {**facts, "error_code": code, "error_detail": detail}

    # -- the admin API's single-entry actions (list_routes, add_route, delete_route and the same for vpns) --------

    def admin(self, action: str, payload: object, source_name: str, now_ms: int, updated_at: str) -> Answer:
        """Carry out one admin action."""
        verb, _, noun = action.partition("_")
        section = SUBSYSTEMS.get(noun if noun.endswith("s") else noun + "s", "")
        if verb not in ("list", "add", "delete") or section not in ("routes", "vpns"):
            return Answer(
                self._error("", "UNKNOWN_ACTION", f"{action!r} is not an action of SY.config.routes")
            )
        if verb == "list":
            entries = [SECTIONS[section].plain(entry) for entry in getattr(self.state, section)]
            return Answer({"status": "ok", "config_version": self.state.version, section: entries})
        one = SECTIONS[section].one
        config = {one: payload}
        request = {"subsystem": section, "config": config, "action": "add" if verb == "add" else "remove"}
        answer = self.change(request, source_name, now_ms, updated_at)
        if answer.payload["status"] != "ok":
            return answer
        facts = {"status": "ok", "config_version": self.state.version, one: payload}
        return Answer(facts, answer.published, answer.warnings)
