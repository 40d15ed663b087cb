"""Calls into WASM that cost a microsecond instead of twenty.

Owns the one trick of this package: wasmtime-py's public call asks for the function's type, allocates, boxes and
unboxes each value; `wasmtime_func_call_unchecked` takes an array of raw values that is made once, and is reached
through a function object of our own that neither converts its arguments nor gives up the interpreter's lock. (Nobody
can run while a decision is made anyway, and taking the lock back beside a busy thread costs up to 5 ms.) Memory is
read and written through one memoryview, made again when the memory has grown.

Nothing here checks types: who binds a function has proved its signature (`module`). Where the private names are not
what this file expects, `available` says so and `Calls` makes public calls: slow, and right.

Invariants: a view never outlives its store; callbacks live as long as the store; an error is raised as CallFailed
with wasmtime's own text, and whether fuel was what ended."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

import wasmtime
from wasmtime import Func, FuncType, Memory, Store, Trap, TrapCode, WasmtimeError
from wasmtime import _ffi as ffi

Call = Callable[..., int]
Host = Callable[..., int | None]
Ask = Callable[[int, int, int, int, bytes, int, bool], bytes | int]
"""fuel, entry point, data, where the input goes, input, heap, whether exact -> the answer's text, or its address where
it is longer than FIRST."""

MASK: Final = 0xFFFF_FFFF
FIRST: Final = 256  # of an answer's bytes, what is copied at once
_SIZE_T, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_CALLBACK = ctypes.CFUNCTYPE(_SIZE_T, _POINTER, _POINTER, _POINTER, _SIZE_T)
_FINALIZER = ctypes.CFUNCTYPE(None, _POINTER)
_RAW_WORDS: Final = 2  # a raw value is 16 bytes, two words of the arrays here


class CallFailed(Exception):
    """WASM did not return. `fuel` and `stack` tell two causes apart; the text is wasmtime's."""

    def __init__(self, text: str, fuel: bool = False, stack: bool = False) -> None:
        self.fuel = fuel
        self.stack = stack
        super().__init__(text)


