"""What may be loaded as a policy and what may not: size, form, imports, exports, tables; here and in a child."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policy import wat
from skep.protocol.errors import PolicyError
from skep_policy import module
from skep_policy.default import default_policy
from skep_policy.limits import MODULES_KEPT, WASM_BYTES_MAX
from skep_policy.module import EXPORTS, Module, vet

FOREIGN = '(import "env" "socket" (func (param i32)))'
WASI = '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))'
BAD = {
    "no module": (b"not wasm at all", "WASM_INVALID"),
    "text": (b"(module)", "WASM_INVALID"),
    "nothing": (b"", "WASM_INVALID"),
    "cut": (wat.module()[:-40], "WASM_INVALID"),
    "too large": (b"\0asm" + bytes(WASM_BYTES_MAX), "WASM_TOO_LARGE"),
    "empty": (b"\0asm\1\0\0\0", "ABI_UNSUPPORTED"),
    "foreign function": (wat.module(imports=FOREIGN), "IMPORT_FOREIGN"),
    "foreign module": (wat.module(imports=WASI), "IMPORT_FOREIGN"),
    "global": (wat.module(imports='(import "env" "opa_println" (global i32))'), "IMPORT_FOREIGN"),
    "wrong type": (wat.module(imports='(import "env" "opa_println" (func (param i64)))'), "IMPORT_FOREIGN"),
    "huge memory": (wat.module(memory="2000"), "IMPORT_FOREIGN"),
    "old ABI": (wat.module(abi=(1, 2)), "ABI_UNSUPPORTED"),
    "other ABI": (wat.module(abi=(2, 3)), "ABI_UNSUPPORTED"),
    "unknown built-in": (wat.module(builtins='{"http.send":0}'), "BUILTIN_UNKNOWN"),
    "table is a list": (wat.module(entrypoints="[1]"), "WASM_INVALID"),
    "table of texts": (wat.module(entrypoints='{"router/allow":"0"}'), "WASM_INVALID"),
    "table with negatives": (wat.module(builtins='{"sprintf":-1}'), "WASM_INVALID"),
    "table nowhere": (wat.module(bodies={"entrypoints": "(i32.const -4)"}), "WASM_INVALID"),
    "table without end": (wat.module(bodies={"entrypoints": "(i32.const 1048575)"}), "WASM_INVALID"),
    "start that loops": (wat.module(extra="(func $s (loop $l (br $l))) (start $s)"), "WASM_INVALID"),
    "start that traps": (wat.module(extra="(func $s unreachable) (start $s)"), "WASM_INVALID"),
    "start that calls out": (wat.module(extra="(func $s (call $opa_abort (i32.const 1))) (start $s)"), "WASM_INVALID"),
    "table by calling out": (
        wat.module(bodies={"builtins": "(call $opa_builtin0 (i32.const 0) (i32.const 0))"}), "WASM_INVALID",
    ),
    "bulk memory": (
        wat.module(extra="(func (memory.fill (i32.const 0) (i32.const 0) (i32.const 9)))"), "WASM_INVALID",
    ),
    "vectors": (wat.module(extra="(func (param v128))"), "WASM_INVALID"),
    "second memory": (wat.module(extra="(memory 1)"), "WASM_INVALID"),
}  # fmt: skip


def refused(wasm: bytes) -> str:
    with pytest.raises(PolicyError) as found:
        Module.load(wasm)
    assert found.value.detail
    return found.value.code


def test_a_module_says_what_it_is() -> None:
    made = Module.load(wat.module(builtins='{"sprintf":7}'))
    assert made.entrypoints == {"router/allow": 0, "router/target": 1}
    assert made.builtins == {"sprintf": 7}
    assert len(made.sha256) == 64


def test_the_default_policy_loads_and_has_both_entry_points() -> None:
    assert set(Module.load(default_policy().wasm).entrypoints) >= {"router/allow", "router/target"}


@pytest.mark.goal("G17")
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_policy_is_refused_by_name(kind: str) -> None:
    wasm, code = BAD[kind]
    assert refused(wasm) == code


@pytest.mark.goal("G17")
@pytest.mark.parametrize("name", EXPORTS)
def test_every_function_of_the_abi_is_needed(name: str) -> None:
    renamed = wat.module().replace(name.encode(), b"x" * len(name), 1)
    assert refused(renamed) in {"ABI_UNSUPPORTED", "WASM_INVALID"}


@pytest.mark.goal("G17")
@pytest.mark.parametrize("kind", ["foreign function", "too large", "start that loops", "cut"])
def test_a_child_refuses_the_same(kind: str) -> None:
    wasm, code = BAD[kind]
    with pytest.raises(PolicyError) as found:
        vet(wasm)
    assert found.value.code == code


def test_a_child_finds_the_same_tables() -> None:
    made = Module.load(wat.module())
    assert vet(wat.module()) == {"sha256": made.sha256, "entrypoints": made.entrypoints, "builtins": {}}


@pytest.mark.goal("G17")
def test_a_child_that_takes_too_long_or_too_much_is_ended() -> None:
    with pytest.raises(PolicyError) as slow:
        vet(default_policy().wasm, seconds=0.0)
    assert slow.value.code == "VET_FAILED"
    with pytest.raises(PolicyError) as large:
        vet(default_policy().wasm, memory=8 << 20)
    assert large.value.code == "VET_FAILED"


@pytest.mark.goal("G17")
def test_nothing_native_comes_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What wasmtime serialised is no WASM to us, in memory or in a file."""
    native = bytes(Module.load(wat.module()).compiled.serialize())
    assert refused(native) == "WASM_INVALID"
    source = Path(module.__file__).read_text()
    assert "deserialize" not in source
    assert not any(name.startswith("WASMTIME") for name in os.environ)


def test_the_same_bytes_are_compiled_once_and_few_modules_are_kept() -> None:
    modules = [wat.module(extra=f"(func (drop (i32.const {number})))") for number in range(MODULES_KEPT + 1)]
    first = Module.load(modules[0])
    assert Module.load(bytes(modules[0])) is first
    for other in modules[1:]:
        Module.load(other)
    assert len(module._kept) == MODULES_KEPT
    assert Module.load(modules[0]) is not first, "the one that was asked for least lately went"


def test_what_was_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(PolicyError, match=r"http\.send"):
            Module.load(wat.module(builtins='{"http.send":0}'))
