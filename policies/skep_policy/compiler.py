"""Rego in, WASM and its manifest out; or every problem with its line, column and code.

The text is tried as today's Rego, then as that of before OPA 1.0; the manifest says which it was. Equal text gives
equal bytes: the file has one name inside the run's folder, and nothing here reads a clock. The package of a policy is
`router`; its entry points are `router/target` and `router/allow`, whichever it has.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from skep.protocol.errors import PolicyError
from skep_policy import lint
from skep_policy.limits import WASM_BYTES_MAX
from skep_policy.lint import Problem
from skep_policy.manifest import DATA_ROOTS, ENTRYPOINTS, TARGET, Manifest, Reads
from skep_policy.opa import REGO_NAME, capabilities_file, first_line, need_opa, run, version_text
from skep_policy.syntax import Policy, Rule, read_policy

REGO_BYTES_MAX: Final = 1 << 20
"""A policy's text. The bundle holds it beside the WASM and must fit into 8 MiB."""

DEPTH_MAX: Final = 256
"""Brackets within brackets. `opa parse` repeats the text of whatever holds a term, so depth costs it the square."""

PROBLEMS_MAX: Final = 100
"""Problems told of one text."""

OLD_SYNTAX: Final = "--v0-compatible"


class CompileError(PolicyError):
    """A text that is no policy. `problems` has every reason, in the order of the text."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems[:PROBLEMS_MAX])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__("COMPILE_ERROR", f"{REGO_NAME}:{problems[0]}{more}")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy that compiles. The manifest has no version, hive or time yet."""

    wasm: bytes
    rego: str
    manifest: Manifest
    warnings: tuple[Problem, ...] = ()


def compile_policy(rego: str, *, entrypoint: str = TARGET, opa: Path | None = None) -> Compiled:
    """Compile one policy. Takes some 0.2 s; never call it from a loop that serves.

    Raises CompileError; PolicyError OPA_MISSING, OPA_OLD, OPA_FAILED, OPA_TIMEOUT, REGO_TOO_LARGE, WASM_TOO_LARGE.
    """
    command = opa or need_opa()
    with tempfile.TemporaryDirectory(prefix="skep-opa-") as name:
        folder = Path(name)
        (folder / REGO_NAME).write_bytes(_text_bytes(rego))
        desk = _Desk(command, folder, capabilities_file(folder))
        old = desk.check()
        policy = desk.policy(old)
        entrypoints = _entrypoints(policy, entrypoint)
        wrong = lint.errors(policy)
        if wrong:
            raise CompileError(wrong)
        wasm = desk.build(old, entrypoints)
    return Compiled(
        wasm, rego, _manifest(policy, entrypoints, entrypoint, wasm, rego, version_text(command), old),
        tuple(lint.warnings(policy)),
    )  # fmt: skip


def _text_bytes(rego: str) -> bytes:
    try:
        data = rego.encode()
    except UnicodeEncodeError:
        raise CompileError([Problem(1, 1, "rego_parse_error", "the text is no UTF-8")]) from None
    if len(data) > REGO_BYTES_MAX:
        raise PolicyError("REGO_TOO_LARGE", f"{len(data)} bytes of Rego, {REGO_BYTES_MAX} at most")
    _check_depth(rego)
    return data


def _check_depth(rego: str) -> None:
    """Counts brackets, those in texts too, which a policy has in pairs or in small number."""
    depth = 0
    for found in re.finditer(r"[\[\](){}]", rego):
        depth = depth + 1 if found[0] in "[({" else max(0, depth - 1)
        if depth > DEPTH_MAX:
            line = rego.count("\n", 0, found.start()) + 1
            column = found.start() - rego.rfind("\n", 0, found.start())
            raise CompileError(
                [Problem(line, column, "too_deep", f"more than {DEPTH_MAX} brackets are open here")]
            )


@dataclass(frozen=True, slots=True)
class _Desk:
    """One text in one folder, and the runs of `opa` over it."""

    opa: Path
    folder: Path
    capabilities: list[str]

    def check(self) -> bool:
        """Whether the text has the older syntax. Raises CompileError with the problems of the syntax it has."""
        today = self._problems()
        if not today:
            return False
        before = self._problems(OLD_SYNTAX)
        if not before:
            return True
        raise CompileError(before if _only_syntax(today) and not _only_syntax(before) else today)

    def _problems(self, *flags: str) -> list[Problem]:
        done = run(
            self.opa,
            [
                "check",
                "--format",
                "json",
                "--max-errors",
                str(PROBLEMS_MAX),
                *flags,
                *self.capabilities,
                REGO_NAME,
            ],
            self.folder,
        )
        if done.code == 0:
            return []
        return problems_of(done.document()) or [
            Problem(1, 1, "opa_error", first_line(done.stderr) or "no message")
        ]

    def policy(self, old: bool) -> Policy:
        flags = [OLD_SYNTAX] if old else []
        arguments = ["parse", "--format", "json", "--json-include", "locations", *flags, REGO_NAME]
        return read_policy(run(self.opa, arguments, self.folder).document())

    def build(self, old: bool, entrypoints: Sequence[str]) -> bytes:
        entries = [part for entrypoint in entrypoints for part in ("-e", entrypoint)]
        flags = [OLD_SYNTAX] if old else []
        arguments = [
            "build",
            "-t",
            "wasm",
            *flags,
            *self.capabilities,
            *entries,
            "-o",
            "bundle.tar.gz",
            REGO_NAME,
        ]
        done = run(self.opa, arguments, self.folder)
        if done.code:
            raise CompileError([Problem(1, 1, "opa_build_error", first_line(done.stderr))])
        return wasm_of((self.folder / "bundle.tar.gz").read_bytes())


