"""A private hive for measurements: folder, regions of configuration and bindings, one pinned router.

The bench holds these regions itself, so that no other process of ours runs beside what is measured.
Everything is granted to the own uid, and to one foreign uid that plays the flooder.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.children import Child, answers_unix, start, wait_ready
from bench.machine import NotRunError

HIVE_ID = "bench"
FLOODER_UID = 65534
DESCRIPTORS = 24_000  # 10,000 nodes at both ends of their sockets, and room


@dataclass(slots=True)
class BenchHive:
    """Owns the folder, the region and the router; `close()` leaves nothing behind."""

    root: Path
    core: int = -1
    router: Child | None = None
    config: Any = None
    threads: Any = None
    version: int = 0

    @property
    def socket(self) -> Path:
        return next(iter(sorted((self.root / "run" / "routers").glob("*.sock"))))

    @property
    def pid(self) -> int:
        assert self.router is not None
        return self.router.pid

    def publish(self, *routes: Any) -> None:
        """A new version of the configuration, with these static routes."""
        from skep_shm import ConfigState, Grant, IlkMode

        uids = {os.geteuid(), FLOODER_UID}
        grants = tuple(Grant(uid=uid, pattern="*", ilk_mode=IlkMode.ANY) for uid in sorted(uids))
        self.version += 1
        self.config.publish(ConfigState(version=self.version, routes=tuple(routes), grants=grants))

    def start_router(self) -> None:
        """Returns when the router answers on its socket."""
        argv = [sys.executable, "-m", "skep_router", "--hive", str(self.root), "--name", "RT.main"]
        self.router = start(argv, self.core, cwd=self.root)
        wait_ready(self.router, "the router", self._ready, pause=0.002)

    def _ready(self) -> bool:
        return any(answers_unix(path)() for path in (self.root / "run" / "routers").glob("*.sock"))

    def close(self) -> None:
        if self.router is not None:
            self.router.stop()
        for region in (self.threads, self.config):
            if region is not None:
                region.close()
        shutil.rmtree(self.root, ignore_errors=True)


def open_hive(core: int = -1, *, router: bool = True) -> BenchHive:
    """A new hive in a short folder; NotRunError where the packages are not there yet."""
    try:
        from skep_shm import ConfigWriter, ThreadsWriter
    except ImportError as error:
        raise NotRunError(f"skep_shm cannot be imported: {error}") from error
    root = Path(tempfile.mkdtemp(prefix="skb", dir="/tmp"))
    root.chmod(0o755)
    for part in ("run/routers", "state/nodes", "config", "logs"):
        (root / part).mkdir(parents=True)
    (root / "hive.yaml").write_text(f"hive_id: {HIVE_ID}\n")
    hive = BenchHive(root, core)
    try:
        hive.config = ConfigWriter.create(root, HIVE_ID)
        hive.threads = ThreadsWriter.create(root, HIVE_ID)
        hive.publish()
        raise_descriptors()
        if router:
            hive.start_router()
    except BaseException:
        hive.close()
        raise
    return hive


def raise_descriptors() -> int:
    """The limit that children inherit; as high as this process may go, at most DESCRIPTORS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for want in (DESCRIPTORS, hard):
        if soft >= min(want, DESCRIPTORS):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (want, max(want, hard)))
        except ValueError:  # above the hard limit, which even root may be unable to raise
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
