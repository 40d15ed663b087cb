"""Start one router: `python -m skep_router --hive ROOT --name RT.main`.

Order: identity and epoch on disk, regions, core, socket last; a client that finds the socket finds a router that works.
SIGTERM and SIGINT drain. Exit codes: 0 after a drain, 1 when it could not start (the reason on stderr), 2 for usage.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from typing import get_args

import orjson

from skep.hive import find_hive
from skep.protocol.errors import ProtocolError
from skep.protocol.names import parse_name
from skep_router import state
from skep_router.core import Core
from skep_router.hooks import Hooks
from skep_router.log import Log
from skep_router.settings import Seals, Settings
from skep_router.shell import Shell, now_ns
from skep_router.watch import NodeTable, RecordRing, Watcher
from skep_shm import RegionError

_TICKETS_BYTES_MAX = 65536
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 20  # of freed memory: a few reads and joins, and no more, or idle nodes would seem to cost it


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skep_router", description="One router of a hive.")
    parser.add_argument("--hive", required=True, help="the hive's folder")
    parser.add_argument("--name", default="RT.main", help="this router's name (default: RT.main)")
    parser.add_argument("--ticket-fd", type=int, help="descriptor with the tickets of the hive's system nodes")
    choices = parser.add_argument_group("policy and identity")
    choices.add_argument("--policy", choices=("optional", "required"), default="optional",
                         help="required: without a policy, what it would be asked about hears NOT_READY")
    choices.add_argument("--identity", choices=("optional", "required"), default="optional",
                         help="required: without identities, messages that name nobody hear NOT_READY")
    choices.add_argument("--seals", choices=get_args(Seals), default="off",
                         help="what becomes of agents without a valid seal (default: off)")
    choices.add_argument("--frontdesk", default="SY.frontdesk.gov",
                         help="node that meets interlocutors who are not registered yet (default: SY.frontdesk.gov)")
    arguments = parser.parse_args(argv)
    try:
        settings, epoch = _settings(arguments)
        _run(settings, epoch)
    except (OSError, RegionError, ProtocolError, ValueError) as error:
        Log().write("router cannot start", name=arguments.name, reason=str(error), hint="run: skep doctor")
        return 1
    return 0


def _settings(arguments: argparse.Namespace) -> tuple[Settings, int]:
    hive = find_hive(arguments.hive)
    name = parse_name(arguments.name, hive.hive_id).partition("@")[0]
    identity = state.start(hive.state_dir, name)
    tickets = _tickets(arguments.ticket_fd, hive.hive_id) if arguments.ticket_fd is not None else frozenset()
    settings = Settings(
        hive=hive.hive_id, root=hive.root, name=name, uuid=identity.uuid, own_uid=os.getuid(), tickets=tickets,
        links_of_others=_raise_descriptor_limit() // 2, policy_required=arguments.policy == "required",
        identity_required=arguments.identity == "required", seals=arguments.seals,
        frontdesk=parse_name(arguments.frontdesk, hive.hive_id),
    )
    return settings, identity.epoch


def _tickets(descriptor: int, hive: str) -> frozenset[tuple[str, str]]:
    """JSON lines {"name", "sha256"}; only hashes cross the descriptor, so a router never holds a ticket."""
    with os.fdopen(descriptor, "rb") as lines:
        rows = [orjson.loads(line) for line in lines.read(_TICKETS_BYTES_MAX).splitlines() if line]
    return frozenset((parse_name(row["name"], hive), row["sha256"]) for row in rows)


def _raise_descriptor_limit() -> int:
    """Each node is a descriptor: take what the kernel allows without asking. -> how many there are"""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _keep_memory() -> None:
    """Tell glibc to keep what reads and joins need, instead of giving it back to the kernel and faulting it in again,
    page by page: a sixth of the router's time at 200 KB reads. Another C library has no mallopt, and needs none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, _KEPT_BYTES)


def _run(settings: Settings, epoch: int) -> None:
    _keep_memory()
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    # Nothing in the core is cyclic for long, and a collection over 10,000 links stops the loop for milliseconds:
    # freeze what start-up made, and collect the young generation less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    with runner:
        runner.run(_serve(settings, epoch))


async def _serve(settings: Settings, epoch: int) -> None:
    log = Log()
    with contextlib.ExitStack() as regions:  # what was made is taken away, also when the next finds no room
        table = NodeTable(settings.root, settings.uuid, settings.full_name, settings.hive)
        regions.callback(table.close)
        ring = RecordRing(settings.root, settings.uuid, log)
        regions.callback(ring.close)
        await _serve_on(settings, epoch, log, table, ring)


async def _serve_on(settings: Settings, epoch: int, log: Log, table: NodeTable, ring: RecordRing) -> None:
    loop = asyncio.get_running_loop()

    def rung(_kind: int) -> None:
        shell.rung = True

    core = Core(settings, Hooks(directory=table, recorder=ring, log=ring, doorbell=rung), epoch)
    watcher = Watcher(settings.root, core, log)
    sockets = settings.root / "run" / "routers"
    sockets.mkdir(parents=True, exist_ok=True)
    shell = Shell(core, sockets / f"{settings.uuid.hex()}.sock")
    shell.look = watcher.look_again
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    watcher.look(now_ns())
    await shell.listen()
    _notify("READY=1")
    engine = loop.run_in_executor(None, _load_engine) if settings.policy_required else None
    try:
        await _tick(shell, watcher, table, ring, stopping, log)
    finally:
        _notify("STOPPING=1")
        await shell.drain(settings.drain_s)
        if engine is not None:
            await engine
        watcher.close()


def _load_engine() -> None:
    """What a policy runs in, while its owner still starts: a tenth of a second less until the first is in force."""
    import skep_policy.bundle
    import skep_policy.evaluator  # noqa: F401


async def _tick(
    shell: Shell, watcher: Watcher, table: NodeTable, ring: RecordRing, stopping: asyncio.Event, log: Log
) -> None:
    """Look at the clock and at the revision words until told to stop; after a doorbell the shell has looked already."""
    step = shell.core.settings.tick_s
    while not stopping.is_set():
        now = now_ns()
        watcher.look(now)
        shell.tick()
        if table.heartbeat(now):
            ring.heartbeat(now)
            await _keep_found(shell, log)
        await asyncio.sleep(step)


async def _keep_found(shell: Shell, log: Log) -> None:
    try:
        await shell.keep_listening()
    except OSError as error:
        log.write("socket cannot be made", path=str(shell.socket_path), reason=str(error))


def _notify(word: str) -> None:
    """sd_notify(3), where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(word.encode(), "\0" + address[1:] if address.startswith("@") else address)


if __name__ == "__main__":
    sys.exit(main())
