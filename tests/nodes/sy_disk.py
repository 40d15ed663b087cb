"""A disk that fails or crashes at its n-th call, for the stores of system nodes."""

from __future__ import annotations

from skep_nodes.sy.durable import Disk

OPERATIONS = ("create", "write", "fsync", "rename", "link", "fsync_folder")


class Crash(BaseException):
    """The process ends here."""


class TroubledDisk(Disk):
    """Counts its calls; the n-th one fails with an error number, or is never reached because of a crash."""

    def __init__(self, nth: int, trouble: OSError | Crash, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._nth, self._trouble, self._after = nth, trouble, after

    def __getattribute__(self, name: str):  # type: ignore[no-untyped-def]
        real = super().__getattribute__(name)
        return self._counted(name, real) if name in OPERATIONS else real

    def _counted(self, name, real):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            self.calls.append(name)
            if len(self.calls) != self._nth:
                return real(*args)
            if self._after:
                real(*args)
            raise self._trouble

        return call
