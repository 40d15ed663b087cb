"""What is wrong or doubtful in a policy that compiles. Every finding has a place, a code and what to write instead.

Errors: input that no message carries can only be a mistake, and a rule that waits for it never fires. Warnings: what
costs too much (a scan of all identities, an answer that cannot be cached), what may leave a question open (a decision
without a default), and data that nobody fills.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from skep_policy.manifest import DATA_ROOTS, ENTRYPOINTS
from skep_policy.syntax import TABLES, Policy, Reference, Rule


class Problem(NamedTuple):
    """One thing to say about one place of a policy."""

    line: int
    column: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.code}: {self.message}"


RECORD: Final = frozenset(
    {
        "ilk", "type", "ilk_type", "human_subtype", "tenant", "tenant_id", "tenant_status", "registration_status",
        "roles", "capabilities", "degrees", "handler_node", "sealed",
    }
)  # fmt: skip
INPUT: Final = {
    "meta": frozenset(
        {"type", "msg", "action", "action_class", "target", "context", "src_ilk", "dst_ilk", "scope"}
    ),
    "routing": frozenset({"dst", "src", "src_l2_name"}),
    "src": RECORD,
    "dst": RECORD,
}
"""What a decision is given (docs/design.md section 8): the second level of `input`, under each name of the first."""

UNCACHEABLE: Final = frozenset(
    {
        "http.send", "io.jwt.decode_verify", "io.jwt.encode_sign", "io.jwt.encode_sign_raw", "net.lookup_ip_addr",
        "opa.runtime", "rand.intn", "time.now_ns", "uuid.rfc4122",
    }
)  # fmt: skip
"""Built-ins whose answer depends on more than their arguments."""


def errors(policy: Policy) -> list[Problem]:
    """Findings that a policy may not have, in the order of the text."""
    return sorted({problem for rule in policy.rules for problem in _outside(rule)})


def warnings(policy: Policy) -> list[Problem]:
    """Findings that a policy may have, in the order of the text."""
    found: set[Problem] = set()
    for rule in policy.rules:
        found.update(_scans(policy, rule), _uncacheable(rule), _unfilled(policy, rule))
    return sorted(found.union(_without_default(policy)))


def uncacheable(rules: list[Rule]) -> bool:
    """Whether an answer made by these rules depends on the moment or on chance."""
    return any(name in UNCACHEABLE for rule in rules for name, _ in rule.calls)


def _outside(rule: Rule) -> Iterator[Problem]:
    for reference in rule.references:
        wrong = _not_given(reference)
        if wrong:
            yield Problem(*reference.place, "input_outside_selector", wrong)


def _not_given(reference: Reference) -> str:
    """Why a mention of `input` can never have a value; "" when it can."""
    root, part, field = [*reference.path, None, None][:3]
    if root != "input" or part is None:
        return ""
    known = INPUT.get(part)
    if known is None:
        return f"no decision is given input.{part}; there are input.{', input.'.join(sorted(INPUT))}"
    if field is None or field in known:
        return ""
    return f"no decision is given input.{part}.{field}; of input.{part} there are {', '.join(sorted(known))}"


def _scans(policy: Policy, rule: Rule) -> Iterator[Problem]:
    """One finding for each variable that has to go through a table, where it first does."""
    first: dict[tuple[str | None, str], Reference] = {}
    for reference in sorted(rule.references, key=lambda one: one.place):
        if _is_scan(policy, rule, reference):
            once = "" if reference.key.startswith("$") or not reference.key else reference.key
            first.setdefault((reference.path[1], once or str(reference.place)), reference)
    for reference in first.values():
        table = f"data.{reference.path[1]}"
        yield Problem(
            *reference.place,
            "scan",
            f"goes through all of {table}, at every decision; ask for one key, {table}[key], or begin with "
            "data.capability[tag], which lists only who has it",
        )


def _is_scan(policy: Policy, rule: Rule, reference: Reference) -> bool:
    path = reference.path
    if path[0] != "data" or len(path) < 2 or path[1] not in TABLES:
        return False
    if len(path) == 2:
        return not reference.looked_up
    key = reference.key
    return key.startswith("$") or (bool(key) and key not in rule.bound and key not in policy.rule_names)


def _uncacheable(rule: Rule) -> Iterator[Problem]:
    for name, place in rule.calls:
        if name in UNCACHEABLE:
            yield Problem(
                *place, "uncacheable",
                f"{name} gives another answer each time, so every decision of this rule is made anew for every flow",
            )  # fmt: skip


def _unfilled(policy: Policy, rule: Rule) -> Iterator[Problem]:
    for reference in rule.references:
        path = reference.path
        ours = path[1 : 1 + len(policy.package)] == policy.package
        if (
            path[0] == "data"
            and len(path) > 1
            and path[1] is not None
            and path[1] not in DATA_ROOTS
            and not ours
        ):
            yield Problem(
                *reference.place, "data_unfilled",
                f"nothing fills data.{path[1]}; there are data.{', data.'.join(DATA_ROOTS)}",
            )  # fmt: skip


def _without_default(policy: Policy) -> Iterator[Problem]:
    for entrypoint in ENTRYPOINTS:
        rules = policy.rules_of(entrypoint)
        if rules and not any(rule.default or rule.always for rule in rules):
            name = entrypoint.rpartition("/")[2]
            value = "false" if name == "allow" else "[]"
            yield Problem(
                *rules[0].place, "no_default",
                f"{name} has no answer when no rule fires; say so: default {name} := {value}",
            )  # fmt: skip
