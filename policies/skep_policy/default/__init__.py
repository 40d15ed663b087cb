"""The default policy: its Rego, its tests, and the WASM and manifest that are packaged with it.

A hive without `opa` runs and routes with this. `python -m skep_policy.default.build` writes the WASM anew after a
change of the Rego; a test builds it again and compares the bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from skep_policy.compiler import Compiled
from skep_policy.manifest import Manifest

FOLDER: Final = Path(__file__).parent
REGO: Final = FOLDER / "policy.rego"
WASM: Final = FOLDER / "policy.wasm"
MANIFEST: Final = FOLDER / "manifest.json"


def default_policy() -> Compiled:
    """The packaged policy, as if it had just been compiled."""
    return Compiled(WASM.read_bytes(), REGO.read_text(), Manifest.from_json(MANIFEST.read_bytes()))
