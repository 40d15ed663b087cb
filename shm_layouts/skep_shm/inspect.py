"""What `skep shm` shows: regions, their contents, and what is wrong with them. Functions that return data, no output.

`check` reads every byte of every region: each lies under a checksum, in a sealed word, or must be zero, so any flipped
bit and any truncation is found. A live writer changes things meanwhile: a region that moved during its check is checked
again, and only what persists is reported.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from skep_shm import audit, cheader
from skep_shm.channels import ChannelsReader
from skep_shm.config import ConfigReader
from skep_shm.errors import RegionCode, RegionError
from skep_shm.ilks import IlksReader
from skep_shm.nodes import NodesReader
from skep_shm.policy import PolicyReader
from skep_shm.records import RecordsReader
from skep_shm.region import Attachment, process_start
from skep_shm.segment import SHM_DIR, hive_prefix, segment_names
from skep_shm.tenants import TenantsReader
from skep_shm.threads import ThreadsReader
from skep_shm.types import Header, PolicyState

HEARTBEAT_STALE_NS = 30_000_000_000  # upstream's limit, six of its heartbeats
_CHECK_TRIES = 4
_READERS: dict[str, type[Attachment]] = {
    "nodes": NodesReader,
    "records": RecordsReader,
    "config": ConfigReader,
    "threads": ThreadsReader,
    "policy": PolicyReader,
    "ilks": IlksReader,
    "tenants": TenantsReader,
    "channels": ChannelsReader,
}


class FindingCode(StrEnum):
    """What `check` finds, beside the reasons for which a region is refused (`RegionCode`)."""

    DEAD_WRITER = "DEAD_WRITER"  # its process is gone and nobody took over
    STALE_HEARTBEAT = "STALE_HEARTBEAT"  # its process lives and shows no sign of it
    ORPHAN_GENERATION = "ORPHAN_GENERATION"  # a segment that no anchor names
    UNKNOWN_REGION = "UNKNOWN_REGION"  # a name of this hive that this version does not know


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `fatal` = readers refuse the region or lose data; else a writer must look after it."""

    region: str
    code: str
    detail: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """One region of the hive. `state` is live, dead (its writer is gone) or refused; then `problem` says why."""

    region: str
    kind: str
    state: str
    writer: str = ""
    pid: int = 0
    generation: int = 0
    revision: int = 0
    live: int = 0
    capacity: int = 0
    size_bytes: int = 0
    problem: str = ""


def region_names(root: Path) -> list[str]:
    """Names of the hive's regions, without the prefix."""
    prefix = hive_prefix(root)
    return [name.removeprefix(prefix) for name in segment_names(prefix) if "." not in name]


def open_region(root: Path, region: str) -> Attachment:
    """A reader of the right type for a region's name. Raises RegionError."""
    reader = _READERS.get(region.partition("-")[0])
    if reader is None:
        hint = f"known: {', '.join(_READERS)}"
        raise RegionError(RegionCode.WRONG_KIND, region, "no such kind of region", hint)
    return reader(root, region)


def c_header() -> str:
    """The C header that describes every region of this version."""
    return cheader.text()


def list_regions(root: Path) -> list[RegionInfo]:
    """Every region of the hive, readable or not."""
    return [_info(root, region) for region in region_names(root)]


def _info(root: Path, region: str) -> RegionInfo:
    kind = region.partition("-")[0]
    try:
        header = _header_of(root, region)
    except RegionError as error:
        return RegionInfo(region, kind, "refused", problem=str(error))
    return RegionInfo(
        region=region,
        kind=kind,
        state="live" if writer_alive(header) else "dead",
        writer=header.router_name,
        pid=header.owner_pid,
        generation=header.generation,
        revision=header.revision,
        live=header.live,
        capacity=header.capacity,
        size_bytes=header.size_bytes,
    )


def _header_of(root: Path, region: str) -> Header:
    reader = open_region(root, region)
    try:
        return reader.header()
    finally:
        reader.close()


def writer_alive(header: Header) -> bool:
    """Whether the process that made the segment still runs; a pid used again has another start time."""
    return process_start(header.owner_pid) == header.owner_start


def dump(root: Path, region: str) -> dict[str, Any]:
    """Everything in a region as plain data; bytes as hex. Raises RegionError."""
    reader = open_region(root, region)
    try:
        contents = {"region": region, "header": _plain(asdict(reader.header())), **_contents(reader)}
    finally:
        reader.close()
    return contents


