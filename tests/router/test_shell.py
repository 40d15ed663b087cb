"""The shell on real Unix sockets, under uvloop and plain asyncio: bytes, turns, and descriptors that are used again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from router.wire import HIVE, ROUTER, Notes, uuid_of
from skep.protocol import link as link_verbs
from skep.protocol.codes import CloseReason
from skep.protocol.handshake import NATIVE, Announced, ClientHandshake
from skep.protocol.header import ContentType, DstKind, MessageClass, Selector, pack_frame, pack_key
from skep.protocol.native_framing import NativeFramer
from skep_router.accounts import Account
from skep_router.core import Core
from skep_router.hooks import Hooks
from skep_router.settings import Settings
from skep_router.shell import Port, Shell
from skep_router.turns import Turns
from skep_shm import ConfigState
from support.wait import eventually_async

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


@pytest.fixture(params=LOOPS, ids=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., object]]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run


class Client:
    """A native node on a blocking-free socket, reading only when told to."""

    def __init__(self, name: str, path: Path) -> None:
        self.uuid = uuid_of(name)
        self.name = name
        self.path = path
        self.framer = NativeFramer()
        self.count = 0
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)

    async def connect(self) -> Client:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.sock, str(self.path))
        shake = ClientHandshake(self.uuid, self.name, "1", framings=(NATIVE,))
        shake.start()
        await loop.sock_sendall(self.sock, shake.data_to_send())
        while True:
            answers = shake.receive_data(await loop.sock_recv(self.sock, 65536))
            if answers:
                assert isinstance(answers[0], Announced)
                self.framer.receive_data(shake.take_leftover())
                return self

    def frame(self, dst: str, body: bytes, message_id: int = 0) -> bytes:
        selector = Selector(
            content_type=ContentType.BYTES, dst_kind=DstKind.NAME, destination=dst.encode(),
        )
        return pack_frame(pack_key(self.uuid, selector), body, message_id=message_id)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, size: int = 65536) -> list[bytes]:
        """Payloads of one read; they are reported taken."""
        data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        if not data:
            raise EOFError
        frames = [f for f in self.framer.receive_data(data) if f.key[17] != MessageClass.LINK]
        self.count += len(frames)
        if frames:
            await self.send(link_verbs.pack_taken(self.count))
        return [frame.payload for frame in frames]


@contextlib.asynccontextmanager
async def router() -> AsyncIterator[tuple[Shell, Path]]:
    with tempfile.TemporaryDirectory(prefix="sk-") as folder:
        notes = Notes()
        settings = Settings(hive=HIVE, root=Path(folder), name="RT.main", uuid=ROUTER, own_uid=os.getuid())
        core = Core(settings, Hooks(notes, notes, notes, notes.doorbells.append), epoch=1)
        core.configure(ConfigState(version=1, routes=(), vpns=(), grants=(), limits={}), 1)
        shell = Shell(core, Path(folder) / "r.sock")
        await shell.listen()
        stop = asyncio.Event()
        tick(shell, stop)
        try:
            yield shell, shell.socket_path
        finally:
            stop.set()
            await shell.drain(0.1)


def tick(shell: Shell, stop: asyncio.Event) -> None:
    """What `__main__` does between reads."""
    if not stop.is_set():
        shell.tick()
        asyncio.get_running_loop().call_later(shell.core.settings.tick_s, tick, shell, stop)


@pytest.mark.goal("G8")
def test_a_slow_consumer_gets_every_byte_of_every_sender(run: Callable[..., object]) -> None:
    """Partial writes, queueing, resuming: 5 MB through a reader that takes small sips, compared byte by byte."""

    async def scene() -> None:
        dice = random.Random(7)
        async with router() as (_, path):
            senders = [await Client(f"AI.s{i}", path).connect() for i in range(3)]
            sink = await Client("AI.sink", path).connect()
            bodies = {
                s.name: [bytes([dice.randrange(256)]) * dice.randrange(1, 24_000) for _ in range(130)] for s in senders
            }

            async def feed(client: Client) -> None:
                for body in bodies[client.name]:
                    await client.send(client.frame("AI.sink", client.name.encode() + b"|" + body))

            feeding = asyncio.gather(*(feed(s) for s in senders))
            got: dict[str, list[bytes]] = {s.name: [] for s in senders}
            while sum(map(len, got.values())) < 3 * 130:
                for payload in await sink.receive(dice.choice((512, 4096, 70_000))):
                    name, _, body = payload.partition(b"|")
                    got[name.decode()].append(body)
            await feeding
            assert got == bodies

    run(scene())


def test_a_closed_connections_descriptor_is_not_written_any_more(run: Callable[..., object]) -> None:
    """Descriptors are numbers that come back at once: what is still owed to the old one must not reach the new one."""

    async def scene() -> None:
        async with router() as (shell, path):
            sender = await Client("AI.sender", path).connect()
            for turn in range(20):
                victim = await Client("AI.victim", path).connect()
                await sender.send(sender.frame("AI.victim", b"%d" % turn * 1000))
                link = next(iter(shell.core.registry.group(f"AI.victim@{HIVE}")))
                shell.core.break_link(link, CloseReason.GRANT_REVOKED, "test", 1)
                newcomer = await Client(f"AI.new{turn}", path).connect()
                await sender.send(sender.frame("AI.victim", b"late"))
                await sender.send(sender.frame(newcomer.name, b"hello %d" % turn))
                assert await newcomer.receive() == [b"hello %d" % turn]
                victim.sock.close()
                newcomer.sock.close()

    run(scene())


def test_drain_says_goodbye_and_removes_the_socket(run: Callable[..., object]) -> None:
    async def scene() -> None:
        async with router() as (shell, path):
            node = await Client("AI.a", path).connect()
            await shell.drain(0.2)
            assert not path.exists()
            data = b""
            with contextlib.suppress(ConnectionError):
                while chunk := await asyncio.get_running_loop().sock_recv(node.sock, 65536):
                    data += chunk
            verbs = [link_verbs.parse_link(f.payload) for f in NativeFramer().receive_data(data)]
            assert [type(v).__name__ for v in verbs] == ["Drain", "Bye"]
            assert verbs[-1].reason is CloseReason.DRAINED

    run(scene())


def test_a_newcomer_whose_hello_had_to_wait_is_read_on(run: Callable[..., object]) -> None:
    """Its turn came after its uid's share was used up: the connection that was stopped was nobody's yet."""

    class Late(Turns):
        def take(self, account: Account, port: Port, data: bytes) -> None:
            self._keep(account, port, data)

    async def scene() -> None:
        async with router() as (shell, path):
            shell.core.accounts.get(os.getuid() + 1)  # somebody to share turns with
            shell.turns = Late()
            shell.tick()
            a = await Client("AI.a", path).connect()
            b = await Client("AI.b", path).connect()
            for word in (b"one", b"two"):
                await a.send(a.frame("AI.b", word))
                assert await asyncio.wait_for(b.receive(), 5) == [word]

    run(scene())


def test_a_removed_socket_file_comes_back_and_nobody_notices(run: Callable[..., object]) -> None:
    async def scene() -> None:
        async with router() as (shell, path):
            early = await Client("AI.early", path).connect()
            inode = path.stat().st_ino
            await shell.keep_listening()
            assert path.stat().st_ino == inode, "nothing to mend, nothing done"
            path.unlink()
            await shell.keep_listening()
            late = await Client("AI.late", path).connect()
            await late.send(late.frame("AI.early", b"hello"))
            assert await early.receive() == [b"hello"]

    run(scene())


def test_a_peer_that_never_reads_its_farewell_is_cut(run: Callable[..., object]) -> None:
    async def scene() -> None:
        async with router() as (shell, path):
            sender, deaf = await Client("AI.sender", path).connect(), await Client("AI.deaf", path).connect()
            for _ in range(40):
                await sender.send(sender.frame("AI.deaf", bytes(60_000)))
            await eventually_async(lambda: shell.core.registry.group(f"AI.deaf@{HIVE}")[0].blocked)
            await deaf.send(b"\xff" * 200)
            await eventually_async(lambda: not shell.core.registry.group(f"AI.deaf@{HIVE}") and not shell.closing_count)

    run(scene())
