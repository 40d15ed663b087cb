"""Running one command: whatever happens inside, one clean message and one exit code come out.

Ctrl-C and a closed pipe are ordinary ends (130). Errors of ours carry a code; anything else is a bug and is said
to be one, with the place where its details were written, never a bare traceback.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.room import FULL, no_room

if TYPE_CHECKING:
    import typer

    from skep.errors import HiveError, ProtocolError
    from skep_shm import RegionError


def run(arguments: Sequence[str]) -> int:
    """Run `arguments` as a `skep` command and return its exit code."""
    try:
        code = _run_app(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last place where an error can become a message
        failure = translated(error)
        print(json.dumps(failure.document()) if wants_json(arguments) else failure.text(), file=sys.stderr)
        return failure.exit_code


def _run_app(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["up"]:
        from skep_nodes.cli.children import prepare

        prepare()
    import typer

    from skep_nodes.cli.app_identity import app

    try:
        result = app(list(arguments), prog_name="skep", standalone_mode=False)
    except typer.Exit as exit_:
        return exit_.exit_code
    except typer.Abort:
        return Exit.INTERRUPTED
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(_usage(error), file=sys.stderr)
            return Exit.USAGE
        raise Failure("USAGE", _usage(error), then=_help_for(arguments), exit_code=Exit.USAGE) from error
    return result if isinstance(result, int) else Exit.OK


def _usage(error: Exception) -> str:
    """What is wrong with the command line, in the parser's words."""
    say = getattr(error, "format_message", None)
    return str(say()) if callable(say) else str(error)


def _help_for(arguments: Sequence[str]) -> str:
    """The help that fits what was typed: that of the command, as far as the words name one."""
    from skep_nodes.cli.app_identity import app

    words: list[str] = []
    given = iter(arguments)
    commands, groups = _names(app)
    for word in given:
        if word in commands or word in groups:
            words.append(word)
        if word not in groups:
            break
        commands, groups = _names(groups[word])
    return " ".join(["skep", *words, "--help"])


def _names(tree: typer.Typer) -> tuple[set[str], dict[str, typer.Typer]]:
    """The commands and the nouns of one level of the tree."""
    commands = {one.name or one.callback.__name__ for one in tree.registered_commands if one.callback}
    groups = {
        one.name: one.typer_instance for one in tree.registered_groups if one.name and one.typer_instance
    }
    return commands, groups


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the caller parses what is printed."""
    given = list(arguments)
    return (
        "--json" in given
        or "-ojson" in given
        or any(one in ("-o", "--output") and two == "json" for one, two in pairwise(given))
    )


def translated(error: BaseException) -> Failure:
    """Any exception as a Failure."""
    if isinstance(error, Failure):
        return error
    known = _known(error)
    return known if known is not None else _bug(error)


def _known(error: BaseException) -> Failure | None:
    from skep.errors import HiveError, LinkClosed, ProtocolError
    from skep_shm import RegionError

    if isinstance(error, HiveError):
        return _hive_failure(error)
    if isinstance(error, LinkClosed):
        from skep_nodes.cli.session import refused

        return refused("this node any longer", error)
    if isinstance(error, ProtocolError):
        return _protocol_failure(error)
    if isinstance(error, RegionError):
        return _region_failure(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        if error.errno in FULL:
            return no_room(f"{error.strerror}{where}", "what was to be written does not fit")
        return Failure("IO_ERROR", f"{error.strerror or error}{where}", then="skep doctor")
    if isinstance(error, TimeoutError):
        return Failure(
            "TIMEOUT", str(error) or "no answer in time", then="skep doctor", exit_code=Exit.UNREACHABLE
        )
    return None


def _hive_failure(error: HiveError) -> Failure:
    """No hive.yaml is one thing; one that is there and says nothing usable is another."""
    text = str(error)
    if text.startswith("no hive found"):
        return Failure("HIVE_NOT_FOUND", text, then="skep up --hive FOLDER", exit_code=Exit.NOT_FOUND)
    if isinstance(error.__cause__, OSError):
        return Failure("IO_ERROR", text, then="skep doctor")
    return Failure(
        "INVALID_CONFIG", text, then="correct it, then `skep config validate`", exit_code=Exit.USAGE
    )


def _protocol_failure(error: ProtocolError) -> Failure:
    """What was typed breaks a rule of the wire, such as that for names; or what another end said does."""
    from skep.errors import RemoteProtocolError

    measured = "" if error.limit is None else f"at most {error.limit}, given {error.value}"
    if isinstance(error, RemoteProtocolError):
        return Failure("BAD_ANSWER", f"{error.code}: {error.detail}", why=measured, then="skep doctor")
    return Failure("USAGE", error.detail, why=measured or f"the rule is {error.code}, see docs/errors.md",
                   then="correct what was typed, and repeat it", exit_code=Exit.USAGE)  # fmt: skip


def _region_failure(error: RegionError) -> Failure:
    """A region that is missing means that its writer does not run."""
    if str(error.code) == "MISSING":
        what = f"nobody publishes the region {error.region}"
        return Failure("NOT_RUNNING", what, then="skep up, or skep doctor", exit_code=Exit.NOT_FOUND)
    return Failure(
        str(error.code), f"region {error.region}: {error.detail}", why=error.hint, then="skep shm check"
    )


def _bug(error: BaseException) -> Failure:
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="skep-error-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return Failure(
        "INTERNAL", f"a fault in skep itself: {type(error).__name__}: {error}", why=f"details are in {file.name}",
        then="report it with that file; `skep doctor` may show a cause",
    )  # fmt: skip


def _drop_stdout() -> None:
    """Nobody reads stdout any more: give Python another place to flush to at exit."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, sys.stdout.fileno())
    os.close(fd)
