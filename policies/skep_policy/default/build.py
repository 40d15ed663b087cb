"""`python -m skep_policy.default.build`: compile the default policy and write what is packaged with it.

Only the pinned `opa` may: another version makes other bytes, and the test that compares them would fail elsewhere.
"""

from __future__ import annotations

import sys

from skep.protocol.errors import PolicyError
from skep_policy.compiler import Compiled, compile_policy
from skep_policy.default import MANIFEST, REGO, WASM
from skep_policy.opa import PINNED, need_opa, version_text


def compiled() -> Compiled:
    """The default policy as the pinned `opa` compiles it. Raises PolicyError OPA_OTHER and those of the compiler."""
    opa = need_opa()
    if version_text(opa) != PINNED:
        raise PolicyError("OPA_OTHER", f"{opa} is {version_text(opa)}; the packaged WASM is made by {PINNED}")
    policy = compile_policy(REGO.read_text(), opa=opa)
    if policy.warnings:
        raise PolicyError("DEFAULT_DOUBTFUL", str(policy.warnings[0]))
    return policy


def main() -> int:
    """Write policy.wasm and manifest.json beside the Rego."""
    try:
        policy = compiled()
    except PolicyError as error:
        print(f"error {error}", file=sys.stderr)  # noqa: T201  a program's last word
        return 1
    WASM.write_bytes(policy.wasm)
    MANIFEST.write_bytes(policy.manifest.to_json() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
