"""The command tree: every noun, verb and option of `skep`, and nothing else.

Each command imports its own module when it runs, so the tree stays cheap to load and a missing extra breaks only
the command that needs it. Options follow the conventions of docs/operations.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skep_nodes.cli import options as opt
from skep_nodes.cli.output import Format

app = typer.Typer(
    help="Run, watch and change a Skep hive.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


def _noun(name: str, help_text: str) -> typer.Typer:
    noun = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(noun, name=name)
    return noun


node = _noun("node", "Nodes that are connected.")
route = _noun("route", "Static routes.")
vpn = _noun("vpn", "VPN rules: which names may talk to which.")
grant = _noun("grant", "Which uid may hold which names.")
thread = _noun("thread", "Conversations bound to a handler.")
msg = _noun("msg", "Send and receive messages.")
config = _noun("config", "The hive's settings.")
shm = _noun("shm", "Shared memory regions.")
bench = typer.Typer(help="Measure, and compare measurements.", rich_markup_mode=None)
app.add_typer(bench, name="bench")

# -- a whole hive ----------------------------------------------------------------------------------------------


@app.command()
def init(hive: opt.Hive = None, hive_id: Annotated[str, typer.Option(help="The hive's id.")] = "") -> int:
    """Make a hive folder."""
    from skep_nodes.cli.hive_folder import init_command

    return init_command(hive, hive_id)


@app.command()
def up(
    hive: opt.Hive = None,
    demo: Annotated[bool, typer.Option("--demo", help="Also start a desk that answers over HTTP.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Sample every message, for `skep explain`.")] = False,
    quiet: opt.Quiet = False,
) -> int:
    """Run a whole hive in the foreground, until Ctrl-C."""
    from skep_nodes.cli.children import nursery

    with nursery() as births:
        from skep_nodes.cli.up import up_command

        return up_command(hive, births, demo=demo, trace=trace, quiet=quiet)


@app.command()
def demo(keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's folder.")] = False) -> int:
    """Play and check a conversation through a private hive."""
    from skep_nodes.cli.demo import demo_command

    return demo_command(keep=keep)


# -- reading ---------------------------------------------------------------------------------------------------


@node.command("ls")
def node_ls(
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    watch: opt.Watch = False,
) -> int:
    """List connected nodes."""
    from skep_nodes.cli.reading import node_ls as run

    return run(hive, opt.output(form, json, quiet), watch)


@node.command("info")
def node_info(
    name: Annotated[str, typer.Argument(help="Name or uuid.")],
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Show one node."""
    from skep_nodes.cli.reading import node_info as run

    return run(hive, opt.output(form, json), name)


@thread.command("ls")
def thread_ls(
    hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False, quiet: opt.Quiet = False
) -> int:
    """List bound conversations."""
    from skep_nodes.cli.reading import thread_ls as run

    return run(hive, opt.output(form, json, quiet))


@route.command("ls")
def route_ls(
    hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False, quiet: opt.Quiet = False
) -> int:
    """List static routes."""
    from skep_nodes.cli.reading import config_ls

    return config_ls(hive, opt.output(form, json, quiet), "routes")


@vpn.command("ls")
def vpn_ls(
    hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False, quiet: opt.Quiet = False
) -> int:
    """List VPN rules, in the order they are tried."""
    from skep_nodes.cli.reading import config_ls

    return config_ls(hive, opt.output(form, json, quiet), "vpns")


@grant.command("ls")
def grant_ls(
    hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False, quiet: opt.Quiet = False
) -> int:
    """List grants."""
    from skep_nodes.cli.reading import config_ls

    return config_ls(hive, opt.output(form, json, quiet), "grants")


# -- messages --------------------------------------------------------------------------------------------------

Destination = Annotated[str, typer.Argument(help="A name, a uuid, or 'broadcast'.")]
Payload = Annotated[str, typer.Argument(help="JSON, else text; - reads standard input.")]
Thread = Annotated[str, typer.Option("--thread", help="The conversation.", metavar="ID")]
As = Annotated[str, typer.Option("--as", help="Send as this node.", metavar="NAME")]


