"""The folders that agents read: one per agent, made from the stores, swapped in one step.

Owns `state/degrees/agents/<node>`, a link to `.<node>/<serial>/`, which has what `skep.degree` reads. A new graduation
writes its folder beside the old one and moves the link: an agent that reads at that moment has all files of the one or
all of the other. The folder before stays, for whoever is reading it; older ones are removed.

A folder is never repaired here when its text was changed: that is a broken seal, and somebody has to look. What is made
again is a folder that is missing, a link that a crash left behind and, at a start, a damaged `seal.json`: it is no text
of anybody's but a copy of what the registrar's own history says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from skep.degree import AGENTS, DEGREE_FILE, MODULES, SEAL_FILE
from skep.protocol.names import base_of
from skep.seal import Degree, Seal, canonical, degree_facts, seal_facts
from skep_nodes.degrees import shelf
from skep_nodes.sy.durable import Disk, StoreBroken, replace_file

KEPT = 2


class Carried:
    """The folders of one hive."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._folder, self._disk = root / AGENTS, disk

    def path(self, handler: str) -> Path:
        """Where the node of this name finds its degree."""
        return self._folder / base_of(handler)

    def holds(self, seal: Seal) -> bool:
        """Whether the agent's link leads to this graduation's folder, and that is there."""
        link = self.path(seal.handler)
        return link.is_symlink() and Path(os.readlink(link)) == self._inner(seal) and link.is_dir()

    def put(self, degree: Degree, seal: Seal, texts: Mapping[str, bytes]) -> None:
        """Write the folder of one graduation; nobody sees it yet. Raises OSError, StoreBroken."""
        files = {DEGREE_FILE: canonical(degree_facts(degree)), SEAL_FILE: canonical(seal_facts(seal))}
        files |= {f"{MODULES}/{module.file_name}": texts[module.title] for module in degree.modules}
        target = self._folder / self._inner(seal)
        if not target.is_dir():
            shelf.put(self._disk, target, files)

    def point(self, seal: Seal) -> None:
        """Let the agent's link lead to this graduation. Raises OSError, StoreBroken."""
        link = self.path(seal.handler)
        fresh = link.with_name(f".{link.name}+link")  # no node's name has a plus sign
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self._inner(seal))
        self._disk.rename(fresh, link)
        try:
            self._disk.fsync_folder(self._folder)
        except OSError as error:
            raise StoreBroken(f"{self._folder.name} could not be synced: {error.strerror}") from error
        self._forget_old(seal)

    def mend(self, seal: Seal) -> bool:
        """Put the seal's file back as the history has it; whether that was needed. Raises OSError, StoreBroken."""
        path, whole = self._folder / self._inner(seal) / SEAL_FILE, canonical(seal_facts(seal))
        if not path.parent.is_dir() or _content(path) == whole:
            return False
        replace_file(self._disk, path, whole)
        return True

    def has(self, seal: Seal) -> bool:
        """Whether the folder of this graduation is written."""
        return (self._folder / self._inner(seal)).is_dir()

    def _inner(self, seal: Seal) -> Path:
        return Path(f".{base_of(seal.handler)}", seal.serial.removeprefix("seal:"))

    def _forget_old(self, seal: Seal) -> None:
        """All but the newest, which is this one, and the one before it."""
        home = (self._folder / self._inner(seal)).parent
        old = [path for path in home.iterdir() if path.name != self._inner(seal).name]
        for path in sorted(old, key=lambda each: each.lstat().st_mtime_ns)[: 1 - KEPT]:
            shelf.discard(path)


def _content(path: Path) -> bytes | None:
    """What is in a file; None for a link or what cannot be read."""
    try:
        return None if path.is_symlink() else path.read_bytes()
    except OSError:
        return None
