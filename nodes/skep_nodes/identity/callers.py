"""Who asks SY.identity, as the routers' node tables prove it, and what that node may do with channels.

A caller is remembered for as long as no table changed, so a question costs nothing after the first. What may be done
with channels comes from the configuration's grants, by the rules that routers apply: without a grant of its own a
channel node of the hive's own account may use every kind and tenant; a node of another account has what its grants
name and nothing else. Grants are read here and owned by SY.config.routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skep.protocol.names import base_of, glob_match, kind_of
from skep_nodes.identity.ids import NONE
from skep_nodes.sy.standing import Sender, Standing, sender_of
from skep_shm import ConfigReader, Grant, IlkMode, NodesReader, RegionError, nodes_readers

CALLERS_MAX: Final = 4096  # remembered; far above the nodes that ask anything


@dataclass(frozen=True, slots=True)
class Caller:
    """A node that asks: its proven full name, whether it is of the system or the hive's own account, its grants."""

    name: str
    standing: Standing = Standing.UNKNOWN
    grants: tuple[Grant, ...] = ()

    @property
    def proven(self) -> bool:
        return bool(self.name) and self.standing is not Standing.UNKNOWN

    @property
    def trusted(self) -> bool:
        return bool(self.name) and self.standing in (Standing.SYSTEM, Standing.OWN)

    @property
    def base(self) -> str:
        return base_of(self.name)

    @property
    def tenant(self) -> bytes:
        """The tenant that the narrowest grant names; NONE for a neutral node."""
        named = [(len(g.pattern) - g.pattern.count("*"), g.tenant) for g in self.grants if g.tenant != NONE]
        return max(named, default=(0, NONE))[1]

    def may_use(self, kind: str) -> bool:
        """Whether it may speak for owners of channels of this kind."""
        if kind_of(self.name) != "IO":
            return self.standing is Standing.SYSTEM
        if not self.grants:
            return self.trusted
        open_kinds = [grant.channel_kinds for grant in self.grants if grant.ilk_mode == IlkMode.ANY]
        return any(not kinds or kind in _kinds(kinds) for kinds in open_kinds)


NOBODY: Final = Caller("")


class Callers:
    """Source uuid → Caller, from the regions of one hive."""

    def __init__(self, root: Path, find: Callable[[Path, bytes], Sender] = sender_of) -> None:
        self._root, self._find = root, find
        self._readers: list[NodesReader] = []
        self._config: ConfigReader | None = None
        self._state: tuple[object, ...] = ()
        self._known: dict[bytes, Caller] = {}

    def of(self, uuid: bytes) -> Caller:
        """Who sent a message whose source, vouched for by the router, is `uuid`."""
        state = self._revisions()
        if state != self._state or not state or len(self._known) >= CALLERS_MAX:
            self._known.clear()
            self._state = state
        caller = self._known.get(uuid)
        if caller is None:
            caller = self._look(uuid)
            if caller.proven:
                self._known[uuid] = caller
        return caller

    def _look(self, uuid: bytes) -> Caller:
        sender = self._find(self._root, uuid)
        if not sender.name:
            return NOBODY
        return Caller(sender.name, sender.standing, self._grants(sender))

    def _grants(self, sender: Sender) -> tuple[Grant, ...]:
        if self._config is None:
            return ()
        return tuple(covering(self._config.read().grants, sender.uid, sender.name))

    def _revisions(self) -> tuple[object, ...]:
        """What the answers depend on; empty when a region has to be attached anew."""
        try:
            if not self._readers:
                self._attach()
            config = self._config.revision if self._config else 0
            return (*(reader.revision for reader in self._readers), config)
        except RegionError:
            self.close()
            return ()

    def _attach(self) -> None:
        self._readers = list(nodes_readers(self._root))
        try:
            self._config = ConfigReader.attach(self._root)
        except RegionError:
            self._config = None

    def close(self) -> None:
        """Let go of the regions."""
        for reader in self._readers:
            reader.close()
        if self._config is not None:
            self._config.close()
        self._readers, self._config = [], None


def covering(grants: Iterable[Grant], uid: int, name: str) -> Iterable[Grant]:
    """The grants of a uid whose pattern covers this name."""
    for grant in grants:
        if grant.uid == uid and glob_match(grant.pattern, name if "@" in grant.pattern else base_of(name)):
            yield grant


def _kinds(text: str) -> set[str]:
    return {kind.strip() for kind in text.split(",")}
