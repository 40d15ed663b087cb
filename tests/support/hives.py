"""A private hive folder and the real processes in it, owned by one test.

The folder's path is short because a Unix socket's path has at most 107 bytes. Whoever creates a process here
hands it to the folder: leaving the folder stops every process, and then looks for what leaked, which fails
the test. Processes are stopped by SIGTERM first, as in production, and killed only after `STOP_S`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.tools import need_root
from support.wait import eventually

REPO = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("shm_layouts", "sdk", "policies", "router", "nodes")
SHM = Path("/dev/shm")
HIVE_ID = "test"
STOP_S = 8.0  # longer than a drain
READY_S = 15.0  # a router is ready in well under a second; the rest is for a loaded machine


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child: the packages importable, no hive of the caller's, no notify socket."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SKEP_") and k != "NOTIFY_SOCKET"}
    paths = [str(REPO / root) for root in SOURCE_ROOTS]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    env["PYTHONUNBUFFERED"] = "1"
    return env | extra


@dataclass(slots=True)
class Child:
    """One process of a hive and its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and waits: what a crash looks like."""
        self.process.kill()
        self.process.wait()

    def stop(self, within: float = STOP_S) -> int:
        """SIGTERM, and waits for the drain; returns the exit code. A process that ignores it is killed."""
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.name} did not stop within {within} s of SIGTERM:\n{self.log()}"
            ) from None


@dataclass(slots=True)
class RouterProcess(Child):
    """A router process; `socket` is the path it listens on once ready."""

    socket: Path = field(default_factory=Path)


@dataclass(slots=True)
class HiveFolder:
    """The folder and every process started in it."""

    root: Path
    hive_id: str = HIVE_ID
    children: list[Child] = field(default_factory=list)

    @property
    def sockets_dir(self) -> Path:
        return self.root / "run" / "routers"

    def start(self, name: str, argv: Sequence[str], **popen: object) -> Child:
        """Starts any process in this hive; its output goes to `logs/<name>.log`."""
        process, log_path = self._spawn(name, argv, popen)
        child = Child(name, process, log_path)
        self.children.append(child)
        return child

    def start_router(self, name: str = "RT.main", *args: str, **popen: object) -> RouterProcess:
        """Starts `python -m skep_router` and returns when its socket answers."""
        before = set(self.sockets())
        argv = [sys.executable, "-m", "skep_router", "--hive", str(self.root), "--name", name, *args]
        process, log_path = self._spawn(name, argv, popen)
        router = RouterProcess(name, process, log_path)
        self.children.append(router)
        router.socket = eventually(lambda: self._ready(router, before), READY_S, f"{name} ready")
        return router

    @property
    def digest(self) -> str:
        """The part of a segment's name that stands for this folder (skep_shm.hive_prefix)."""
        return hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:12]

    def sockets(self) -> list[Path]:
        return sorted(self.sockets_dir.glob("*.sock"))

    def segments(self) -> list[str]:
        """Names under /dev/shm that belong to this hive."""
        return sorted(path.name for path in SHM.glob(f"skep-*-{self.digest}-*"))

    def close(self) -> list[str]:
        """Stops what runs and returns what leaked, in words."""
        leaks: list[str] = []
        for child in reversed(self.children):
            leaks += _stopped(child)
        leaks += self._left_behind()
        killed = any(child.process.returncode == -signal.SIGKILL for child in self.children)
        left = self.segments()
        for segment in left:
            (SHM / segment).unlink(missing_ok=True)
        if left and not killed:  # what a killed writer leaves is for the next one to take over
            leaks.append(f"segments left in /dev/shm: {', '.join(left)}")
        shutil.rmtree(self.root, ignore_errors=True)
        return leaks

    def _left_behind(self) -> list[str]:
        """Kills and names processes of this hive that their parents forgot."""
        found = []
        for pid, command in processes():
            if str(self.root) in command:
                found.append(f"process {pid} outlived the hive: {command}")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return found

    def _spawn(
        self, name: str, argv: Sequence[str], popen: dict[str, object]
    ) -> tuple[subprocess.Popen[bytes], Path]:
        log_path = self.root / "logs" / f"{name}.log"
        log_path.parent.mkdir(exist_ok=True)
        options: dict[str, object] = {
            "env": environment(),
            "cwd": self.root,
            "stdin": subprocess.DEVNULL,
            **popen,
        }
        with log_path.open("ab") as log:
            process = subprocess.Popen(list(argv), stdout=log, stderr=log, **options)  # type: ignore[call-overload]
        return process, log_path

    def _ready(self, router: RouterProcess, before: set[Path]) -> Path | None:
        code = router.process.poll()
        if code is not None:
            raise RuntimeError(f"{router.name} exited with {code} before it was ready:\n{router.log()}")
        fresh = [path for path in self.sockets() if path not in before or _answers(path)]
        return next((path for path in fresh if _answers(path)), None)


def processes() -> Iterator[tuple[int, str]]:
    """Every process but this one: pid and command line."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            yield (
                int(entry.name),
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
            )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _stopped(child: Child) -> list[str]:
    if not child.running():
        return []
    try:
        child.stop()
    except AssertionError as error:
        return [str(error)]
    return []


@contextlib.contextmanager
def private_hive(hive_id: str = HIVE_ID) -> Iterator[HiveFolder]:
    """A fresh hive folder (mode 0755, so that foreign uids can reach its socket), gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="sk", dir="/tmp"))
    root.chmod(0o755)
    for part in ("run/routers", "state/nodes", "config", "logs"):
        (root / part).mkdir(parents=True)
    (root / "hive.yaml").write_text(f"hive_id: {hive_id}\n")
    hive = HiveFolder(root, hive_id)
    try:
        yield hive
    except BaseException:
        hive.close()
        raise
    leaks = hive.close()
    assert not leaks, "; ".join(leaks)


def run_as(uid: int, work: Callable[[], None]) -> int:
    """Runs `work` in a forked child under another uid and returns its exit code (0: no exception)."""
    need_root()
    pid = os.fork()
    if pid == 0:
        _become_and_run(uid, work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _become_and_run(uid: int, work: Callable[[], None]) -> None:
    code = 1
    try:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
