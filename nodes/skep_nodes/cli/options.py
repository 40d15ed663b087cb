"""The options that many commands share, spelt once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep_nodes.cli.output import Format, Output

VERSION_MAX = (1 << 63) - 1

Hive = Annotated[
    Path | None,
    typer.Option(
        "--hive", help="The hive's folder (else SKEP_HIVE, your context, or the default).", metavar="FOLDER"
    ),
]
Form = Annotated[Format, typer.Option("-o", "--output", help="How to print data.")]
Json = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only data, no talk.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and say what would change; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds to wait for an answer.", min=0.05, max=3600)
]
Watch = Annotated[bool, typer.Option("-w", "--watch", help="Go on and print changes as they come.")]
Version = Annotated[
    int,
    typer.Option(
        "--version",
        help="The version this change makes (default: the next).",
        min=0,
        max=VERSION_MAX,
        metavar="N",
    ),
]


def output(form: Format, json: bool, quiet: bool = False) -> Output:
    """The Output that the shared options ask for."""
    return Output(Format.json if json else form, quiet=quiet)
