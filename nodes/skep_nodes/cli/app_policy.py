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
