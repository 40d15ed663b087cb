"""What a compiled policy says about itself: its entry points, what each of them reads, from which text, made by what.

The decider builds its cache key from `reads`, so these are conservative: a policy whose reads cannot be told reads
everything. The manifest travels inside the signed bundle; as JSON it has sorted keys and no spaces, so equal
manifests are equal bytes. It holds no time of its own: `compiled_at_ms` is set by who keeps the policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from skep.protocol.errors import PolicyError

TARGET: Final = "router/target"
ALLOW: Final = "router/allow"
ENTRYPOINTS: Final = (TARGET, ALLOW)

DATA_ROOTS: Final = ("agents", "capability", "config", "identity", "identity_aliases", "node", "tenant")
"""What the router fills under `data` (docs/design.md section 8)."""

MANIFEST_BYTES_MAX: Final = 64 << 10
_SCHEMA: Final = "skep.policy/1"


@dataclass(frozen=True, slots=True)
class Reads:
    """What one entry point's answer depends on, besides the selector and the two interlocutors.

    `data`: roots under `data.`, sorted. `source`: it reads `input.routing.src` or `.src_l2_name`. `input`: what it
    reads of the input, such as "meta.action", "src.tenant"; "src" is all of `input.src`, "" all of the input. Of a
    record it mostly reads three members of thirteen, and the others need not be written and parsed: that is a third
    of what a cheap decision costs. `present`: of these, what is only compared with the empty text; any other text
    stands for it, so questions of different senders are equal.
    """

    data: tuple[str, ...] = DATA_ROOTS
    source: bool = True
    input: tuple[str, ...] = ("",)
    present: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of one compiled policy. `version` and `hive` are 0 and "" until it is put into a bundle."""

    version: int = 0
    hive: str = ""
    entrypoint: str = TARGET
    reads: Mapping[str, Reads] = field(default_factory=dict)
    cacheable: Mapping[str, bool] = field(default_factory=dict)
    wasm_sha256: str = ""
    rego_sha256: str = ""
    opa_version: str = ""
    compiled_at_ms: int = 0
    rego_version: str = "v1"

    def roots(self) -> frozenset[str] | None:
        """The data roots that any entry point reads; None when that is not known."""
        return frozenset(root for each in self.reads.values() for root in each.data) if self.reads else None

    def to_json(self) -> bytes:
        """Canonical JSON."""
        document = {"schema": _SCHEMA, **asdict(self)}
        document["reads"] = {name: asdict(reads) for name, reads in self.reads.items()}
        document["cacheable"] = dict(self.cacheable)
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises PolicyError MANIFEST_INVALID. Unknown members are passed over: a later version may add some."""
        document = _document(data)
        return cls(
            version=_number(document, "version"),
            hive=_text(document, "hive"),
            entrypoint=_text(document, "entrypoint"),
            reads={name: _reads(name, value) for name, value in _mapping(document, "reads").items()},
            cacheable={name: value is True for name, value in _mapping(document, "cacheable").items()},
            wasm_sha256=_text(document, "wasm_sha256"),
            rego_sha256=_text(document, "rego_sha256"),
            opa_version=_text(document, "opa_version"),
            compiled_at_ms=_number(document, "compiled_at_ms"),
            rego_version=_text(document, "rego_version"),
        )


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > MANIFEST_BYTES_MAX:
        raise _invalid(f"{len(data)} bytes, {MANIFEST_BYTES_MAX} at most")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise _invalid(f"no JSON: {problem}") from None
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise _invalid(f"its schema is not {_SCHEMA}")
    return document


def _reads(name: str, value: Any) -> Reads:
    if not isinstance(value, dict):
        raise _invalid(f"reads of {name} is no object")
    roots, read = value.get("data"), value.get("input", [""])
    if not isinstance(roots, list) or not all(isinstance(root, str) and root for root in roots):
        raise _invalid(f"reads of {name}: data is no list of names")
    if not isinstance(read, list) or not all(isinstance(each, str) for each in read):
        raise _invalid(f"reads of {name}: input is no list of names")
    present = value.get("present", [])
    listed = isinstance(present, list) and all(path in read for path in present)
    if not listed or _wholly(present, read):
        raise _invalid(f"reads of {name}: present is no list of members that are read")
    sorts = (tuple(sorted(set(each))) for each in (read, present))
    return Reads(tuple(sorted(set(roots))), value.get("source") is not False, *sorts)


def _wholly(present: list[str], read: list[str]) -> bool:
    """Is something of these read as part of a whole, too?"""
    return any(path.partition(".")[0] in read or "" in read for path in present)


def _mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise _invalid(f"{key} is no object")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise _invalid(f"{key} is no text")
    return value


def _number(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _invalid(f"{key} is no whole number")
    return value


def _invalid(detail: str) -> PolicyError:
    return PolicyError("MANIFEST_INVALID", detail)
