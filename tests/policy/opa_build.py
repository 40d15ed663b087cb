"""Rego to WASM by `opa` alone, without the rules that our own compiler adds."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

CAPABILITIES = Path(__file__).resolve().parents[2] / "policies" / "skep_policy" / "capabilities.json"


class NotBuiltError(Exception):
    """opa said no, and why."""


def built(opa: str, texts: Sequence[str], *entrypoints: str, flag: str = "--v1-compatible") -> bytes:
    """The module of these policies. Raises NotBuiltError."""
    names = [f"module-{number}.rego" for number in range(len(texts))]
    asked = [word for entrypoint in entrypoints for word in ("-e", entrypoint)]
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in zip(names, texts, strict=True):
            Path(scratch, name).write_text(text)
        done = subprocess.run(
            [opa, "build", flag, "-t", "wasm", *asked, "--capabilities", str(CAPABILITIES), "-o", "b.tar.gz", *names],
            cwd=scratch, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NotBuiltError((done.stderr or done.stdout).strip())
        with tarfile.open(fileobj=io.BytesIO(Path(scratch, "b.tar.gz").read_bytes())) as bundle:
            member = bundle.extractfile("/policy.wasm")
            assert member is not None
            return member.read()
