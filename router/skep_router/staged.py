"""A policy that is staged, compiled before it is in force.

SY.opa.rules keeps what was compiled last, and is not applied yet, in `state/opa/staged/bundle`. Its module costs some
300 ms of compiling, which is most of what a switch takes; so the loading thread verifies the signature and compiles it
as soon as it lies there, and `Module` keeps it for whoever loads the same bytes. Nothing else comes of it: what decides
is what the region says, and a file that is not there, not readable or not good is no news.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from skep.protocol.errors import PolicyError
from skep_router.log import Log

PLACE: Final = ("state", "opa", "staged", "bundle")
_LOOK_NS: Final = 250_000_000  # between two looks at the file: sooner than anybody types `apply`
_Seen = tuple[int, int, int]  # inode, time, size


class StagedWatcher:
    """Follows the file. `look` is called every tick."""

    def __init__(self, root: Path, hive: str, log: Log, pool: ThreadPoolExecutor) -> None:
        self._root, self._hive = root, hive
        self._path = str(root.joinpath(*PLACE))
        self._log = log
        self._pool = pool
        self._look_at = 0
        self._seen: _Seen | None = None
        self._work: Future[str] | None = None

    def look(self, now: int) -> None:
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_NS
        if self._work is not None and self._work.done():
            if hash_ := self._work.result():
                self._log.write("policy prepared", hash=hash_)
            self._work = None
        seen = _stated(self._path)
        if self._work is None and seen != self._seen:
            self._seen = seen
            if seen is not None:
                self._work = self._pool.submit(prepare, self._root, self._path, self._hive)


def _stated(path: str) -> _Seen | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def prepare(root: Path, path: str, hive: str) -> str:
    """In the thread: verify and compile. -> the hash of its WASM, "" for what is no bundle of this hive."""
    from skep_policy.authority import public_key
    from skep_policy.bundle import BUNDLE_BYTES_MAX, open_bundle
    from skep_policy.module import Module

    try:
        with open(path, "rb") as file:
            data = file.read(BUNDLE_BYTES_MAX + 1)
        return Module.load(open_bundle(data, public_key(root), hive).wasm).sha256
    except (PolicyError, OSError):
        return ""  # when it is applied, the router will say why
