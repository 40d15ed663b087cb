"""The configuration on disk: one YAML file people can read, sealed by a checksum, with a second copy.

Owns `config/sy-config-routes.yaml` and `….bak`. The first line is `# skep-config/1 sha256:<hex of the rest>`. A
file whose checksum does not fit is damaged and never used; a file without that line was written by hand and is
used when it is valid. The copy is written after the file itself, so a change that was refused never sits in the
copy.

Rejected: a copy of the *previous* version (damage to the file would then silently undo the last acknowledged
change).
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

from skep_nodes.sy.config_document import ConfigInvalid, plain, state_from
from skep_nodes.sy.durable import Disk, StoreBroken, replace_file
from skep_shm import ConfigState

FILE_NAME = "sy-config-routes.yaml"
FILE_BYTES_MAX = 8 << 20  # far above what the entry bounds allow; keeps a wrong file from filling memory
_SEAL = re.compile(rb"# skep-config/1 sha256:([0-9a-f]{64})\n")


class ConfigDamaged(Exception):
    """A configuration file that must not be used, and why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What start-up found: the state (None on a first start) and what an operator must be told."""

    state: ConfigState | None
    warnings: tuple[str, ...]


class ConfigStore:
    """Loads and saves the document; after one failed fsync it refuses every further save."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.path = folder / FILE_NAME
        self.backup = folder / (FILE_NAME + ".bak")
        self._disk = disk or Disk()
        self._broken = ""

    def load(self) -> Loaded:
        """Read the file, else the copy, else nothing. Raises ConfigDamaged when neither can be used."""
        if not self.path.exists() and not self.backup.exists():
            return Loaded(None, ())
        try:
            return Loaded(read_sealed(self.path), ())
        except (ConfigDamaged, OSError) as error:
            return self._load_backup(f"{self.path}: {error}")

    def _load_backup(self, problem: str) -> Loaded:
        try:
            state = read_sealed(self.backup)
        except (ConfigDamaged, OSError) as error:
            raise ConfigDamaged(
                f"{problem}; and the copy cannot be used either: {self.backup}: {error}"
            ) from error
        return Loaded(state, (f"{problem}; using the copy {self.backup.name}, version {state.version}",))

    def save(self, state: ConfigState, updated_at: str) -> tuple[str, ...]:
        """Make `state` durable, or raise OSError or StoreBroken with the old file in place.

        Returns warnings: the second copy is best effort, because the change itself is already safe.
        """
        if self._broken:
            raise StoreBroken(self._broken)
        data = sealed(state, updated_at)
        try:
            replace_file(self._disk, self.path, data)
        except StoreBroken as error:
            self._broken = f"{error}; restart SY.config.routes after checking the disk"
            raise
        return self._save_backup(data)

    def _save_backup(self, data: bytes) -> tuple[str, ...]:
        try:
            replace_file(self._disk, self.backup, data)
        except (OSError, StoreBroken) as error:
            return (f"{self.backup}: the second copy could not be written: {error}",)
        return ()


def sealed(state: ConfigState, updated_at: str) -> bytes:
    """The file's bytes: checksum line, then YAML."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    document = plain(state)
    yaml.dump({"version": document.pop("version"), "updated_at": updated_at, **document}, stream)
    body = (
        "# Written by SY.config.routes. Change it with `skep route|vpn|grant`. To edit it by hand, stop the hive\n"
        "# and delete the first line, which is a checksum.\n" + stream.getvalue()
    ).encode()
    return b"# skep-config/1 sha256:%s\n" % hashlib.sha256(body).hexdigest().encode() + body


def read_sealed(path: Path) -> ConfigState:
    """Read and check one file. Raises ConfigDamaged, OSError."""
    data = path.read_bytes()
    if len(data) > FILE_BYTES_MAX:
        raise ConfigDamaged(f"{len(data)} bytes, {FILE_BYTES_MAX} at most")
    seal = _SEAL.match(data)
    if seal is None and data.startswith(b"# skep-config"):
        raise ConfigDamaged("its first line is damaged; delete that line if you edited the file by hand")
    body = data[seal.end() :] if seal else data
    if seal and hashlib.sha256(body).hexdigest().encode() != seal[1]:
        raise ConfigDamaged(
            "the checksum does not fit; if you edited the file by hand, delete its first line"
        )
    return _parse(body)


def _parse(body: bytes) -> ConfigState:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(body.decode())
        return state_from(document)
    except (YAMLError, UnicodeDecodeError, ConfigInvalid) as error:
        raise ConfigDamaged(" ".join(str(error).split())) from error
