"""A registrar, its disk and its clock, and shorthands for what most tests do with it."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

from skep.degree import DEGREE_FILE, MODULES, SEAL_FILE, load_ring
from skep.seal import Degree, KeyRing, Verified, judge
from skep_nodes.degrees.degrees import Composition
from skep_nodes.degrees.ledger import Carrier
from skep_nodes.degrees.modules import Draft, Module
from skep_nodes.degrees.registrar import Graduation, Registrar
from skep_nodes.sy.durable import Disk

HIVE = "test"
ILK = "ilk:00000000-0000-4000-8000-00000000a001"
OTHER_ILK = "ilk:00000000-0000-4000-8000-00000000a002"
AGENT = "AI.desk@test"
BY = "SY.cli.1@test"
START_MS = 1_800_000_000_000


class School:
    """`registrar` on `root`; `now_ms` moves by hand."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root, self.now_ms, self._disk = root, START_MS, disk
        (root / "config").mkdir(exist_ok=True)
        self.registrar = self._open()
        self.warnings: list[str] = []

    def _open(self) -> Registrar:
        registrar = Registrar(
            self.root, HIVE, now_ms=lambda: self.now_ms, new_id=lambda: os.urandom(16), disk=self._disk
        )
        self.warnings = registrar.open()
        return registrar

    def __enter__(self) -> School:
        return self

    def __exit__(self, *_: object) -> None:
        self.registrar.close()

    def restart(self, disk: Disk | None = None) -> None:
        """What a new process finds."""
        self.registrar.close()
        self._disk = disk
        self.registrar = self._open()

    # -- shorthands --------------------------------------------------------------------------------------------

    def publish(self, name: str = "spanish", version: str = "1.0.0", text: str | bytes = "You speak Spanish.\n",
                **options: Any) -> Module:  # fmt: skip
        content = text if isinstance(text, bytes) else text.encode()
        draft = Draft(name, version, content, options.pop("category", "language"), **options)
        return self.registrar.modules.publish(draft, BY, "2027-01-15T08:00:00Z")

    def degree(self, *modules: str, name: str = "support", capabilities: tuple[str, ...] = ("answers",)) -> Degree:
        """A degree of modules given as `name@version`, or of one that is made for it."""
        if not modules:
            self.publish()
        pairs = tuple((each.split("@")[0], each.split("@")[1]) for each in modules or ("spanish@1.0.0",))
        wanted = Composition(name, pairs, capabilities)
        return self.registrar.degrees.create(wanted, BY, "2027-01-15T08:00:00Z")[0]

    def graduate(self, degree: Degree, **options: Any) -> Carrier:
        wanted = {"ilk": ILK, "handler": AGENT, "degree": degree.id, "version": degree.version, **options}
        carrier = self.registrar.graduate(Graduation(**wanted), BY)
        assert self.registrar.settle() == []
        return carrier

    @property
    def folder(self) -> Path:
        return self.registrar.carried.path(AGENT)

    def ring(self) -> KeyRing:
        return load_ring(self.root / "config")

    def papers(self) -> Papers:
        return Papers(self.folder, self.ring(), self.now_ms)


class Papers:
    """Every byte that an agent reads, in memory, so that a test can change any of them."""

    def __init__(self, folder: Path, ring: KeyRing, now_ms: int) -> None:
        self.ring, self.now_ms = ring, now_ms
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in [folder / DEGREE_FILE, folder / SEAL_FILE, *sorted((folder / MODULES).iterdir())]
        }

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))

    def texts(self, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
        """The modules' texts by title."""
        found = (files or self.files).items()
        return {name[len(MODULES) + 1 : -len(".txt")]: data for name, data in found if name.startswith(MODULES)}

    def judged(self, files: dict[str, bytes] | None = None, **changes: Any) -> Verified:
        files = files or self.files
        options = {"now_ms": self.now_ms, "handler": AGENT, "ilk": ILK, **changes}
        ring = options.pop("ring", self.ring)
        return judge(files[DEGREE_FILE], self.texts(files), files[SEAL_FILE], ring, **options)


def tar_of(**files: bytes) -> bytes:
    """A plain tar with these files; `__` in a name stands for a dot."""
    return tar_with(*(_member(name.replace("__", "."), data) for name, data in files.items()))


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _member(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data
