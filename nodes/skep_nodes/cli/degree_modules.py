"""`skep module`: list, show and publish the texts that agents are taught."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skep.seal import MODULE_BYTES_MAX
from skep_nodes.cli.degree_session import ask, ask_all
from skep_nodes.cli.failure import Exit, Failure, no_file
from skep_nodes.cli.output import Column, Format, Output, printable

ROWS = [Column("name", "NAME"), Column("newest", "NEWEST"), Column("count", "VERSIONS", right=True)]
SHOWN = ("name", "version", "category", "form", "size", "hash", "description", "created_by", "created_at")


@dataclass(frozen=True, slots=True)
class Publication:
    """What the command line wants published."""

    name: str
    version: str
    file: Path
    category: str
    description: str


def ls_command(root: Path | None, out: Output, timeout: float) -> int:
    """`skep module ls`."""
    modules = ask_all(root, "MODULE_LIST", "modules", timeout)
    rows = [{**one, "newest": one["versions"][-1], "count": len(one["versions"])} for one in modules]
    out.rows("skep.modules/1", "modules", rows, ROWS)
    return Exit.OK


def show_command(
    root: Path | None, out: Output, asked: tuple[str, str], timeout: float, *, content: bool
) -> int:
    """`skep module show`."""
    name, version = asked
    facts = ask(root, "MODULE_GET", {"name": name, "version": version or _newest(root, name, timeout)},
                f"showing module {name}", timeout)  # fmt: skip
    data = base64.b64decode(facts["content"])
    if content:
        sys.stdout.buffer.write(data)
        return Exit.OK
    shown: dict[str, Any] = {key: facts[key] for key in SHOWN}
    out.one("skep.module/1", {**shown, "hash": f"sha256:{facts['hash']}"}, f"{facts['name']}@{facts['version']}")
    if out.form is Format.table and facts["form"] == "text":
        out.text("")
        out.text("\n".join(printable(line) for line in data.decode().splitlines()))
    return Exit.OK


def _newest(root: Path | None, name: str, timeout: float) -> str:
    versions = ask(root, "MODULE_GET", {"name": name}, f"showing module {name}", timeout)["versions"]
    if not versions:
        raise Failure("NOT_FOUND", f"no module {name}", then="skep module ls", exit_code=Exit.NOT_FOUND)
    return str(versions[-1])


def publish_command(root: Path | None, out: Output, asked: Publication, timeout: float) -> int:
    """`skep module publish`."""
    content = _read(asked.file)
    payload = {
        "name": asked.name, "version": asked.version, "content": base64.b64encode(content).decode(),
        "form": "tar" if asked.file.suffix == ".tar" else "text", "category": asked.category,
        "description": asked.description,
    }  # fmt: skip
    facts = ask(root, "MODULE_PUBLISH", payload, f"publishing {asked.name} {asked.version}", timeout)
    out.say(f"published {facts['name']}@{facts['version']}, sha256:{facts['hash']}")
    if out.form is not Format.table:
        shown = {key: facts[key] for key in SHOWN}
        out.one("skep.module/1", {**shown, "hash": f"sha256:{facts['hash']}"}, f"{facts['name']}@{facts['version']}")
    return Exit.OK


def _read(file: Path) -> bytes:
    """The bytes to publish; one more than may be, so that a longer file is seen to be."""
    if str(file) == "-":
        data = sys.stdin.buffer.read(MODULE_BYTES_MAX + 1)
    else:
        try:
            with file.open("rb") as source:
                data = source.read(MODULE_BYTES_MAX + 1)
        except (FileNotFoundError, IsADirectoryError):
            raise no_file(file) from None
    if len(data) > MODULE_BYTES_MAX:
        raise Failure("MODULE_TOO_LARGE", f"{file} has more than {MODULE_BYTES_MAX} bytes", then="cut it in two",
                      exit_code=Exit.USAGE)  # fmt: skip
    return data
