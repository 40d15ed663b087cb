"""One OPA instance and its memory.

Owns the life of data inside WASM. Memory is [code's own | data | heap of the running evaluation]; an evaluation
starts at `_heap`, where the data end, and whatever it left is forgotten by the next one, so memory does not grow by
evaluating.

A patch is: set the heap pointer, restore the free blocks that were stashed, parse value and path, add or remove, free
the path, stash the free blocks, and take the new end of the data. Without stash and restore what a patch frees is
lost at the next evaluation (`opa_heap_ptr_set` empties the free lists), and a million patches are a full memory.

Invariants: input is parsed from a buffer of fixed size, so an evaluation never asks the host for memory; fuel is set
before every call; between calls the code's own memory and the data are never changed by an evaluation, so a copy may
be taken while evaluations run, though not while patches do (`clone`).

After a trap the stack pointer of the code is where it was: the instance is `broken` and answers no more.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any, Final

import orjson

from skep.protocol.errors import PolicyError
from skep_policy import builtins
from skep_policy.builtins.values import LimitError, UndefinedError, read, write
from skep_policy.limits import (
    BUILTIN_BYTES_MAX,
    BUILTIN_FUEL,
    BUILTIN_FUEL_PER_BYTE,
    BUILTIN_NS,
    DATA_MEMORY_BYTES_MAX,
    FUEL_MAX,
    FUEL_PER_NS,
    INPUT_BYTES_MAX,
    LOAD_FUEL_PER_BYTE,
    MEMORY_BYTES_MAX,
    MEMORY_SPARE_BYTES,
    RESULT_BYTES_MAX,
    START_FUEL_MAX,
)
from skep_policy.module import Module, text_at
from skep_policy.rawcall import Ask, Call, CallFailed, Calls, Host

CONFLICTS: Final = ("var assignment conflict", "object insert conflict")
"""What OPA's code says when a complete rule has two answers, or a key two values; file, line and column stand
before."""

_LARGE: Final = 128
"""An allocation of a size that has no list of its own. What a replaced value frees of such sizes waits on a list that
stashing forgets; the next allocation of that kind takes it back into the heap. (OPA 1.22: malloc.c,
opa_free_bulk.)"""

_ROOM: Final = (8, 48)
"""Data in memory are six or seven times as large as their JSON; an array of nothing but digits is forty times."""

_MARGIN: Final = 4096
_WHERE: Final = re.compile(r"^(.*):(\d+):(\d+): (.*)$", re.DOTALL)


class AbortError(Exception):
    """The code ended itself, and said why."""


class Instance:
    """A module with its data. One caller at a time."""

    module: Module
    broken: str
    _calls: Calls
    _data: int
    _heap: int
    _input: int
    _base: int
    _clock: int
    _set_fuel: Call
    _ask: Ask
    _malloc: Call
    _free: Call
    _value_parse: Call
    _value_dump: Call
    _json_dump_aside: Call
    _value_parse_aside: Call
    _value_free: Call
    _add_path: Call
    _remove_path: Call
    _heap_get: Call
    _heap_set: Call
    _stash: Call
    _restore: Call

    def __init__(self, module: Module, data: bytes = b"{}") -> None:
        """Raises PolicyError DATA_INVALID, MEMORY, WASM_INVALID."""
        self._begin(module)
        self._load(data)
        self._limit_memory()

    # -- asking ----------------------------------------------------------------------------------------------------

    def evaluate(self, entrypoint: int, input: bytes, fuel: int = FUEL_MAX, exact: bool = False) -> bytes:
        """The result set as JSON: `[]` when undefined; `exact` writes sets as sets (`builtins.values`). Raises
        PolicyError FUEL, TRAP, MEMORY, CONFLICT, BUILTIN; then the instance is broken."""
        if len(input) > INPUT_BYTES_MAX:
            raise PolicyError("MEMORY", f"the input is {len(input)} bytes, {INPUT_BYTES_MAX} at most")
        try:
            found = self._ask(fuel, entrypoint, self._data, self._input, input, self._heap, exact)
            return found if isinstance(found, bytes) else self._long_result(found)
        except (CallFailed, AbortError, _BuiltinError) as failed:
            raise self._broken(failed, fuel) from None
        finally:
            self._clock = 0

    def _long_result(self, start: int) -> bytes:
        text = text_at(self._calls, start, RESULT_BYTES_MAX)
        if text is None:
            raise AbortError("opa_malloc: failed")  # too much is too much, wherever it stands
        return text

    def now_ns(self) -> int:
        """The wall clock, the same for all of one evaluation."""
        if not self._clock:
            self._clock = time.time_ns()
        return self._clock

    # -- changing the data -----------------------------------------------------------------------------------------

    def patch(self, path: Sequence[str], value: bytes) -> None:
        """Put JSON at `path`, whose parents are objects or are made. Raises PolicyError DATA_INVALID, MEMORY, TRAP;
        after the last two the instance is broken."""
        self.apply([(path, value)])

    def remove(self, path: Sequence[str]) -> None:
        """Take away what stands at `path`, if anything does. Raises as `patch`."""
        self.apply([(path, None)])

    def apply(self, changes: Sequence[tuple[Sequence[str], bytes | None]]) -> None:
        """Many patches and removals, in turn, for half the price each. What came before one that raises is done."""
        sizes = sum(len(value or b"") + sum(map(len, path)) for path, value in changes)
        fuel = START_FUEL_MAX + LOAD_FUEL_PER_BYTE * (sizes + 100 * len(changes))
        refused: Sequence[str] | None = None
        try:
            self._set_fuel(fuel)
            self._heap_set(self._heap)
            self._restore()
            for path, value in changes:
                if not path or self._changed(path, value):
                    refused = path
                    break
            self._free(self._malloc(_LARGE))
            self._stash()
            self._heap = self._heap_get()
        except (CallFailed, AbortError) as failed:
            raise self._broken(failed, fuel) from None
        if refused is not None:
            raise PolicyError(
                "DATA_INVALID", f"the data have no place for {'/'.join(refused) or 'a change of all'}"
            )

    def _changed(self, path: Sequence[str], value: bytes | None) -> int:
        new = 0 if value is None else self._parsed(value)
        if value is not None and not new:
            return 1
        at = self._parsed(orjson.dumps(path))
        code = self._remove_path(self._data, at) if value is None else self._add_path(self._data, at, new)
        self._value_free(at)
        if code and new:
            self._value_free(new)
        return code

    def _parsed(self, text: bytes) -> int:
        """A value in WASM, from JSON; 0 when it is none. The text goes where input goes, if it is short: nobody reads
        from there now, and the allocator need not look for a place and take it back."""
        size = len(text)
        if size <= INPUT_BYTES_MAX:
            self._calls.view[self._input : self._input + size] = text
            return self._value_parse(self._input, size)
        start = self._malloc(size)
        self._put(start, text)
        value = self._value_parse(start, size)
        self._free(start)
        return value

    def _put(self, start: int, text: bytes) -> None:
        """Write to memory, which may have grown, where the code said there is room."""
        end = start + len(text)
        view = self._calls.view if end <= len(self._calls.view) else self._calls.refresh()
        if end > len(view):
            raise AbortError("the code gives out memory that it does not have")
        view[start:end] = text

    def dump_data(self) -> bytes:
        """The data as JSON, with the interpreter's lock given up."""
        try:
            self._store.set_limits(
                memory_size=DATA_MEMORY_BYTES_MAX
            )  # the text is not the policy's doing either
            self._set_fuel(START_FUEL_MAX + LOAD_FUEL_PER_BYTE * self._heap)
            self._heap_set(self._heap)
            return text_at(self._calls, self._json_dump_aside(self._data), DATA_MEMORY_BYTES_MAX) or b""
        except (CallFailed, AbortError) as failed:
            raise self._broken(failed, 0) from None
        finally:
            self._limit_memory()

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        return len(self._calls.refresh())

    @property
    def data_end(self) -> int:
        """Where the data end: what grows if a patch loses memory."""
        return self._heap

    def clone(self) -> Instance:
        """Another instance with the same data, by copying memory. May run in another thread while this one evaluates,
        not while it is patched: whoever calls it makes sure, or throws the copy away. Raises PolicyError."""
        copy = Instance.__new__(Instance)
        copy._begin(self.module)
        try:
            own = bytes(self._calls.view[: self._base])  # before the size is read: its heap's top is in there
            source = self._calls.refresh()
            copy._calls.grow(len(source))
            _copy(copy._calls.view, source, self._base, self._heap)
            copy._calls.view[: self._base] = own
        except CallFailed as failed:
            copy.close()
            raise PolicyError("MEMORY", str(failed)) from None
        copy._data, copy._heap, copy._input = self._data, self._heap, self._input
        copy._limit_memory()
        return copy

    def close(self) -> None:
        """Give the memory back. Nothing works afterwards."""
        self.broken = self.broken or "the instance is closed"
        for name in _CALLS:
            setattr(self, name, _closed)  # the store behind the calls is gone
        self._calls.close()

    def _begin(self, module: Module) -> None:
        """The code without data."""
        self.module = module
        self.broken = ""
        self._input = self._data = self._heap = self._clock = 0
        host: dict[str, Host] = {
            "opa_abort": self._on_abort, "opa_println": _print, "opa_builtin0": self._on_builtin,
            "opa_builtin1": self._on_builtin, "opa_builtin2": self._on_builtin, "opa_builtin3": self._on_builtin,
            "opa_builtin4": self._on_builtin,
        }  # fmt: skip
        self._store, self._calls, exports = module.start(host, DATA_MEMORY_BYTES_MAX)
        self._set_fuel = self._calls.set_fuel
        self._functions = {number: builtins.find(name) for name, number in module.builtins.items()}
        self._bind(exports)
        try:
            self._malloc(0)
            self._base = self._heap_get()
        except (CallFailed, AbortError) as failed:
            raise PolicyError("WASM_INVALID", f"the module does not start: {failed}") from None

    def _bind(self, exports: Any) -> None:  # every name here stands in _CALLS
        bind = self._calls.bind
        self._ask = self._calls.bind_question(exports["opa_eval"])
        self._malloc, self._free = bind(exports["opa_malloc"], 1), bind(exports["opa_free"], 1)
        self._value_parse = bind(exports["opa_value_parse"], 2)
        self._value_parse_aside = bind(exports["opa_value_parse"], 2, released=True)
        self._value_dump = bind(exports["opa_value_dump"], 1)
        self._json_dump_aside = bind(exports["opa_json_dump"], 1, released=True)
        self._value_free = bind(exports["opa_value_free"], 1)
        self._add_path = bind(exports["opa_value_add_path"], 3)
        self._remove_path = bind(exports["opa_value_remove_path"], 2)
        self._heap_get, self._heap_set = (
            bind(exports["opa_heap_ptr_get"], 0),
            bind(exports["opa_heap_ptr_set"], 1),
        )
        self._stash, self._restore = (
            bind(exports["opa_heap_blocks_stash"], 0), bind(exports["opa_heap_blocks_restore"], 0),
        )  # fmt: skip

    def _load(self, data: bytes) -> None:
        """All data at once, with the interpreter's lock given up: 12 MiB of JSON take 100 ms."""
        fuel = START_FUEL_MAX + LOAD_FUEL_PER_BYTE * len(data)
        try:
            self._set_fuel(fuel)
            self._input = self._malloc(INPUT_BYTES_MAX)
            self._put(self._input, bytes(INPUT_BYTES_MAX))
            if data.lstrip()[:1] == b"{":
                self._data = next((at for times in _ROOM if (at := self._parsed_below(data, times, fuel))), 0)
            self._stash()
            self._heap = self._heap_get()
        except (CallFailed, AbortError) as failed:
            error = self._broken(failed, fuel)
            self.close()
            raise error from None
        if not self._data:
            self.close()
            raise PolicyError("DATA_INVALID", "a policy's data are one JSON object")
        self._calls.refresh()

    def _parsed_below(self, data: bytes, times: int, fuel: int) -> int:
        """The data parsed into the room below their own text, which is forgotten then; 0 when that was too little.

        Freed, the text would be a hole before all data, from which the allocator serves every patch, while what patches
        free becomes a list without end behind it: after two thousand patches one took 10 ms.
        """
        begin, room = self._heap_get(), times * len(data) + _MARGIN
        text = begin + room
        self._set_fuel(fuel)
        self._malloc(
            room + len(data) + _MARGIN
        )  # memory, and the allocator's idea of it, reach so far from now on
        self._put(text, data)
        self._heap_set(begin)
        try:
            value = self._value_parse_aside(text, len(data))
        except (CallFailed, AbortError):
            if self._heap_get() <= text:
                raise
            value = 0  # it had begun to read what it wrote
        if self._heap_get() <= text:
            return value
        self._heap_set(begin)
        return 0

    def _limit_memory(self) -> None:
        """From here on policies decide how much is used."""
        used = max(self._heap, len(self._calls.refresh()))
        self._store.set_limits(memory_size=max(MEMORY_BYTES_MAX, used + MEMORY_SPARE_BYTES))

    # -- what WASM calls -------------------------------------------------------------------------------------------

    def _on_abort(self, message: int) -> None:
        text = text_at(self._calls, message, 4096)
        raise AbortError("" if text is None else text.decode(errors="replace"))

    def _on_builtin(self, number: int, _context: int, *arguments: int) -> int:
        """Arguments out of WASM, result into it, both paid with fuel before the work is done."""
        texts = [self._argument(address) for address in arguments]
        self._pay(BUILTIN_FUEL + BUILTIN_FUEL_PER_BYTE * sum(map(len, texts)))
        function = self._functions.get(number)
        if function is None:
            raise _BuiltinError(f"the policy calls built-in {number}, which it does not list")
        begun = perf_counter_ns()
        try:
            values = [read(text) for text in texts]
            result = write(
                function(self, *values) if hasattr(function, "asks_instance") else function(*values)
            )
        except UndefinedError:
            return 0
        except LimitError as error:
            raise _BuiltinError(f"{self._name_of(number)}: {error}") from None
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return 0  # arguments of a type that the function is not for: undefined, as in OPA
        if len(result) > BUILTIN_BYTES_MAX:
            raise _BuiltinError(f"{self._name_of(number)}: its result is more than {BUILTIN_BYTES_MAX} bytes")
        late = max(0, perf_counter_ns() - begun - BUILTIN_NS) * FUEL_PER_NS
        self._pay(BUILTIN_FUEL_PER_BYTE * len(result) + late)
        return self._parsed(result)

    def _argument(self, address: int) -> bytes:
        text = text_at(self._calls, self._value_dump(address), BUILTIN_BYTES_MAX)
        if text is None:
            raise _BuiltinError(f"an argument of more than {BUILTIN_BYTES_MAX} bytes")
        return text

    def _pay(self, price: int) -> None:
        left = self._calls.fuel()
        if left <= price:
            raise CallFailed("all fuel consumed by built-ins", fuel=True)
        self._set_fuel(left - price)

    def _name_of(self, number: int) -> str:
        return next((name for name, kept in self.module.builtins.items() if kept == number), str(number))

    def _broken(self, failed: BaseException, fuel: int) -> PolicyError:
        """Why it ended, in our words; nothing is asked of this instance any more."""
        code, detail = _named(failed, fuel)
        self.broken = f"{code}: {detail}"
        return PolicyError(code, detail)


