"""A signed bundle: what was packed comes out, and nothing else ever does."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.protocol.errors import PolicyError
from skep_policy import bundle as module
from skep_policy.authority import SIGNATURE_BYTES, Authority
from skep_policy.bundle import CONTEXT, MAGIC, Bundle, hash_of, open_bundle, pack
from skep_policy.manifest import Manifest, Reads

KEY, OTHER = Authority(bytes(range(32))), Authority(bytes(32))
HEAD = struct.calcsize("<8sIII")


@dataclass(frozen=True)
class Parts:
    """A compiler's output, as far as a bundle cares."""

    manifest: Manifest
    wasm: bytes = b"\0asm-not-really"
    rego: str = "package router\n# ñ\n"


def a_manifest(**facts: Any) -> Manifest:
    known: dict[str, Any] = {
        "version": 0, "hive": "", "entrypoint": "router/target",
        "reads": {"router/target": Reads(("agents", "capability"), False), "router/allow": Reads((), True)},
        "cacheable": {"router/target": True, "router/allow": False},
        "wasm_sha256": "", "rego_sha256": "", "opa_version": "1.22.2", "compiled_at_ms": 1_700_000_000_000,
    }  # fmt: skip
    return Manifest(**(known | facts))


def a_bundle(version: int = 7, hive: str = "hive", key: Authority = KEY, **parts: Any) -> bytes:
    return pack(Parts(a_manifest(), **parts), version, hive, key)


def opened(data: bytes, newest: int = 0, hive: str = "hive", public: bytes = KEY.public) -> Bundle:
    return open_bundle(data, public, hive, newest)


def code_of(data: bytes, **facts: Any) -> str:
    with pytest.raises(PolicyError) as caught:
        opened(data, **facts)
    return caught.value.code


SMALL = a_bundle()


def resigned(body: bytes, key: Authority = KEY, context: str = CONTEXT) -> bytes:
    """What somebody with the key could make of any bytes."""
    return body + key.sign(context, hashlib.sha256(body).digest())


def test_what_was_packed_comes_out() -> None:
    bundle = opened(SMALL)
    assert (bundle.version, bundle.manifest.hive) == (7, "hive")
    assert (bundle.wasm, bundle.rego) == (b"\0asm-not-really", "package router\n# ñ\n")
    assert bundle.manifest.wasm_sha256 == hashlib.sha256(bundle.wasm).hexdigest()
    assert replace(bundle.manifest, version=0, hive="", wasm_sha256="", rego_sha256="") == a_manifest()
    assert a_bundle() == SMALL, "the same policy gives the same bytes"
    assert hash_of(SMALL) == hashlib.sha256(SMALL).hexdigest()


@pytest.mark.goal("G17", "G4")
def test_every_flipped_bit_is_refused() -> None:
    for index in range(len(SMALL)):
        for bit in range(8):
            flipped = bytearray(SMALL)
            flipped[index] ^= 1 << bit
            assert code_of(bytes(flipped)) in {
                "BUNDLE_DAMAGED", "BUNDLE_TOO_LARGE", "SIGNATURE_INVALID", "SIGNATURE_MISSING",
            }  # fmt: skip


@pytest.mark.goal("G17", "G4")
def test_every_cut_and_every_extra_byte_is_refused() -> None:
    for size in range(len(SMALL)):
        expected = "SIGNATURE_MISSING" if size == len(SMALL) - SIGNATURE_BYTES else "BUNDLE_DAMAGED"
        assert code_of(SMALL[:size]) == expected, size
    assert code_of(SMALL + b"\0") == "BUNDLE_DAMAGED"
    assert code_of(SMALL + SMALL) == "BUNDLE_DAMAGED"