@msg.command("send")
def msg_send(
    destination: Destination,
    payload: Payload,
    thread_id: Thread = "",
    ack: Annotated[str, typer.Option(help="Wait for: routed, delivered or processed.")] = "routed",
    as_name: As = "",
    timeout: opt.Timeout = 5.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Send one message."""
    from skep_nodes.cli.messages import Outgoing
    from skep_nodes.cli.messages import msg_send as run

    asked = Outgoing(destination, payload, thread_id, as_name, timeout, ack)
    return run(hive, opt.output(form, json, quiet), asked)


@msg.command("req")
def msg_req(
    destination: Destination,
    payload: Payload,
    thread_id: Thread = "",
    as_name: As = "",
    timeout: opt.Timeout = 30.0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Ask, and print the answer."""
    from skep_nodes.cli.messages import Outgoing
    from skep_nodes.cli.messages import msg_req as run

    return run(
        hive, opt.output(form, json, quiet), Outgoing(destination, payload, thread_id, as_name, timeout)
    )


@msg.command("sub")
def msg_sub(
    name: Annotated[str, typer.Argument(help="Receive as this node.")],
    count: Annotated[int, typer.Option("-n", "--count", help="Stop after so many; 0 never.", min=0)] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Stop after so many seconds; 0 never.", min=0)
    ] = 0,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Print messages as they arrive."""
    from skep_nodes.cli.messages import msg_sub as run

    return run(hive, opt.output(form, json, quiet), name, count, timeout)


# -- looking ---------------------------------------------------------------------------------------------------


@app.command()
def top(
    hive: opt.Hive = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between pictures.", min=0.1)] = 1.0,
) -> int:
    """Show what happens in the hive, live."""
    from skep_nodes.cli.top import top_command

    return top_command(hive, once, interval)


@app.command()
def events(
    hive: opt.Hive = None,
    watch: opt.Watch = False,
    since: Annotated[str, typer.Option("--since", help="Only from so long ago: 30s, 5m, 2h.")] = "",
    kind: Annotated[str, typer.Option("--kind", help="Only this kind, such as NODE_JOINED.")] = "",
    form: opt.Form = Format.table,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> int:
    """Print what routers have recorded."""
    from skep_nodes.cli.events import events_command

    return events_command(hive, opt.output(form, json, quiet), watch, since, kind)


@app.command()
def explain(
    trace: Annotated[str, typer.Argument(help="A trace id, or its first characters.")],
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Show the way of one message, hop by hop."""
    from skep_nodes.cli.explain import explain_command

    return explain_command(hive, opt.output(form, json), trace)


@app.command()
def doctor(hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False) -> int:
    """Check this machine and the hive."""
    from skep_nodes.cli.doctor import doctor_command

    return doctor_command(hive, opt.output(form, json))


@config.command("view")
def config_view(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    hive: opt.Hive = None,
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Show the settings in force."""
    from skep_nodes.cli.config_commands import view_command

    return view_command(hive, opt.output(form, json), origin)


@config.command("validate")
def config_validate(
    hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False, quiet: opt.Quiet = False
) -> int:
    """Check hive.yaml and the stored routes without starting anything."""
    from skep_nodes.cli.config_commands import validate_command

    return validate_command(hive, opt.output(form, json, quiet))


# -- shared memory ---------------------------------------------------------------------------------------------


@shm.command("ls")
def shm_ls(hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False) -> int:
    """List the hive's regions."""
    from skep_nodes.cli.shm_commands import ls_command

    return ls_command(hive, opt.output(form, json))


@shm.command("dump")
def shm_dump(
    region: Annotated[str, typer.Argument(help="A region of `skep shm ls`.")], hive: opt.Hive = None
) -> int:
    """Print a region's content as JSON."""
    from skep_nodes.cli.shm_commands import dump_command

    return dump_command(hive, region)


@shm.command("check")
def shm_check(hive: opt.Hive = None, form: opt.Form = Format.table, json: opt.Json = False) -> int:
    """Verify every region: owner, size, layout, checksums."""
    from skep_nodes.cli.shm_commands import check_command

    return check_command(hive, opt.output(form, json))


@shm.command("header")
def shm_header() -> int:
    """Print the C header of all layouts."""
    from skep_nodes.cli.shm_commands import header_command

    return header_command()


# -- the rest --------------------------------------------------------------------------------------------------


@bench.callback(invoke_without_command=True)
def bench_run(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute.")] = False,
) -> int:
    """Measure Skep beside its peers (in a checkout)."""
    from skep_nodes.cli.bench import run_command

    return run_command(quick) if context.invoked_subcommand is None else 0


@bench.command("compare")
def bench_compare(
    before: Annotated[Path, typer.Argument(help="A result file.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    form: opt.Form = Format.table,
    json: opt.Json = False,
) -> int:
    """Compare two result files."""
    from skep_nodes.cli.bench import compare_command

    return compare_command(before, after, opt.output(form, json))


@app.command()
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> int:
    """Print the completion script of a shell."""
    from skep_nodes.cli.completion import completion_command

    return completion_command(shell)


@app.command()
def version(form: opt.Form = Format.table, json: opt.Json = False) -> int:
    """Print the version; with -o json, those of the libraries too."""
    from skep_nodes.cli.versions import all_versions

    opt.output(form, json).one("skep.version/1", all_versions(), all_versions()["skep"])
    return 0