def _contents(reader: Attachment) -> dict[str, Any]:
    if isinstance(reader, NodesReader):
        return {"nodes": [{"slot": slot} | _plain(node._asdict()) for slot, node in reader.items()]}
    if isinstance(reader, ThreadsReader):
        return {"threads": [{"slot": slot} | _plain(asdict(item)) for slot, item in reader.items()]}
    if isinstance(reader, ConfigReader):
        return {"config": _plain(asdict(reader.read()))}
    if isinstance(reader, PolicyReader):
        return {"policy": _policy(reader.read())}
    if isinstance(reader, IlksReader | TenantsReader | ChannelsReader):
        rows = [{"slot": slot} | _plain(item._asdict()) for slot, item in reader.items()]
        return {reader.kind.name.lower(): rows}
    assert isinstance(reader, RecordsReader)
    return {"records": [_plain(asdict(record)) for record in reader.since(0)[0]]}


def _policy(state: PolicyState) -> dict[str, Any]:
    """Bundles by length and digest: megabytes of hexadecimal help nobody."""
    shown: dict[str, Any] = {"version": state.version, "status": state.status.name.lower()}
    for name, data in (("bundle", state.bundle), ("shadow", state.shadow)):
        shown[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} if data else None
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def check(root: Path, now_ns: int | None = None) -> list[Finding]:
    """What is wrong with the hive's regions; empty = nothing. `now_ns` is CLOCK_BOOTTIME."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if now_ns is None else now_ns
    findings: list[Finding] = []
    named = set()
    for region in region_names(root):
        findings += _check_region(root, region, now)
        named |= _names_of(root, region)
    return findings + list(_orphans(root, named))


def _check_region(root: Path, region: str, now_ns: int) -> list[Finding]:
    if region.partition("-")[0] not in _READERS:
        return [Finding(region, FindingCode.UNKNOWN_REGION, "made by another version of Skep?", fatal=False)]
    lasting: list[Finding] | None = None
    for _ in range(_CHECK_TRIES):
        found, moved = _look(root, region, now_ns)
        lasting = found if lasting is None else [item for item in lasting if item in found]
        if not lasting or not moved:
            break
    return lasting or []


def _look(root: Path, region: str, now_ns: int) -> tuple[list[Finding], bool]:
    """One pass over a region, and whether its writer changed it meanwhile."""
    try:
        reader = open_region(root, region)
    except RegionError as error:
        return [Finding(region, error.code, str(error), fatal=True)], True
    try:
        before = reader.revision
        found = [Finding(region, str(RegionCode.DAMAGED), text, fatal=True) for text in audit.faults(reader)]
        found += _writer_findings(region, reader.header(), now_ns)
        return found, reader.revision != before
    except RegionError as error:
        return [Finding(region, error.code, str(error), fatal=True)], True
    finally:
        reader.close()


def _writer_findings(region: str, header: Header, now_ns: int) -> Iterable[Finding]:
    who = f"writer pid {header.owner_pid}" + (f" ({header.router_name})" if header.router_name else "")
    if not writer_alive(header):
        yield Finding(region, FindingCode.DEAD_WRITER, f"{who} is gone; start it again", fatal=False)
    elif header.heartbeat_ns and now_ns - header.heartbeat_ns > HEARTBEAT_STALE_NS:
        seconds = (now_ns - header.heartbeat_ns) / 1e9
        yield Finding(
            region, FindingCode.STALE_HEARTBEAT, f"{who} gave no sign for {seconds:.0f} s", fatal=False
        )


def _names_of(root: Path, region: str) -> set[str]:
    """The segments that belong to a region as it is now: the current one, and newer ones that a live writer fills."""
    try:
        header = _header_of(root, region)
    except RegionError:
        return set()
    name = f"{hive_prefix(root)}{region}.g"
    newer = segment_names(name) if writer_alive(header) else []
    return {f"{name}{header.generation}", *(each for each in newer if _number(each) > header.generation)}


def _number(name: str) -> int:
    """The generation in a segment's name; -1 for a name that is not one."""
    digits = name.rpartition(".g")[2]
    return int(digits) if digits.isdecimal() else -1


def _orphans(root: Path, named: set[str]) -> Iterable[Finding]:
    prefix = hive_prefix(root)
    for name in segment_names(prefix):
        if "." in name and name not in named and (SHM_DIR / name.removeprefix("/")).exists():
            detail = "a segment that no anchor names; its writer removes it when it starts"
            yield Finding(name.removeprefix(prefix), FindingCode.ORPHAN_GENERATION, detail, fatal=False)
