"""Degrees: an ordered composition of module versions and the capabilities they grant, in versions that never change.

Owns `state/degrees/<uuid>/<version>/degree.json` (and `SHA256SUMS`). A degree has one id for ever and versions 1, 2,
3…; its name is what people call it, so creating a degree of a known name makes that degree's next version. The same
composition as the newest version makes nothing and is answered with that version: a repeated request is harmless.
A damaged version is named and not used, and its number is not given again.

A degree pins the hashes of its modules. A newer version of a module changes no degree, and agents stay on the version
they graduated with.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from skep.errors import DegreeError
from skep.protocol.message import format_uuid
from skep.seal import (
    CAPABILITIES_MAX,
    DOCUMENT_BYTES_MAX,
    MODULES_MAX,
    PROMPT_BYTES_MAX,
    TEXT_MAX,
    Degree,
    canonical,
    degree_facts,
    read_degree,
)
from skep_nodes.degrees import shelf
from skep_nodes.degrees.modules import ModuleStore
from skep_nodes.degrees.refusal import DegreeRefusal
from skep_nodes.degrees.shelf import ShelfDamaged
from skep_nodes.sy.durable import Disk, StoreBroken

DEGREES_MAX = 1024
VERSIONS_MAX = 1024
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_CAPABILITY = re.compile(r"[a-z0-9_]{1,64}")  # a tag, as identity and the policy have them
_FILE = "degree.json"


@dataclass(frozen=True, slots=True)
class Composition:
    """What somebody wants a degree to be. Modules as (name, version), in order."""

    name: str
    modules: tuple[tuple[str, str], ...]
    capabilities: tuple[str, ...] = ()
    description: str = ""


class DegreeStore:
    """The folder of degrees; one process writes it. All degrees are in memory: they are few and small."""

    def __init__(
        self, folder: Path, modules: ModuleStore, new_id: Callable[[], bytes], disk: Disk | None = None
    ) -> None:
        self._folder, self._modules, self._disk = folder, modules, disk or Disk()
        self._new_id = new_id
        self._versions: dict[str, list[Degree]] = {}
        self._highest: dict[str, int] = {}
        self.damaged: list[str] = []
        self._broken = ""

    def load(self) -> None:
        """Read everything; what is damaged is named in `damaged` and not there."""
        for home in sorted(self._folder.glob("*-*-*-*-*")):
            for place in sorted(home.glob("[0-9]*"), key=lambda path: (len(path.name), path.name)):
                self._load(place)

    def _load(self, place: Path) -> None:
        degree_id = f"degree:{place.parent.name}"
        if place.name.isdecimal():
            self._highest[degree_id] = max(int(place.name), self._highest.get(degree_id, 0))
        try:
            degree = read_degree(shelf.take(place, DOCUMENT_BYTES_MAX)[_FILE])
        except (ShelfDamaged, DegreeError, KeyError, OSError) as error:
            self.damaged.append(f"{place}: {error}")
            return
        if degree.title == f"{degree_id}/{place.name}":
            self._versions.setdefault(degree.id, []).append(degree)
        else:
            self.damaged.append(f"{place}: holds {degree.title}")

    def all(self) -> list[Degree]:
        """Every version of every degree, by name and version."""
        found = [degree for versions in self._versions.values() for degree in versions]
        return sorted(found, key=lambda degree: (degree.name, degree.version))

    def get(self, name: str, version: int = 0) -> Degree:
        """One version, by id or name; version 0 is the newest. Raises DegreeRefusal NOT_FOUND."""
        versions = self._versions.get(self._id_of(name), [])
        found = [degree for degree in versions if degree.version == version] if version else versions
        if not found:
            wanted = f"{name[:80]} version {version}" if version else name[:80]
            raise DegreeRefusal("NOT_FOUND", f"no degree {wanted}; skep degree ls")
        return found[-1]

    def create(self, wanted: Composition, by: str, at: str) -> tuple[Degree, bool]:
        """The next version of the degree of this name, durable; and whether it was made. Raises DegreeRefusal."""
        degree = self._composed(wanted, by, at)
        newest = self._versions.get(degree.id, [])[-1:]
        if newest and degree == replace(newest[0], version=degree.version, created_by=by, created_at=at):
            return newest[0], False
        self._put(degree)
        return degree, True

    def texts(self, degree: Degree) -> dict[str, bytes]:
        """The texts of a degree's modules, by title. Raises DegreeRefusal when a module is not what was composed."""
        found = {}
        for ref in degree.modules:
            module, found[ref.title] = self._modules.text(ref.name, ref.version)
            if module.ref != ref:
                raise DegreeRefusal("MODULE_DAMAGED", f"{ref.title} is not the module that {degree.title} was made of")
        return found

    def _composed(self, wanted: Composition, by: str, at: str) -> Degree:
        _check(wanted)
        modules = [self._modules.text(name, version) for name, version in wanted.modules]
        if sum(len(text) for _, text in modules) > PROMPT_BYTES_MAX:
            raise DegreeRefusal("DEGREE_TOO_LARGE", f"its texts have more than {PROMPT_BYTES_MAX} bytes together")
        degree_id = self._id_of(wanted.name) or f"degree:{format_uuid(self._new_id())}"
        return Degree(
            degree_id, self._highest.get(degree_id, 0) + 1, wanted.name, wanted.description,
            tuple(module.ref for module, _ in modules), wanted.capabilities, by, at,
        )  # fmt: skip

    def _put(self, degree: Degree) -> None:
        if self._broken:
            raise StoreBroken(self._broken)
        if degree.version > VERSIONS_MAX or (degree.version == 1 and len(self._highest) >= DEGREES_MAX):
            raise DegreeRefusal("TABLE_FULL", f"at most {DEGREES_MAX} degrees of {VERSIONS_MAX} versions each")
        place = self._folder / degree.id.removeprefix("degree:") / str(degree.version)
        try:
            shelf.put(self._disk, place, {_FILE: canonical(degree_facts(degree))})
        except StoreBroken as error:
            self._broken = f"{error}; check the disk, then restart SY.registrar"
            raise
        self._versions.setdefault(degree.id, []).append(degree)
        self._highest[degree.id] = degree.version

    def _id_of(self, name: str) -> str:
        """The id of a name or an id; empty for what is unknown."""
        if name in self._versions:
            return name
        return next((key for key, versions in self._versions.items() if versions[0].name == name), "")


