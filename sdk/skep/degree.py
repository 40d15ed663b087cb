"""A node's degree: the folder that holds it, whether it is good now, and what becomes of a node whose degree is not.

A degree folder is `degree.json`, `modules/<name>@<version>.txt` and `seal.json`, as SY.registrar writes it into
`state/degrees/agents/<node>`; the registrar's public file is `config/registrar.pub`. A node that declares a degree is
verified before it links, and does not start with one that is not good. After that it is verified again when it is
told of a change (DEGREE_CHANGED, CONFIG_SET) and on receipt of a message once `AGAIN_S` have passed: a changed file is
found by whoever asks next, without a watcher. Expiry is asked for every message, it costs one comparison.

What speaks is always the text that was verified: it is kept, files are never read again to speak. A node that lost its
degree stays linked, so that it can be told of a repair; every message gets `degree_invalid` and the reason, which
names no path of this machine. The log has the path and what to do.

Rejected: looking at file times instead of contents (they can be set back); ending the process (its supervisor would
start it again and again, and the reason would scroll away).
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from skep.errors import DegreeError, RemoteError
from skep.handlers import Route
from skep.message import Message
from skep.seal import (
    DOCUMENT_BYTES_MAX,
    MODULE_BYTES_MAX,
    RING_BYTES_MAX,
    RING_FILE,
    KeyRing,
    Verified,
    check_time,
    judge,
    read_degree,
    read_ring,
)

log = logging.getLogger("skep")

DEGREE_FILE: Final = "degree.json"
SEAL_FILE: Final = "seal.json"
MODULES: Final = "modules"
AGAIN_S: Final = 1.0  # between two looks at the files: a third of a millisecond each
AGENTS: Final = Path("state") / "degrees" / "agents"

_REPAIR = (
    "put the sealed file back, or publish the change as a new module version and graduate the agent again "
    "(skep module publish, skep degree create, skep degree graduate)"
)
_AGAIN = "graduate the agent again: skep degree graduate"
_KEYS = "start SY.registrar once, or restore config/registrar.pub from a backup, then: skep degree verify"
ADVICE: Final = {
    "SEAL_EXPIRED": _AGAIN, "SEAL_REVOKED": _AGAIN, "KEY_REVOKED": _AGAIN, "SEAL_FOREIGN": _AGAIN,
    "SEAL_MISSING": _AGAIN, "DEGREE_MISSING": _AGAIN, "SEAL_NOT_YET": "wait, or set this machine's clock",
    "KEY_UNKNOWN": _KEYS, "REGISTRAR_MISSING": _KEYS, "REGISTRAR_DAMAGED": _KEYS,
}  # fmt: skip


def advice(code: str) -> str:
    """What to do about a degree that is refused with this code."""
    return ADVICE.get(code, _REPAIR)


def degree_folder(root: Path, base: str) -> Path:
    """Where the registrar puts the degree of the node `base` (its name without the hive)."""
    return root / AGENTS / base


def verify_folder(folder: Path, ring: KeyRing, *, now_ms: int, handler: str = "", ilk: str = "") -> Verified:
    """Reads and judges one degree folder. Raises DegreeError."""
    home = folder.resolve()  # a new graduation swaps the link; one look must not mix two
    document = _read(home / DEGREE_FILE, DOCUMENT_BYTES_MAX, "DEGREE_MISSING")
    seal = _read(home / SEAL_FILE, DOCUMENT_BYTES_MAX, "SEAL_MISSING")
    texts = {
        each.title: _read(home / MODULES / each.file_name, MODULE_BYTES_MAX, "MODULE_MISSING", each.title)
        for each in read_degree(document).modules
    }
    return judge(document, texts, seal, ring, now_ms=now_ms, handler=handler, ilk=ilk)


def load_ring(config_dir: Path) -> KeyRing:
    """The registrar's public file of a hive. Raises DegreeError."""
    return read_ring(_read(config_dir / RING_FILE, RING_BYTES_MAX, "REGISTRAR_MISSING"))


def _read(path: Path, bytes_max: int, code: str, module: str = "") -> bytes:
    """One regular file, at most one byte more than it may have, so that a longer one is seen to be."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DegreeError(code, f"{path.name} is no file", module)
            return os.read(fd, bytes_max + 1)
        finally:
            os.close(fd)
    except OSError as error:
        what = f"module {module}" if module else path.name
        raise DegreeError(code, f"{what} cannot be read: {error.strerror}", module) from error


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class DegreeGuard:
    """Knows whether one node may speak, and with which degree."""

    def __init__(
        self,
        folder: Path,
        config_dir: Path,
        handler: str,
        ilk: str = "",
        *,
        now_ms: Callable[[], int] = wall_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self._config_dir, self._handler, self._ilk = folder, config_dir, handler, ilk
        self._now_ms, self._monotonic = now_ms, monotonic
        self._next_look = 0.0
        self.verified: Verified | None = None
        self.refusal: DegreeError | None = None

    def verify(self) -> Verified:
        """Looks at the files now. Raises DegreeError."""
        self._next_look = self._monotonic() + AGAIN_S
        try:
            ring = load_ring(self._config_dir)
            found = verify_folder(
                self.folder, ring, now_ms=self._now_ms(), handler=self._handler, ilk=self._ilk
            )
        except DegreeError as error:
            self._refuse(error)
            raise
        before = self.verified.seal.serial if self.verified is not None else ""
        if self.refusal is not None or found.seal.serial != before:
            log.info("%s speaks with %s (%s)", self._handler, found.degree.title, found.seal.serial)
        self.verified, self.refusal = found, None
        return found

    def look(self) -> DegreeError | None:
        """Why the node may not speak, or None; looks at the files when the last look is `AGAIN_S` old."""
        try:
            if self._monotonic() >= self._next_look:
                self.verify()
            elif self.verified is not None and self.refusal is None:
                check_time(self.verified.seal, self._now_ms())
        except DegreeError as error:
            self._refuse(error)
        return self.refusal

    def recheck(self) -> DegreeError | None:
        """The same, and looks at the files in any case."""
        self._next_look = 0.0
        return self.look()

    def guarded(self, route: Route) -> Route:
        """`route` for a node that must have its degree to answer."""
        call = route.call

        def admitted(message: Message) -> object:
            refusal = self.look()
            if refusal is not None:
                raise RemoteError("degree_invalid", f"{refusal.code}: {refusal.detail}")
            return call(message)

        return Route(admitted, parts=route.parts, type=route.type, action=route.action)

    def shown(self) -> dict[str, object]:
        """For STATUS."""
        refusal = self.look()
        facts: dict[str, object] = {"valid": refusal is None}
        if self.verified is not None:
            facts["degree"], facts["serial"] = self.verified.degree.title, self.verified.seal.serial
        if refusal is not None:
            facts["code"], facts["detail"] = refusal.code, refusal.detail
        return facts

    def reason(self, error: DegreeError) -> str:
        """For the operator: what, where, and what to do."""
        return f"{self._handler} may not speak: {error}. Folder: {self.folder}. Next: {advice(error.code)}"

    def _refuse(self, error: DegreeError) -> None:
        if self.refusal is None or self.refusal.code != error.code or self.refusal.module != error.module:
            log.error("%s", self.reason(error))
        self.refusal = error
