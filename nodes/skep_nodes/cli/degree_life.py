"""`skep degree`: compose, graduate, revoke, rotate. What only reads files is in `degree_verify`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skep import find_hive
from skep.protocol.message import format_ilk
from skep.protocol.names import parse_name
from skep_nodes.cli.degree_session import ask, ask_all, confirm
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Column, Format, Output

LISTS = {
    "degrees": ("DEGREE_LIST", [
        Column("name", "NAME"), Column("version", "VERSION", right=True), Column("content", "MODULES", flexible=True),
        Column("grants", "CAPABILITIES", flexible=True), Column("id", "ID", first=15),
    ]),
    "carriers": ("DEGREE_CARRIERS", [
        Column("handler", "AGENT"), Column("seal_status", "SEAL"), Column("until", "UNTIL"),
        Column("degree", "DEGREE", flexible=True), Column("detail", "DETAIL", flexible=True),
    ]),
    "keys": ("DEGREE_KEYS", [Column("id", "KEY"), Column("state", "STATE"), Column("since", "SINCE")]),
}  # fmt: skip


def ls_command(root: Path | None, out: Output, what: str, timeout: float) -> int:
    """`skep degree ls`."""
    verb, columns = LISTS[what]
    rows = (
        ask(root, verb, {}, "listing keys", timeout)["keys"]
        if what == "keys"
        else ask_all(root, verb, what, timeout)
    )
    out.rows(f"skep.{what}/1", what, [_row(row) for row in rows], columns)
    return Exit.OK


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what a table shows of it."""
    more = {"content": " ".join(row.get("modules", ())), "grants": " ".join(row.get("capabilities", ()))}
    times = {name: day(row[f"{name}_ms"]) for name in ("until", "since") if f"{name}_ms" in row}
    return {**row, **(more if "modules" in row else {}), **times}


def day(at_ms: int) -> str:
    """A time for people."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")


def create_command(root: Path | None, out: Output, payload: dict[str, Any], timeout: float) -> int:
    """`skep degree create`."""
    answer = ask(root, "DEGREE_CREATE", payload, f"creating degree {payload['name']}", timeout)
    made = answer["degree"]
    title = f"{made['id']}/{made['version']}"
    out.say(f"{made['name']} version {made['version']} {'made' if answer['created'] else 'is that already'}: {title}")
    if out.form is not Format.table:
        out.one("skep.degree/1", made, title)
    return Exit.OK


def show_command(root: Path | None, out: Output, name: str, version: int, timeout: float) -> int:
    """`skep degree show`."""
    payload = {"degree": name, "version": version}
    facts = ask(root, "DEGREE_GET", payload, f"showing degree {name}", timeout)["degree"]
    if out.form is Format.table:
        titles = [f"{one['name']}@{one['version']} sha256:{one['hash'][:16]}" for one in facts["modules"]]
        facts = {**facts, "modules": ", ".join(titles), "capabilities": ", ".join(facts["capabilities"])}
    out.one("skep.degree/1", facts, f"{facts['id']}/{facts['version']}")
    return Exit.OK


def graduate_command(root: Path | None, out: Output, payload: dict[str, Any], timeout: float) -> int:
    """`skep degree graduate`."""
    agent = payload["handler"]
    wanted = {**payload, "ilk": payload["ilk"] or ilk_of(root, agent)}
    answer = ask(root, "DEGREE_GRADUATE", wanted, f"graduating {agent}", timeout)
    until = day(answer["until_ms"])
    out.say(f"{answer['handler']} graduated with {answer['degree']} until {until}: {answer['serial']}")
    _tell(out, answer, "skep.graduation/1")
    return Exit.OK


def ilk_of(root: Path | None, agent: str) -> str:
    """The ILK of the agent that this node answers for, from the identity region. Raises Failure."""
    from skep_shm import IlksReader

    hive = find_hive(root)
    full = parse_name(agent, hive.hive_id)
    reader = IlksReader.attach(hive.root)
    try:
        found = [record for record in reader.all() if record.handler == full]
    finally:
        reader.close()
    if len(found) != 1:
        raise Failure("ILK_NOT_FOUND", f"identity knows {len(found)} agents with the node {full}",
                      then="skep identity ls, then repeat it with --ilk", exit_code=Exit.NOT_FOUND)  # fmt: skip
    return format_ilk(found[0].ilk)


def revoke_command(
    root: Path | None, out: Output, payload: dict[str, Any], timeout: float, *, yes: bool
) -> int:
    """`skep degree revoke`."""
    if ("agent" in payload) == ("key" in payload):
        raise Failure("USAGE", "name either an agent or a key", then="skep degree revoke --help", exit_code=Exit.USAGE)
    what = payload.get("agent") or f"key {payload['key']}"
    confirm(f"revoke {what}", yes=yes)
    answer = ask(root, "DEGREE_REVOKE", payload, f"revoking {what}", timeout)
    out.say(f"{what} is revoked")
    _tell(out, answer, "skep.revocation/1")
    return Exit.OK


def rotate_command(
    root: Path | None, out: Output, payload: dict[str, Any], timeout: float, *, yes: bool
) -> int:
    """`skep degree rotate-key`."""
    if payload["revoke_old"] and not payload["reseal"]:
        confirm("silence every agent that is not graduated again", yes=yes)
    answer = ask(root, "DEGREE_ROTATE_KEY", payload, "rotating the key", timeout)
    out.say(f"key {answer['key']} seals from now on")
    _tell(out, answer, "skep.key/1")
    return Exit.OK


def _tell(out: Output, answer: dict[str, Any], schema: str) -> None:
    for warning in answer.get("warnings", ()):
        out.say(f"warning: {warning}")
    if answer.get("identity") == "pending":
        out.say("warning: SY.identity has not heard of it yet; routers follow when it has (skep node ls)")
    if out.form is not Format.table:
        out.one(schema, answer, str(answer.get("serial") or answer.get("key")))
