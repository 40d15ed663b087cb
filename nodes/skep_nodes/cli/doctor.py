"""`skep doctor`: is this machine fit for a hive, and is the hive well? Reads only; never changes anything.

Each check is a function that returns one finding, so a check that cannot run is a finding too. Exit codes: 0 all
well or only notes, 1 something is wrong, 3 no hive.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skep_shm
from skep import find_hive
from skep.hive import Hive
from skep_nodes.cli.expected import listener, missing_regions
from skep_nodes.cli.failure import Exit
from skep_nodes.cli.output import Column, Format, Output
from skep_nodes.cli.versions import all_versions

DISK_FREE_MIN = 0.05  # below this share senders are refused; warn from twice that
SHM_FREE_MIN = 64 << 20  # a busy hive's regions and their next generations
FILES_MIN = 4096  # one descriptor for each node, and some
STALE_S = 30.0  # a region whose heartbeat is older has a dead or hanging writer
CLOCK_YEAR_MIN = 2024  # an earlier wall clock was never set
COLUMNS = [Column("check", "CHECK"), Column("level", "RESULT"), Column("detail", "DETAIL", flexible=True)]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `then` says what to do about it."""

    check: str
    level: str  # ok, note, wrong
    detail: str
    then: str = ""

    def facts(self) -> dict[str, Any]:
        """The finding as every form prints it."""
        advice = {"next": self.then} if self.then else {}
        return {"check": self.check, "level": self.level, "detail": self.detail, **advice}


def doctor_command(root: Path | None, out: Output) -> int:
    """Run every check and print what it found."""
    hive = find_hive(root)
    findings = [_guarded(check, hive) for check in CHECKS]
    out.rows("skep.doctor/1", "checks", [finding.facts() for finding in findings], COLUMNS)
    wrong = [finding for finding in findings if finding.level == "wrong"]
    if out.form is Format.table:
        for finding in findings:
            if finding.then:
                out.say(f"{finding.check}: {finding.then}")
    return Exit.FAILED if wrong else Exit.OK


def _guarded(check: Callable[[Hive], Finding], hive: Hive) -> Finding:
    try:
        return check(hive)
    except (OSError, skep_shm.RegionError, ValueError) as error:
        return Finding(
            check.__name__.removeprefix("_").replace("_", " "), "wrong", f"could not be checked: {error}"
        )


def _versions(hive: Hive) -> Finding:
    found = all_versions()
    missing = [name for name, version in found.items() if version is None]
    text = f"skep {found['skep']}, python {found['python']}, kernel {found['kernel']}"
    if missing:
        return Finding(
            "versions", "wrong", f"{text}; missing: {', '.join(missing)}", "pip install 'skep[hive]'"
        )
    return Finding("versions", "ok", text)


def _folder(hive: Hive) -> Finding:
    found = hive.root.stat()
    if found.st_mode & stat.S_IWOTH:
        return Finding("folder", "wrong", f"{hive.root} can be written by everyone", f"chmod o-w {hive.root}")
    if found.st_uid not in (os.geteuid(), 0):
        return Finding("folder", "note", f"{hive.root} belongs to uid {found.st_uid}, not to you")
    return Finding("folder", "ok", f"{hive.root}, hive {hive.hive_id}")


def _settings(hive: Hive) -> Finding:
    from skep_nodes.cli.failure import Failure
    from skep_nodes.cli.hive_file import load

    try:
        count = len(load(hive.root).settings.nodes)
    except Failure as failure:
        return Finding("settings", "wrong", failure.what, failure.then)
    return Finding("settings", "ok", f"hive.yaml is valid and starts {count} nodes besides the hive's own")


def _stored_config(hive: Hive) -> Finding:
    from skep_nodes.sy.config_store import ConfigDamaged, ConfigStore

    try:
        loaded = ConfigStore(hive.config_dir).load()
    except ConfigDamaged as error:
        return Finding("stored config", "wrong", str(error), "restore the file from a backup")
    if loaded.warnings:
        return Finding(
            "stored config", "note", loaded.warnings[0], "any change with `skep route` writes it anew"
        )
    version = f"version {loaded.state.version}" if loaded.state else "none yet"
    return Finding("stored config", "ok", version)


