"""The shelf on disk: one small file that says which bundle lies where, and bundles that are named by their hash.

::

    state/opa/shelf.json, shelf.json.bak     `# skep-opa/1 sha256:<hex of the rest>`, then {counter, current, staged, …}
    state/opa/bundles/<sha256>.bundle        the signed bundles that the shelf names
    state/opa/{current,staged,backup}/       policy.rego, policy.wasm, metadata.json, bundle: for people, and for tools
                                             that know upstream's folders

A change writes new bundles, then replaces the shelf file: that rename is the change. A crash before it leaves the old
shelf and a bundle that nobody names; a crash after it leaves folders that show the old state, which the next start
puts right. The folders' `bundle` is a second copy, and serves when the first is damaged; nothing else in them is read.

A bundle whose hash does not fit its name is set aside as `.damaged` and named. With both shelf files damaged, the
folders are asked; the signatures still say what each bundle is.

Rejected: four files per slot as the truth and renames of folders (several renames are several moments to crash in).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skep.protocol.errors import PolicyError
from skep_nodes.sy.durable import Disk, StoreBroken, replace_file, write_all
from skep_nodes.sy.opa_shelf import SLOTS, Entry, Shelf, entry_of
from skep_policy.bundle import BUNDLE_BYTES_MAX, VERSION_MAX, Bundle

SHELF: Final = "shelf.json"
SHELF_BYTES_MAX: Final = 4096
_SEAL: Final = re.compile(rb"# skep-opa/1 sha256:([0-9a-f]{64})\n")
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER_FILES: Final = ("policy.rego", "policy.wasm", "metadata.json", "bundle")

Open = Callable[[bytes], Bundle]


class ShelfDamaged(Exception):
    """A shelf file that must not be used, and why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What start-up found: the shelf (None on a first start), and what an operator must be told.

    `lost`: a bundle that the shelf names cannot be used; the files stay as they are until the next change.
    """

    shelf: Shelf | None
    warnings: tuple[str, ...] = ()
    lost: bool = False


class OpaStore:
    """Loads and saves the shelf; after one failed fsync it refuses every further save."""

    def __init__(self, folder: Path, open_one: Open, disk: Disk | None = None) -> None:
        self.folder = folder
        self.bundles = folder / "bundles"
        self._open = open_one
        self._disk = disk or Disk()
        self._broken = ""

    # -- reading -----------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """The shelf with every bundle verified; what cannot be used is named and left out. Raises OSError."""
        path, copy = self.folder / SHELF, self.folder / (SHELF + ".bak")
        warnings: list[str] = []
        for file in (path, copy):
            if not file.exists():
                continue
            try:
                stated = read_shelf(file)
            except ShelfDamaged as damage:
                warnings.append(f"{file.name}: {damage}")
                continue
            shelf = self._filled(stated, warnings)
            lost = any(stated[slot] is not None and getattr(shelf, slot) is None for slot in SLOTS)
            return Loaded(shelf, tuple(warnings), lost)
        if not warnings:
            return Loaded(None)
        return self._from_folders(warnings)

    def _filled(self, stated: dict[str, Any], warnings: list[str]) -> Shelf:
        entries = {slot: self._entry(slot, stated[slot], warnings) for slot in SLOTS}
        return Shelf(stated["counter"], **entries)

    def _entry(self, slot: str, name: str | None, warnings: list[str]) -> Entry | None:
        """The bundle of one slot, from its file or from the folder's copy."""
        if name is None:
            return None
        found = None
        for path in (self._file(name), self.folder / slot / "bundle"):
            found = found or self._read(path, name, warnings)
        if found is None:
            warnings.append(f"the {slot} policy is lost: no copy of it can be used")
        return found

    def _read(self, path: Path, name: str, warnings: list[str]) -> Entry | None:
        """One file, if it is what its name says and signed; else it is set aside and named."""
        shown = path.relative_to(self.folder)
        try:
            data = _read_bounded(path, BUNDLE_BYTES_MAX)
            if hashlib.sha256(data).hexdigest() == name:
                return entry_of(self._open(data), data)
        except OSError as error:
            warnings.append(f"{shown}: {error.strerror}")
            return None
        except PolicyError as error:
            warnings.append(f"{shown}: {error}")
            return None
        warnings.append(f"{shown} does not hold what was written; set aside as {path.name}.damaged")
        with suppress(OSError):
            path.rename(path.with_name(path.name + ".damaged"))
        return None

    def _from_folders(self, warnings: list[str]) -> Loaded:
        """What the folders show. The newest number that any bundle has is the counter's least value."""
        entries: dict[str, Entry] = {}
        newest = 0
        for slot, data in self._shown_bundles():
            try:
                entry = entry_of(self._open(data), data)
            except PolicyError as error:
                warnings.append(f"{slot}: {error}")
                continue
            newest = max(newest, entry.version)
            if slot in SLOTS:
                entries[slot] = entry
        warnings.append(f"both copies of {SHELF} are damaged; recovered {', '.join(entries) or 'nothing'}")
        return Loaded(Shelf(newest, **entries), tuple(warnings), lost=True)

    def _shown_bundles(self) -> Iterator[tuple[str, bytes]]:
        """(slot, bytes) of the folders' copies, then (file, bytes) of the bundles."""
        paths = [(slot, self.folder / slot / "bundle") for slot in SLOTS]
        paths += [(path.name, path) for path in sorted(self.bundles.glob("*.bundle"))[: 4 * len(SLOTS)]]
        for name, path in paths:
            with suppress(OSError, PolicyError):
                yield name, _read_bounded(path, BUNDLE_BYTES_MAX)

    # -- writing -----------------------------------------------------------------------------------------------

    def save(self, shelf: Shelf) -> tuple[str, ...]:
        """Make `shelf` durable, or raise OSError or StoreBroken with the old one in place.

        Returns warnings: the second copy is best effort, because the change itself is already safe.
        """
        if self._broken:
            raise StoreBroken(self._broken)
        self.bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = sealed(shelf)
        try:
            for entry in shelf.entries().values():
                if not self._file(entry.name).exists():
                    replace_file(self._disk, self._file(entry.name), entry.data)
            replace_file(self._disk, self.folder / SHELF, data)
        except StoreBroken as error:
            self._broken = f"{error}; restart SY.opa.rules after checking the disk"
            raise
        return self._copy(data)

    def _copy(self, data: bytes) -> tuple[str, ...]:
        try:
            replace_file(self._disk, self.folder / (SHELF + ".bak"), data)
        except (OSError, StoreBroken) as error:
            return (f"{SHELF}.bak: the second copy could not be written: {error}",)
        return ()

    def repair(self, shelf: Shelf) -> tuple[str, ...]:
        """Make both shelf files, every bundle and the folders say what `load` found. Raises OSError, StoreBroken."""
        data = sealed(shelf)
        files = (self.folder / SHELF, self.folder / (SHELF + ".bak"))
        whole = all(file.exists() and file.read_bytes() == data for file in files)
        stored = all(self._file(entry.name).exists() for entry in shelf.entries().values())
        return (() if whole and stored else self.save(shelf)) + self.show(shelf)

    def show(self, shelf: Shelf) -> tuple[str, ...]:
        """Bring folders in line with the shelf and forget bundles that it does not name. Trouble is only told."""
        try:
            for slot in SLOTS:
                self._show_slot(slot, getattr(shelf, slot))
            named = {self._file(entry.name) for entry in shelf.entries().values()}
            for path in self.bundles.iterdir():
                if path not in named:
                    path.unlink()
        except OSError as error:
            return (f"{self.folder}: not every file could be brought up to date: {error}",)
        return ()

    def _show_slot(self, slot: str, entry: Entry | None) -> None:
        folder = self.folder / slot
        if entry is None:
            for name in _FOLDER_FILES:
                (folder / name).unlink(missing_ok=True)
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, data in _files_of(entry).items():
            self._put(folder / name, data)

    def _put(self, path: Path, data: bytes) -> None:
        """Whole or not at all, but not synced: a lost one is written again at the next start."""
        if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        beside = path.with_name(path.name + ".new")
        fd = self._disk.create(beside)
        try:
            write_all(self._disk, fd, data)
        finally:
            os.close(fd)
        self._disk.rename(beside, path)

    def _file(self, name: str) -> Path:
        return self.bundles / f"{name}.bundle"


