"""`skep policy shadow CANDIDATE|--stop|--status`: a policy on trial beside the one in force, which alone decides.

Routers ask the candidate what they ask the policy, within one hundredth of their time, and write its answer beside the
real one into the decision log. So `--status` reads the log: what would have changed, in the groups of `policy diff`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skep import Node, find_hive
from skep_nodes.cli import policy_life
from skep_nodes.cli.explain_log import lines_since, moment_of, stamp
from skep_nodes.cli.failure import Exit, Failure, exit_for
from skep_nodes.cli.output import Format, Output
from skep_nodes.cli.policy_diff import GROUPS, row_of, totals_of
from skep_nodes.sy.decisions_store import LogReader
from skep_policy.difference import Report
from skep_policy.replay import shadowed
from skep_shm import PolicyReader, RegionError

COLUMNS = tuple(column for column in GROUPS if column.key not in ("rule", "accepted"))


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked for: exactly one of the three."""

    candidate: Path | None = None
    stop: bool = False
    status: bool = False
    since: str = "7d"
    timeout: float = 60.0


def shadow_command(root: Path | None, out: Output, trial: Trial) -> int:
    """`skep policy shadow`."""
    if sum((trial.candidate is not None, trial.stop, trial.status)) != 1:
        raise Failure("USAGE", "say what to do", why="exactly one of CANDIDATE, --stop and --status",
                      then="skep policy shadow --help", exit_code=Exit.USAGE)  # fmt: skip
    return _status(root, out, trial) if trial.status else _change(root, out, trial)


def _change(root: Path | None, out: Output, trial: Trial) -> int:
    action = "shadow_stop" if trial.stop else "shadow"
    payload = policy_life.Asked(action, trial.candidate, timeout=trial.timeout).payload()
    nothing = trial.stop and not _is_shadowed(root)

    async def send(node: Node) -> Any:
        reply = await node.request(
            policy_life.OWNER,
            payload,
            timeout=trial.timeout,
            type="system",
            verb="CONFIG_CHANGED",
            sampled=True,
        )
        return reply.payload

    answer = policy_life.owner_asked(root, send, trial.timeout)
    if not isinstance(answer, dict):
        raise Failure("BAD_ANSWER", "the shadow was answered with something that is no object")
    for finding in (*answer.get("problems", ()), *answer.get("warnings", ())):
        out.say(
            f"{trial.candidate}:{finding['line']}:{finding['column']}: {finding['code']}: {finding['message']}"
        )
    if answer.get("status") != "ok":
        code = str(answer.get("error_code") or "FAILED")
        raise Failure(code, f"policy {action} was refused", why=str(answer.get("error_detail") or ""),
                      then=policy_life.NEXT.get(code, "skep policy status"), exit_code=exit_for(code))  # fmt: skip
    if out.form is not Format.table:
        out.one("skep.policy.shadow/1", answer, str(answer.get("version")))
    if trial.stop:
        out.say("there was no shadow; nothing has changed" if nothing else "the shadow is taken away")
        return Exit.OK
    out.say(
        f"version {answer.get('version')} shadows the policy in force; "
        "see what it would change with `skep policy shadow --status`"
    )
    return Exit.OK


def _is_shadowed(root: Path | None) -> bool:
    """Whether routers find a policy on trial; where nothing can be read, its owner will say what is wrong."""
    try:
        reader = PolicyReader.attach(find_hive(root).root)
    except RegionError:
        return True
    try:
        return bool(reader.read().shadow)
    except RegionError:
        return True
    finally:
        reader.close()


def _status(root: Path | None, out: Output, trial: Trial) -> int:
    moment, reader = moment_of(trial.since), LogReader()
    reports = shadowed(lines_since(find_hive(root), moment, reader), stamp(moment))
    if not reports:
        raise Failure("NOT_FOUND", f"no shadow has decided anything since {trial.since}", exit_code=Exit.NOT_FOUND,
                      why="a shadow is asked when a decision is not known yet, within a hundredth of the time",
                      then="skep policy status shows whether there is one")  # fmt: skip
    version = max(reports)
    return _tell(out, version, reports[version], reader.damaged)


def _tell(out: Output, version: int, report: Report, damaged: int) -> int:
    rows = [row_of(group) for group in report.by_weight()]
    if out.form is Format.table or out.form is Format.name:
        out.rows("skep.policy.shadow/1", "groups", rows, COLUMNS)
    else:
        facts = {"version": version, **totals_of(report), "damaged_lines": damaged, "groups": rows}
        out.one("skep.policy.shadow/1", facts)
    out.say(
        f"shadow version {version}: {report.replayed} decisions beside the policy in force, {report.changed} differ"
    )
    return Exit.OK
