"""`skep policy build|check|test|fmt`: a policy at its author's desk, without a hive.

Data on stdout, findings on stderr as `file:line:column: code: message`, the form that editors jump by. A finding that
is only a warning does not fail a command.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skep.protocol.errors import PolicyError
from skep_nodes.cli.failure import Exit, Failure, no_file
from skep_nodes.cli.output import Column, Output
from skep_policy.compiler import OLD_SYNTAX, REGO_BYTES_MAX, Compiled, CompileError, compile_policy
from skep_policy.lint import Problem
from skep_policy.manifest import Reads
from skep_policy.opa import REGO_NAME, Run, capabilities_file, first_line, need_opa, run

TEST_S_MAX = 60.0
FINDINGS = (
    Column("line", "LINE", right=True),
    Column("column", "COLUMN", right=True),
    Column("severity", "SEVERITY"),
    Column("code", "CODE"),
    Column("message", "MESSAGE", flexible=True),
)
RESULTS = (
    Column("name", "TEST", flexible=True),
    Column("place", "PLACE", flexible=True),
    Column("result", "RESULT"),
)


def build_command(file: Path, out: Path | None, entrypoint: str, output: Output) -> int:
    """`skep policy build`."""
    compiled = _compiled(file, entrypoint, output)
    folder = out or file.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.wasm").write_bytes(compiled.wasm)
    (folder / "manifest.json").write_bytes(compiled.manifest.to_json() + b"\n")
    _say_findings(file, compiled.warnings, output)
    output.one("skep.policy.build/1", _facts(compiled, folder), str(folder / "policy.wasm"))
    return Exit.OK


def check_command(file: Path, entrypoint: str, output: Output) -> int:
    """`skep policy check`."""
    try:
        compiled = compile_policy(read_rego(file), entrypoint=entrypoint)
    except CompileError as error:
        output.rows("skep.policy.check/1", "findings", _rows(error.problems, "error"), FINDINGS)
        return Exit.FAILED
    except PolicyError as error:
        raise _failure(error) from error
    output.rows("skep.policy.check/1", "findings", _rows(compiled.warnings, "warning"), FINDINGS)
    return Exit.OK


def test_command(path: Path, output: Output) -> int:
    """`skep policy test`."""
    if not path.exists():
        raise Failure("NOT_FOUND", f"{path} is not there", then="correct the name, and repeat it",
                      exit_code=Exit.NOT_FOUND)  # fmt: skip
    results = _tested(path)
    rows = [_result(one) for one in results]
    output.rows("skep.policy.test/1", "tests", rows, RESULTS)
    failed = sum(row["result"] not in ("ok", "skipped") for row in rows)
    if not rows:
        then = "write rules named test_… beside the policy, in policy_test.rego"
        raise Failure("NO_TESTS", f"{path} has no test", then=then)
    output.say(f"{len(rows) - failed} of {len(rows)} tests passed")
    return Exit.FAILED if failed else Exit.OK


def fmt_command(file: Path, *, diff: bool, write: bool) -> int:
    """`skep policy fmt`."""
    text = read_rego(file)
    formatted = _formatted(text, file)
    if write:
        if formatted != text:
            file.write_text(formatted)
        return Exit.OK
    if not diff:
        print(formatted, end="")
        return Exit.OK
    name = str(file)
    lines = difflib.unified_diff(text.splitlines(True), formatted.splitlines(True), name, name)
    print("".join(lines), end="")
    return Exit.OK if formatted == text else Exit.FAILED


def read_rego(file: Path) -> str:
    """A policy's text. Raises Failure NOT_FOUND, REGO_TOO_LARGE, REGO_INVALID."""
    try:
        with file.open("rb") as stream:
            data = stream.read(REGO_BYTES_MAX + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise no_file(file) from None
    if len(data) > REGO_BYTES_MAX:
        raise Failure("REGO_TOO_LARGE", f"{file} has more than {REGO_BYTES_MAX} bytes",
                      then="split tables out of it: what varies belongs into identity")  # fmt: skip
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Failure("REGO_INVALID", f"{file} is no UTF-8, from byte {error.start} on",
                      then="save it as UTF-8") from None  # fmt: skip


def _compiled(file: Path, entrypoint: str, output: Output) -> Compiled:
    try:
        return compile_policy(read_rego(file), entrypoint=entrypoint)
    except CompileError as error:
        _say_findings(file, error.problems, output)
        then = f"correct it, then `skep policy check {file}`"
        what = f"{file}:{error.problems[0]}"
        raise Failure(error.code, what, why=f"{len(error.problems)} problems", then=then) from error
    except PolicyError as error:
        raise _failure(error) from error


def _failure(error: PolicyError) -> Failure:
    what, _, then = error.detail.partition("; ")
    return Failure(error.code, what, then=then)


def _say_findings(file: Path, problems: Sequence[Problem], output: Output) -> None:
    for problem in problems:
        output.say(f"{file}:{problem}")


def _rows(problems: Sequence[Problem], severity: str) -> list[dict[str, Any]]:
    return [{**problem._asdict(), "severity": severity} for problem in problems]


def _facts(compiled: Compiled, folder: Path) -> dict[str, Any]:
    manifest = compiled.manifest
    return {
        "folder": str(folder),
        "wasm_size_bytes": len(compiled.wasm),
        "wasm_sha256": manifest.wasm_sha256,
        "syntax": manifest.rego_version,
        "opa_version": manifest.opa_version,
        "reads": {name: _shown(reads) for name, reads in manifest.reads.items()},
        "cacheable": dict(manifest.cacheable),
        "warnings": len(compiled.warnings),
    }


def _shown(reads: Reads) -> str:
    """For people; programs read manifest.json."""
    paths = [f"data.{root}" for root in reads.data]
    paths += [f"input.{part}" if part else "input" for part in reads.input]
    return " ".join(paths) or "nothing"


def _tested(path: Path) -> list[dict[str, Any]]:
    """What `opa test` says of each test; today's syntax first, then the older one."""
    with tempfile.TemporaryDirectory(prefix="skep-opa-") as name:
        folder = Path(name)
        done = _run_tests(path, folder)
        if _only_loading(done):
            before = _run_tests(path, folder, OLD_SYNTAX)
            done = done if _only_loading(before) else before
        if _only_loading(done):
            what, _, why = said(done.stderr or done.stdout.decode(errors="replace")).partition("\n")
            raise Failure("COMPILE_ERROR", what, why=why, then=f"correct {path}, then repeat it")
        found = done.document()
        return found if isinstance(found, list) else []


def said(text: str) -> str:
    """The first lines of what opa said, in two: how many errors it found, and the first of them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["opa said nothing"]
    return f"{lines[0].rstrip(':')}\n{'; '.join(lines[1:4])}"


def _run_tests(path: Path, folder: Path, *flags: str) -> Run:
    try:
        opa = need_opa()
        arguments = ["test", "--format", "json", *flags, *capabilities_file(folder), str(path.resolve())]
        return run(opa, arguments, folder, seconds=TEST_S_MAX)
    except PolicyError as error:
        raise _failure(error) from error


def _only_loading(done: Run) -> bool:
    """Whether nothing could be run: opa exits with 2 for tests that failed."""
    return done.code not in (0, 2) or not done.stdout.strip()


def _result(one: dict[str, Any]) -> dict[str, Any]:
    location = one.get("location") or {}
    result = (
        "skipped"
        if one.get("skip")
        else "failed"
        if one.get("fail")
        else "error"
        if one.get("error")
        else "ok"
    )
    return {
        "name": f"{one.get('package', '')}.{one.get('name', '')}".removeprefix("data."),
        "place": f"{location.get('file', '')}:{location.get('row', 0)}",
        "result": result,
        "duration_ns": one.get("duration", 0),
    }


def _formatted(text: str, file: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="skep-opa-") as name:
        folder = Path(name)
        (folder / REGO_NAME).write_text(text)
        try:
            opa = need_opa()
            done = run(opa, ["fmt", REGO_NAME], folder)
            if done.code:
                before = run(opa, ["fmt", OLD_SYNTAX, REGO_NAME], folder)
                done = before if before.code == 0 else done
        except PolicyError as error:
            raise _failure(error) from error
    if done.code:
        raise Failure("COMPILE_ERROR", f"{file}: {first_line(done.stderr)}", then=f"skep policy check {file}")
    return done.stdout.decode()