def problems_of(document: Any) -> list[Problem]:
    """The errors that `opa` reports as JSON."""
    found = document.get("errors") if isinstance(document, dict) else None
    return sorted(_problem(error) for error in found or ())


def _problem(error: Mapping[str, Any]) -> Problem:
    location = error.get("location") or {}
    # An error at the end of a line has column 0 and says in `idx` where it was noticed.
    index = (error.get("details") or {}).get("idx") if isinstance(error.get("details"), dict) else None
    column = location.get("col") or (index + 1 if isinstance(index, int) else 1)
    return Problem(
        location.get("row") or 1, column, str(error.get("code", "opa_error")), str(error.get("message", ""))
    )


def _only_syntax(problems: Sequence[Problem]) -> bool:
    return all(problem.code == "rego_parse_error" for problem in problems)


def _entrypoints(policy: Policy, asked: str) -> list[str]:
    """The entry points that the policy has. Raises CompileError when the asked one is missing."""
    if not policy.rules_of(asked):
        package, rule = ".".join(policy.package), asked.replace("/", ".")
        what = f"nothing decides {asked}: the package is {package!r} and has no rule that makes {rule}"
        raise CompileError([Problem(1, 1, "entrypoint_missing", what)])
    return sorted({asked, *(each for each in ENTRYPOINTS if policy.rules_of(each))})


def wasm_of(bundle: bytes) -> bytes:
    """The module inside what `opa build` wrote. Raises PolicyError OPA_FAILED, WASM_TOO_LARGE."""
    with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:gz") as archive:
        member = next((each for each in archive if each.name.lstrip("/") == "policy.wasm"), None)
        file = archive.extractfile(member) if member else None
        if member is None or file is None:
            raise PolicyError("OPA_FAILED", "opa build made no policy.wasm")
        if member.size > WASM_BYTES_MAX:
            raise PolicyError("WASM_TOO_LARGE", f"{member.size} bytes of WASM, {WASM_BYTES_MAX} at most")
        return file.read()


def _manifest(
    policy: Policy,
    entrypoints: Sequence[str],
    asked: str,
    wasm: bytes,
    rego: str,
    opa_version: str,
    old: bool,
) -> Manifest:
    reached = {entrypoint: policy.reached_from(entrypoint) for entrypoint in entrypoints}
    return Manifest(
        entrypoint=asked,
        reads={entrypoint: reads_of(rules, policy.package) for entrypoint, rules in reached.items()},
        cacheable={entrypoint: not lint.uncacheable(rules) for entrypoint, rules in reached.items()},
        wasm_sha256=sha256(wasm).hexdigest(),
        rego_sha256=sha256(rego.encode()).hexdigest(),
        opa_version=opa_version,
        rego_version="v0" if old else "v1",
    )


def reads_of(rules: Sequence[Rule], package: tuple[str, ...]) -> Reads:
    """What these rules read, besides one another. A path whose root is no constant may be any root."""
    roots: set[str] = set()
    read: set[str] = set()
    said: set[str] = set()  # of these, where it matters what they say
    source = False
    for reference in (reference for rule in rules for reference in rule.references):
        first, second, third = (*reference.path, None, None)[:3]
        if first == "data" and reference.path[1 : 1 + len(package)] == package:
            continue
        if first == "data":
            roots.update(DATA_ROOTS if second is None else [second])
            continue
        path = ".".join(part for part in (second, third if second else None) if part)
        read.add(path)
        if not reference.presence or len(reference.path) != 3 or third is None:
            said.add(path)
        if second in (None, "routing") and third in (None, "src", "src_l2_name"):
            source = True
    whole = _without_parts(read)
    return Reads(tuple(sorted(roots)), source, whole, tuple(path for path in whole if path not in said))


def _without_parts(read: set[str]) -> tuple[str, ...]:
    """Without the paths that a shorter one includes."""
    if "" in read:
        return ("",)
    return tuple(sorted(path for path in read if "." not in path or path.partition(".")[0] not in read))
