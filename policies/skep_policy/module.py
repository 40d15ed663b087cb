"""A policy's WASM, checked and compiled.

Owns the engine that all modules share, and the answer to "may this code run here". A module is refused unless it is
one that OPA made or could have made: no larger than the bound, valid for the plain instruction set (no bulk memory,
vectors, threads, second memory: an instruction that costs more than its fuel is no bargain), importing nothing but
what OPA's policies import, exporting what ABI 1.3 asks for, each with exactly the expected type (`rawcall` does not
check types), and naming only built-ins that this host has.

Compiling is work that the text of the module controls. `load` does it here, in the calling thread, with the
interpreter's lock given up: for a bundle that the hive signed, off the loop. `vet` does all of it in a child with ten
seconds and half a gibibyte, where whatever a module does to the compiler is the child's end: for a module that nobody
has vouched for.

Rejected: keeping compiled code on disk (native code from a file is code execution); epochs beside fuel (the thread
that would tick them needs the lock that a running decision holds)."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import orjson
import wasmtime
from wasmtime import Config, Engine, FuncType, GlobalType, MemoryType, Store, ValType, WasmtimeError

from skep.protocol.errors import PolicyError
from skep_policy import builtins
from skep_policy.limits import (
    ENTRYPOINTS_MAX,
    MEMORY_BYTES_MAX,
    MODULES_KEPT,
    STACK_BYTES_MAX,
    START_FUEL_MAX,
    VET_BYTES_MAX,
    VET_S_MAX,
    WASM_BYTES_MAX,
)
from skep_policy.rawcall import CallFailed, Calls, Host, calls_for

ABI: Final = (1, 3)
"""Version and least minor version: 1.2 brought the one-shot `opa_eval`, 1.3 freeing of data and stashed blocks."""

IMPORTS: Final = {
    "opa_abort": (1, 0), "opa_println": (1, 0), "opa_builtin0": (2, 1), "opa_builtin1": (3, 1), "opa_builtin2": (4, 1),
    "opa_builtin3": (5, 1), "opa_builtin4": (6, 1),
}  # fmt: skip
"""Functions that a policy may import from `env`, beside its memory: number of i32 parameters, number of i32
results."""

EXPORTS: Final = {
    "opa_eval": (7, 1), "opa_malloc": (1, 1), "opa_free": (1, 0), "opa_value_parse": (2, 1), "opa_value_dump": (1, 1),
    "opa_json_dump": (1, 1), "opa_value_free": (1, 0), "opa_value_add_path": (3, 1), "opa_value_remove_path": (2, 1),
    "opa_heap_ptr_get": (0, 1), "opa_heap_ptr_set": (1, 0), "opa_heap_blocks_stash": (0, 0),
    "opa_heap_blocks_restore": (0, 0), "builtins": (0, 1), "entrypoints": (0, 1),
}  # fmt: skip
"""Functions that it has to export, likewise."""

PAGE: Final = 65536
_OFF: Final = (
    "wasm_bulk_memory", "wasm_threads", "wasm_tail_call", "wasm_simd", "wasm_relaxed_simd", "wasm_multi_memory",
    "wasm_memory64", "wasm_multi_value", "wasm_gc", "wasm_function_references", "wasm_exceptions",
    "wasm_wide_arithmetic", "wasm_custom_page_sizes", "wasm_stack_switching", "parallel_compilation",
)  # fmt: skip


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The one engine: fuel counted, everything off that OPA does not use, compiling in the calling thread alone."""
    config = Config()
    config.consume_fuel = True
    config.max_wasm_stack = STACK_BYTES_MAX
    config.memory_may_move = False  # views of memory, and copies beside evaluations, rely on that
    for feature in _OFF:
        setattr(config, feature, False)
    return Engine(config)