def _native(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    """A function object that is ours alone, so its types are too."""
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


def _untyped(library: Any, name: str) -> Any:
    """One that takes C objects as they are: to convert five arguments costs half as much as the call."""
    function = library[name]
    function.restype = _POINTER
    return function


class _Native:
    """The C functions that are used, once with the interpreter's lock kept and once without."""

    def __init__(self) -> None:
        path = ffi.dll._name
        holding, releasing = ctypes.PyDLL(path), ctypes.CDLL(path)
        call = (_POINTER, _POINTER, _POINTER, _POINTER, _SIZE_T, _POINTER)
        self.call = _native(holding, "wasmtime_func_call_unchecked", *call)
        self.call_released = _native(releasing, "wasmtime_func_call_unchecked", *call)
        self.call_quick = _untyped(holding, "wasmtime_func_call_unchecked")
        self.set_fuel_quick = _untyped(holding, "wasmtime_context_set_fuel")
        self.set_fuel = _native(holding, "wasmtime_context_set_fuel", _POINTER, _POINTER, ctypes.c_uint64)
        self.get_fuel = _native(holding, "wasmtime_context_get_fuel", _POINTER, _POINTER, _POINTER)
        self.new_func = _native(
            holding, "wasmtime_func_new_unchecked", None, _POINTER, _POINTER, _CALLBACK, _POINTER, _FINALIZER,
            _POINTER
        )  # fmt: skip


def _probe() -> _Native | None:
    """The private half, if a small module called through it answers rightly."""
    try:
        native = _Native()
        if ctypes.sizeof(ffi.wasmtime_val_raw_t) != 8 * _RAW_WORDS:
            return None
        engine = wasmtime.Engine()
        store = Store(engine)
        module = wasmtime.Module(engine, _PROBE_WAT)
        add = wasmtime.Instance(store, module, []).exports(store)["add"]
        calls = RawCalls(native, store, None)
        return native if isinstance(add, Func) and calls.bind(add, 2)(40, -2) == 38 else None
    except (AttributeError, TypeError, OSError, KeyError, WasmtimeError, CallFailed):
        return None


_PROBE_WAT: Final = """
(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
"""


class Calls:
    """Public calls into one store: what is used where the private ones are not there, and what they are tested
    against."""

    raw = False

    def __init__(self, store: Store, memory: Memory | None) -> None:
        self.store: Store | None = store
        self._memory = memory
        self.view = memoryview(b"")
        self.refresh()

    def bind(self, func: Func, arity: int, *, released: bool = False) -> Call:
        """`func` as a call with `arity` i32 and one i32 back, unsigned; 0 where it returns nothing."""
        store = self._open()

        def call(*arguments: int) -> int:
            try:
                result = func(store, *arguments)
            except (Trap, WasmtimeError) as error:
                raise _failed(error) from None
            return (result or 0) & MASK

        return call

    def bind_question(self, func: Func) -> Ask:
        """`opa_eval` with all that stands around it."""
        call = self.bind(func, 7)

        def ask(
            fuel: int, entrypoint: int, data: int, start: int, input: bytes, heap: int, exact: bool
        ) -> bytes | int:
            self.set_fuel(fuel)
            self.view[start : start + len(input)] = input
            found = call(0, entrypoint, data, start, len(input), heap, exact)
            return self._text(found)

        return ask

    def _text(self, start: int) -> bytes | int:
        text, end, _ = self.view[start : start + FIRST].tobytes().partition(b"\0")
        return text if end else start

    def host(self, type: FuncType, function: Host) -> Func:
        """A function for WASM to call. One that raises ends the call that led to it."""

        def called(*arguments: int) -> int | None:
            result = function(*(a & MASK for a in arguments))
            return None if result is None else _signed(result)

        return Func(self._open(), type, called)

    def set_fuel(self, fuel: int) -> int:
        """What the next calls may use, together."""
        self._open().set_fuel(fuel)
        return 0

    def fuel(self) -> int:
        """What is left."""
        return self._open().get_fuel()

    def refresh(self) -> memoryview:
        """A view of all memory there is now."""
        if self._memory is not None:
            size = self._memory.data_len(self._open())
            if size != len(self.view):
                start = ctypes.addressof(self._memory.data_ptr(self._open()).contents)
                self.view = memoryview((ctypes.c_ubyte * size).from_address(start)).cast("B")
        return self.view

    def grow(self, size: int) -> None:
        """Make memory at least `size` bytes. Raises CallFailed."""
        missing = size - len(self.refresh())
        if self._memory is not None and missing > 0:
            try:
                self._memory.grow(self._open(), -(-missing // 65536))
            except WasmtimeError as error:
                raise _failed(error) from None
            self.refresh()

    def close(self) -> None:
        """Give everything back. The view is gone before the memory is."""
        self.view = memoryview(b"")
        store, self.store, self._memory = self.store, None, None
        if store is not None:
            store.close()

    def _open(self) -> Store:
        if self.store is None:
            raise CallFailed("the instance is closed")
        return self.store


class RawCalls(Calls):
    """Unchecked calls into one store."""

    raw = True

    def __init__(self, native: _Native, store: Store, memory: Memory | None) -> None:
        self._native = native
        self._context = _POINTER(ctypes.cast(store._context(), _POINTER).value)
        self._trap = _POINTER(None)
        self._trap_at = _POINTER(ctypes.addressof(self._trap))
        self._left = ctypes.c_uint64(0)
        self._left_at = _POINTER(ctypes.addressof(self._left))
        self._kept: list[Any] = []
        super().__init__(store, memory)

    def bind(self, func: Func, arity: int, *, released: bool = False) -> Call:
        words = memoryview((ctypes.c_int64 * (_RAW_WORDS * max(arity, 1)))())
        values = words.cast("B").cast("q")
        self._kept += (func, words)
        native = self._native.call_released if released else self._native.call
        context, trap, trap_at, count = self._context, self._trap, self._trap_at, max(arity, 1)
        function, start = _POINTER(ctypes.addressof(func._func)), _address(words)

        def call(*arguments: int) -> int:
            place = 0
            for argument in arguments:
                values[place] = argument
                place += _RAW_WORDS
            error = native(context, function, start, count, trap_at)
            if error or trap:
                raise self._taken(error)
            return values[0] & MASK

        return call

    def bind_question(self, func: Func) -> Ask:
        """In one frame, and without a conversion: what stands around an evaluation was as long as a cheap one. The
        first word is the argument that must be 0 and becomes the answer, which never is: it says whether one came."""
        words = memoryview((ctypes.c_int64 * (_RAW_WORDS * 7))())
        values = words.cast("B").cast("q")
        self._kept += (func, words)
        native, set_fuel = self._native.call_quick, self._native.set_fuel_quick
        context, trap_at, count = self._context, self._trap_at, _SIZE_T(7)
        function, begin = _POINTER(ctypes.addressof(func._func)), _address(words)
        usual, budget = 0, ctypes.c_uint64(0)

        def ask(
            fuel: int, entrypoint: int, data: int, start: int, input: bytes, heap: int, exact: bool
        ) -> bytes | int:
            nonlocal usual, budget
            if fuel != usual:
                usual, budget = fuel, ctypes.c_uint64(fuel)
            size, view = len(input), self.view
            view[start : start + size] = input
            values[0], values[2], values[4], values[6], values[8] = 0, entrypoint, data, start, size
            values[10], values[12] = heap, exact
            set_fuel(context, budget)
            error = native(context, function, begin, count, trap_at)
            found = values[0] & MASK
            if error or not found:
                raise self._taken(error)
            text, end, _ = self.view[found : found + FIRST].tobytes().partition(b"\0")
            return text if end else found

        return ask

    def host(self, type: FuncType, function: Host) -> Func:
        def called(_: Any, _caller: Any, values: int, count: int) -> int:
            try:
                words = (ctypes.c_int64 * (_RAW_WORDS * count)).from_address(values)
                result = function(*[words[_RAW_WORDS * i] & MASK for i in range(count)])
                if result is not None:
                    words[0] = result
            except BaseException as error:  # noqa: BLE001 - nothing may pass through native frames
                self._raised = error
                return _new_trap()
            return 0

        callback, made = _CALLBACK(called), ffi.wasmtime_func_t()
        self._kept += (callback, made, type)
        pointer = ctypes.cast(type.ptr(), _POINTER)
        self._native.new_func(self._context, pointer, callback, None, _FINALIZER(0), ctypes.addressof(made))
        return Func._from_raw(made)

    def set_fuel(self, fuel: int) -> int:
        if self._native.set_fuel(self._context, fuel):
            raise CallFailed("fuel is not counted")
        return 0

    def fuel(self) -> int:
        if self._native.get_fuel(self._context, self._left_at):
            raise CallFailed("fuel is not counted")
        return self._left.value

    def close(self) -> None:
        self._context = _POINTER(None)
        super().close()
        self._kept.clear()

    _raised: BaseException | None = None

    def _taken(self, error: int | None) -> BaseException:
        """What ended the last call: an exception of a host function, else a trap, else an error of the engine."""
        trap = self._trap.value
        self._trap.value = None
        raised, self._raised = self._raised, None
        failed: Trap | WasmtimeError
        if not error and not trap:
            return raised or CallFailed("the code answers with nothing")
        if error:
            failed = WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t)))
        else:
            failed = Trap._from_ptr(ctypes.cast(trap or 0, ctypes.POINTER(ffi.wasm_trap_t)))
        return raised if raised is not None else _failed(failed)


def _address(words: memoryview) -> Any:
    return _POINTER(ctypes.addressof(ctypes.c_int64.from_buffer(words)))


def _new_trap() -> int:
    """A trap that wasmtime will own."""
    return ctypes.cast(Trap("host function raised")._consume(), _POINTER).value or 0


def _signed(value: int) -> int:
    """An i32 as the public API takes it."""
    return value - (1 << 32) if value & 0x8000_0000 else value


def _failed(error: Trap | WasmtimeError) -> CallFailed:
    code = error.trap_code if isinstance(error, Trap) else None
    text = str(error)
    return CallFailed(
        text.strip().rpartition("\n")[2].strip(),
        fuel=code == TrapCode.OUT_OF_FUEL or "all fuel consumed" in text,
        stack=code == TrapCode.STACK_OVERFLOW or "stack exhausted" in text,
    )


_NATIVE: Final = _probe()
available: Final = _NATIVE is not None
"""Does this wasmtime have what the fast calls need?"""


def calls_for(store: Store, memory: Memory | None) -> Calls:
    """The fastest calls there are."""
    return Calls(store, memory) if _NATIVE is None else RawCalls(_NATIVE, store, memory)
