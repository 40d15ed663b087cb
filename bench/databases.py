"""Look-ups by key in a local Redis and a local PostgreSQL, as a Python client makes them: one question, one answer.

Each server is started for the measurement, over a Unix socket, with nothing written to disk that a look-up would wait
for, and holds the records that the regions hold.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.children import READY_S, Child, answers_unix, start, wait_ready
from bench.machine import NotRunError, tool

ROWS_MAX = 100_000  # a look-up's time hardly depends on it; filling does
VALUE = b"x" * 96
_BATCH = 5_000


def redis_get(keys: Sequence[bytes], wanted: Sequence[bytes], core: int) -> list[int]:
    """Nanoseconds of each GET, in a blocking client without a library in between."""
    server = tool("redis-server")
    folder = Path(tempfile.mkdtemp(prefix="skr", dir="/tmp"))
    place = folder / "redis"
    argv = [server, "--port", "0", "--unixsocket", str(place), "--save", "", "--dir", str(folder)]
    child = start(argv, core)
    try:
        wait_ready(child, "redis-server", answers_unix(place))
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(place))
            for at in range(0, len(keys), _BATCH):
                _ask(link, [_command(b"SET", key, VALUE) for key in keys[at : at + _BATCH]], b"+OK\r\n")
            return [_timed(link, _command(b"GET", key)) for key in wanted]
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _command(*words: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]
    return b"".join(parts)


_ANSWER = b"$%d\r\n%b\r\n" % (len(VALUE), VALUE)


def _ask(link: socket.socket, commands: list[bytes], answer: bytes) -> None:
    link.sendall(b"".join(commands))
    left = len(commands) * len(answer)
    while left:
        got = link.recv(min(left, 1 << 16))
        if not got:
            raise NotRunError("redis-server closed the connection")
        left -= len(got)


def _timed(link: socket.socket, command: bytes) -> int:
    begun = time.perf_counter_ns()
    link.sendall(command)
    answer = link.recv(4096)
    taken = time.perf_counter_ns() - begun
    if answer != _ANSWER:
        raise NotRunError(f"redis-server answered {answer[:40]!r}")
    return taken


def postgres_select(keys: Sequence[bytes], wanted: Sequence[bytes], core: int) -> list[int]:
    """Nanoseconds of each look-up by primary key, a prepared statement of asyncpg."""
    folder = Path(tempfile.mkdtemp(prefix="skq", dir="/tmp"))
    try:
        child = _start_postgres(folder, core)
        try:
            return asyncio.run(_select(folder, keys, wanted))
        finally:
            child.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_postgres(folder: Path, core: int) -> Child:
    """PostgreSQL refuses to run as root, so then it runs as its own user."""
    initdb, server = _server_tool("initdb"), _server_tool("postgres")
    prefix: list[str] = []
    if os.geteuid() == 0:
        user = _server_user()
        os.chown(folder, user.pw_uid, user.pw_gid)
        groups = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
        prefix = [tool("setpriv"), *groups]
    data = folder / "data"
    argv = [*prefix, initdb, "-D", str(data), "-U", "bench", "-A", "trust", "-N"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise NotRunError(f"initdb failed: {done.stderr.strip()[-300:]}")
    options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    child = start([*prefix, server, "-D", str(data), *options], core, cwd=folder)
    try:
        wait_ready(child, "postgres", answers_unix(folder / ".s.PGSQL.5432"))
    except NotRunError:
        child.stop()
        raise
    return child


def _server_tool(name: str) -> str:
    """Debian keeps the server's programs out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else tool(name)


def _server_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NotRunError("PostgreSQL does not run as root and there is no user postgres or nobody")


async def _connected(folder: Path) -> Any:
    """The socket is there before the server takes anybody in."""
    import asyncpg

    deadline = time.monotonic() + READY_S
    while True:
        try:
            return await asyncpg.connect(host=str(folder), user="bench", database="postgres")
        except (asyncpg.CannotConnectNowError, OSError) as error:
            if time.monotonic() > deadline:
                raise NotRunError(f"postgres was not ready within {READY_S:.0f} s: {error}") from None
            await asyncio.sleep(0.02)


async def _select(folder: Path, keys: Sequence[bytes], wanted: Sequence[bytes]) -> list[int]:
    if find_spec("asyncpg") is None:
        raise NotRunError("asyncpg is not installed; it is in the extra `hive` of skep")
    link = await _connected(folder)
    try:
        await link.execute("create table ilks (ilk bytea primary key, record bytea not null)")
        await link.copy_records_to_table("ilks", records=[(key, VALUE) for key in keys])
        await link.execute("analyze ilks")
        statement = await link.prepare("select record from ilks where ilk = $1")
        taken = []
        for key in wanted:
            begun = time.perf_counter_ns()
            record = await statement.fetchval(key)
            taken.append(time.perf_counter_ns() - begun)
            if record != VALUE:
                raise NotRunError("PostgreSQL did not find a record that is there")
        return taken
    finally:
        await link.close()
