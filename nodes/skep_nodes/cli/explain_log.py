"""The decision log as commands read it: decisions of a trace, and the policy and data that they were made by.

A hive that runs is read like one that does not: files that are being written, rotated or removed are no trouble.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from skep import Hive
from skep_nodes.cli.failure import Exit, Failure, no_file
from skep_nodes.sy.decisions import log_folder
from skep_nodes.sy.decisions_store import LINE_BYTES_MAX, LogReader, files_since, log_files, opened
from skep_policy.difference import Report
from skep_policy.replay import data_at, spans

FOUND_MAX: Final = 100  # decisions of one trace that are shown
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Logged:
    """One decision, and where it stands in which file."""

    event: dict[str, Any]
    path: Path
    at: int = 0


def moment_of(text: str) -> datetime:
    """`7d`, `12h`, `30m`, or a date and time as ISO 8601 writes them. Raises Failure."""
    span = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if span:
        return datetime.now(UTC) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Failure("USAGE", f"{text} is no time", why="a span such as 7d, 12h or 30m, or 2026-11-25T08:00:00Z",
                      then="correct what was typed, and repeat it", exit_code=Exit.USAGE) from None  # fmt: skip
    return moment.astimezone(UTC)


def stamp(moment: datetime) -> str:
    """As the timestamps of records sort."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def lines_since(hive: Hive, moment: datetime, reader: LogReader) -> Iterator[dict[str, Any]]:
    """The lines of the hive's log that may be of `moment` or later. Raises Failure when there is no log."""
    files = files_since(log_folder(hive), moment)
    if not files:
        raise Failure("NOT_FOUND", "this hive has no decision log", exit_code=Exit.NOT_FOUND,
                      why="SY.decisions writes it as soon as a policy decides something",
                      then="skep policy status, or give --file")  # fmt: skip
    return reader.read(files)


def lines_of(path: Path, reader: LogReader) -> Iterator[dict[str, Any]]:
    """The lines of a file of decisions, ours or one that somebody else wrote: a seal is checked where there is one."""
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                document = opened(line) if b'"crc":"' in line[-20:] else _unsealed(line)
                if document is not None:
                    yield document
                elif line.strip():
                    reader.damaged += 1
    except (FileNotFoundError, IsADirectoryError):
        raise no_file(path) from None


def _unsealed(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        found = orjson.loads(line)
        return found if isinstance(found, dict) else None
    return None


# -- one trace -----------------------------------------------------------------------------------------------------


def decisions_of(hive: Hive, trace: str) -> list[Logged]:
    """The decisions of every trace whose id begins with these hexadecimal digits, oldest first."""
    found = _found(hive, b'"trace_id":"' + trace.encode())
    return [logged for logged in found if str(logged.event.get("trace_id", "")).startswith(trace)]


def decision_named(hive: Hive, decision_id: str) -> Logged | None:
    """The decision with this id."""
    return next(iter(_found(hive, b'"decision_id":"' + decision_id.encode() + b'"')), None)


def _found(hive: Hive, needle: bytes) -> list[Logged]:
    found: list[Logged] = []
    for path in reversed(log_files(log_folder(hive))):
        lines = lines_with(path, needle)
        found[:0] = [Logged(event, path, at) for at, event in lines if event.get("kind") == "decision"]
        if len(found) >= FOUND_MAX:
            break
    return found[-FOUND_MAX:]


def lines_with(path: Path, needle: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a file in which `needle` stands, and where, without parsing any other."""
    with (
        suppress(FileNotFoundError, ValueError),  # ValueError: the file is empty
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        at = text.find(needle)
        while at >= 0:
            start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
            end = len(text) if end < 0 else end
            document = opened(text[start:end])
            if document is not None:
                yield start, document
            at = text.find(needle, end)


def policy_of(logged: Logged) -> dict[str, Any] | None:
    """The policy line that a decision was made by: that of the version which it names, else the last one before it.
    None when the log no longer has it."""
    version = str(logged.event.get("labels", {}).get("policy_version", ""))
    lines = list(lines_with(logged.path, b'"kind":"policy"'))
    if version:
        found = [line for _, line in lines if str(line.get("version")) == version]
    else:
        found = [line for at, line in lines if at < logged.at]
    return found[-1] if found else None


def data_of(logged: Logged) -> dict[str, Any] | None:
    """The data that a decision was made from, rebuilt from its file and, if it came late, the one before."""
    files = log_files(logged.path.parent)
    index = files.index(logged.path) if logged.path in files else 0
    wanted = logged.event["decision_id"]
    for span in spans(
        _without_others(LogReader().read(files[max(0, index - 1) : index + 1]), wanted), Report()
    ):
        for steps, case in span.in_order():
            if case.decision_id == wanted:
                return data_at(span, steps)
    return None


def _without_others(lines: Iterable[dict[str, Any]], decision_id: str) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.get("kind") != "decision" or line.get("decision_id") == decision_id:
            yield line


def decision_like(hive: Hive, path: str, asked: dict[str, Any], name: str) -> Logged | None:
    """The last decision that was made for an equal message: one that a router still had answered for this one, too."""
    needle = b'"input":{"meta":' + orjson.dumps(asked["meta"])
    for file in reversed(log_files(log_folder(hive))):
        for at, event in reversed(list(lines_with(file, needle))):
            if event.get("kind") == "decision" and event.get("path") == path and _alike(event, asked, name):
                return Logged(event, file, at)
    return None


def _alike(event: dict[str, Any], asked: dict[str, Any], name: str) -> bool:
    """The same destination; and the same sender, where the policy read it."""
    routing = event["input"].get("routing") or {}
    return bool(routing.get("dst") == asked["routing"]["dst"] and routing.get("src_l2_name", name) == name)
