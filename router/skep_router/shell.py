"""asyncio around the core: sockets, the kernel's word on who is calling, the clock, signals.

One `Port` per connection. It holds nothing but its transport and who it speaks for; every decision is the core's.
The clock is read once per event (CLOCK_BOOTTIME: it does not jump with the wall clock, and it goes on during
suspend, which leases and deadlines need).
"""
from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from skep.protocol.codes import CloseReason
from skep_router.accounts import Account
from skep_router.core import Core
from skep_router.eagerness import Eagerness
from skep_router.joining import Pending
from skep_router.link import Link
from skep_router.turns import Turns

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BACKLOG = 4096
_now, _CLOCK = time.clock_gettime_ns, time.CLOCK_BOOTTIME


def now_ns() -> int:
    return _now(_CLOCK)


class Port(asyncio.Protocol):
    """A socket's two ends for the core: it is called by the loop, and it is the `hop.Port` that the core writes to."""

    __slots__ = ("account", "descriptor", "endpoint", "shell", "stopped", "transport", "waiting")

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.endpoint: Link | Pending | None = None
        self.account: Account | None = None
        self.descriptor = -1
        self.waiting = False  # the transport has bytes of ours that the kernel did not take
        self.stopped: Link | Pending | None = None  # who it spoke for when its turn was over
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class
        self.transport = transport = cast("asyncio.Transport", transport)
        # No buffer of the transport's own: what the kernel does not take at once stops the hop, and the rest waits in
        # the hop's queue, where it is counted. So, while the hop is not blocked, the transport's buffer is empty and
        # the descriptor may be written directly: 1 us less per write than through the transport, measured.
        transport.set_write_buffer_limits(0)
        self.descriptor = transport.get_extra_info("socket").fileno()
        pid, uid, _ = peer_credentials(transport.get_extra_info("socket"))
        self.endpoint = self.shell.core.greet(self, uid, pid, now_ns())
        if self.endpoint is None:
            transport.abort()
        else:
            self.account = self.endpoint.account
            self.shell.shared = len(self.shell.core.accounts) > 1

    def data_received(self, data: bytes) -> None:
        shell = self.shell
        if shell.shared and self.account is not None:
            shell.turns.take(self.account, self, data)
        else:
            self.handle(data)

    def handle(self, data: bytes) -> None:
        """Bytes whose turn it is."""
        endpoint = self.endpoint
        if type(endpoint) is Link:
            shell = self.shell
            shell.core.receive(endpoint, data, _now(_CLOCK))
            if shell.rung:
                shell.answer_bell()
            shell.stir()
        elif endpoint is not None:
            link = self.shell.core.introduce(endpoint, data, _now(_CLOCK))  # type: ignore[arg-type]
            if link is not None:
                self.endpoint = link
                if self.waiting:  # what followed HELLO has filled its socket already
                    self.shell.core.blocked(link)

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_descriptor()
        self.shell.turns.forget(self)
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is not None:
            reason = CloseReason.PEER_CLOSED if error is None else CloseReason.IO_ERROR
            self.shell.core.lost(endpoint, reason, now_ns(), str(error or ""))

    def pause_writing(self) -> None:
        self.waiting = True
        if type(self.endpoint) is Link:
            self.shell.core.blocked(self.endpoint)

    def resume_writing(self) -> None:
        self.waiting = False
        if type(self.endpoint) is Link:
            self.shell.core.writable(self.endpoint, now_ns())

    # -- called by turns

    @property
    def gone(self) -> bool:
        return self.endpoint is None

    def stop_reading(self) -> None:
        endpoint = self.stopped = self.endpoint
        if type(endpoint) is Link:
            endpoint.pause_reading()
        else:
            self.pause_reading()

    def start_reading(self) -> None:
        """The kept bytes may have made a link of a newcomer, and the link may have a reason of its own to wait."""
        stopped, self.stopped = self.stopped, None
        endpoint = self.endpoint
        if type(stopped) is Link:
            stopped.resume_reading()
        elif type(endpoint) is not Link or not endpoint.reading_paused:
            self.resume_reading()

    # -- called by the core

    def write(self, data: bytes, /) -> None:
        if not self.waiting:
            try:
                written = os.write(self.descriptor, data)
            except BlockingIOError:
                written = 0
            except OSError:
                return  # the peer is gone: the loop tells us in connection_lost, which reports what it took along
            if written == len(data):
                return
            data = data[written:]
        self.transport.write(data)

    def _forget_descriptor(self) -> None:
        """Once closed, its number may be another connection's: nothing may be written to it any more."""
        self.descriptor = -1
        self.waiting = True

    def close(self, reason: int, detail: str, /) -> None:
        """What was written before is still sent; what the peer sends is no longer read. A peer that does not even read
        its farewell is cut off by the shell's sweep."""
        self._forget_descriptor()
        self.transport.close()
        self.shell.closing(self.transport)

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process that connected, frozen by the kernel at connect(2)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _nothing() -> None:
    """Settings say that the loop sleeps whenever it can."""


