"""Numbered SQL files, applied once each, in order; never changed afterwards.

What was applied stands in `identity_migrations` with the file's digest. A database that knows a number we do not was
written by a newer version, and one whose digest differs by something else: both are refused, never guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from skep_nodes.identity.store import StoreBroken


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


def migrations(dialect: str) -> list[Migration]:
    """All steps for `sqlite` or `postgres`, in order."""
    folder = files("skep_nodes.identity") / "migrations" / dialect
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    found = [Migration(int(name[:4]), name, (folder / name).read_text()) for name in names]
    assert [step.number for step in found] == list(range(1, len(found) + 1)), (
        "migrations are numbered without a gap"
    )
    return found


def missing(dialect: str, applied: dict[int, str]) -> list[Migration]:
    """Steps that are still to be taken. Raises StoreBroken for a database that is not ours to change."""
    steps = migrations(dialect)
    if applied and max(applied) > len(steps):
        raise StoreBroken(
            f"the database has schema {max(applied)}, this version knows {len(steps)}: it was written by a newer skep;"
            " run that one, or restore a backup"
        )
    for step in steps:
        if applied.get(step.number, step.digest) != step.digest:
            raise StoreBroken(f"migration {step.name} was applied in another form; restore a backup")
    return [step for step in steps if step.number not in applied]
