"""Modules written by hand: the smallest that speak OPA's ABI 1.3, with one part made wrong or hostile.

`module()` without arguments is a good one: it answers `[{"result":true}]` to everything. Values are numbers that mean
nothing; the only data structure is the text that it points to.
"""

from __future__ import annotations

import wasmtime

from skep_policy.module import EXPORTS, IMPORTS

ANSWER = '[{"result":true}]'
ENTRYPOINTS = '{"router/allow":0,"router/target":1}'
BODIES = {
    "opa_malloc": "(local i32) (local.set 1 (global.get $heap))"
    " (global.set $heap (i32.add (global.get $heap) (local.get 0))) (local.get 1)",
    "opa_eval": "(i32.const 2048)", "opa_json_dump": "(local.get 0)", "opa_value_dump": "(local.get 0)",
    "opa_value_parse": "(i32.const 8)", "opa_value_add_path": "(i32.const 0)", "opa_value_remove_path": "(i32.const 0)",
    "opa_heap_ptr_get": "(global.get $heap)", "opa_heap_ptr_set": "(global.set $heap (local.get 0))",
    "entrypoints": "(i32.const 3072)", "builtins": "(i32.const 4096)",
}  # fmt: skip
LOOP = "(loop $again (br $again)) (i32.const 2048)"
BOMB = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)"
RECURSION = f"(call $opa_eval {'(i32.const 0) ' * 7})"
ABORT = "(call $opa_abort (i32.const 5120)) (i32.const 2048)"


def module(
    *, bodies: dict[str, str] | None = None, abi: tuple[int, int] = (1, 3), without: str = "", imports: str = "",
    entrypoints: str = ENTRYPOINTS, builtins: str = "{}", answer: str = ANSWER, said: str = "", extra: str = "",
    memory: str = "16",
) -> bytes:  # fmt: skip
    """A module as WASM."""
    filled = {**BODIES, **(bodies or {})}
    functions = "\n".join(
        _function(name, shape, filled) for name, shape in EXPORTS.items() if name != without
    )
    texts = {2048: answer, 3072: entrypoints, 4096: builtins, 5120: said}
    return bytes(
        wasmtime.wat2wasm(f"""(module
  {_imports(imports)}
  (import "env" "memory" (memory {memory}))
  (global $heap (mut i32) (i32.const 8192))
  (global (export "opa_wasm_abi_version") i32 (i32.const {abi[0]}))
  (global (export "opa_wasm_abi_minor_version") i32 (i32.const {abi[1]}))
  {functions}
  {" ".join(f'(data (i32.const {at}) "{_quoted(text)}")' for at, text in texts.items())}
  {extra})""")
    )


def _imports(more: str) -> str:
    wanted = {name: IMPORTS[name] for name in ("opa_abort", "opa_builtin0", "opa_builtin1")}
    known = "\n".join(
        f'(import "env" "{name}" (func ${name} {"(param i32) " * arity}{"(result i32)" * results}))'
        for name, (arity, results) in wanted.items()
    )
    return f"{known}\n{more}"


def _function(name: str, shape: tuple[int, int], bodies: dict[str, str]) -> str:
    arity, results = shape
    body = bodies.get(name, "(i32.const 0)" if results else "")
    return f'(func ${name} (export "{name}") {"(param i32) " * arity}{"(result i32) " * results}{body})'


def _quoted(text: str) -> str:
    return "".join(f"\\{byte:02x}" for byte in text.encode() + b"\0")
