"""`skep completion SHELL`: the script that teaches a shell our commands."""

from __future__ import annotations

from skep_nodes.cli.failure import Exit, Failure

SHELLS = ("bash", "zsh", "fish")


def completion_command(shell: str) -> int:
    """Print the script."""
    if shell not in SHELLS:
        raise Failure("USAGE", f"no completion for {shell}", why="known are " + ", ".join(SHELLS),
                      then="skep completion bash", exit_code=Exit.USAGE)  # fmt: skip
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="skep", complete_var="_SKEP_COMPLETE", shell=shell))
    return Exit.OK
