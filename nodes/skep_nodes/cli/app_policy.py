"""The noun `policy`: `skep policy build|test|check|fmt` and what else is done with a policy.

Like the rest of the tree it only names verbs and options; each verb imports its own module when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep_nodes.cli import options as opt
from skep_nodes.cli.app_changes import app
from skep_nodes.cli.output import Format

__all__ = ["app", "policy"]

policy = typer.Typer(help="Policies: who may do what, and who answers.", no_args_is_help=True,
                     rich_markup_mode=None)  # fmt: skip
app.add_typer(policy, name="policy")

RegoFile = Annotated[Path, typer.Argument(help="A Rego file.", metavar="FILE")]
Entrypoint = Annotated[
    str,
    typer.Option("-e", "--entrypoint", help="The rule that must be there, as package/rule.", metavar="PATH"),
]

# -- at the desk: no hive is needed ------------------------------------------------------------------------------


@policy.command("build")
def policy_build(
    file: RegoFile,
    out: Annotated[
        Path | None,
        typer.Option(
            "-O",
            "--out",
            help="Write policy.wasm and manifest.json here, else beside FILE.",
            metavar="FOLDER",
        ),
    ] = None,
    entrypoint: Entrypoint = "router/target",
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Compile a policy to WASM."""
    from skep_nodes.cli.policy_build import build_command

    return build_command(file, out, entrypoint, opt.output(form, json, quiet))


@policy.command("check")
def policy_check(
    file: RegoFile,
    entrypoint: Entrypoint = "router/target",
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Compile a policy, say what is doubtful in it, and write nothing."""
    from skep_nodes.cli.policy_build import check_command

    return check_command(file, entrypoint, opt.output(form, json, quiet))


@policy.command("test")
def policy_test(
    path: Annotated[Path, typer.Argument(help="A file or a folder with rules and their _test.rego.")],
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Run the tests of a policy."""
    from skep_nodes.cli.policy_build import test_command

    return test_command(path, opt.output(form, json, quiet))


@policy.command("fmt")
def policy_fmt(
    file: RegoFile,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print what would change; exit 1 if anything.")
    ] = False,
    write: Annotated[bool, typer.Option("-w", "--write", help="Write the file.")] = False,
) -> int:
    """Print a policy as `opa fmt` writes it."""
    from skep_nodes.cli.policy_build import fmt_command

    return fmt_command(file, diff=diff, write=write)


# -- in a hive: asked of SY.opa.rules ----------------------------------------------------------------------------

LifeTimeout = Annotated[
    float,
    typer.Option("--timeout", help="Seconds to wait for the compiler and the routers.", min=0.05, max=3600),
]


@policy.command("upload")
def policy_upload(
    file: RegoFile,
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    timeout: LifeTimeout = 60.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Compile a policy in the hive and stage it; what is in force stays."""
    from skep_nodes.cli.policy_life import Asked, change_command

    asked = Asked("compile", file, version, dry_run, timeout)
    return change_command(hive, opt.output(form, json, quiet), asked)


@policy.command("apply")
def policy_apply(
    file: Annotated[Path | None, typer.Argument(help="A Rego file.", metavar="FILE")] = None,
    staged: Annotated[bool, typer.Option("--staged", help="The one that was uploaded.")] = False,
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    timeout: LifeTimeout = 60.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Put a policy in force on every router of the hive."""
    from skep_nodes.cli.policy_life import Asked, apply_action, change_command

    asked = Asked(apply_action(file, staged), file, version, dry_run, timeout)
    return change_command(hive, opt.output(form, json, quiet), asked)


@policy.command("rollback")
def policy_rollback(
    version: opt.Version = 0,
    dry_run: opt.DryRun = False,
    timeout: LifeTimeout = 60.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Put the policy before in force again, under a new version."""
    from skep_nodes.cli.policy_life import Asked, change_command

    asked = Asked("rollback", None, version, dry_run, timeout)
    return change_command(hive, opt.output(form, json, quiet), asked)


@policy.command("status")
def policy_status(
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Versions in force, staged and before, and what each router runs."""
    from skep_nodes.cli.policy_life import status_command

    return status_command(hive, opt.output(form, json, quiet), timeout)


@policy.command("get")
def policy_get(
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Print the Rego in force."""
    from skep_nodes.cli.policy_life import get_command

    return get_command(hive, opt.output(form, json, quiet), timeout)


# -- over what was decided: read from the decision log ------------------------------------------------------------

Since = Annotated[
    str, typer.Option("--since", help="How far back: 7d, 12h, 30m, or a date and time.", metavar="WHEN")
]


@policy.command("diff")
def policy_diff(
    candidate: Annotated[Path, typer.Argument(help="The Rego that might come.", metavar="CANDIDATE")],
    since: Since = "7d",
    file: Annotated[
        Path | None, typer.Option("--file", help="Decisions from a file instead of the hive's log.")
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", help="A group that was reviewed, or a file of such.", metavar="GROUP|FILE"),
    ] = None,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Ask another policy what was decided; exit 1 if it opens what was closed and nobody accepted it."""
    from skep_nodes.cli.policy_diff import Asked, diff_command

    asked = Asked(candidate, since, file, tuple(accept or ()))
    return diff_command(hive, opt.output(form, json, quiet), asked)


@policy.command("shadow")
def policy_shadow(
    candidate: Annotated[Path | None, typer.Argument(help="The Rego to try.", metavar="CANDIDATE")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the trial.")] = False,
    status: Annotated[bool, typer.Option("--status", help="What the candidate would have changed.")] = False,
    since: Since = "7d",
    timeout: LifeTimeout = 60.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Try a policy beside the one in force: it only reports."""
    from skep_nodes.cli.policy_shadow import Trial, shadow_command

    trial = Trial(candidate, stop, status, since, timeout)
    return shadow_command(hive, opt.output(form, json, quiet), trial)
