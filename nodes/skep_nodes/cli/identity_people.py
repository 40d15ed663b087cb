"""`skep identity ls|show|history|merge|split`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skep_nodes.cli.degree_session import confirm
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.identity_session import ask, ask_all
from skep_nodes.cli.output import Column, Format, Output

LISTED = [
    Column("ilk_id", "ILK", first=12), Column("ilk_type", "KIND"), Column("registration_status", "STATE"),
    Column("tenant_name", "TENANT", flexible=True), Column("called", "NAME", flexible=True),
    Column("channel_count", "CHANNELS", right=True), Column("gone", "GONE"),
]  # fmt: skip
EVENTS = [
    Column("at", "AT"), Column("action", "WHAT"), Column("actor", "BY", flexible=True),
    Column("reason", "WHY", flexible=True), Column("change", "CHANGE", flexible=True),
]  # fmt: skip


def ls_command(root: Path | None, out: Output, limit: int, timeout: float) -> int:
    """List interlocutors."""
    rows = ask_all(root, "ILK_LIST", "ilks", {}, "after", limit, timeout)
    shown = [{**row, "called": row["node_name"] or row["display_name"], "gone": _gone(row)} for row in rows]
    out.rows("skep.identity/1", "ilks", rows if out.form is not Format.table else shown, LISTED)
    return Exit.OK


def _gone(row: dict[str, Any]) -> str:
    return "merged" if row["merged_into"] else "deleted" if row["deleted_at_ms"] else ""


def show_command(root: Path | None, out: Output, ilk: str, timeout: float) -> int:
    """Show one interlocutor."""
    answer = ask(root, "ILK_GET", {"ilk_id": ilk}, f"looking up {ilk}", timeout)
    if out.form is not Format.table:
        out.one("skep.interlocutor/1", answer, answer["ilk_id"])
        return Exit.OK
    one, owner = answer["ilk"], answer["tenant"] or {}
    facts: dict[str, Any] = {
        "ilk": one["ilk_id"], "merged from": _listed(a["old_ilk_id"] for a in answer["merged_aliases"]),
        "kind": " ".join(filter(None, (one["human_subtype"], one["ilk_type"]))), "state": one["registration_status"],
        "tenant": f"{owner.get('name')} ({owner.get('status')}) {one['tenant_id']}",
        **{f"  {name}": value for name, value in one["identification"].items()},
        "roles": _listed(one["roles"]), "capabilities": _listed(one["capabilities"]),
        "degrees": _listed(one["definition"]["current"]["degrees"]), "seal": one["seal"],
        "channels": _listed(f"{each['channel_type']} {each['address']}" for each in one["channels"]),
        "since": _when(one["created_at_ms"]),
    }  # fmt: skip
    if answer["alias_resolved"]:
        facts = {"asked": f"{ilk}, an alias until {_when(answer['queried_alias']['expires_at_ms'])}", **facts}
    out.one("skep.interlocutor/1", facts, one["ilk_id"])
    return Exit.OK


def _listed(words: Any) -> str:
    return ", ".join(words) or "-"


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def history_command(root: Path | None, out: Output, ilk: str, limit: int, timeout: float) -> int:
    """Show an interlocutor's history."""
    rows = ask_all(root, "ILK_HISTORY", "history", {"ilk_id": ilk}, "before", limit, timeout)
    shown = [{**row, "at": _when(row["at_ms"]), "change": change_of(row["detail"])} for row in rows]
    out.rows("skep.history/1", "history", rows if out.form is not Format.table else shown, EVENTS)
    return Exit.OK


def change_of(detail: dict[str, Any]) -> str:
    """What an event changed, in a few words."""
    before, after = detail.get("was"), detail.get("now")
    if isinstance(before, dict) and isinstance(after, dict):
        parts = [
            f"{name} {before.get(name)} → {after[name]}" for name in after if before.get(name) != after[name]
        ]
        return "; ".join(parts)
    return "; ".join(f"{name} {value}" for name, value in detail.items() if name not in ("was", "now"))


def merge_command(
    root: Path | None, out: Output, both: tuple[str, str], reason: str, alias_ttl: int, timeout: float, *, yes: bool
) -> int:  # fmt: skip
    """Make two interlocutors one."""
    target, source = both
    _need_reason(reason)
    confirm(f"merge {source} into {target}", yes=yes)
    asked = {
        "ilk_id": target,
        "merge_from_ilk_id": source,
        "change_reason": reason,
        "alias_ttl_secs": alias_ttl,
    }
    answer = ask(root, "ILK_MERGE", asked, f"merging {source} into {target}", timeout)
    out.say(f"{source} is now part of {target}; take it back with: skep identity split {source}")
    if out.form is not Format.table:
        out.one("skep.merge/1", answer, answer["merge_id"])
    return Exit.OK


def split_command(root: Path | None, out: Output, ilk: str, reason: str, timeout: float) -> int:
    """Take a merge back."""
    _need_reason(reason)
    answer = ask(root, "ILK_SPLIT", {"ilk_id": ilk, "change_reason": reason}, f"splitting {ilk}", timeout)
    back = len(answer["returned_channels"])
    out.say(
        f"{ilk} is an interlocutor of its own again, with {back} channels from {answer['split_from_ilk_id']}"
    )
    out.say(
        f"what was said as {ilk} between {_when(answer['merged_at_ms'])} and now keeps that id in its turns"
    )
    if out.form is not Format.table:
        out.one("skep.split/1", answer, ilk)
    return Exit.OK


def _need_reason(reason: str) -> None:
    if not reason:
        raise Failure("USAGE", "say why", why="it stays in the history of both", then="repeat it with --reason TEXT",
                      exit_code=Exit.USAGE)  # fmt: skip
