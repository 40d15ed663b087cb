"""A shelf's parts without a compiler: small signed bundles whose WASM nobody runs, and a region that is a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodes.sy_disk import TroubledDisk
from skep_nodes.sy.durable import Disk
from skep_nodes.sy.opa_desk import Answer, Built, OpaDesk
from skep_nodes.sy.opa_request import changed_request
from skep_nodes.sy.opa_shelf import Entry, Shelf, entry_of
from skep_nodes.sy.opa_store import OpaStore
from skep_nodes.sy.standing import Sender, Standing
from skep_policy.authority import Authority
from skep_policy.bundle import Bundle, Compiled, open_bundle, pack
from skep_policy.manifest import Manifest
from skep_shm import PolicyState

HIVE = "hive"
KEY = Authority(bytes(range(32)))
ADMIN = Sender("SY.admin@hive", Standing.SYSTEM)


@dataclass(frozen=True)
class Parts:
    """What a compiler would have made of `rego`."""

    rego: str
    wasm: bytes = b""
    manifest: Manifest = field(default_factory=Manifest)


def compiled(name: str) -> Compiled:
    return Parts(f"package router # {name}\n", b"wasm of " + name.encode())


def sign(one: Compiled, version: int) -> Entry:
    data = pack(one, version, HIVE, KEY, compiled_at_ms=1_700_000_000_000)
    return entry_of(open_one(data), data)


def open_one(data: bytes) -> Bundle:
    return open_bundle(data, KEY.public, HIVE)


class Swift(Disk):
    """A disk that is not waited for: what these tests crash is a process, not the power."""

    def fsync(self, fd: int) -> None:
        """Nothing."""

    def fsync_folder(self, folder: Path) -> None:
        """Nothing."""


class SwiftTroubled(TroubledDisk):
    """The same, with an n-th call that fails."""

    fsync, fsync_folder = Swift.fsync, Swift.fsync_folder


class Region:
    """What was published, last one last; refuses when told to."""

    def __init__(self) -> None:
        self.states: list[PolicyState] = []
        self.trouble: Exception | None = None

    def __call__(self, state: PolicyState) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.states.append(state)

    @property
    def last(self) -> PolicyState:
        return self.states[-1] if self.states else PolicyState()


@dataclass
class Bench:
    """A desk and the places that it writes to."""

    desk: OpaDesk
    store: OpaStore
    region: Region

    def do(self, action: str, name: str | None = None, sender: Sender = ADMIN, **facts: Any) -> Answer:
        """One CONFIG_CHANGED, with the compiler's part done by `compiled`. Raises Refusal where `prepare` does."""
        config = {} if name is None else {"rego": compiled(name).rego}
        request = changed_request({"subsystem": "opa", "action": action, "config": config, **facts})
        rego = self.desk.prepare(request, sender)
        built = (
            Built(Parts(rego, b"wasm of " + rego[17:-1].encode()), took_ms=3) if request.compiles else None
        )
        return self.desk.carry_out(request, built)

    def versions(self) -> dict[str, int]:
        return {slot: entry.version for slot, entry in self.desk.shelf.entries().items()}

    def rego(self) -> str:
        """Which policy is in force, by the name in its text."""
        current = self.desk.shelf.current
        return current.bundle.rego[17:-1] if current else ""


def a_store(folder: Path, disk: Disk | None = None) -> OpaStore:
    return OpaStore(folder, open_one, disk)


def a_shelf(name: str = "first", version: int = 1) -> Shelf:
    return Shelf(version, current=sign(compiled(name), version))


def a_bench(folder: Path, shelf: Shelf | None = None, disk: Disk | None = None) -> Bench:
    """A desk with policy `first` in force, on disk already."""
    shelf = shelf or a_shelf()
    quiet = a_store(folder, Swift())
    quiet.save(shelf)
    quiet.show(shelf)
    store, region = a_store(folder, disk), Region()
    return Bench(OpaDesk(HIVE, shelf, store, region, sign), store, region)