class Module:
    """One policy, ready to be instantiated as often as wanted. From `load` alone."""

    def __init__(self, compiled: wasmtime.Module, sha256: str) -> None:
        self.compiled = compiled
        self.sha256 = sha256
        self.entrypoints: dict[str, int] = {}
        self.builtins: dict[str, int] = {}

    @classmethod
    def load(cls, wasm: bytes) -> Module:
        """Check and compile, or take what this process compiled of the same bytes not long ago: a rollback, a shadow
        that is put in force and data that are loaded anew wait for no compiler. Raises PolicyError WASM_TOO_LARGE,
        WASM_INVALID, IMPORT_FOREIGN, ABI_UNSUPPORTED, BUILTIN_UNKNOWN."""
        if len(wasm) > WASM_BYTES_MAX:
            raise PolicyError(
                "WASM_TOO_LARGE",
                f"the module is {len(wasm)} bytes, {WASM_BYTES_MAX} at most; split the policy",
            )
        sha256 = hashlib.sha256(wasm).hexdigest()
        with _kept_lock:
            module = _kept.pop(sha256, None)
        if module is None:
            module = cls(_compiled(wasm), sha256)
            _check_imports(module.compiled)
            _check_exports(module.compiled)
            module._read_tables()
            module._check_builtins()
        _keep(module)
        return module

    def start(self, host: dict[str, Host], memory_max: int = MEMORY_BYTES_MAX) -> tuple[Store, Calls, Any]:
        """A new store with an instance of this module: (store, calls into it, its exports). Raises PolicyError."""
        store = Store(engine())
        store.set_limits(memory_size=memory_max, table_elements=100_000, instances=1, tables=4, memories=1)
        store.set_fuel(START_FUEL_MAX)
        try:
            memory = wasmtime.Memory(store, self._memory_type())
            calls = calls_for(store, memory)
            imports = [
                memory if kept.name == "memory" else calls.host(_function(kept), host[str(kept.name)])
                for kept in self.compiled.imports
            ]
            exports = wasmtime.Instance(store, self.compiled, imports).exports(store)
        except (WasmtimeError, wasmtime.Trap, CallFailed) as error:
            raise PolicyError("WASM_INVALID", f"the module does not start: {_last_line(error)}") from None
        calls.refresh()
        return store, calls, exports

    def _memory_type(self) -> MemoryType:
        return next(kept.type for kept in self.compiled.imports if isinstance(kept.type, MemoryType))

    def _read_tables(self) -> None:
        """ABI version, entry points and built-ins, from an instance made for that."""
        store, calls, exports = self.start(dict.fromkeys(IMPORTS, _no_host))
        try:
            _check_abi(store, exports)
            dump = calls.bind(exports["opa_json_dump"], 1)
            self.entrypoints = _table(calls, dump, calls.bind(exports["entrypoints"], 0), "entrypoints")
            self.builtins = _table(calls, dump, calls.bind(exports["builtins"], 0), "builtins")
        except (CallFailed, _HostCalledError) as error:
            raise PolicyError("WASM_INVALID", f"the module's tables cannot be read: {error}") from None
        finally:
            calls.close()

    def _check_builtins(self) -> None:
        unknown = sorted(name for name in self.builtins if not builtins.known(name))
        if unknown:
            raise PolicyError(
                "BUILTIN_UNKNOWN",
                f"the policy calls {', '.join(unknown[:5])}, which this host does not have; docs/policy-builtins.md "
                "lists what it has, and `skep policy build` says the line",
            )


_kept: Final[dict[str, Module]] = {}  # by their bytes' hash, in the order of use
_kept_lock: Final = Lock()


def _keep(module: Module) -> None:
    with _kept_lock:
        _kept[module.sha256] = module
        while len(_kept) > MODULES_KEPT:
            del _kept[next(iter(_kept))]


