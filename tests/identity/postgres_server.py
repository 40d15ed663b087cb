"""A private PostgreSQL server for the tests: its own folder and socket, an unprivileged account, gone afterwards.

It is looked for where Debian puts it; without one, tests on PostgreSQL are skipped by name. The server refuses root, so
root runs it as `postgres` or `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from skep_nodes.identity import tables
from support.wait import eventually

INSTALL = "needs postgresql: not found; to run this test: apt-get install postgresql"
ACCOUNTS = ("postgres", "nobody")


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    there = shutil.which("initdb")
    return found[-1].parent if found else Path(there).resolve().parent if there else None


class PostgresServer:
    """One server in one folder."""

    def __init__(self, root: Path, bin_dir: Path) -> None:
        self.root, self.bin_dir = root, bin_dir
        self.data = root / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self._as = _account()

    def url(self, database: str) -> str:
        return f"postgresql://identity@/{database}?host={self.root}"

    def make(self) -> None:
        command = [self.bin_dir / "initdb", "-D", self.data, "-U", "identity", "-A", "trust", "-E", "UTF8",
                   "--no-locale", "--data-checksums"]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as)

    def start(self) -> None:
        settings = (
            "listen_addresses=",
            f"unix_socket_directories={self.root}",
            "max_connections=20",
            "shared_buffers=64MB",
        )
        command = [
            self.bin_dir / "postgres",
            "-D",
            self.data,
            *(part for each in settings for part in ("-c", each)),
        ]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as)
        eventually(self._answers, within=20, what="PostgreSQL answers")

    def _answers(self) -> bool:
        command = [self.bin_dir / "pg_isready", "-h", self.root, "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def empty(self, database: str) -> None:
        """As if nobody had ever used this database: faster than making one for each test."""
        others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        self.sql("postgres", others)
        rows = " ".join(f"DELETE FROM {table.name};" for table in tables.ALL)
        self.sql(database, f"SET session_replication_role = replica; {rows}", missing_ok=True)

    def sql(self, database: str, text: str, missing_ok: bool = False) -> str:
        """Run psql; returns what it prints."""
        command = [self.bin_dir / "psql", "-h", self.root, "-U", "identity", "-d", database, "-qAtc", text]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert missing_ok or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kill(self) -> None:
        """kill -9 of the server and of all that it started."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            with _gone():
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pid in children:
            eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), within=10, what=f"{pid} is gone")
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return


def _account() -> dict[str, Any]:
    """How a child becomes an account that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses root, and no account postgres or nobody exists")


@contextmanager
def private_server(place: str = "/tmp") -> Iterator[PostgresServer]:
    """A running server whose data lies in a folder of `place`; skips where there is none."""
    bin_dir = binaries()
    if bin_dir is None:
        pytest.skip(INSTALL)
    root = Path(tempfile.mkdtemp(prefix="pg", dir=place))
    account = _account()
    if account:
        os.chown(root, account["user"], account["group"])
    server = PostgresServer(root, bin_dir)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)
