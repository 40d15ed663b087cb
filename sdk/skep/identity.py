"""Who a node is: its uuid, ephemeral or kept across restarts, and the ticket a supervisor may have handed it.

A persistent uuid is plain text in `<hive>/state/nodes/<base>.uuid`, 0600, written atomically. Whoever uses it holds
an flock on `<base>.lock` beside it for as long as it lives: two processes with one uuid would take turns in throwing
each other off the router. The lock is a file of its own because replacing the uuid file would replace a lock on it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from skep.errors import IdentityError
from skep.files import write_atomic
from skep.hive import Hive
from skep.protocol.handshake import TICKET_BYTES_MAX
from skep.protocol.message import format_uuid, parse_uuid


class Identity:
    """A node's uuid and, when persistent, the lock that says it is ours. Close to let another process have it."""

    __slots__ = ("uuid", "persistent", "_lock_fd")

    def __init__(self, uuid: bytes, lock_fd: int = -1) -> None:
        self.uuid = uuid
        self.persistent = lock_fd >= 0
        self._lock_fd = lock_fd

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)  # closing drops the flock
            self._lock_fd = -1


def new_uuid() -> bytes:
    """A random uuid (version 4). Made here because the standard module costs six milliseconds to import."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    return bytes(data)


def ephemeral() -> Identity:
    return Identity(new_uuid())


def persistent(hive: Hive, base: str) -> Identity:
    """The uuid of the node `base`, made at first use. Raises IdentityError when another process holds it."""
    folder = hive.state_dir / "nodes"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock_fd = _take_lock(folder / f"{base}.lock", base)
    try:
        return Identity(_load_or_make(folder / f"{base}.uuid"), lock_fd)
    except BaseException:
        os.close(lock_fd)
        raise


def _take_lock(path: Path, base: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise IdentityError(
            f"another process runs as {base} with its persistent uuid (lock {path}). "
            "Stop it, choose another name, or use persistent=False"
        ) from error
    return fd


def _load_or_make(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        fresh = new_uuid()
        write_atomic(path, f"{format_uuid(fresh)}\n".encode("ascii"))
        return fresh
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"cannot read {path}: {error}") from error
    uuid = parse_uuid(text)
    if uuid is None:
        raise IdentityError(f"{path} holds no uuid. Remove it to get a new one")
    return uuid


def read_ticket() -> str | None:
    """The ticket on the inherited descriptor that SKEP_TICKET_FD names, read once; None without one.

    The variable is removed, so that a child of ours is not told of a descriptor that is closed by then.
    """
    text = os.environ.pop("SKEP_TICKET_FD", None)
    if text is None:
        return None
    try:
        with os.fdopen(int(text), "rb") as source:
            ticket = source.read(TICKET_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise IdentityError(f"SKEP_TICKET_FD={text} is not a readable descriptor: {error}") from error
    if len(ticket) > TICKET_BYTES_MAX:
        raise IdentityError(f"the ticket is longer than {TICKET_BYTES_MAX} bytes")
    return ticket.decode("ascii", "strict").strip() or None
