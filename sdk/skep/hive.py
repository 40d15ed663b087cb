"""Where the hive is: one root folder, found the same way by every node, tool and test.

Order: what the caller names > `SKEP_HIVE` > the user's context file > the XDG default (for root: /var/lib/skep).
A hive is a folder with a `hive.yaml` in it; only `hive_id` is read here, by a line match, because a node author's
install carries no YAML parser. Nothing is created: making a hive is the `skep` command's work.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from skep.errors import HiveError

HIVE_FILE = "hive.yaml"
_HIVE_ID = re.compile(r"""^hive_id\s*:\s*(["']?)([A-Za-z0-9_-]{1,50})\1\s*(?:#.*)?$""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Hive:
    """One hive on this host: its id and where its files are."""

    root: Path
    hive_id: str

    @property
    def sockets_dir(self) -> Path:
        return self.root / "run" / "routers"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def config_dir(self) -> Path:
        return self.root / "config"

    @property
    def logs_dir(self) -> Path:
        return self.root / "logs"


def find_hive(explicit: str | Path | None = None) -> Hive:
    """The hive to use. Raises HiveError naming every place that was looked at."""
    places = [Path(explicit)] if explicit else _places()
    for root in places:
        if (root / HIVE_FILE).is_file():
            return Hive(root.resolve(), read_hive_id(root / HIVE_FILE))
    looked = ", ".join(str(place) for place in places)
    raise HiveError(f"no hive found: no {HIVE_FILE} in {looked}. Start one with: skep up --hive FOLDER")


def default_root() -> Path:
    """Where `skep up` makes a hive when nothing says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/skep")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "skep"


def read_hive_id(path: Path) -> str:
    """The hive id stated in `path`. Raises HiveError when there is none or it is not a name."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HiveError(f"cannot read {path}: {error}. Check its owner and mode") from error
    found = _HIVE_ID.search(text)
    if found is None:
        raise HiveError(f"{path} has no usable line 'hive_id: NAME' (letters, digits, _ and -, at most 50)")
    return found.group(2)


def _places() -> list[Path]:
    named = os.environ.get("SKEP_HIVE")
    if named:
        return [Path(named)]
    context = _context_root()
    if context is not None:
        return [context]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [*([Path(runtime) / "skep"] if runtime else []), default_root()]


def _context_root() -> Path | None:
    """The root in the user's context file (one line), or None without one."""
    config = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(config) if config else Path.home() / ".config") / "skep" / "context"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Path(text) if text else None
