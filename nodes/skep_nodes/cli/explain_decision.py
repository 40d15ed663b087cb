"""Why a message went where it went: one decision as facts and as lines for people.

How much is known differs, and is said (`how`): a decision of the message's own is *recorded*; one that a router had
made before for an equal message was *kept* and answered for this one; where the log has neither, it is *recomputed*
from the turn record with the policy and the data of now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from skep_nodes.cli.explain_log import Logged, data_of, policy_of
from skep_nodes.cli.explain_rules import Rules, rules_of
from skep_nodes.cli.output import printable

INPUT_CHARS_MAX: Final = 2_000  # of the input, in a table; JSON has all of it
CANDIDATES_SHOWN: Final = 20


class How(StrEnum):
    """Where what is said comes from."""

    RECORDED = "recorded"
    KEPT = "kept"
    RECOMPUTED = "recomputed"


SAID: Final = {
    How.RECORDED: "made for this message, out of the decision log",
    How.KEPT: "made before for an equal message, and kept: this one has none of its own",
    How.RECOMPUTED: "recomputed from the turn record, with the policy and the data of now",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One decision and all that is known about it. `policy` is a policy line of the log."""

    event: dict[str, Any]
    how: How
    policy: dict[str, Any] | None = None
    rules: Rules | None = None

    def document(self) -> dict[str, Any]:
        """The facts, for every form."""
        event, policy = self.event, self.policy or {}
        return {
            "decision_id": event.get("decision_id", ""), "how": self.how.value, "path": event.get("path"),
            "at": event.get("timestamp", ""), "policy_version": policy.get("version"),
            "policy_hash": policy.get("hash"), "data_revision": event.get("data_revision"),
            "router": event.get("labels", {}).get("router"), "requested_by": event.get("requested_by", ""),
            "outcome": event.get("outcome"), "error": event.get("error"), "result": event.get("result"),
            "candidates": list(candidates_of(event)), "input": event.get("input"),
            "erased": event.get("erased", []), "masked": event.get("masked", []), "shadow": event.get("shadow"),
            "evaluation_ns": event.get("metrics", {}).get("timer_rego_query_eval_ns"),
            "rules": self.rules.document() if self.rules else None,
        }  # fmt: skip


def explained(logged: Logged, how: How) -> Explained:
    """All that the log knows about a decision; the rules that fired are found by evaluating it once more."""
    policy = policy_of(logged)
    return Explained(logged.event, how, policy, _rules(logged, policy))


def _rules(logged: Logged, policy: dict[str, Any] | None) -> Rules:
    if policy is None or "rego" not in policy:
        return Rules(why_not="the policy of that time is not in the log")
    if logged.event.get("outcome") == "POLICY_BUSY":
        return Rules(why_not="the policy was not asked")
    data = data_of(logged)
    if data is None:
        return Rules(why_not="the data of that time are not in the log")
    asked = logged.event.get("input")
    old = policy.get("manifest", {}).get("rego_version") == "v0"
    return rules_of(
        policy["rego"], data, asked if isinstance(asked, dict) else {}, logged.event["path"], old=old
    )


def candidates_of(event: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The candidates in their order, each with what became of it."""
    refused = {each.get("name"): str(each.get("why", "")) for each in event.get("refused") or ()}
    chosen, taken = str(event.get("chosen") or ""), False
    for name in event.get("candidates") or ():
        if name in refused:
            yield {"name": name, "state": "refused", "why": refused[name]}
        elif chosen and not taken:
            taken = True
            yield {"name": name, "state": "chosen", "why": ""}
        else:
            yield {"name": name, "state": "not tried", "why": ""}


# -- for people ----------------------------------------------------------------------------------------------------


def lines_of(one: Explained) -> Iterator[str]:
    """The decision as indented lines."""
    facts = one.document()
    yield f"decision {facts['decision_id'] or '-'}: {facts['path']} {facts['outcome']}"
    yield f"  how       {SAID[one.how]}"
    version = facts["policy_version"]
    hash_ = f", hash {str(facts['policy_hash'])[:12]}" if facts["policy_hash"] else ""
    yield f"  policy    {'not known' if version is None else f'version {version}'}{hash_}"
    revision = facts["data_revision"]
    yield f"  data      {'as it was when this was logged' if revision is None else _revision(revision)}"
    yield f"  asked by  {_text(facts['requested_by'] or '-')}"
    yield f"  input     {_text(_short(facts['input']))}"
    yield f"  answer    {_text(_short(facts['result']))}"
    yield from _more(facts)


def _more(facts: dict[str, Any]) -> Iterator[str]:
    if facts["error"]:
        yield f"  error     {_text(_short(facts['error']))}"
    for name in ("erased", "masked"):
        if facts[name]:
            yield f"  {name:<9} {_text(', '.join(map(str, facts[name])))}"
    candidates = facts["candidates"]
    for number, each in enumerate(candidates[:CANDIDATES_SHOWN], 1):
        why = f": {each['why']}" if each["why"] else ""
        yield f"  {'candidate' if number == 1 else '':<9} {number}. {_text(each['name'])} {each['state']}{_text(why)}"
    if len(candidates) > CANDIDATES_SHOWN:
        yield f"            and {len(candidates) - CANDIDATES_SHOWN} more"
    yield from _rule_lines(facts["rules"])
    if facts["shadow"]:
        shadow = facts["shadow"]
        said = f"{shadow.get('outcome')} {_short(shadow.get('result'))}"
        yield f"  shadow    version {shadow.get('version')}: {_text(said)}"


def _rule_lines(rules: dict[str, Any] | None) -> Iterator[str]:
    if rules is None:
        return
    if rules["why_not"]:
        yield f"  rules     {_text(rules['why_not'])}"
        return
    for number, each in enumerate(rules["fired"]):
        title = f" ({each['title']})" if each["title"] else ""
        yield f"  {'fired' if number == 0 else '':<9} line {each['line']}: {each['rule']}{_text(title)}"
    if not rules["fired"]:
        yield "  fired     no rule: the answer is a default, or none"
    for number, each in enumerate(rules["failed"]):
        yield f"  {'failed' if number == 0 else '':<9} line {_text(each)}"


def _revision(revision: Any) -> str:
    said = revision if isinstance(revision, dict) else {}
    return f"ilks {said.get('ilks', '-')}, tenants {said.get('tenants', '-')}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= INPUT_CHARS_MAX else f"{text[:INPUT_CHARS_MAX]}…"


def _text(text: str) -> str:
    return printable(text)