def sealed(shelf: Shelf) -> bytes:
    """The shelf file's bytes."""
    named = {slot: None if (entry := getattr(shelf, slot)) is None else entry.name for slot in SLOTS}
    body = json.dumps({"counter": shelf.counter, **named}, indent=1).encode() + b"\n"
    return b"# skep-opa/1 sha256:%s\n" % hashlib.sha256(body).hexdigest().encode() + body


def read_shelf(path: Path) -> dict[str, Any]:
    """The numbers and names in one shelf file. Raises ShelfDamaged."""
    try:
        data = _read_bounded(path, SHELF_BYTES_MAX)
    except (OSError, PolicyError) as error:
        raise ShelfDamaged(str(error)) from error
    seal = _SEAL.match(data)
    if seal is None or hashlib.sha256(data[seal.end() :]).hexdigest().encode() != seal[1]:
        raise ShelfDamaged("its checksum does not fit")
    try:
        stated = json.loads(data[seal.end() :])
    except ValueError as error:
        raise ShelfDamaged("it is no JSON") from error
    if not isinstance(stated, dict) or not _is_count(stated.get("counter")):
        raise ShelfDamaged("it has no counter")
    return {"counter": stated["counter"], **{slot: _name(stated.get(slot)) for slot in SLOTS}}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= VERSION_MAX


def _name(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ShelfDamaged(f"{value!r} is no bundle's name")
    return value


def _files_of(entry: Entry) -> dict[str, bytes]:
    """What a folder shows of one entry."""
    bundle = entry.bundle
    metadata = json.dumps({**entry.facts(), "bundle": entry.name}, indent=1).encode() + b"\n"
    files = (bundle.rego.encode(), bundle.wasm, metadata, entry.data)
    return dict(zip(_FOLDER_FILES, files, strict=True))


def _read_bounded(path: Path, most: int) -> bytes:
    """The file's bytes. Raises OSError; PolicyError when it is larger than anything we write."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise PolicyError("BUNDLE_TOO_LARGE", f"more than {most} bytes")
    return data
