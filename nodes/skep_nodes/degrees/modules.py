"""Modules: named texts in versions that never change, one folder each.

Owns `state/modules/<name>/<version>/` with `module.json`, `content` (the bytes that were published; their SHA-256 is
the module's hash) and `SHA256SUMS`. A version is published once; the same again is MODULE_EXISTS, also with the same
bytes, and says the hash that is there, so that a caller who missed the answer can compare.

A module is a text, or a tar that holds texts (`archive`); a tar of one single file is published as that file.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from skep.seal import MODULE_BYTES_MAX, MODULE_NAME, SEMVER, TEXT_MAX, ModuleRef, canonical
from skep_nodes.degrees import archive, shelf
from skep_nodes.degrees.refusal import DegreeRefusal
from skep_nodes.degrees.shelf import ShelfDamaged
from skep_nodes.sy.durable import Disk, StoreBroken

CATEGORIES = ("language", "technical", "tone", "compliance", "escalation", "persona")
MODULES_MAX = 4096
VERSIONS_MAX = 1024
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([^+]*))?")
_FACTS, _CONTENT = "module.json", "content"


@dataclass(frozen=True, slots=True)
class Module:
    """One published version."""

    name: str
    version: str
    category: str
    description: str
    form: str
    """`text` or `tar`."""
    hash: str
    text_hash: str
    size: int
    created_by: str
    created_at: str

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def ref(self) -> ModuleRef:
        return ModuleRef(self.name, self.version, self.hash, self.text_hash)

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody wants published."""

    name: str
    version: str
    content: bytes
    category: str
    description: str = ""
    form: str = "text"


class ModuleStore:
    """The folder of modules; one process writes it."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder, self._disk = folder, disk or Disk()
        self._broken = ""

    def names(self) -> list[str]:
        """Every module there is a version of."""
        found = (path.name for path in _folders(self._folder) if MODULE_NAME.fullmatch(path.name))
        return sorted(name for name in found if self.versions(name))

    def versions(self, name: str) -> list[str]:
        """A module's versions, oldest first; none for a name that nobody published."""
        home = self._folder / checked_name(name)
        return sorted((path.name for path in _folders(home) if SEMVER.fullmatch(path.name)), key=precedence)

    def get(self, name: str, version: str) -> tuple[Module, bytes]:
        """One version and its bytes. Raises DegreeRefusal NOT_FOUND, MODULE_DAMAGED."""
        place = self._folder / checked_name(name) / checked_version(version)
        try:
            files = shelf.take(place, MODULE_BYTES_MAX)
            module = Module(**orjson.loads(files[_FACTS]))
        except FileNotFoundError:
            raise DegreeRefusal("NOT_FOUND", f"no module {name} {version}; skep module show {name}") from None
        except (ShelfDamaged, KeyError, TypeError, ValueError) as error:
            raise DegreeRefusal("MODULE_DAMAGED", f"module {name} {version}: {error}") from error
        return module, files[_CONTENT]

    def text(self, name: str, version: str) -> tuple[Module, bytes]:
        """One version and its prompt text."""
        module, content = self.get(name, version)
        text = archive.text_of(archive.files_of(content)) if module.form == "tar" else content
        if sha256(text).hexdigest() != module.text_hash:
            raise DegreeRefusal("MODULE_DAMAGED", f"module {module.title}: its text is not the one of its hash")
        return module, text

    def publish(self, draft: Draft, by: str, at: str) -> Module:
        """Make one version durable. Raises DegreeRefusal."""
        module, content = judged(draft, by, at)
        self._check_room(module)
        files = {_FACTS: canonical(module.facts()), _CONTENT: content}
        place = self._folder / module.name / module.version
        try:
            shelf.put(self._disk, place, files)
        except FileExistsError:
            raise self._exists(module) from None
        except StoreBroken as error:
            self._broken = f"{error}; check the disk, then restart SY.registrar"
            raise
        return module

    def _check_room(self, module: Module) -> None:
        if self._broken:
            raise StoreBroken(self._broken)
        home = self._folder / module.name
        if not home.is_dir() and len(_folders(self._folder)) >= MODULES_MAX:
            raise DegreeRefusal("TABLE_FULL", f"{MODULES_MAX} modules at most; remove those no degree names")
        if len(_folders(home)) >= VERSIONS_MAX:
            raise DegreeRefusal("TABLE_FULL", f"{VERSIONS_MAX} versions of a module at most; choose a new name")

    def _exists(self, module: Module) -> DegreeRefusal:
        present, _ = self.get(module.name, module.version)
        return DegreeRefusal(
            "MODULE_EXISTS",
            f"{module.title} is published with hash {present.hash} and never changes; publish a newer version",
        )


