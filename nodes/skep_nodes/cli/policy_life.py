"""`skep policy upload|apply|rollback|status|get`: the life of the hive's policy, asked of SY.opa.rules.

One request, one answer. What was done stands on stderr in a line; per router a row says whether it runs the new
policy. The exit code is that of the hive, not of the request: 1 when a router refused the policy, 5 when one is silent
about it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skep import Node, find_hive
from skep.protocol.limits import FRAME_BYTES_MAX
from skep_nodes.cli.failure import Exit, Failure, exit_for
from skep_nodes.cli.hive_check import check_key
from skep_nodes.cli.output import Column, Format, Output
from skep_nodes.cli.session import joined

OWNER: Final = "SY.opa.rules"
REQUEST_BYTES_MAX: Final = FRAME_BYTES_MAX - 4096  # what a frame has besides the payload
ROUTERS: Final = (
    Column("router", "ROUTER", flexible=True), Column("policy_version", "VERSION", right=True),
    Column("status", "STATUS"), Column("took_ms", "MS", right=True), Column("error", "ERROR", flexible=True),
)  # fmt: skip
DONE: Final = {
    "compile": "staged as version {version}; put it in force with `skep policy apply --staged`",
    "apply": "version {version} is in force",
    "compile_apply": "version {version} is in force",
    "rollback": "the policy before is in force again, as version {version}",
}
NEXT: Final = {
    "COMPILE_ERROR": "correct it, then `skep policy check FILE`",
    "OPA_MISSING": "make tools (in a checkout), or put opa on the PATH of `skep up`, or name it in SKEP_OPA",
    "NOTHING_STAGED": "skep policy upload FILE",
    "VERSION_MISMATCH": "skep policy status, then repeat it with the staged version",
    "VERSION_CONFLICT": "skep policy status, then repeat it with the next version or without --version",
    "NO_BACKUP": "skep policy status",
    "BUSY": "repeat it in a moment",
    "FORBIDDEN": "run it as the account that owns the hive's folder",
    "PERSIST_FAILED": "skep doctor (it shows disk space), then restart the hive",
    "SHM_ERROR": "skep doctor (it shows shared memory), then repeat it",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command wants done."""

    action: str
    file: Path | None = None
    version: int = 0
    dry_run: bool = False
    timeout: float = 60.0

    def payload(self) -> dict[str, Any]:
        """The CONFIG_CHANGED that asks for it. Raises Failure."""
        from skep_nodes.cli.policy_build import read_rego

        config = {"rego": read_rego(self.file)} if self.file else {}
        if config.get("rego") == "":
            raise Failure("COMPILE_ERROR", f"{self.file} is empty", then=NEXT["COMPILE_ERROR"])
        payload = {"subsystem": "opa", "action": self.action, "version": self.version, "config": config}
        if self.dry_run:
            payload["dry_run"] = True
        size = len(json.dumps(payload, ensure_ascii=False).encode())
        if size > REQUEST_BYTES_MAX:
            raise Failure(
                "REGO_TOO_LARGE", f"{self.file} is {size} bytes as a message, {REQUEST_BYTES_MAX} fit",
                why="a policy travels in one frame", then="move tables into roles and capabilities",
            )  # fmt: skip
        return payload


def apply_action(file: Path | None, staged: bool) -> str:
    """What `apply` means: a file is compiled and applied, `--staged` only applied. Raises Failure USAGE."""
    if (file is None) != staged:
        raise Failure("USAGE", "say what to apply", why="exactly one of FILE and --staged",
                      then="skep policy apply --help", exit_code=Exit.USAGE)  # fmt: skip
    return "apply" if staged else "compile_apply"


def change_command(root: Path | None, out: Output, asked: Asked) -> int:
    """`skep policy upload|apply|rollback`."""
    payload = asked.payload()

    async def send(node: Node) -> Any:
        reply = await node.request(
            OWNER, payload, timeout=asked.timeout, type="system", verb="CONFIG_CHANGED", sampled=True
        )
        return reply.payload

    answer = _accepted(owner_asked(root, send, asked.timeout), asked, out)
    _tell(answer, asked, out)
    return _exit_of(answer, out)