_CALLS: Final = (
    "_set_fuel", "_ask", "_malloc", "_free", "_value_parse", "_value_parse_aside", "_value_dump", "_json_dump_aside",
    "_value_free", "_add_path", "_remove_path", "_heap_get", "_heap_set", "_stash", "_restore",
)  # fmt: skip


def _closed(*_: int) -> int:
    raise CallFailed("the instance is closed")


def _print(_: int) -> None:
    """What a policy prints has no reader."""


class _BuiltinError(Exception):
    """A built-in refused."""


def _named(failed: BaseException, fuel: int) -> tuple[str, str]:
    text = str(failed)
    if isinstance(failed, _BuiltinError):
        return "BUILTIN", text
    if isinstance(failed, CallFailed):
        if failed.fuel:
            return (
                "FUEL",
                f"the evaluation used all its fuel ({fuel}); make rules look up by key instead of scanning",
            )
        return "TRAP", "the stack is used up: a value is nested too deeply" if failed.stack else text
    if text == "opa_malloc: failed":
        return "MEMORY", "the evaluation used all its memory; make rules build less"
    return _conflict(text) or ("TRAP", text or "the policy's code ended itself")


def _conflict(text: str) -> tuple[str, str] | None:
    found = _WHERE.match(text)
    if not text.endswith(CONFLICTS) or found is None:
        return None
    file, line, column, what = found.groups()
    meaning = "a complete rule has two answers" if what == CONFLICTS[0] else "an object's key has two values"
    return (
        "CONFLICT",
        f"{file}:{line}:{column}: {meaning} ({what}); make the bodies exclude each other, or build a set",
    )


def _copy(target: memoryview, source: memoryview, start: int, end: int) -> None:
    """Bytes from one instance's memory to another's, with the interpreter's lock given up. Where they begin and end is
    what the code said, and nothing else stands between it and the memory of this process: so it is checked here."""
    if not 0 <= start <= end <= min(len(source), len(target)):
        raise CallFailed(f"the code's data lie from {start} to {end}, where it has no memory")
    to, of = (ctypes.addressof(ctypes.c_ubyte.from_buffer(view)) for view in (target, source))
    ctypes.memmove(to + start, of + start, end - start)
