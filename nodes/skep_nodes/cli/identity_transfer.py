"""`skep identity export|import`: everybody as lines of JSON, resumable, with progress.

An export writes to `FILE.part` and renames it when it is whole; begun again, it reads the last whole line of the part
and goes on after it. An import notes beside the file (`FILE.progress`) up to which byte everything is kept; begun again
on the same file it goes on there. Both may be repeated: ids are kept, and what is there already is left as it is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from skep import Node
from skep.files import write_atomic
from skep_nodes.cli.failure import Exit, Failure, no_file
from skep_nodes.cli.identity_session import PAGES_MAX, say
from skep_nodes.cli.output import Format, Output
from skep_nodes.cli.session import joined

MESSAGE_BYTES_MAX = 40 << 10  # of lines in one message; a frame holds 64 KiB
MESSAGE_LINES_MAX = 200
LINE_BYTES_MAX = MESSAGE_BYTES_MAX
REFUSED_SHOWN = 20
PROGRESS_S = 0.5


class Progress:
    """Says on a terminal how far it is, twice a second; elsewhere it stays silent."""

    def __init__(self, out: Output, what: str) -> None:
        self._shown = sys.stderr.isatty() and not out.quiet
        self._what, self._began, self._next = what, time.monotonic(), 0.0

    def at(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next = now + PROGRESS_S
            rate = done / max(now - self._began, 1e-6)
            share = f" {100 * done // total} %" if total else ""
            print(f"\r{self._what} {done}{share}, {rate:.0f} a second ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# -- out -----------------------------------------------------------------------------------------------------------


def export_command(root: Path | None, out: Output, path: Path, timeout: float) -> int:
    """Write everybody."""
    if str(path) == "-":
        count = joined(root, "", lambda node: _export(node, out, sys.stdout.buffer, "", timeout), timeout)
        return _exported(out, count, "standard output")
    part = path.with_name(path.name + ".part")
    after = _last_ilk(part)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if after else os.O_TRUNC), 0o600)
    with os.fdopen(fd, "ab") as file:
        count = joined(root, "", lambda node: _export(node, out, file, after, timeout), timeout)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return _exported(out, count, str(path))


def _exported(out: Output, count: int, where: str) -> int:
    out.say(f"{count} lines written to {where}")
    return Exit.OK


def _last_ilk(part: Path) -> str:
    """Where an interrupted export ended; what follows its last whole line is cut off."""
    if not part.exists():
        return ""
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    with part.open("r+b") as file:
        file.truncate(len(whole))
    last = whole[whole[:-1].rfind(b"\n") + 1 :]
    try:
        return str(orjson.loads(last)["ilk"]["ilk_id"])
    except (ValueError, KeyError, TypeError):
        return ""


async def _export(node: Node, out: Output, file: IO[bytes], after: str, timeout: float) -> int:
    count = 0 if after else await _heads(node, file, timeout)
    payload, progress = ({"after": after} if after else {}), Progress(out, "exported")
    for _ in range(PAGES_MAX):
        page = await say(node, "IDENTITY_EXPORT", payload, "the export", timeout)
        file.writelines(orjson.dumps(line) + b"\n" for line in page["lines"])
        count += len(page["lines"])
        progress.at(count, page["total"])
        if "next" not in page:
            break
        payload = {"after": page["next"]}
    progress.end()
    return count


async def _heads(node: Node, file: IO[bytes], timeout: float) -> int:
    """Tenants and words: what the lines of interlocutors refer to."""
    lines: list[dict[str, Any]] = []
    payload: dict[str, Any] = {}
    for _ in range(PAGES_MAX):
        page = await say(node, "TNT_LIST", payload, "listing tenants", timeout)
        lines += [{"tenant": tenant} for tenant in page["tenants"]]
        if "next" not in page:
            break
        payload = {"after": page["next"]}
    words = await say(node, "VOCABULARY_LIST", {}, "listing the vocabulary", timeout)
    lines += [{"word": word} for word in words["vocabulary"]]
    file.writelines(orjson.dumps(line) + b"\n" for line in lines)
    return len(lines)


# -- in ------------------------------------------------------------------------------------------------------------


def import_command(root: Path | None, out: Output, path: Path, timeout: float) -> int:
    """Read what an export wrote."""
    reading = Reading(path)
    counts = joined(root, "", lambda node: _import(node, out, reading, timeout), timeout)
    refused = counts.pop("refused_count")
    reading.forget()
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    out.say(f"{path}: {said}" + (f", {refused} refused" if refused else ""))
    if out.form is not Format.table:
        out.one("skep.import/1", {**counts, "refused": refused}, str(path))
    return Exit.CONFLICT if refused else Exit.OK


class Reading:
    """A file and how far it is kept already."""

    def __init__(self, path: Path) -> None:
        self.path, self._note = path, path.with_name(path.name + ".progress")
        if not path.exists() or path.is_dir():
            raise no_file(path)
        facts = path.stat()
        self.size = facts.st_size
        self._same = {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
        self.offset, self.line = self._noted()

    def _noted(self) -> tuple[int, int]:
        try:
            note = orjson.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return 0, 1
        if not isinstance(note, dict) or {name: note.get(name) for name in self._same} != self._same:
            return 0, 1  # another file by now
        return int(note["offset"]), int(note["line"])

    def pieces(self) -> Iterator[tuple[int, list[Any], int]]:
        """(number of the first line, lines, offset after them), each piece small enough for a message."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            lines, size, number, first = list[Any](), 0, self.line, self.line
            for raw in file:
                if lines and (size + len(raw) > MESSAGE_BYTES_MAX or len(lines) >= MESSAGE_LINES_MAX):
                    yield first, lines, self.offset
                    lines, size, first = [], 0, number
                lines.append(self._line(raw, number))
                size, number, self.offset = size + len(raw), number + 1, self.offset + len(raw)
            if lines:
                yield first, lines, self.offset

    def _line(self, raw: bytes, number: int) -> Any:
        if len(raw) > LINE_BYTES_MAX:
            raise self._bad(number, f"{len(raw)} bytes, {LINE_BYTES_MAX} at most")
        try:
            return orjson.loads(raw)
        except ValueError as error:
            raise self._bad(number, f"it is no JSON: {error}") from error

    def _bad(self, number: int, problem: str) -> Failure:
        return Failure("INVALID_PAYLOAD", f"{self.path}:{number}: {problem}", exit_code=Exit.USAGE,
                       then="correct the line and repeat the command: it goes on there")  # fmt: skip

    def keep(self, offset: int, line: int) -> None:
        """Note that everything before is kept."""
        write_atomic(self._note, orjson.dumps({**self._same, "offset": offset, "line": line}))

    def forget(self) -> None:
        """The file is done."""
        self._note.unlink(missing_ok=True)


async def _import(node: Node, out: Output, reading: Reading, timeout: float) -> dict[str, int]:
    counts = {"created": 0, "changed": 0, "unchanged": 0, "refused_count": 0}
    progress = Progress(out, "imported bytes")
    if reading.offset:
        out.say(f"going on at line {reading.line}")
    for first, lines, offset in reading.pieces():
        asked = {"first": first, "lines": lines}
        answer = await say(node, "IDENTITY_IMPORT", asked, f"importing from line {first}", timeout)
        for name in ("created", "changed", "unchanged"):
            counts[name] += answer[name]
        for refused in answer["refused"]:
            counts["refused_count"] += 1
            if counts["refused_count"] <= REFUSED_SHOWN:
                out.say(f"{reading.path}:{refused['line']}: {refused['error_code']}: {refused['message']}")
        reading.keep(offset, first + len(lines))
        progress.at(offset, reading.size)
    progress.end()
    return counts
