"""Commands that change the configuration: one CONFIG_CHANGED to SY.config.routes, one answer, said in one line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skep import Node, find_hive
from skep_nodes.cli.expected import missing_regions
from skep_nodes.cli.failure import Exit, Failure
from skep_nodes.cli.output import Format, Output
from skep_nodes.cli.session import answered, joined

OWNER = "SY.config.routes"
UID_MAX = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Change:
    """What a command wants changed."""

    section: str
    action: str
    noun: str
    entry: dict[str, Any]
    version: int = 0
    dry_run: bool = False
    timeout: float = 5.0
    confirm: bool = False

    def payload(self) -> dict[str, Any]:
        """The CONFIG_CHANGED that asks for it."""
        asked = {"subsystem": self.section, "action": self.action, "version": self.version}
        dry_run = {"dry_run": True} if self.dry_run else {}
        return {**asked, "config": {self.noun: self.entry}, **dry_run}

    @property
    def title(self) -> str:
        """The entry by what names it: `AI.sales`, `1000 AI.*`."""
        return " ".join(str(self.entry[key]) for key in ("uid", "prefix", "pattern") if key in self.entry)


def change(root: Path | None, out: Output, asked: Change) -> int:
    """Send the change, print what came of it."""
    if asked.confirm and not asked.dry_run:
        _confirm(asked)

    async def send(node: Node) -> dict[str, Any]:
        reply = await node.request(
            OWNER, asked.payload(), timeout=asked.timeout, type="system", verb="CONFIG_CHANGED", sampled=True
        )
        return answered(
            _plain(reply.payload, asked), f"{asked.action} {asked.noun} {asked.title}", asked.noun
        )

    try:
        answer = joined(root, "", send, asked.timeout)
    except Failure as failure:
        raise _really(failure, root) from failure
    _tell(out, asked, answer)
    return Exit.OK


def _really(failure: Failure, root: Path | None) -> Failure:
    """Why the owner did not know us: without the router's node table everybody is a stranger to it."""
    missing = missing_regions(find_hive(root)) if failure.code == "FORBIDDEN" else []
    if not missing:
        return failure
    return Failure("REGION_NOT_FOUND", f"{failure.what}: {OWNER} cannot see who asks",
                   why="missing from shared memory: " + ", ".join(map(str, missing)), then="skep doctor",
                   exit_code=Exit.NOT_FOUND)  # fmt: skip


def _plain(answer: Any, asked: Change) -> Any:
    """The answer with the entry called what it is called on the command line."""
    if not isinstance(answer, dict) or not isinstance(answer.get("error_detail"), str):
        return answer
    return {**answer, "error_detail": answer["error_detail"].replace(repr(asked.entry), asked.title)}


def _confirm(asked: Change) -> None:
    """Removing asks a person; a script must say --yes, so that it never hangs on a question."""
    if not sys.stdin.isatty():
        raise Failure("NOT_CONFIRMED", f"removing {asked.noun} {asked.title} needs --yes", exit_code=Exit.USAGE,
                      why="nobody is there to be asked", then="repeat it with --yes")  # fmt: skip
    print(f"remove {asked.noun} {asked.title}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("NOT_CONFIRMED", "nothing was changed")


def _tell(out: Output, asked: Change, answer: dict[str, Any]) -> None:
    done = {"add": "added", "remove": "removed"}[asked.action]
    if asked.dry_run:
        would = "would be " + done if answer.get("changed") else "would change nothing"
        out.say(f"{asked.noun} {asked.title} {would} (dry run)")
    else:
        out.say(f"{asked.noun} {asked.title} {done}; configuration is now version {answer['version']}")
    if out.form is not Format.table:
        out.one("skep.change/1", {"done": done, asked.noun: asked.entry, **answer}, asked.title)


def route_entry(
    prefix: str, match: str, drop: bool, to: str, to_hive: str, priority: int, metric: int
) -> dict[str, Any]:
    """A route from the options of `skep route add`. Raises Failure."""
    if sum((drop, bool(to), bool(to_hive))) != 1:
        raise Failure("USAGE", "say what the route does", why="exactly one of --drop, --to and --to-hive",
                      then="skep route add --help", exit_code=Exit.USAGE)  # fmt: skip
    hops = {"next_hop_name": to, "next_hop_hive": to_hive}
    return {
        "prefix": prefix, "match_kind": match.upper(), "action": "DROP" if drop else "FORWARD",
        **{name: hop for name, hop in hops.items() if hop}, "metric": metric, "priority": priority,
    }  # fmt: skip


def grant_entry(user: str, pattern: str, ilk: str, tenant: str, channel_kinds: str) -> dict[str, Any]:
    """A grant from the options of `skep grant add`."""
    optional = {"tenant": tenant, "channel_kinds": channel_kinds}
    given = {name: value for name, value in optional.items() if value}
    return {"uid": uid_of(user), "pattern": pattern, "ilk": ilk, **given}


def named(key: str, value: str, match: str) -> dict[str, Any]:
    """An entry by its key, and by its match kind when one was given."""
    return {key: value, **({"match_kind": match.upper()} if match else {})}


def uid_of(user: str) -> int:
    """A uid, given as such or as a user's name. Raises Failure."""
    import pwd

    if user.isdecimal():
        if len(user) > 10 or int(user) > UID_MAX:
            raise Failure(
                "USAGE", f"{user[:20]} is no uid", why=f"the largest is {UID_MAX}", exit_code=Exit.USAGE
            )
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Failure("NOT_FOUND", f"no user is called {user}", then="give the uid instead",
                      exit_code=Exit.NOT_FOUND) from None  # fmt: skip
