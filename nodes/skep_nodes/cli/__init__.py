"""The `skep` command: runs a hive, shows it, changes it.

`skep version` answers before anything heavy is imported, and every other command loads only its own module: the
cost of starting is felt at every prompt and in every script.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/operations.md lists them)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["version"], ["--version"]):
        from skep_nodes.cli.versions import own_version

        print(f"skep {own_version()}")
        return 0
    from skep_nodes.cli.run import run

    return run(given)
