"""The nouns `module` and `degree`: what agents are taught, and who may speak with it.

Like the rest of the tree it only names verbs and options; each verb imports its own module when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep_nodes.cli import options as opt
from skep_nodes.cli.app_policy import app
from skep_nodes.cli.output import Format

__all__ = ["app", "degree", "module"]

module = typer.Typer(help="Modules: texts that agents are taught, in versions.", no_args_is_help=True,
                     rich_markup_mode=None)  # fmt: skip
degree = typer.Typer(help="Degrees: modules in order, and the agents that graduated.", no_args_is_help=True,
                     rich_markup_mode=None)  # fmt: skip
app.add_typer(module, name="module")
app.add_typer(degree, name="degree")

Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the history.")]
DegreeName = Annotated[str, typer.Argument(help="A degree's name or id.", metavar="DEGREE")]
DegreeVersion = Annotated[int, typer.Option("--version", help="Its version (default: the newest).", min=0, metavar="N")]

# -- modules -----------------------------------------------------------------------------------------------------


@module.command("ls")
def module_ls(
    timeout: opt.Timeout = 5.0, hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:  # fmt: skip
    """List modules and their versions."""
    from skep_nodes.cli.degree_modules import ls_command

    return ls_command(hive, opt.output(form, json, quiet), timeout)


@module.command("show")
def module_show(
    name: Annotated[str, typer.Argument(help="A module's name.")],
    version: Annotated[str, typer.Argument(help="A version (default: the newest).")] = "",
    content: Annotated[bool, typer.Option("--content", help="Print its bytes and nothing else.")] = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Show one version of a module."""
    from skep_nodes.cli.degree_modules import show_command

    return show_command(hive, opt.output(form, json), (name, version), timeout, content=content)


@module.command("publish")
def module_publish(
    name: Annotated[str, typer.Argument(help="A module's name.")],
    version: Annotated[str, typer.Argument(help="The version it becomes, such as 1.0.0.")],
    file: Annotated[Path, typer.Argument(help="A text, or a .tar of texts; - reads standard input.")],
    category: Annotated[
        str, typer.Option(help="language, technical, tone, compliance, escalation or persona.")
    ] = "technical",
    description: Annotated[str, typer.Option(help="What it is about.")] = "",
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Publish a version of a module; it never changes again."""
    from skep_nodes.cli.degree_modules import Publication, publish_command

    asked = Publication(name, version, file, category, description)
    return publish_command(hive, opt.output(form, json, quiet), asked, timeout)


# -- degrees -----------------------------------------------------------------------------------------------------


@degree.command("create")
def degree_create(
    name: Annotated[str, typer.Argument(help="The degree's name; a known one gets its next version.")],
    modules: Annotated[
        list[str], typer.Option("-m", "--module", help="NAME@VERSION, in order.", metavar="MODULE")
    ],
    capabilities: Annotated[
        list[str] | None, typer.Option("-c", "--capability", help="What it enables.", metavar="TAG")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is about.")] = "",
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Compose a version of a degree."""
    from skep_nodes.cli.degree_life import create_command

    payload = {"name": name, "modules": modules, "capabilities": capabilities or [], "description": description}
    return create_command(hive, opt.output(form, json, quiet), payload, timeout)


@degree.command("ls")
def degree_ls(
    carriers: Annotated[bool, typer.Option("--carriers", help="Who carries which degree.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="The registrar's keys.")] = False,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """List degrees, their carriers, or the keys that seal them."""
    from skep_nodes.cli.degree_life import ls_command

    what = "keys" if keys else "carriers" if carriers else "degrees"
    return ls_command(hive, opt.output(form, json, quiet), what, timeout)


@degree.command("show")
def degree_show(
    name: DegreeName,
    version: DegreeVersion = 0,
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Show one version of a degree."""
    from skep_nodes.cli.degree_life import show_command

    return show_command(hive, opt.output(form, json), name, version, timeout)


@degree.command("graduate")
def degree_graduate(
    agent: Annotated[str, typer.Argument(help="The agent's node, such as AI.desk.", metavar="NODE")],
    name: DegreeName,
    version: DegreeVersion = 0,
    ilk: Annotated[str, typer.Option("--ilk", help="The agent's ILK (default: as identity knows its node).")] = "",
    days: Annotated[int, typer.Option(help="How long the seal is valid.", min=1, max=3650)] = 365,
    reason: Reason = "",
    timeout: opt.Timeout = 10.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Seal a degree for an agent; an older version is a roll-back."""
    from skep_nodes.cli.degree_life import graduate_command

    payload = {"handler": agent, "degree": name, "version": version, "ilk": ilk, "days": days, "reason": reason}
    return graduate_command(hive, opt.output(form, json, quiet), payload, timeout)


@degree.command("verify")
def degree_verify(
    agent: Annotated[str, typer.Argument(help="A node, or a degree's folder (default: every agent).")] = "",
    prompt: Annotated[bool, typer.Option("--prompt", help="Print the prompt that it compiles to.")] = False,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Check seals and texts on disk, as the agents do; exit 1 if one is not valid."""
    from skep_nodes.cli.degree_verify import verify_command

    return verify_command(hive, opt.output(form, json), agent, prompt=prompt)


@degree.command("revoke")
def degree_revoke(
    agent: Annotated[str, typer.Argument(help="The agent's node, its ILK or its seal.", metavar="AGENT")] = "",
    key: Annotated[str, typer.Option("--key", help="A key: all that it sealed.", metavar="ID")] = "",
    reason: Reason = "",
    yes: opt.Yes = False,
    timeout: opt.Timeout = 10.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Take a seal, or all seals of an old key, back."""
    from skep_nodes.cli.degree_life import revoke_command

    asked = {"agent": agent, "key": key, "reason": reason}
    payload = {name: value for name, value in asked.items() if value}
    return revoke_command(hive, opt.output(form, json, quiet), payload, timeout, yes=yes)


@degree.command("rotate-key")
def degree_rotate_key(
    reseal: Annotated[bool, typer.Option("--reseal", help="Seal every valid degree anew.")] = False,
    revoke_old: Annotated[bool, typer.Option("--revoke-old", help="Old keys prove nothing any more.")] = False,
    yes: opt.Yes = False,
    timeout: opt.Timeout = 30.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Seal with a new key from now on; old seals stay valid."""
    from skep_nodes.cli.degree_life import rotate_command

    payload = {"reseal": reseal, "revoke_old": revoke_old}
    return rotate_command(hive, opt.output(form, json, quiet), payload, timeout, yes=yes)
