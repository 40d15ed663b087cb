"""The hive's folder: making it, and finding it for a command.

A folder is complete when its hive.yaml is there, which is therefore written last. Making one that exists changes
nothing. Its path must leave room for a socket's name: a Unix socket's path has at most 107 bytes, and a router
that cannot listen is a poor way to learn that.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from skep.hive import Hive, default_root, find_hive
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.hive_file import FILE_NAME

SOCKET_PATH_BYTES_MAX = 107
_HIVE_ID = re.compile(r"[A-Za-z0-9_-]{1,50}")  # what every node accepts in hive.yaml
_SOCKET_BYTES = len("/run/routers/") + 32 + len(".sock")
_OPEN = {"": 0o755, "run": 0o755, "run/routers": 0o755}  # other uids connect here; grants decide who may
_PRIVATE = ("state", "state/nodes", "config", "logs", "run/nodes")


def init_command(root: Path | None, hive_id: str) -> int:
    """`skep init`."""
    import sys

    made, hive = make_hive(wanted_root(root), hive_id)
    print(f"{'made' if made else 'exists already:'} hive {hive.hive_id} in {hive.root}", file=sys.stderr)
    print(hive.root)
    return Exit.OK


def wanted_root(root: Path | None) -> Path:
    """Where `skep init` and `skep up` make a hive: the flag, SKEP_HIVE, else the default."""
    named = root or os.environ.get("SKEP_HIVE")
    return Path(named) if named else default_root()


def make_hive(root: Path, hive_id: str = "") -> tuple[bool, Hive]:
    """Make the folder unless it is one already; whether it was made, and the hive. Raises Failure."""
    root = root.expanduser().resolve()
    _check_length(root)
    hive_id = checked_id(hive_id or default_id())
    made = not (root / FILE_NAME).exists()
    for part, mode in _OPEN.items():
        (root / part).mkdir(mode=mode, parents=True, exist_ok=True)
    for part in _PRIVATE:
        (root / part).mkdir(mode=0o700, exist_ok=True)
    if made:
        _make_key(root)
        _write_hive_file(root, hive_id)
    return made, find_hive(root)


def _make_key(root: Path) -> None:
    """The key with which the hive signs what it vouches for. SY.opa.rules makes it too, in a folder made by hand."""
    from skep.protocol.errors import PolicyError
    from skep_policy.authority import Authority

    try:
        Authority.load_or_create(root)
    except PolicyError as error:
        raise Failure(error.code, "the hive's key cannot be used", why=error.detail,
                      then="docs/policy-life.md says what each of these means") from error  # fmt: skip


def checked_id(hive_id: str) -> str:
    """The hive id, if it is one."""
    if not _HIVE_ID.fullmatch(hive_id):
        raise Failure("INVALID_NAME", f"{hive_id!r} is no hive id", why="letters, digits, _ and -, at most 50",
                      exit_code=Exit.USAGE)  # fmt: skip
    return hive_id


def default_id() -> str:
    """This host's name, as far as it can be a hive id."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:50].strip("-_")
    return name or "hive"


def _check_length(root: Path) -> None:
    size = len(os.fsencode(root)) + _SOCKET_BYTES
    if size > SOCKET_PATH_BYTES_MAX:
        raise Failure(
            "PATH_TOO_LONG", f"{root} is {size - SOCKET_PATH_BYTES_MAX} bytes too long for a hive",
            why=f"a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes",
            then="choose a shorter folder, such as ~/hive", exit_code=Exit.USAGE,
        )  # fmt: skip


def _write_hive_file(root: Path, hive_id: str) -> None:
    text = (
        f"# Settings of this hive; docs/configuration.md explains each.\n"
        f"hive_id: {hive_id}\n"
        "# Nodes that `skep up` starts, for example:\n"
        "# nodes:\n"
        "# - name: AI.desk\n"
        "#   module: skep_nodes.ai.desk\n"
    )
    new = root / (FILE_NAME + ".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(root / FILE_NAME)
