"""A policy's syntax tree, read once: which documents, built-ins and other rules each rule mentions, and where.

`opa parse` gives the tree as JSON; this walks it and keeps only facts. It errs on one side: a name that might be a
rule counts as one, a key that is no constant ends what is known of a path. `opa deps` was not used for that: it does
not see `data[x]`, and it reads today's syntax only. The walk has its own stack, because a policy may nest deeper
than Python recurses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

TABLES: Final = frozenset({"agents", "identity", "identity_aliases", "capability", "tenant", "node"})
"""Documents under `data` with one entry for each interlocutor, tenant, capability or node: keyed look-ups only."""

Imports = Mapping[str, tuple[str | None, ...]]
"""Names that a module gives to documents, with their paths."""

_ASSIGNING: Final = frozenset({"assign", "eq"})
_MEMBER: Final = frozenset({"internal.member_2", "internal.member_3"})


class Place(NamedTuple):
    """Where something stands in the text; both count from 1."""

    line: int
    column: int


START: Final = Place(1, 1)


class Reference(NamedTuple):
    """A mention of a document. `path` starts with "input" or "data"; an element that is no constant is None.

    `key` is the variable that stands at the place of a table's key, "" when a constant or an expression does.
    `looked_up` says that a built-in looks a key up in it. `presence`: it stands in `… != ""`, which does not ask what a
    text says.
    """

    path: tuple[str | None, ...]
    place: Place
    key: str = ""
    looked_up: bool = False
    presence: bool = False


@dataclass(slots=True)
class Rule:
    """One rule as written; a name has several."""

    path: tuple[str, ...]  # package and name
    place: Place
    default: bool = False
    always: bool = False  # defined whatever the input: a set, or a value without conditions
    references: list[Reference] = field(default_factory=list)
    calls: list[tuple[str, Place]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # variables, any of which may name a rule
    bound: set[str] = field(default_factory=set)  # variables that something gives a value


@dataclass(frozen=True)
class Policy:
    """The facts of one module."""

    package: tuple[str, ...]
    rules: tuple[Rule, ...]

    @cached_property
    def rule_names(self) -> frozenset[str]:
        """First parts of the names of its rules."""
        return frozenset(
            rule.path[len(self.package)] for rule in self.rules if len(rule.path) > len(self.package)
        )

    def rules_of(self, entrypoint: str) -> list[Rule]:
        """The rules that make up the document of an entry point such as "router/target"."""
        wanted = tuple(entrypoint.split("/"))
        return [rule for rule in self.rules if rule.path[: len(wanted)] == wanted]

    def reached_from(self, entrypoint: str) -> list[Rule]:
        """The rules of an entry point and all that they may ask, however indirectly."""
        todo = self.rules_of(entrypoint)
        reached: dict[int, Rule] = {}
        while todo:
            rule = todo.pop()
            if id(rule) not in reached:
                reached[id(rule)] = rule
                todo += self._asked_by(rule)
        return list(reached.values())

    def _asked_by(self, rule: Rule) -> Iterator[Rule]:
        mentioned = rule.names | {name.partition(".")[0] for name, _ in rule.calls}
        size = len(self.package)
        for other in self.rules:
            if other.path[size] in mentioned or any(_may_meet(r.path, other.path) for r in rule.references):
                yield other


def _may_meet(mentioned: tuple[str | None, ...], rule: tuple[str, ...]) -> bool:
    """Whether a mentioned path under `data` may lie on the way to a rule, at it or under it."""
    met = zip(mentioned[1:], rule, strict=False)  # the shorter of the two decides
    return mentioned[0] == "data" and all(one is None or one == two for one, two in met)


def read_policy(tree: Mapping[str, Any]) -> Policy:
    """The facts of a module from `opa parse --format json --json-include locations`."""
    package = tuple(str(term["value"]) for term in tree["package"]["path"][1:])
    imports = dict(_imports(tree.get("imports") or ()))
    return Policy(package, tuple(_read_rule(rule, package, imports) for rule in tree.get("rules") or ()))


def _imports(found: Any) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Names that imports give to documents: name and path."""
    for one in found:
        path = tuple(str(term["value"]) for term in one["path"]["value"])
        if path[0] in ("input", "data"):
            yield str(one.get("alias") or path[-1]), path


def _read_rule(tree: Mapping[str, Any], package: tuple[str, ...], imports: Imports) -> Rule:
    head = tree["head"]
    rule = Rule(
        (*package, *_constant_start(head["ref"])), _place(tree), bool(tree.get("default")), _always(tree)
    )
    for argument in head.get("args") or ():
        rule.bound.update(_variables(argument))
    _Walk(rule, imports).over([tree.get("body"), tree.get("else"), head.get("args"), head.get("key"), head.get("value"),
                               head["ref"][1:]])  # fmt: skip
    return rule


def _constant_start(terms: list[Any]) -> Iterator[str]:
    for index, term in enumerate(terms):
        if index and term["type"] != "string":
            return
        yield str(term["value"])


