"""What the tests of policies share: the seed's rules, a small hive's records, and `opa eval` as the reference."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from skep_policy.documents import Documents, ilk_name
from skep_policy.syntax import Policy, read_policy
from skep_shm import IlkKind, IlkRecord, Registration, SealStatus, Subtype, TenantRecord, TenantStatus
from support.tools import need

EVAL_S = 60.0
TENANT = bytes.fromhex("aa" * 16)

# The two examples of upstream's own introduction; only `package`, `import` and `if` were added.
SEED = """package router

import rego.v1

target = node if {
	required := input.meta.context.required_capability
	some ilk
	data.identity[ilk].type == "agent"
	required in data.identity[ilk].capabilities
	node := data.identity[ilk].handler_node
}

allow if {
	input.meta.action == "system_status"
	data.identity[input.meta.src_ilk].human_subtype == "internal"
}
"""

# The documented form of the first: an ordered list, keyed by capability.
LISTED = """package router

default target := []

target := sort([data.agents[ilk].handler_node |
	some ilk in data.capability[input.meta.context.required_capability]
])
"""


def agent(number: int, *capabilities: str, **facts: Any) -> IlkRecord:
    """An agent that may answer."""
    given: dict[str, Any] = {"tenant": TENANT, "handler": f"AI.a{number:05}@h", **facts}
    return IlkRecord(
        number.to_bytes(16, "big"), kind=IlkKind.AGENT, registration=Registration.COMPLETE, seal=SealStatus.VALID,
        capabilities=capabilities, **given,
    )  # fmt: skip


def person(number: int, subtype: Subtype, *capabilities: str, handler: str = "") -> IlkRecord:
    return IlkRecord(
        number.to_bytes(16, "big"), kind=IlkKind.HUMAN, subtype=subtype, registration=Registration.COMPLETE,
        tenant=TENANT, handler=handler, capabilities=capabilities,
    )  # fmt: skip


def documents(*records: IlkRecord) -> Documents:
    made = Documents()
    made.set_tenant(TenantRecord(TENANT, TenantStatus.ACTIVE))
    for record in records:
        made.set(record)
    return made


def question(
    src: dict[str, Any] | None = None, dst: dict[str, Any] | None = None, **meta: Any
) -> dict[str, Any]:
    """A decision's input."""
    routing = {"dst": meta.pop("to", None), "src": "00" * 16, "src_l2_name": "IO.x@h"}
    return {"meta": {"type": "user", **meta}, "routing": routing, "src": src, "dst": dst}


def parsed(rego: str, folder: Path) -> Policy:
    """The facts of a policy, by one run of `opa parse`."""
    (folder / "policy.rego").write_text(rego)
    argv = [need("opa"), "parse", "--format", "json", "--json-include", "locations", "policy.rego"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=EVAL_S, check=True)
    return read_policy(json.loads(done.stdout))


def evaluate(rego: str | Path, entrypoint: str, data: bytes, asked: dict[str, Any], folder: Path) -> Any:
    """The answer of `opa eval`: ("value", v), ("undefined", None) or ("error", message)."""
    policy = rego if isinstance(rego, Path) else folder / "policy.rego"
    if isinstance(rego, str):
        policy.write_text(rego)
    (folder / "data.json").write_bytes(data)
    (folder / "input.json").write_text(json.dumps(asked))
    query = "data." + entrypoint.replace("/", ".")
    argv = [
        need("opa"),
        "eval",
        "-f",
        "json",
        "-d",
        str(policy),
        "-d",
        "data.json",
        "-i",
        "input.json",
        query,
    ]
    done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=EVAL_S, check=False)
    document = json.loads(done.stdout)
    if document.get("errors"):
        error = document["errors"][0]
        return "error", f"{error['location']['row']}: {error['message']}"
    found = document.get("result")
    return ("value", found[0]["expressions"][0]["value"]) if found else ("undefined", None)


__all__ = [
    "LISTED",
    "SEED",
    "TENANT",
    "agent",
    "documents",
    "evaluate",
    "ilk_name",
    "parsed",
    "person",
    "question",
]