def vet(wasm: bytes, seconds: float = VET_S_MAX, memory: int = VET_BYTES_MAX) -> dict[str, Any]:
    """`load` in a child: what it found out ({"sha256", "entrypoints", "builtins"}). Raises PolicyError as `load`, and
    VET_FAILED when the child did not live to say anything."""
    if len(wasm) > WASM_BYTES_MAX:
        return {"sha256": Module.load(wasm).sha256}  # raises, before anything is started
    child = subprocess.Popen(
        [sys.executable, "-m", "skep_policy.module", str(memory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_child_environment(),
    )  # fmt: skip
    try:
        said, _ = child.communicate(wasm, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise PolicyError("VET_FAILED", f"checking the module took longer than {seconds:.0f} s") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    try:
        found: dict[str, Any] = orjson.loads(said)
    except orjson.JSONDecodeError:
        raise PolicyError(
            "VET_FAILED", f"checking the module ended with {child.returncode}, without a word"
        ) from None
    if "code" in found:
        raise PolicyError(found["code"], found["detail"])
    return found


def _child_environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""}


def vet_here(memory: int) -> dict[str, Any]:
    """The child of `vet`: a module on stdin, limits first."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        module = Module.load(sys.stdin.buffer.read(WASM_BYTES_MAX + 1))
    except PolicyError as error:
        return {"code": error.code, "detail": error.detail}
    except MemoryError:
        return {"code": "VET_FAILED", "detail": f"checking the module took more than {memory} bytes"}
    return {"sha256": module.sha256, "entrypoints": module.entrypoints, "builtins": module.builtins}


def _compiled(wasm: bytes) -> wasmtime.Module:
    if not wasm.startswith(b"\0asm"):  # wasmtime would take text, too
        raise PolicyError("WASM_INVALID", "these bytes are no WASM module")
    try:
        wasmtime.Module.validate(engine(), wasm)
        return wasmtime.Module(engine(), wasm)
    except WasmtimeError as error:
        raise PolicyError("WASM_INVALID", _last_line(error)) from None


def _check_imports(compiled: wasmtime.Module) -> None:
    memories = 0
    for kept in compiled.imports:
        where = f"{kept.module}.{kept.name}"
        if kept.module != "env" or (kept.name != "memory" and kept.name not in IMPORTS):
            raise PolicyError(
                "IMPORT_FOREIGN", f"the module wants {where}; policies may import what OPA's do, no more"
            )
        if kept.name == "memory":
            memories += 1
            if not isinstance(kept.type, MemoryType) or kept.type.limits.min * PAGE > MEMORY_BYTES_MAX:
                raise PolicyError(
                    "IMPORT_FOREIGN", f"{where} is no memory of at most {MEMORY_BYTES_MAX} bytes"
                )
        elif _shape(kept.type) != IMPORTS[str(kept.name)]:
            raise PolicyError("IMPORT_FOREIGN", f"{where} has another type than OPA's")
    if memories != 1:
        raise PolicyError(
            "ABI_UNSUPPORTED", "the module does not import its memory: compile it with `opa build`"
        )


def _check_exports(compiled: wasmtime.Module) -> None:
    there = {kept.name: kept.type for kept in compiled.exports}
    for name, shape in EXPORTS.items():
        if _shape(there.get(name)) != shape:
            raise PolicyError(
                "ABI_UNSUPPORTED",
                f"the module has no function {name} of ABI 1.3; compile it with opa 1.0 or newer",
            )
    for name in ("opa_wasm_abi_version", "opa_wasm_abi_minor_version"):
        if not isinstance(there.get(name), GlobalType):
            raise PolicyError("ABI_UNSUPPORTED", f"the module does not say its ABI: {name} is missing")


def _check_abi(store: Store, exports: Any) -> None:
    said = tuple(exports[f"opa_wasm_abi_{part}"].value(store) for part in ("version", "minor_version"))
    if said[0] != ABI[0] or said[1] < ABI[1]:
        raise PolicyError(
            "ABI_UNSUPPORTED", f"the module has ABI {said[0]}.{said[1]}, needed is {ABI[0]}.{ABI[1]}"
        )


def _shape(type: object) -> tuple[int, int] | None:
    """(parameters, results) of a function of i32 alone; None for anything else."""
    if not isinstance(type, FuncType):
        return None
    parameters, results = type.params, type.results
    i32 = ValType.i32()
    return (len(parameters), len(results)) if all(t == i32 for t in (*parameters, *results)) else None


def _function(kept: Any) -> FuncType:
    type: FuncType = kept.type
    return type


def _table(calls: Calls, dump: Any, function: Any, what: str) -> dict[str, int]:
    """A module's own list of names and numbers."""
    text = text_at(calls, dump(function()), 1 << 20)
    try:
        found = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        found = None
    good = isinstance(found, dict) and len(found) <= ENTRYPOINTS_MAX and _numbers(found.values())
    if not good:
        raise PolicyError("WASM_INVALID", f"the module's table of {what} is none")
    return dict(found)


def _numbers(values: Iterable[object]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 31 for value in values)


def text_at(calls: Calls, start: int, maximum: int) -> bytes | None:
    """The text that ends with a NUL, without it; None if it does not end within `maximum` or memory."""
    view = calls.refresh()
    size, end = 256, min(len(view), start + maximum + 1)
    while start < end:
        text = bytes(view[start : min(end, start + size)])
        found = text.find(0)
        if found >= 0:
            return text[:found]
        if start + size >= end:
            return None
        size *= 8
    return None


class _HostCalledError(Exception):
    """A module called out before it was asked anything."""


def _no_host(*_: int) -> int:
    raise _HostCalledError("it calls out while it starts")


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2].strip()[:200]


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(vet_here(int(sys.argv[1]))))