def judged(draft: Draft, by: str, at: str) -> tuple[Module, bytes]:
    """The module and the bytes to keep. Raises DegreeRefusal."""
    checked_name(draft.name)
    checked_version(draft.version)
    if draft.category not in CATEGORIES:
        raise DegreeRefusal("INVALID_PAYLOAD", f"category {draft.category[:40]!r} is none of {', '.join(CATEGORIES)}")
    if len(draft.description) > TEXT_MAX:
        raise DegreeRefusal("INVALID_PAYLOAD", f"a description has at most {TEXT_MAX} characters")
    form, content, text = _content(draft)
    hashes = (sha256(content).hexdigest(), sha256(text).hexdigest())
    about = (draft.name, draft.version, draft.category, draft.description)
    return Module(*about, form, *hashes, len(content), by, at), content


def _content(draft: Draft) -> tuple[str, bytes, bytes]:
    """Form, bytes to keep and prompt text."""
    if draft.form not in ("text", "tar"):
        raise DegreeRefusal("INVALID_PAYLOAD", f"form {draft.form[:40]!r} is neither text nor tar")
    if len(draft.content) > MODULE_BYTES_MAX:
        raise DegreeRefusal("MODULE_TOO_LARGE",
                            f"{len(draft.content)} bytes, {MODULE_BYTES_MAX} at most; cut it in two")  # fmt: skip
    if draft.form == "tar":
        files = archive.files_of(draft.content)
        if len(files) > 1:
            return "tar", draft.content, archive.text_of(files)
        return _content(replace(draft, form="text", content=next(iter(files.values()))))
    try:
        empty = not draft.content.decode().strip()
    except UnicodeDecodeError:
        raise DegreeRefusal("INVALID_PAYLOAD", "the text is not UTF-8; save it as such, or publish a tar") from None
    if empty:
        raise DegreeRefusal("INVALID_PAYLOAD", "the text is empty")
    return "text", draft.content, draft.content


def checked_name(name: str) -> str:
    """The name of a module, without its `module:`. Raises DegreeRefusal INVALID_NAME."""
    if not MODULE_NAME.fullmatch(name):
        raise DegreeRefusal(
            "INVALID_NAME", f"{name[:80]!r} is no module: letters, digits, '.', '_' and '-', at most 64, no '..'"
        )
    return name


def checked_version(version: str) -> str:
    """A version in the form of semver.org. Raises DegreeRefusal INVALID_VERSION."""
    if not SEMVER.fullmatch(version):
        raise DegreeRefusal("INVALID_VERSION", f"{version[:80]!r} is no version such as 1.0.0 or 1.1.0-rc.1")
    return version


def precedence(version: str) -> tuple[object, ...]:
    """Sorts versions as semver.org does: 1.0.0-rc.2 before 1.0.0-rc.10 before 1.0.0."""
    found = _NUMBERS.match(version)
    assert found is not None, version
    numbers = tuple(map(int, found.group(1, 2, 3)))
    if not found[4]:
        return (*numbers, 1, (), version)
    return (*numbers, 0, tuple(map(_identifier, found[4].split("."))), version)


def _identifier(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except FileNotFoundError:
        return []
