"""What a router keeps on disk: its uuid, and its epoch, which grows at every start.

Both live in one small JSON file under the hive's state folder, written beside and renamed, synced before it is used: an
epoch that went back would make thread sequences go back. A file that cannot be read is put aside, not overwritten; the
epoch then starts at the minutes since 2026, which no count of restarts has reached.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import orjson

from skep.files import write_atomic
from skep_router.log import Log

_EPOCH_ORIGIN_S = 1_767_225_600  # 2026-01-01T00:00:00Z


class Identity(NamedTuple):
    uuid: bytes
    epoch: int


def start(state_dir: Path, name: str) -> Identity:
    """Read this router's identity, count its start, and make both durable. Where the disk takes nothing the router
    starts all the same: messages need no disk, and minutes are an epoch above every count of restarts."""
    path = state_dir / f"{name}.router.json"
    uuid, epoch = _read(path)
    identity = Identity(uuid, epoch + 1)
    try:
        write_atomic(path, _packed(identity))
    except OSError as error:
        identity = Identity(uuid, max(epoch + 1, _minutes()))
        Log().write("router state not written", path=str(path), reason=str(error), epoch=identity.epoch)
    return identity


def _minutes() -> int:
    return int(time.time() - _EPOCH_ORIGIN_S) // 60


def _packed(identity: Identity) -> bytes:
    return orjson.dumps({"uuid": str(UUID(bytes=identity.uuid)), "epoch": identity.epoch})


def _read(path: Path) -> tuple[bytes, int]:
    try:
        stored = orjson.loads(path.read_bytes())
        return UUID(stored["uuid"]).bytes, int(stored["epoch"])
    except FileNotFoundError:
        return uuid4().bytes, 0
    except (ValueError, KeyError, TypeError):
        path.replace(path.with_suffix(f".damaged-{int(time.time())}"))
        return uuid4().bytes, max(1, _minutes())
