"""The policy in force as the decision log keeps it: version, hash, Rego and manifest, out of the policy region.

The log keeps the text and not the WASM: `skep explain` needs the text, and who wants to ask it again compiles it to
the very bytes that the manifest names. A bundle that this hive did not sign is noted by its code and not believed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from skep.protocol.errors import PolicyError
from skep_policy.authority import public_key
from skep_policy.bundle import open_bundle
from skep_shm import PolicyReader, RegionError


class PolicyInForce:
    """What the policy region says, as a line of the log."""

    def __init__(self, root: Path, hive: str) -> None:
        self._root, self._hive = root, hive
        self._reader: PolicyReader | None = None
        self._revision = -1
        self.line: dict[str, Any] = {"kind": "policy", "version": 0, "error": "none was published"}

    def look(self) -> bool:
        """Has it changed since the last look?"""
        try:
            if self._reader is None:
                self._reader = PolicyReader.attach(self._root)
            revision = self._reader.revision
            if revision == self._revision:
                return False
            before, self.line = self.line, self._read(self._reader)
            self._revision = revision
        except (RegionError, OSError):
            self.close()
            return False
        return self.line != before

    def _read(self, reader: PolicyReader) -> dict[str, Any]:
        state = reader.read()
        if not state.bundle:
            return {"kind": "policy", "version": state.version, "error": "none was published"}
        facts: dict[str, Any] = {"kind": "policy", "version": state.version}
        try:
            bundle = open_bundle(state.bundle, public_key(self._root), self._hive)
        except PolicyError as error:
            return {**facts, "error": str(error)}
        manifest = orjson.loads(bundle.manifest.to_json())
        return {**facts, "hash": bundle.manifest.wasm_sha256, "rego": bundle.rego, "manifest": manifest}

    @property
    def version(self) -> int:
        return int(self.line["version"])

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            self._revision = -1
