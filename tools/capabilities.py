"""Write policies/skep_policy/capabilities.json: the built-ins that a policy may call, from OPA's own list.

`opa build --capabilities` then refuses at compile time what the host does not have. What WASM has code for is found out
by asking: a policy that calls every built-in is compiled, and its module says which of them it expects of its host.

    .venv/bin/python tools/capabilities.py            # writes the file
    .venv/bin/python tools/capabilities.py --check    # exits with 1 where it is not what it should be
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
FILE = REPO / "policies" / "skep_policy" / "capabilities.json"
sys.path[:0] = [str(REPO / folder) for folder in ("policies", "sdk", "shm_layouts")]

from skep_policy import builtins, module  # noqa: E402
from skep_policy.opa import need_opa  # noqa: E402

INFIX = frozenset({"assign", "eq", "internal.member_2", "internal.member_3", "internal.template_string"})
COMPILED_AWAY = frozenset({"rego.metadata.chain", "rego.metadata.rule"})


def wanted(opa: Path) -> dict[str, Any]:
    """OPA's capabilities without what neither WASM nor this host has."""
    said: dict[str, Any] = json.loads(subprocess.check_output([opa, "capabilities", "--current"]))
    outside = asked_of_host(opa, said["builtins"]) - COMPILED_AWAY
    said["builtins"] = [b for b in said["builtins"] if b["name"] not in outside or builtins.known(b["name"])]
    said["allow_net"] = []
    return said


def asked_of_host(opa: Path, known: list[dict[str, Any]]) -> frozenset[str]:
    """Names of the built-ins that OPA's compiler leaves to the host."""
    found: set[str] = set()
    for version, keep in (("--v1-compatible", lambda b: not b.get("deprecated")), ("--v0-compatible", _old)):
        rules = [_rule(number, b) for number, b in enumerate(known) if b["name"] not in INFIX and keep(b)]
        found |= _host_table(_built(opa, version, "package all\n" + "\n".join(rules)))
    return frozenset(found)


def _old(builtin: dict[str, Any]) -> bool:
    return bool(builtin.get("deprecated"))


def _rule(number: int, builtin: dict[str, Any]) -> str:
    """A rule that calls it with values of its argument types."""
    declared = builtin["decl"]
    arguments = [_sample(argument) for argument in declared.get("args", [])]
    if "variadic" in declared:
        arguments.append("input.x")
    call = f"{builtin['name']}({', '.join(arguments)})"
    body = call if "result" not in declared else f"x = {call}"
    return f"r{number} = true {{ {body} }}" if builtin.get("deprecated") else f"r{number} if {{ {body} }}"


def _sample(type: dict[str, Any]) -> str:
    samples = {"set": "{input.x}", "array": "[input.x]", "function": "input.x"}
    return samples.get(type["type"], "input.x")


def _built(opa: Path, version: str, rego: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "all.rego").write_text(rego)
        done = subprocess.run(
            [opa, "build", version, "-t", "wasm", "-e", "all", "-O", "0", "-o", "all.tar.gz", "all.rego"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"opa build: {done.stderr[:2000]}{done.stdout[:2000]}")
        with tarfile.open(fileobj=io.BytesIO(Path(folder, "all.tar.gz").read_bytes())) as bundle:
            member = bundle.extractfile("/policy.wasm")
            assert member is not None
            return member.read()


def _host_table(wasm: bytes) -> set[str]:
    every: Any = type("", (), {"__contains__": lambda *_: True})()
    kept, builtins.WHERE = builtins.WHERE, every  # only the table is wanted
    try:
        return set(module.Module.load(wasm).builtins)
    finally:
        builtins.WHERE = kept


def main() -> int:
    text = json.dumps(wanted(need_opa()), indent=1, sort_keys=True) + "\n"
    if "--check" in sys.argv[1:]:
        same = FILE.is_file() and FILE.read_text() == text
        print(
            "capabilities.json is as it should be"
            if same
            else "capabilities.json is not: run tools/capabilities.py"
        )
        return 0 if same else 1
    FILE.write_text(text)
    print(f"{FILE.relative_to(REPO)}: {text.count('decl')} built-ins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