@pytest.mark.goal("G17")
def test_there_is_no_unsigned_form() -> None:
    body = SMALL[:-SIGNATURE_BYTES]
    assert code_of(body) == "SIGNATURE_MISSING"
    assert code_of(body + bytes(SIGNATURE_BYTES)) == "SIGNATURE_MISSING"
    assert code_of(resigned(body, OTHER)) == "SIGNATURE_INVALID"
    assert code_of(resigned(body, context="skep.degree.seal/1")) == "SIGNATURE_INVALID"
    assert code_of(SMALL, public=OTHER.public) == "SIGNATURE_INVALID"
    assert code_of(SMALL, public=b"") == "SIGNATURE_INVALID"
    other_one = a_bundle(version=8)
    assert code_of(body + other_one[-SIGNATURE_BYTES:]) == "SIGNATURE_INVALID"


@pytest.mark.goal("G17")
def test_a_version_that_is_not_newer_is_refused() -> None:
    assert opened(SMALL, newest=6).version == 7
    assert [code_of(SMALL, newest=newest) for newest in (7, 8, 1 << 62)] == ["BUNDLE_OLD"] * 3


def test_the_bundle_of_another_hive_with_a_copied_key_is_refused() -> None:
    assert code_of(SMALL, hive="other") == "BUNDLE_FOREIGN"


@pytest.mark.parametrize(("part", "most"), [(0, 64 << 10), (1, 1 << 20), (2, 4 << 20)])
def test_sizes_are_refused_from_the_head_alone(part: int, most: int) -> None:
    sizes = [1, 1, 1]
    for size in (most + 1, (1 << 32) - 1):
        sizes[part] = size
        assert code_of(struct.pack("<8sIII", MAGIC, *sizes)) == "BUNDLE_TOO_LARGE"
    sizes[part] = most
    assert code_of(struct.pack("<8sIII", MAGIC, *sizes)) == "BUNDLE_DAMAGED"


def test_parts_over_the_limit_are_not_packed_and_the_largest_are() -> None:
    largest = {"wasm": bytes(4 << 20), "rego": "#" * (1 << 20)}
    assert len(opened(a_bundle(**largest)).wasm) == 4 << 20
    for more in ({"wasm": bytes((4 << 20) + 1)}, {"rego": "#" * ((1 << 20) + 1)}):
        with pytest.raises(PolicyError, match="BUNDLE_TOO_LARGE"):
            a_bundle(**more)  # type: ignore[arg-type]
    assert code_of(bytes(module.BUNDLE_BYTES_MAX + 1)) == "BUNDLE_TOO_LARGE"


@pytest.mark.parametrize("version", [0, -1, 1 << 63])
def test_a_version_is_a_positive_number(version: int) -> None:
    with pytest.raises(ValueError, match="version"):
        a_bundle(version)


@pytest.mark.parametrize(
    ("manifest", "rego"),
    [
        (b"", b"r"), (b"{}", b"r"), (b"[]", b"r"), (b"null", b"r"), (b"{" * 5000, b"r"), (b"\xff", b"r"),
        (b'{"version": "7"}', b"r"),
    ],
)  # fmt: skip
def test_signed_nonsense_is_still_refused(manifest: bytes, rego: bytes) -> None:
    body = struct.pack("<8sIII", MAGIC, len(manifest), len(rego), 1) + manifest + rego + b"w"
    assert code_of(resigned(body)) == "BUNDLE_DAMAGED"


def test_parts_that_do_not_belong_together_are_refused_even_signed() -> None:
    body = bytearray(SMALL[:-SIGNATURE_BYTES])
    body[-1] ^= 1
    assert code_of(resigned(bytes(body))) == "BUNDLE_DAMAGED"
    rego = a_bundle(rego="package a")
    at = rego.index(b"package a")
    broken = rego[:at] + b"\xff" + rego[at + 1 : -SIGNATURE_BYTES]
    assert code_of(resigned(broken)) == "BUNDLE_DAMAGED"


@given(data=st.binary(max_size=400), keep=st.integers(0, HEAD + 40))
def test_any_bytes_are_refused_by_a_code(data: bytes, keep: int) -> None:
    assert code_of(SMALL[:keep] + data)
