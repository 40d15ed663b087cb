"""A manifest is canonical JSON, and a damaged one is refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.protocol.errors import PolicyError
from skep_policy.documents import ROOTS
from skep_policy.manifest import DATA_ROOTS, MANIFEST_BYTES_MAX, Manifest, Reads

TARGET = "router/target"
SOME = Manifest(
    3, "h", TARGET, {TARGET: Reads(("agents",), False)}, {TARGET: True}, "a", "b", "1.22.2", 7, "v0"
)
names = st.sets(st.text(min_size=1, max_size=9)).map(lambda each: tuple(sorted(each)))
reads = st.builds(Reads, names, st.booleans(), names)
text, number = st.text(max_size=9), st.integers(0, 1 << 63)
manifests = st.builds(
    Manifest, number, text, text, st.dictionaries(text, reads, max_size=3),
    st.dictionaries(text, st.booleans(), max_size=3), text, text, text, number, st.sampled_from(["v0", "v1"]),
)  # fmt: skip


def test_the_roots_are_those_that_the_documents_fill() -> None:
    assert DATA_ROOTS == ROOTS


@given(manifests)
def test_what_is_written_is_read(manifest: Manifest) -> None:
    data = manifest.to_json()
    assert Manifest.from_json(data) == manifest
    assert Manifest.from_json(data).to_json() == data


def test_it_is_canonical() -> None:
    text = SOME.to_json().decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_what_a_later_version_adds_is_passed_over() -> None:
    document = {**json.loads(SOME.to_json()), "later": [1]}
    assert Manifest.from_json(json.dumps(document).encode()) == SOME


@pytest.mark.goal("G17")
@pytest.mark.parametrize(
    "change",
    [
        {"schema": "skep.policy/2"}, {"version": -1}, {"version": True}, {"version": "3"}, {"hive": None},
        {"reads": []}, {"reads": {"x": 3}}, {"reads": {"x": {"data": "agents"}}}, {"reads": {"x": {"data": [""]}}},
        {"reads": {"x": {}}}, {"reads": {"x": {"data": [], "input": [3]}}},
        {"reads": {"x": {"data": [], "input": ["meta.a"], "present": "meta.a"}}},
        {"reads": {"x": {"data": [], "input": ["meta.a"], "present": [[]]}}},
        {"reads": {"x": {"data": [], "input": ["meta.a"], "present": ["meta.b"]}}},
        {"reads": {"x": {"data": [], "input": ["meta", "meta.a"], "present": ["meta.a"]}}},
        {"cacheable": 3}, {"wasm_sha256": 3}, {"entrypoint": ["x"]}, {"compiled_at_ms": 1.5},
    ],
)  # fmt: skip
def test_a_damaged_one_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="MANIFEST_INVALID"):
        Manifest.from_json(json.dumps({**json.loads(SOME.to_json()), **change}).encode())


@pytest.mark.goal("G17")
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 9999, b" " * (MANIFEST_BYTES_MAX + 1)])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyError, match="MANIFEST_INVALID"):
        Manifest.from_json(data)


def test_silence_about_reads_means_everything() -> None:
    document = json.loads(SOME.to_json())
    document["reads"]["router/target"].pop("source")
    document["reads"]["router/target"].pop("input")
    document["cacheable"]["router/target"] = 1
    read = Manifest.from_json(json.dumps(document).encode())
    assert read.reads["router/target"] == Reads(("agents",), True, ("",))
    assert read.cacheable["router/target"] is False
