"""`skep tenant ls|create|approve|suspend|resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.identity_session import ask, ask_all
from skep_nodes.cli.output import Column, Format, Output

LISTED = [
    Column("tenant_id", "TENANT"), Column("name", "NAME", flexible=True), Column("status", "STATUS"),
    Column("domain", "DOMAIN", flexible=True), Column("ilk_count", "INTERLOCUTORS", right=True),
]  # fmt: skip


def _all(root: Path | None, timeout: float) -> list[dict[str, Any]]:
    return ask_all(root, "TNT_LIST", "tenants", {}, "after", 0, timeout)


def ls_command(root: Path | None, out: Output, timeout: float) -> int:
    """List tenants."""
    out.rows("skep.tenants/1", "tenants", _all(root, timeout), LISTED)
    return Exit.OK


def create_command(
    root: Path | None, out: Output, name: str, domain: str, timeout: float, *, pending: bool
) -> int:  # fmt: skip
    """Make a tenant, or find it."""
    asked = {
        "name": name,
        "status": "pending" if pending else "active",
        **({"domain": domain} if domain else {}),
    }
    answer = ask(root, "TNT_CREATE", asked, f"creating tenant {name}", timeout)
    if answer["created"]:
        out.say(f"tenant {name} made: {answer['tenant_id']}, {answer['tenant_status']}")
    else:
        found, state = answer["tenant_id"], answer["tenant_status"]
        out.say(f"a tenant with this {answer['matched_by']} was there: {found}, {state}")
    if out.form is not Format.table:
        out.one("skep.tenant/1", answer, answer["tenant_id"])
    return Exit.OK


def move_command(root: Path | None, out: Output, verb: str, name: str, reason: str, timeout: float) -> int:
    """Approve, suspend or resume a tenant."""
    tenant = name if name.startswith("tnt:") else _by_name(root, name, timeout)
    asked = {"tenant_id": tenant, **({"change_reason": reason} if reason else {})}
    answer = ask(root, f"TNT_{verb.upper()}", asked, f"{verb} of tenant {name}", timeout)
    out.say(f"tenant {name} is {answer['tenant_status']}")
    if out.form is not Format.table:
        out.one("skep.tenant/1", answer, tenant)
    return Exit.OK


def _by_name(root: Path | None, name: str, timeout: float) -> str:
    for tenant in _all(root, timeout):
        if tenant["name"] == name:
            return str(tenant["tenant_id"])
    raise Failure(
        "NOT_FOUND", f"no tenant is called {name!r}", then="skep tenant ls", exit_code=Exit.NOT_FOUND
    )
