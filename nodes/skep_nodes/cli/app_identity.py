"""The nouns `identity` and `tenant`: who is who, and in which organisation. With them the tree is whole.

Like the rest of the tree it only names verbs and options; each verb imports its own module when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep_nodes.cli import options as opt
from skep_nodes.cli.app_degree import app
from skep_nodes.cli.output import Format

__all__ = ["app", "identity", "tenant"]

identity = typer.Typer(
    help="Interlocutors: people, agents, system nodes.", no_args_is_help=True, rich_markup_mode=None
)
tenant = typer.Typer(help="Tenants: organisations that never see each other.", no_args_is_help=True,
                     rich_markup_mode=None)  # fmt: skip
app.add_typer(identity, name="identity")
app.add_typer(tenant, name="tenant")

Ilk = Annotated[str, typer.Argument(help="An interlocutor's id, ilk:<uuid>.", metavar="ILK")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the history.")]
TenantName = Annotated[str, typer.Argument(help="A tenant's id or its exact name.", metavar="TENANT")]

# -- interlocutors -----------------------------------------------------------------------------------------------


@identity.command("ls")
def identity_ls(
    limit: Annotated[int, typer.Option("-n", "--limit", help="At most so many; 0 for all.", min=0)] = 1000,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """List interlocutors, in the order of their ids."""
    from skep_nodes.cli.identity_people import ls_command

    return ls_command(hive, opt.output(form, json, quiet), limit, timeout)


@identity.command("show")
def identity_show(
    ilk: Ilk,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Show one interlocutor; one that was merged shows whom it became."""
    from skep_nodes.cli.identity_people import show_command

    return show_command(hive, opt.output(form, json), ilk, timeout)


@identity.command("history")
def identity_history(
    ilk: Ilk,
    limit: Annotated[int, typer.Option("-n", "--limit", help="At most so many; 0 for all.", min=0)] = 100,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Show what happened to one interlocutor, newest first."""
    from skep_nodes.cli.identity_people import history_command

    return history_command(hive, opt.output(form, json, quiet), ilk, limit, timeout)


@identity.command("merge")
def identity_merge(
    target: Annotated[str, typer.Argument(help="Who remains, ilk:<uuid>.", metavar="ILK")],
    source: Annotated[str, typer.Argument(help="Who becomes part of it.", metavar="OTHER")],
    reason: Reason = "",
    alias_ttl: Annotated[
        int, typer.Option("--alias-ttl", help="Seconds in which the old id still arrives.", min=0)
    ] = 3600,
    yes: opt.Yes = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Make two interlocutors one; `skep identity split OTHER` takes it back."""
    from skep_nodes.cli.identity_people import merge_command

    out = opt.output(form, json, quiet)
    return merge_command(hive, out, (target, source), reason, alias_ttl, timeout, yes=yes)


@identity.command("split")
def identity_split(
    ilk: Ilk,
    reason: Reason = "",
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Take a merge back: ILK is the one that became part of another."""
    from skep_nodes.cli.identity_people import split_command

    return split_command(hive, opt.output(form, json, quiet), ilk, reason, timeout)


@identity.command("export")
def identity_export(
    path: Annotated[Path, typer.Argument(help="The file to write; - for standard output.", metavar="FILE")],
    timeout: opt.Timeout = 30.0,
    hive: opt.Hive = None,
    quiet: opt.Quiet = False,
) -> int:
    """Write everybody as lines of JSON; an interrupted export goes on where it was."""
    from skep_nodes.cli.identity_transfer import export_command

    return export_command(hive, opt.output(Format.table, False, quiet), path, timeout)


@identity.command("import")
def identity_import(
    path: Annotated[Path, typer.Argument(help="A file of `skep identity export`.", metavar="FILE")],
    timeout: opt.Timeout = 30.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Read what an export wrote; an interrupted import goes on where it was."""
    from skep_nodes.cli.identity_transfer import import_command

    return import_command(hive, opt.output(form, json, quiet), path, timeout)


# -- tenants -----------------------------------------------------------------------------------------------------


@tenant.command("ls")
def tenant_ls(
    timeout: opt.Timeout = 5.0, hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:  # fmt: skip
    """List tenants, by name."""
    from skep_nodes.cli.identity_tenants import ls_command

    return ls_command(hive, opt.output(form, json, quiet), timeout)


@tenant.command("create")
def tenant_create(
    name: Annotated[str, typer.Argument(help="Its name.")],
    domain: Annotated[str, typer.Option("--domain", help="Its domain; unique.")] = "",
    pending: Annotated[bool, typer.Option("--pending", help="Leave it to be approved.")] = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Make a tenant, or find the one of that domain or name."""
    from skep_nodes.cli.identity_tenants import create_command

    return create_command(hive, opt.output(form, json, quiet), name, domain, timeout, pending=pending)


@tenant.command("approve")
def tenant_approve(
    name: TenantName, timeout: opt.Timeout = 5.0, hive: opt.Hive = None, form: opt.Form = Format.table,
    json: opt.Json = False, quiet: opt.Quiet = False,
) -> int:  # fmt: skip
    """Let a pending tenant begin."""
    from skep_nodes.cli.identity_tenants import move_command

    return move_command(hive, opt.output(form, json, quiet), "approve", name, "", timeout)


@tenant.command("suspend")
def tenant_suspend(
    name: TenantName,
    reason: Reason = "",
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Block everything that a tenant's interlocutors say."""
    from skep_nodes.cli.identity_tenants import move_command

    return move_command(hive, opt.output(form, json, quiet), "suspend", name, reason, timeout)


@tenant.command("resume")
def tenant_resume(
    name: TenantName,
    reason: Reason = "",
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Let a suspended tenant go on."""
    from skep_nodes.cli.identity_tenants import move_command

    return move_command(hive, opt.output(form, json, quiet), "resume", name, reason, timeout)