class Shell:
    """Runs one core on one socket."""

    def __init__(self, core: Core, socket_path: Path) -> None:
        self.core = core
        self.socket_path = socket_path
        self.shared = False  # more than one uid is here: only then can one of them take another's turn
        self.turns = Turns()
        self.stir = _nothing
        self.look: Callable[[int], None] | None = None  # at the regions that others write
        self.rung = False
        self._closing: list[tuple[int, asyncio.Transport]] = []
        self._server: asyncio.AbstractServer | None = None
        self._inode = 0

    def answer_bell(self) -> None:
        """Look before the next read, which the poll may hold already: what the owner of a region acknowledges came in
        behind its bell and is on its way, and the next message of whoever hears it must find it in force."""
        self.rung = False
        if self.look is not None:
            self.look(now_ns())

    async def listen(self) -> None:
        """Bind and listen. The socket appears under its name only once it accepts: a half-made one would be dialled."""
        loop = asyncio.get_running_loop()
        if self.core.settings.spin_s:
            self.stir = Eagerness(loop, int(self.core.settings.spin_s * 1e9)).stir
        hidden = self.socket_path.with_suffix(".new")
        hidden.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(hidden))
        hidden.chmod(0o666)  # who may register is decided by uid and grants, not by the file's mode
        self._server = await loop.create_unix_server(lambda: Port(self), sock=sock, backlog=_BACKLOG)
        hidden.rename(self.socket_path)
        self._inode = self.socket_path.stat().st_ino

    async def keep_listening(self) -> None:
        """A socket file that was removed or replaced leaves a router that works and cannot be found: make a new one.
        Those who are connected notice nothing."""
        try:
            if self.socket_path.stat().st_ino == self._inode:
                return
        except OSError:
            pass  # gone, or its folder is
        old = self._server
        self.socket_path.parent.mkdir(parents=True, exist_ok=True)
        await self.listen()
        if old is not None:
            old.close()

    def closing(self, transport: asyncio.Transport) -> None:
        self._closing.append((now_ns() + 1_000_000_000, transport))

    @property
    def closing_count(self) -> int:
        """Connections that were told to go and have not gone."""
        return len(self._closing)

    def tick(self) -> None:
        """By time: the core's own work, and connections that would not close."""
        now = now_ns()
        self.core.tick(now)
        self.shared = len(self.core.accounts) > 1
        while self._closing and self._closing[0][0] <= now:
            self._closing.pop(0)[1].abort()

    async def drain(self, grace_s: float) -> None:
        """Stop: no newcomers, no new name for the socket, queues emptied within the grace, then farewells."""
        if self._server is not None:
            self._server.close()
        self.socket_path.unlink(missing_ok=True)
        self.core.drain(int(grace_s * 1000))
        deadline = now_ns() + int(grace_s * 1e9)
        while now_ns() < deadline and any(link.held_bytes for link in self.core.registry):
            self.tick()
            await asyncio.sleep(self.core.settings.tick_s)
        for link in tuple(self.core.registry):
            self.core.break_link(link, CloseReason.DRAINED, "the router is shutting down", now_ns())
        await asyncio.sleep(0)