def _sockets(hive: Hive) -> Finding:
    paths = sorted(hive.sockets_dir.glob("*.sock"))
    answering = [path for path in paths if listener(path)]
    if not answering:
        return Finding("routers", "wrong", "no router listens", f"skep up --hive {hive.root}")
    dead = len(paths) - len(answering)
    note = f"; {dead} sockets of dead routers are left, harmless" if dead else ""
    return Finding("routers", "ok", f"{len(answering)} listening{note}")


def _regions(hive: Hive) -> Finding:
    from skep_shm import inspect

    missing = missing_regions(hive)
    if missing:
        pids = " ".join(dict.fromkeys(str(each.pid) for each in missing))
        return Finding(
            "shared memory", "wrong", "missing though its writer runs: " + ", ".join(map(str, missing)),
            f"restart what should have made it: kill {pids} (`skep up` starts it again)",
        )  # fmt: skip
    regions = list(inspect.list_regions(hive.root))
    found = list(inspect.check(hive.root))
    if found:
        first = f"{found[0].region}: {found[0].code}: {found[0].detail}"
        return Finding("shared memory", "wrong", f"{len(found)} findings, first: {first}", "skep shm check")
    if not regions:
        return Finding("shared memory", "note", "no regions: nothing of this hive runs")
    return Finding("shared memory", "ok", f"{len(regions)} regions, all sound")


def _heartbeats(hive: Hive) -> Finding:
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    beats = [reader.header().heartbeat_ns for reader in skep_shm.nodes_readers(hive.root)]
    if not beats:
        return Finding("heartbeats", "note", "no router has a node table")
    if not min(beats):
        return Finding("heartbeats", "wrong", "a router died before its first heartbeat", "its log says why")
    ages = [(now_ns - beat) / 1e9 for beat in beats]
    if max(ages) > STALE_S:
        return Finding(
            "heartbeats", "wrong", f"a router was last seen {max(ages):.0f} s ago", "restart the hive"
        )
    return Finding("heartbeats", "ok", f"every router was seen in the last {max(ages):.1f} s")


def _compiler(_: Hive) -> Finding:
    from skep_policy.opa import find_opa

    opa = find_opa()
    if opa is None:
        return Finding("policies", "note", "the opa command is not here: they run, and none can be compiled",
                       "make tools (in a checkout), or put opa on PATH, or name it in SKEP_OPA")  # fmt: skip
    return Finding("policies", "ok", f"{opa} compiles them")


def _descriptors(hive: Hive) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} open files, {hard} when raised"
    if 0 <= hard < FILES_MIN:
        return Finding("descriptors", "note", text, f"raise RLIMIT_NOFILE above {FILES_MIN} for many nodes")
    return Finding("descriptors", "ok", text)


def _disk(hive: Hive) -> Finding:
    usage = shutil.disk_usage(hive.root)
    share = usage.free / usage.total
    text = f"{usage.free >> 20} MiB free ({share:.0%})"
    if share < DISK_FREE_MIN:
        return Finding("disk", "wrong", text, "free space where the hive's folder is")
    return Finding("disk", "note" if share < 2 * DISK_FREE_MIN else "ok", text)


def _memory(hive: Hive) -> Finding:
    free = shutil.disk_usage(
        "/dev/shm"
    ).free  # the place where POSIX shared memory lives, not a temporary file
    if free < SHM_FREE_MIN:
        return Finding("/dev/shm", "wrong", f"{free >> 20} MiB free", "remove what is not needed there")
    return Finding("/dev/shm", "ok", f"{free >> 20} MiB free")


def _clock(hive: Hive) -> Finding:
    year = time.gmtime().tm_year
    if year < CLOCK_YEAR_MIN:
        return Finding(
            "clock", "note", f"the wall clock says {year}", "set the time; Skep itself does not use it"
        )
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


CHECKS: tuple[Callable[[Hive], Finding], ...] = (
    _versions,
    _folder,
    _settings,
    _stored_config,
    _sockets,
    _regions,
    _heartbeats,
    _compiler,
    _descriptors,
    _disk,
    _memory,
    _clock,
)