def _check(wanted: Composition) -> None:
    if not _NAME.fullmatch(wanted.name):
        raise DegreeRefusal("INVALID_NAME",
                            f"{wanted.name[:70]!r} is no name of a degree: at most 64 plain characters")  # fmt: skip
    if not 0 < len(wanted.modules) <= MODULES_MAX:
        raise DegreeRefusal("INVALID_PAYLOAD", f"a degree has 1 to {MODULES_MAX} modules")
    if len(set(wanted.modules)) != len(wanted.modules):
        raise DegreeRefusal("INVALID_PAYLOAD", "a module is named twice")
    if len(set(wanted.capabilities)) != len(wanted.capabilities) or len(wanted.capabilities) > CAPABILITIES_MAX:
        raise DegreeRefusal("INVALID_PAYLOAD", f"at most {CAPABILITIES_MAX} capabilities, each once")
    wrong = next((each for each in wanted.capabilities if not _CAPABILITY.fullmatch(each)), None)
    if wrong is not None:
        raise DegreeRefusal("INVALID_PAYLOAD", f"{wrong[:80]!r} is no capability: 1 to 64 of a-z, 0-9 and _")
    if len(wanted.description) > TEXT_MAX:
        raise DegreeRefusal("INVALID_PAYLOAD", f"a description has at most {TEXT_MAX} characters")
