"""Names of uuids: what a native receiver needs, because native frames carry the source as a uuid only.

Asks the node tables that routers keep in shared memory and remembers answers until a table changes. Shared memory is
loaded at the first question, so a node that never asks never maps anything. A node without access to the tables, or a
JSON one, still knows the names that its frames carried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from skep.protocol.message import format_uuid

if TYPE_CHECKING:
    from skep_shm import NodesReader

NAMES_MAX: Final = 16384
ATTACH_EVERY: Final = 64  # unknown names between two looks for routers that came later


class Directory:
    """uuid → name, from told names and from the node tables under `root`."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._told: dict[bytes, str] = {}
        self._found: dict[bytes, str] = {}
        self._readers: list[NodesReader] = []
        self._revisions: tuple[int, ...] = ()
        self._misses = 0

    def tell(self, uuid: bytes, name: str) -> None:
        """A frame or a handshake said who this is."""
        if len(self._told) >= NAMES_MAX:
            self._told.clear()
        self._told[uuid] = name

    def name_of(self, uuid: bytes) -> str:
        """The node's full name, or its uuid as text when nobody knows it (any more)."""
        if self._root is not None:
            found = self._look(uuid)
            if found is not None:
                return found
        return self._told.get(uuid) or format_uuid(uuid)

    def _look(self, uuid: bytes) -> str | None:
        revisions = tuple(reader.revision for reader in self._readers)
        if revisions != self._revisions:
            self._revisions = revisions
            self._found.clear()
        name = self._found.get(uuid)
        if name is None:
            name = self._search(uuid)
            if name is not None and len(self._found) < NAMES_MAX:
                self._found[uuid] = name
        return name

    def _search(self, uuid: bytes) -> str | None:
        if self._misses % ATTACH_EVERY == 0:
            self._attach()
        for reader in self._readers:
            record = reader.find(uuid)
            if record is not None:
                return record.name
        self._misses += 1
        return None

    def _attach(self) -> None:
        from skep_shm import RegionError, nodes_readers

        assert self._root is not None
        self.close()
        try:
            self._readers = list(nodes_readers(self._root))
        except RegionError:
            self._readers = []  # no router of this hive runs: the told names are all there is

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = []
