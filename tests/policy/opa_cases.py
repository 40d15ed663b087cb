"""OPA's own published cases, as data: policies, queries, and what they have to answer.

They are read where OPA's Go module lies (or from the folder that SKEP_OPA_CASES names) and not kept here. Each is
compiled to WASM with our capabilities, evaluated by our host, and compared with what OPA says it wants. A query becomes
a rule that collects the bindings of its variables, so any query can be compared as a value.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy.opa_build import NotBuiltError, built
from skep.protocol.errors import PolicyError
from skep_policy.builtins.values import Pairs, Real, Set, compare, items, read, set_of
from skep_policy.instance import Instance
from skep_policy.module import Module

OPA_VERSION = "1.22.2"
FUEL = 2_000_000_000
RULE = "skepquery/answers"

EXCEPTED = {
    "bignum": "WASM has no integers beyond 64 bits (OPA issue 3711, OPA's own list of exceptions)",
    "fast-path overflow": "the same",
    "toplevel integer": "data that are no object (the same issue)",
    "nested integer": "the same",
    "beyond the supported exponent": "WASM parses numbers of any exponent (OPA's own list of exceptions)",
    "too big an exponent": "the same",
}
"""Notes of cases that OPA's own WASM host excepts, and why."""


@dataclass
class OpaCase:
    """One case, as OPA wrote it."""

    file: str
    note: str
    version: str
    said: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.version}/{self.file}: {self.note}"


@dataclass(frozen=True)
class Outcome:
    """`verdict` is "ok", "wrong" or "skip"."""

    verdict: str
    why: str = ""


def folder() -> Path | None:
    """Where the cases are; None where they are not."""
    named = os.environ.get("SKEP_OPA_CASES")
    cache = os.environ.get("GOMODCACHE") or str(Path.home() / "go" / "pkg" / "mod")
    module = Path(cache) / "github.com" / "open-policy-agent" / f"opa@v{OPA_VERSION}"
    found = Path(named) if named else module / "v1" / "test" / "cases" / "testdata"
    return found if found.is_dir() else None


def cases(opa: str, where: Path) -> Iterator[OpaCase]:
    """All of them, in a fixed order."""
    for version in ("v0", "v1"):
        texts = {
            f"{path.parent.name}/{path.name}": path.read_text() for path in (where / version).rglob("*.y*ml")
        }
        for file, document in sorted(_from_yaml(opa, texts).items()):
            for case in document["cases"]:
                yield OpaCase(file, case["note"], version, case)


def _from_yaml(opa: str, texts: dict[str, str]) -> dict[str, Any]:
    """All of them in one run of opa: it reads YAML exactly as its own tests do, and a hundred times as fast."""
    query = "{file: yaml.unmarshal(text) | some file, text in input}"
    done = subprocess.run(
        [opa, "eval", "--stdin-input", "--format", "json", query], input=json.dumps(texts), text=True,
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout, parse_float=Real)["result"][0]["expressions"][0]["value"]
    return found


def judge(opa: str, case: OpaCase) -> Outcome:
    """Compile, evaluate, compare."""
    skip = _skipped(case)
    if skip:
        return Outcome("skip", skip)
    try:
        wasm = _compiled(opa, case)
    except NotBuiltError as error:
        text = str(error)
        unknown = re.search(r"undefined function ([\w.]+)", text)
        if unknown:
            return Outcome("skip", f"no built-in {unknown[1]}")
        return Outcome("skip", f"does not compile: {text[:160]}")
    return _evaluated(case, wasm)


def _skipped(case: OpaCase) -> str:
    for part, why in EXCEPTED.items():
        if part in case.note:
            return why
    return "wants an environment" if case.said.get("env") else ""


def _query_rule(case: OpaCase) -> str:
    wanted = case.said.get("want_result") or []
    names = sorted({name for row in wanted for name in row})
    if not names:
        names = sorted(set(re.findall(r"=\s*([a-z]\w*)$", case.said["query"].strip())))
    row = ", ".join(f'"{name}": {name}' for name in names)
    return f"package skepquery\n\nanswers := [{{{row}}} | {case.said['query']}]\n"


def _compiled(opa: str, case: OpaCase) -> bytes:
    flag = "--v0-compatible" if case.version == "v0" else "--v1-compatible"
    return built(opa, [*case.said.get("modules", ()), _query_rule(case)], RULE, flag=flag)


def _input(case: OpaCase) -> bytes:
    if "input_term" in case.said:
        return re.sub(r",(\s*[}\]])", r"\1", str(case.said["input_term"])).encode()  # WASM takes no comma too many
    return json.dumps(case.said["input"], default=float).encode() if "input" in case.said else b""


def _evaluated(case: OpaCase, wasm: bytes) -> Outcome:
    instance = None
    try:
        instance = Instance(
            Module.load(wasm), json.dumps(case.said.get("data") or {}, default=float).encode()
        )
        text = instance.evaluate(instance.module.entrypoints[RULE], _input(case), FUEL, exact=True)
        return _compared(case, read(text))
    except PolicyError as error:
        if case.said.get("want_error_code") and not case.said.get("strict_error"):
            return Outcome("ok")
        return Outcome("wrong", f"{error.code}: {error.detail[:300]}")
    finally:
        if instance is not None:
            instance.close()


def _compared(case: OpaCase, found: Any) -> Outcome:
    said = case.said
    [row] = found if isinstance(found, list) and not isinstance(found, Set) else list(found)
    answers = dict(items(row))["result"]
    if "want_defined" in said:
        return _said(bool(answers) == bool(said["want_defined"]), said["want_defined"], answers)
    if "want_result" in said:
        wanted = read(json.dumps(said["want_result"] or [], default=float).encode())
        return _said(_same(wanted, answers, bool(said.get("sort_bindings"))), wanted, answers)
    if said.get("strict_error"):
        return _said(not answers, "undefined", answers)
    return _said(False, f"error {said.get('want_error_code')}", answers)


def _said(good: bool, wanted: Any, found: Any) -> Outcome:
    return Outcome("ok") if good else Outcome("wrong", f"wanted {str(wanted)[:300]} found {str(found)[:300]}")


def _same(wanted: list[Any], found: list[Any], sorting: bool) -> bool:
    """Rows in any order; in each, bindings as JSON, where a set is a sorted array."""
    left = set_of([_plain(row, sorting) for row in wanted])
    right = set_of([_plain(row, sorting) for row in found])
    return not compare(left, right)


def _plain(value: Any, sorting: bool) -> Any:
    if isinstance(value, Set):
        plain = [_plain(v, sorting) for v in set_of(list(value))]
        return list(set_of(plain)) if sorting else plain
    if isinstance(value, list) and not isinstance(value, Pairs):
        plain = [_plain(v, sorting) for v in value]
        return list(set_of(plain)) if sorting else plain
    if isinstance(value, dict | Pairs):
        return {_key(k): _plain(v, sorting) for k, v in items(value)}
    return value


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(_plain(key, False), default=str, separators=(",", ":"))