def _always(tree: Mapping[str, Any]) -> bool:
    head = tree["head"]
    if head.get("args"):
        return False
    if "key" in head or len(head["ref"]) > 1:
        return True
    value = head.get("value") or {}
    constant = value.get("type") in {"null", "boolean", "number", "string"}
    comprehended = str(value.get("type", "")).endswith("comprehension")
    return (constant or comprehended) and all(expr.get("generated") for expr in tree.get("body") or ())


class _Walk:
    """Over one rule's tree, every node once; an explicit stack holds what is still to be seen."""

    def __init__(self, rule: Rule, imports: Imports) -> None:
        self._rule, self._imports = rule, imports
        self._place = rule.place
        self._todo: list[tuple[Any, Place]] = []

    def over(self, node: Any) -> None:
        self._todo.append((node, self._rule.place))
        while self._todo:
            node, self._place = self._todo.pop()
            if isinstance(node, list):
                self._later(node)
            elif isinstance(node, dict):
                self._place = _place(node, self._place)
                self._node(node)

    def _node(self, node: dict[str, Any]) -> None:
        kind: str = node.get("type", "")
        value: Any = node.get("value")
        if kind == "ref":
            self._reference(value)
        elif kind == "var":
            self._variable(str(value))
        elif kind == "call":
            self._call(value)
        elif isinstance(node.get("terms"), list):
            self._call(node["terms"])
            self._later([node.get("with")])
        else:
            self._later([part for key, part in node.items() if key != "location"])

    def _later(self, nodes: list[Any]) -> None:
        self._todo += [(node, self._place) for node in nodes if isinstance(node, list | dict)]

    def _variable(self, name: str) -> None:
        if name in ("input", "data"):
            self._rule.references.append(Reference((name,), self._place))
        elif name in self._imports:
            self._rule.references.append(Reference(self._imports[name], self._place))
        else:
            self._rule.names.add(name)

    def _reference(self, terms: list[Any], looked_up: bool = False, presence: bool = False) -> None:
        head, *rest = terms
        self._later([term for term in rest if term["type"] != "string"])
        if head["type"] != "var":
            self._later([head])
            return
        start = self._imports.get(str(head["value"]), (str(head["value"]),))
        path = start + tuple(str(term["value"]) if term["type"] == "string" else None for term in rest)
        table = path[0] == "data" and len(path) > 1 and path[1] in TABLES
        at = 2 - len(start)  # where in `rest` a table's key stands
        key = _variable_at(rest, at) if table else ""
        if path[0] in ("input", "data"):
            self._rule.references.append(Reference(path, self._place, key, looked_up, presence))
        else:
            self._rule.names.add(str(head["value"]))
        given = [term for index, term in enumerate(rest) if not (table and index == at)]
        self._rule.bound.update(name for term in given for name in _variables(term))

    def _call(self, terms: list[Any]) -> None:
        operator, *arguments = terms
        name = ".".join(str(term["value"]) for term in operator["value"])
        self._rule.calls.append((name.removeprefix("data."), self._place))
        if operator["value"][0]["value"] == "data" or name.partition(".")[0] in self._imports:
            self._reference(operator["value"])
        if name in _ASSIGNING or name in _MEMBER:
            given = arguments[:-1] if name in _MEMBER else arguments
            self._rule.bound.update(each for term in given for each in _variables(term))
        if name == "object.get" and arguments and arguments[0].get("type") == "ref":
            self._place = _place(arguments[0], self._place)
            self._reference(arguments[0]["value"], looked_up=True)
            arguments = arguments[1:]
        if name == "neq" and (compared := _against_nothing(arguments)):
            self._reference(compared, presence=True)
            return
        self._later(arguments)


def _against_nothing(arguments: list[Any]) -> list[Any] | None:
    """The reference that is compared with the empty text, if this is such a comparison."""
    for one, other in (arguments, arguments[::-1]) if len(arguments) == 2 else ():
        if one.get("type") == "ref" and other.get("type") == "string" and other.get("value") == "":
            found: list[Any] = one["value"]
            return found
    return None


def _variable_at(terms: list[Any], index: int) -> str:
    if 0 <= index < len(terms) and terms[index]["type"] == "var":
        return str(terms[index]["value"])
    return ""


def _variables(term: Mapping[str, Any]) -> Iterator[str]:
    """Variables that a pattern gives a value: itself, or those inside an array or object."""
    todo = [term]
    while todo:
        one = todo.pop()
        if one.get("type") == "var":
            yield str(one["value"])
        elif one.get("type") == "array":
            todo += one["value"]
        elif one.get("type") == "object":
            todo += [value for _, value in one["value"]]


def _place(node: Mapping[str, Any], otherwise: Place = START) -> Place:
    location = node.get("location")
    if not isinstance(location, dict) or not location.get("row"):
        return otherwise
    return Place(int(location["row"]), max(1, int(location.get("col") or 1)))
