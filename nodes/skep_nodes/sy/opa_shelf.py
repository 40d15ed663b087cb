"""What SY.opa.rules keeps: the policy in force, the next one, the one before, one that is only tried, and a counter.

A shelf is a value; each change is a function from shelf to shelf, worked out whole before a file or a region is
touched. Versions are numbers of one counter that only grows and stands in the shelf itself, so two policies never share
one and none goes back: a bundle that is put in force again (rollback, or a staged one that was overtaken) is signed
again with the next number. What is refused takes no number.

    stage      compiled -> staged
    apply      staged -> current -> backup
    rollback   backup -> current -> backup      (so a rollback is undone by another one)
    shade      compiled -> shadow               (evaluated beside, decides nothing)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from skep_nodes.sy.config_change import Refusal
from skep_policy.bundle import VERSION_MAX, Bundle, Compiled, hash_of

VERSION_GAP_MAX: Final = (
    1 << 32
)  # a caller with its own counter may be ahead, but must not use up all numbers at once
SLOTS: Final = ("current", "staged", "backup", "shadow")


@dataclass(frozen=True, slots=True)
class Entry:
    """One signed bundle, verified, and its bytes. `name` is the SHA-256 of these bytes."""

    bundle: Bundle = field(repr=False)
    data: bytes = field(repr=False)
    name: str

    @property
    def version(self) -> int:
        return self.bundle.version

    @property
    def hash(self) -> str:
        """What messages call the policy's hash: SHA-256 of its WASM, as upstream's do."""
        return self.bundle.manifest.wasm_sha256

    def facts(self) -> dict[str, Any]:
        """The members that metadata.json and answers share."""
        manifest = self.bundle.manifest
        return {
            "version": self.version, "hash": self.hash, "entrypoint": manifest.entrypoint,
            "compiled_at": _time_text(manifest.compiled_at_ms), "wasm_size_bytes": len(self.bundle.wasm),
        }  # fmt: skip


def _time_text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def entry_of(bundle: Bundle, data: bytes) -> Entry:
    """A shelf's entry for a bundle that was opened."""
    return Entry(bundle, data, hash_of(data))


Sign = Callable[[Compiled, int], Entry]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The whole state. `counter` is the newest number that was ever given."""

    counter: int = 0
    current: Entry | None = None
    staged: Entry | None = None
    backup: Entry | None = None
    shadow: Entry | None = None

    def entries(self) -> dict[str, Entry]:
        """The slots that hold something."""
        found = {slot: getattr(self, slot) for slot in SLOTS}
        return {slot: entry for slot, entry in found.items() if entry is not None}


def next_version(shelf: Shelf, asked: int) -> int:
    """The number a new bundle gets; `asked` 0 means whichever is next. Raises Refusal."""
    if asked == 0:
        asked = shelf.counter + 1
    if not shelf.counter < asked <= min(shelf.counter + VERSION_GAP_MAX, VERSION_MAX):
        raise Refusal(
            "VERSION_CONFLICT",
            f"version {asked} was asked for, {shelf.counter + 1} is next: versions are used once and only grow",
        )
    return asked


def stage(shelf: Shelf, compiled: Compiled, asked: int, sign: Sign) -> Shelf:
    """The shelf with a newly compiled policy staged."""
    version = next_version(shelf, asked)
    return replace(shelf, counter=version, staged=sign(compiled, version))


def apply(shelf: Shelf, asked: int, sign: Sign) -> Shelf:
    """The shelf with the staged policy in force; `asked` names the staged version, 0 takes whichever it is."""
    staged = shelf.staged
    if staged is None:
        raise Refusal("NOTHING_STAGED", "there is no staged policy; compile one first")
    if asked not in (0, staged.version):
        raise Refusal(
            "VERSION_MISMATCH", f"version {asked} was asked for, version {staged.version} is staged"
        )
    if shelf.current is not None and staged.version <= shelf.current.version:  # a rollback came in between
        staged = sign(staged.bundle, next_version(shelf, 0))
    counter = max(shelf.counter, staged.version)
    return replace(shelf, counter=counter, current=staged, staged=None, backup=shelf.current or shelf.backup)


def rollback(shelf: Shelf, asked: int, sign: Sign) -> Shelf:
    """The shelf with the policy before in force again, under a new number."""
    if shelf.backup is None:
        raise Refusal("NO_BACKUP", "no policy was in force before this one")
    version = next_version(shelf, asked)
    restored = sign(shelf.backup.bundle, version)
    return replace(shelf, counter=version, current=restored, backup=shelf.current)


def shade(shelf: Shelf, compiled: Compiled | None, asked: int, sign: Sign) -> Shelf:
    """The shelf with a policy that is only tried; None ends the trial."""
    if compiled is None:
        return replace(shelf, shadow=None)
    version = next_version(shelf, asked)
    return replace(shelf, counter=version, shadow=sign(compiled, version))
