"""A signed policy: manifest, Rego and WASM in one piece of bytes that only the hive's authority can make.

::

    0    8  magic        "SKEPBND1"
    8    4  manifest     u32, little endian, bytes of each part
    12   4  rego         u32
    16   4  wasm         u32
    20   …  manifest     JSON: version, hive, entry points, what each reads, SHA-256 of the other two
         …  rego         UTF-8
         …  wasm
        64  signature    Ed25519 over SHA-256 of everything before, in the context of bundles

Every byte is under the signature, version and hive included, so a bundle cannot be relabelled. Order of the checks:
sizes, then signature, then what the signed bytes say; a parser never sees a byte that nobody vouched for. There is no
unsigned form: a bundle that ends before its signature, or has zeros there, is refused by name.

A version is used once. Which is the newest is the caller's knowledge: `newest` is the version it runs (or 0), and what
is not newer is BUNDLE_OLD. Going back to older rules is a new bundle with a newer version and the older content.

Rejected: OPA's own bundle format with `.signatures.json` (a tar to unpack before trust, and a verification that can
be configured away), a detached signature (two files that can part).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Final, Protocol

from skep.protocol.errors import PolicyError
from skep_policy.authority import SIGNATURE_BYTES, Authority, verify
from skep_policy.manifest import Manifest

CONTEXT: Final = "skep.policy.bundle/1"
MAGIC: Final = b"SKEPBND1"
MANIFEST_BYTES_MAX: Final = 64 << 10  # a few entry points and names of data roots
REGO_BYTES_MAX: Final = 1 << 20
WASM_BYTES_MAX: Final = 4 << 20  # as the host accepts
_HEAD: Final = struct.Struct("<8sIII")
BUNDLE_BYTES_MAX: Final = _HEAD.size + MANIFEST_BYTES_MAX + REGO_BYTES_MAX + WASM_BYTES_MAX + SIGNATURE_BYTES
VERSION_MAX: Final = (1 << 63) - 1

assert BUNDLE_BYTES_MAX <= 8 << 20, "the policy region holds 8 MiB"


class Compiled(Protocol):
    """What the compiler hands over."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def wasm(self) -> bytes: ...
    @property
    def rego(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was verified."""

    manifest: Manifest
    wasm: bytes
    rego: str

    @property
    def version(self) -> int:
        return self.manifest.version


def pack(
    compiled: Compiled, version: int, hive: str, authority: Authority, *, compiled_at_ms: int = 0
) -> bytes:
    """The signed bundle of `compiled` as `version` of `hive`; a time of its own is kept, else it gets `compiled_at_ms`.

    Raises PolicyError (BUNDLE_TOO_LARGE), ValueError.
    """
    if not 0 < version <= VERSION_MAX:
        raise ValueError(f"a version is a number of 1..{VERSION_MAX}")
    rego = compiled.rego.encode()
    manifest = replace(
        compiled.manifest,
        version=version,
        hive=hive,
        wasm_sha256=_sha256(compiled.wasm),
        rego_sha256=_sha256(rego),
        compiled_at_ms=compiled.manifest.compiled_at_ms or compiled_at_ms,
    )
    parts = (manifest.to_json(), rego, compiled.wasm)
    _check_sizes(*map(len, parts))
    body = b"".join((_HEAD.pack(MAGIC, *map(len, parts)), *parts))
    return body + authority.sign(CONTEXT, hashlib.sha256(body).digest())


def open_bundle(data: bytes, public: bytes, hive: str, newest: int = 0) -> Bundle:
    """What is in the bundle, once everything about it is proved.

    Raises PolicyError: BUNDLE_TOO_LARGE, BUNDLE_DAMAGED, SIGNATURE_MISSING, SIGNATURE_INVALID, BUNDLE_FOREIGN (another
    hive's), BUNDLE_OLD (version <= `newest`).
    """
    sizes = _parts_of(data)
    body = memoryview(data)[:-SIGNATURE_BYTES]
    signature = data[-SIGNATURE_BYTES:]
    if not any(signature):
        raise PolicyError("SIGNATURE_MISSING", "its signature is zeros; only signed bundles are used")
    if not verify(public, CONTEXT, hashlib.sha256(body).digest(), signature):
        raise PolicyError(
            "SIGNATURE_INVALID", "it was altered, or signed by another key than this hive's authority"
        )
    return _vouched(data, sizes, hive, newest)


def hash_of(data: bytes) -> str:
    """The name of one bundle in messages, metadata and logs: SHA-256 of all its bytes, as hex."""
    return _sha256(data)


def _parts_of(data: bytes) -> tuple[int, int, int]:
    """The sizes of the three parts, after everything about sizes is in order."""
    if len(data) > BUNDLE_BYTES_MAX:
        raise PolicyError("BUNDLE_TOO_LARGE", f"{len(data)} bytes, {BUNDLE_BYTES_MAX} at most")
    if len(data) < _HEAD.size:
        raise PolicyError("BUNDLE_DAMAGED", f"{len(data)} bytes, shorter than its head")
    magic, manifest, rego, wasm = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise PolicyError("BUNDLE_DAMAGED", "it does not begin as a bundle does")
    _check_sizes(manifest, rego, wasm)
    body = _HEAD.size + manifest + rego + wasm
    if len(data) == body:
        raise PolicyError("SIGNATURE_MISSING", "it ends where its signature should begin")
    if len(data) != body + SIGNATURE_BYTES:
        raise PolicyError("BUNDLE_DAMAGED", f"{len(data)} bytes, its head says {body + SIGNATURE_BYTES}")
    return manifest, rego, wasm


def _check_sizes(manifest: int, rego: int, wasm: int) -> None:
    most = {"manifest": MANIFEST_BYTES_MAX, "rego": REGO_BYTES_MAX, "wasm": WASM_BYTES_MAX}
    for (name, limit), size in zip(most.items(), (manifest, rego, wasm), strict=True):
        if size > limit:
            raise PolicyError("BUNDLE_TOO_LARGE", f"{name}: {size} bytes, {limit} at most")


def _vouched(data: bytes, sizes: tuple[int, int, int], hive: str, newest: int) -> Bundle:
    """Read what the authority signed; a fault from here on is a fault of who packed it."""
    manifest_end = _HEAD.size + sizes[0]
    rego_end = manifest_end + sizes[1]
    rego, wasm = data[manifest_end:rego_end], data[rego_end:-SIGNATURE_BYTES]
    try:
        manifest, text = Manifest.from_json(data[_HEAD.size : manifest_end]), rego.decode()
    except (ValueError, PolicyError) as error:
        raise PolicyError("BUNDLE_DAMAGED", f"its manifest or Rego cannot be read: {error}") from error
    if (manifest.wasm_sha256, manifest.rego_sha256) != (_sha256(wasm), _sha256(rego)):
        raise PolicyError("BUNDLE_DAMAGED", "manifest, Rego and WASM do not belong together")
    if manifest.hive != hive:
        raise PolicyError("BUNDLE_FOREIGN", f"it belongs to hive {manifest.hive!r}, this is {hive!r}")
    if manifest.version <= newest:
        raise PolicyError("BUNDLE_OLD", f"its version is {manifest.version}, {newest} is in use already")
    return Bundle(manifest, wasm, text)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
