"""A node's configuration on disk: what was set at run time, what its launcher wrote, and its secrets.

    <hive>/state/nodes/<KIND>/<full name>/   0700
        config.json    written by the launcher, with the `_system` block; only read here
        state.json     the configuration set at run time, 0600
        secrets.json   values that are never shown, 0600

What was set at run time wins over the launcher's; the `_system` block always comes from the launcher.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from skep.contract import PERSIST, SYSTEM
from skep.errors import ConfigError
from skep.files import write_atomic
from skep.hive import Hive


@dataclass(slots=True)
class Stored:
    """What the files say. `version` 0: nothing was set at run time."""

    version: int = 0
    config: dict[str, Any] | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    system: dict[str, Any] | None = None


class ConfigStore:
    """The files of one node."""

    def __init__(self, hive: Hive, full_name: str) -> None:
        self.folder: Path = hive.state_dir / "nodes" / full_name.split(".")[0] / full_name

    def load(self) -> Stored:
        """Raises ConfigError when a file is there and cannot be read."""
        launched = self._read("config.json") or {}
        state = self._read("state.json")
        secrets = (self._read("secrets.json") or {}).get("secrets", {})
        system = launched.pop(SYSTEM, None)
        if state is not None:
            return Stored(int(state.get("config_version", 0)), state.get("config"), secrets, system)
        return Stored(0, launched or None, secrets, system)

    def save(self, version: int, schema_version: int, config: dict[str, Any]) -> None:
        """Raises ConfigError config_persist_error; the old file then still stands."""
        document = {"schema_version": schema_version, "config_version": version, "config": config}
        self._write("state.json", document)

    def forget(self) -> None:
        """Takes back what was set at run time."""
        (self.folder / "state.json").unlink(missing_ok=True)

    def save_secrets(self, secrets: dict[str, str], *, by: str, ilk: str, trace_id: str) -> None:
        from datetime import UTC, datetime  # only a node that is given secrets needs it

        document = {
            "schema_version": 1,
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "updated_by_ilk": ilk or None,
            "updated_by_label": by,
            "trace_id": trace_id,
            "secrets": secrets,
        }
        self._write("secrets.json", document)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            value = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigError(PERSIST, f"cannot read {path}: {error}") from error
        if not isinstance(value, dict):
            raise ConfigError(PERSIST, f"{path} is not a JSON object")
        return value

    def _write(self, name: str, document: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            write_atomic(self.folder / name, orjson.dumps(document, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise ConfigError(PERSIST, f"cannot write {self.folder / name}: {error}") from error