def status_command(root: Path | None, out: Output, timeout: float) -> int:
    """`skep policy status`."""
    answer = _query(root, "get_status", timeout)
    rows = answer.pop("routers", [])
    if out.form is not Format.table:
        out.one("skep.policy.status/1", {**answer, "routers": rows}, str(answer.get("current_version")))
        return _exit_of({**answer, "routers": rows}, out)
    shown = {
        name: value for name, value in answer.items() if name not in ("status", "pending") and value != ""
    }
    out.one("skep.policy.status/1", shown)
    out.rows("skep.policy.status/1", "routers", rows, ROUTERS)
    return _exit_of({**answer, "routers": rows}, out)


def get_command(root: Path | None, out: Output, timeout: float) -> int:
    """`skep policy get`: the Rego in force, on stdout as it is."""
    answer = _query(root, "get_policy", timeout)
    if answer["status"] != "ok":
        raise _refused(answer, "reading the policy")
    if out.form is not Format.table:
        out.one("skep.policy/1", answer, str(answer["version"]))
    elif answer["rego"] is None:
        raise Failure(
            "REGO_TOO_LARGE", "the policy does not fit into a message", then=f"read {answer['rego_path']}"
        )
    else:
        out.say(f"version {answer['version']}, compiled {answer['compiled_at']}, hash {answer['hash']}")
        print(answer["rego"], end="")
    return Exit.OK


def _query(root: Path | None, action: str, timeout: float) -> dict[str, Any]:
    async def send(node: Node) -> Any:
        return (await node.request(OWNER, {}, timeout=timeout, type="query", action=action)).payload

    answer = owner_asked(root, send, timeout)
    if not isinstance(answer, dict) or "status" not in answer:
        raise Failure("BAD_ANSWER", f"{OWNER} answered {action} with something that is no status")
    if answer.get("error_code") == "FORBIDDEN":
        raise _refused(answer, action)
    return answer


def _accepted(answer: Any, asked: Asked, out: Output) -> dict[str, Any]:
    """The answer, or the Failure that it reports, with every finding of the compiler in the editors' form."""
    what = f"policy {asked.action}" + (f" of {asked.file}" if asked.file else "")
    if not isinstance(answer, dict):
        raise Failure("BAD_ANSWER", f"{what} was answered with something that is no object")
    for finding in (*answer.get("problems", ()), *answer.get("warnings", ())):
        place = f"{asked.file}:{finding['line']}:{finding['column']}"
        out.say(f"{place}: {finding['code']}: {finding['message']}")
    if answer.get("status") != "ok":
        raise _refused(answer, what)
    return answer


def _refused(answer: Mapping[str, Any], what: str) -> Failure:
    code = str(answer.get("error_code") or "FAILED")
    why = str(answer.get("error_detail") or "").removeprefix(f"{code}: ")
    return Failure(code, f"{what} was refused", why=why,
                   then=NEXT.get(code, "skep doctor"), exit_code=exit_for(code))  # fmt: skip


def _tell(answer: dict[str, Any], asked: Asked, out: Output) -> None:
    took = f" ({answer['compile_time_ms']} ms to compile)" if "compile_time_ms" in answer else ""
    if asked.dry_run:
        out.say(f"it would be done{took}; version {answer['version']} stays in force (dry run)")
    else:
        out.say(DONE[asked.action].format(**answer) + took)
    if out.form is not Format.table:
        out.one("skep.policy.change/1", answer, str(answer["version"]))
    elif "routers" in answer:
        out.rows("skep.policy.change/1", "routers", answer["routers"], ROUTERS)


def _exit_of(answer: Mapping[str, Any], out: Output) -> int:
    """What a script should know about the routers."""
    rows = answer.get("routers", ())
    refused = [row["router"] for row in rows if row["status"] == "error"]
    if refused:
        out.say(f"refused by {', '.join(refused)}: they keep the policy they had")
        return Exit.FAILED
    pending = answer.get("pending", ())
    if pending:
        out.say(f"not known to run it: {', '.join(pending)}; see `skep policy status`")
        return Exit.UNREACHABLE
    return Exit.OK


def owner_asked(root: Path | None, send: Callable[[Node], Awaitable[Any]], timeout: float) -> Any:
    """What the policy's owner answers. One that is not there may have been kept away by the hive's key: then that is
    what is wrong. Raises Failure."""
    try:
        return joined(root, "", send, timeout)
    except Failure as failure:
        if failure.code == "NODE_NOT_FOUND":
            check_key(find_hive(root))
        raise
