"""The verbs that change the configuration: `skep route|vpn|grant add|rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from skep_nodes.cli import options as opt
from skep_nodes.cli.app import app, grant, route, vpn
from skep_nodes.cli.output import Format

__all__ = ["app"]
U32_MAX = (1 << 32) - 1


@route.command("add")
def route_add(
    prefix: Annotated[str, typer.Argument(help="Name or pattern, such as AI.sales.*")],
    drop: Annotated[bool, typer.Option("--drop", help="Discard what matches.")] = False,
    to: Annotated[str, typer.Option("--to", help="Send it to this node instead.", metavar="NAME")] = "",
    to_hive: Annotated[str, typer.Option("--to-hive", help="Send it to this hive.", metavar="HIVE")] = "",
    match: Annotated[str, typer.Option(help="PREFIX, EXACT or GLOB.")] = "PREFIX",
    priority: Annotated[int, typer.Option(help="Lower wins among equals.", min=0, max=65535)] = 100,
    metric: Annotated[int, typer.Option(help="Lower wins among equal priorities.", min=0, max=U32_MAX)] = 0,
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Add a static route."""
    from skep_nodes.cli.changing import Change, change, route_entry

    entry = route_entry(prefix, match, drop, to, to_hive, priority, metric)
    asked = Change("routes", "add", "route", entry, version, dry_run, timeout)
    return change(hive, opt.output(form, json, quiet), asked)


@route.command("rm")
def route_rm(
    prefix: Annotated[str, typer.Argument(help="The route's name or pattern.")],
    match: Annotated[str, typer.Option(help="PREFIX, EXACT or GLOB, when several match.")] = "",
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    yes: opt.Yes = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Remove a static route."""
    from skep_nodes.cli.changing import Change, change, named

    asked = Change(
        "routes", "remove", "route", named("prefix", prefix, match), version, dry_run, timeout, not yes
    )
    return change(hive, opt.output(form, json, quiet), asked)


@vpn.command("add")
def vpn_add(
    pattern: Annotated[str, typer.Argument(help="Name or pattern.")],
    vpn_id: Annotated[int, typer.Argument(help="The VPN that matching names join.", min=0, max=U32_MAX)],
    match: Annotated[str, typer.Option(help="PREFIX, EXACT or GLOB.")] = "PREFIX",
    priority: Annotated[int, typer.Option(help="Lower is tried first.", min=0, max=65535)] = 100,
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Add a VPN rule."""
    from skep_nodes.cli.changing import Change, change

    entry = {"pattern": pattern, "match_kind": match, "vpn_id": vpn_id, "priority": priority}
    asked = Change("vpns", "add", "vpn", entry, version, dry_run, timeout)
    return change(hive, opt.output(form, json, quiet), asked)


@vpn.command("rm")
def vpn_rm(
    pattern: Annotated[str, typer.Argument(help="The rule's pattern.")],
    match: Annotated[str, typer.Option(help="PREFIX, EXACT or GLOB, when several match.")] = "",
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    yes: opt.Yes = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Remove a VPN rule."""
    from skep_nodes.cli.changing import Change, change, named

    asked = Change(
        "vpns", "remove", "vpn", named("pattern", pattern, match), version, dry_run, timeout, not yes
    )
    return change(hive, opt.output(form, json, quiet), asked)


@grant.command("add")
def grant_add(
    user: Annotated[str, typer.Argument(help="uid or user name.")],
    pattern: Annotated[str, typer.Argument(help="Names it may hold, such as 'AI.*'.")],
    ilk: Annotated[str, typer.Option(help="none, any or ilk:<uuid>.")] = "none",
    tenant: Annotated[str, typer.Option(help="tnt:<uuid>; without it, tenant-neutral.")] = "",
    channel_kinds: Annotated[str, typer.Option(help="Channels, such as whatsapp,web.")] = "",
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Let a uid hold names."""
    from skep_nodes.cli.changing import Change, change, grant_entry

    entry = grant_entry(user, pattern, ilk, tenant, channel_kinds)
    asked = Change("grants", "add", "grant", entry, version, dry_run, timeout)
    return change(hive, opt.output(form, json, quiet), asked)


@grant.command("rm")
def grant_rm(
    user: Annotated[str, typer.Argument(help="uid or user name.")],
    pattern: Annotated[str, typer.Argument(help="The grant's pattern.")],
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    yes: opt.Yes = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Take names away from a uid."""
    from skep_nodes.cli.changing import Change, change, uid_of

    entry = {"uid": uid_of(user), "pattern": pattern}
    asked = Change("grants", "remove", "grant", entry, version, dry_run, timeout, not yes)
    return change(hive, opt.output(form, json, quiet), asked)
