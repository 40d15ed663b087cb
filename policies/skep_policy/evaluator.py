"""Decisions of one policy, whatever happens inside it.

Owns two instances of a module: one answers, one stands by with the same data. A policy that runs out of fuel or
memory, contradicts itself or traps costs its instance; the spare takes its place at once, and a new spare is copied
from it in a thread. Patches go to both.

Invariants: `decide` answers, always: a fault of the policy is an `Evaluation` with an error. Data are the same in
both instances. There is one thread at most, and it touches nothing but memory that no evaluation writes, or an
instance that nobody else has (after thousands of patches the data are laid out anew, from the spare). A copy made
while a patch ran is thrown away and made again, REBUILDS_MAX times, then once in between. Whoever causes a second
fault before the new spare stands waits for it, and its price says so."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

import orjson

from skep.protocol.errors import PolicyError
from skep_policy.documents import Patch
from skep_policy.instance import Instance
from skep_policy.limits import FUEL_MAX, MISSED_MAX, REBUILDS_MAX, TIDY_BYTES_MIN, TIDY_PATCHES
from skep_policy.module import Module

__all__ = ["Evaluation", "Evaluator", "Patch"]

ERRORS: Final = ("FUEL", "TRAP", "MEMORY", "CONFLICT", "BUILTIN")


_PLAIN: Final = {b'[{"result":true}]': True, b'[{"result":false}]': False}  # what most rules say


class Evaluation(NamedTuple):
    """What one question came to. `error` is "" or one of ERRORS; `defined` says whether there is a result."""

    result: Any
    defined: bool
    error: str
    detail: str
    ns: int


_evaluation = tuple.__new__  # of which Evaluation's own is twice as dear


class Evaluator:
    """A policy in force. One caller at a time."""

    def __init__(
        self,
        module: Module,
        data: bytes = b"{}",
        *,
        fuel: int = FUEL_MAX,
        roots: Collection[str] | None = None,
        cut: bool = False,
        spare: bool = True,
    ) -> None:
        """`roots`: the data roots that the policy reads, when that is known; others are not loaded. `cut`: there are no
        others in `data`. Without a `spare` a fault costs the time of a copy: for who asks much and has nobody waiting.
        Raises PolicyError."""
        self._module = module
        self._fuel = fuel
        self._roots = None if roots is None else frozenset(roots)
        self._live = Instance(module, data if cut else self._wanted(data))
        self._entrypoints = dict(module.entrypoints)
        self._patched = 0  # how often; a copy made across a patch is no copy
        self._guests: list[tuple[str, ...]] = []  # paths of the overlay that stands in the data now
        self._has_spare = spare
        self._spare: Instance | None = None
        self._builder: _Builder | None = None
        self._tidier: _Tidier | None = None
        self._worn = 0  # patches since the data were laid out anew
        self._failures = 0
        self.faults = 0
        self._build()

    # -- asking ----------------------------------------------------------------------------------------------------

    def decide(self, entrypoint: str, input: bytes, overlay: Sequence[Patch] = ()) -> Evaluation:
        """Ask `entrypoint` (such as "router/allow"); one that the policy does not have is undefined. `overlay` adds
        to the data for this question alone: nothing may stand at its paths."""
        begun = perf_counter_ns()
        number = self._entrypoints.get(entrypoint)
        if number is None:
            return Evaluation(None, False, "", "", perf_counter_ns() - begun)
        try:
            if self._builder is not None or self._tidier is not None or overlay or self._live.broken:
                text = self._slowly(number, input, overlay)
            else:
                text = self._live.evaluate(number, input, self._fuel)
            if text != b"[]":
                result = _PLAIN.get(text)
                if result is None:
                    result = orjson.loads(text)[0]["result"]
                return _evaluation(Evaluation, (result, True, "", "", perf_counter_ns() - begun))
        except PolicyError as error:
            return self._failed(error.code, error.detail, begun)
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            return self._failed("TRAP", f"the result is no result set: {error}", begun)
        return Evaluation(None, False, "", "", perf_counter_ns() - begun)

    def _slowly(self, number: int, input: bytes, overlay: Sequence[Patch]) -> bytes:
        """An evaluation with something to do around it."""
        self._take_what_is_ready()
        if self._live.broken:  # there was no memory for another one; perhaps there is now
            self._replace()
        if not overlay:
            return self._live.evaluate(number, input, self._fuel)
        self._patched += 1
        self._guests = [patch.path for patch in overlay if self._reads(patch)]
        self._live.apply([patch for patch in overlay if patch.path in self._guests])
        text = self._live.evaluate(number, input, self._fuel)
        self._leave(self._live)
        return text

    def _leave(self, instance: Instance) -> None:
        """Guests of one question go."""
        if self._guests:
            instance.apply([(path, None) for path in self._guests])
        self._guests = []

    def _failed(self, code: str, detail: str, begun: int) -> Evaluation:
        if code not in ERRORS:
            code, detail = "TRAP", f"{code}: {detail}"
        self.faults += 1
        try:
            if self._live.broken or code == "TRAP":
                self._replace()
        except PolicyError as error:
            detail = f"{detail}; and there is no instance to go on with: {error}"
        return Evaluation(None, False, code, detail, perf_counter_ns() - begun)

    # -- changing the data -----------------------------------------------------------------------------------------

    def apply(self, patches: Sequence[Patch]) -> None:
        """Change the data of both. Raises PolicyError when one of them could not follow: then what is answered is not
        to be used."""
        self._take_what_is_ready()
        self._patched += 1  # what was copied until now is whole; what is being copied is not, from here on
        wanted = [patch for patch in patches if self._reads(patch)]
        try:
            self._live.apply(wanted)
            if self._spare is not None:
                self._spare.apply(wanted)
        except PolicyError:
            if self._spare is not None:
                self._spare.close()
                self._spare = None
                self._build()
            raise
        self._worn += len(wanted)
        if self._tidier is not None:
            self._tidier.missed += wanted
        elif self._worn >= TIDY_PATCHES and self._live.data_end >= TIDY_BYTES_MIN:
            self._tidy()

    def _reads(self, patch: Patch) -> bool:
        return self._roots is None or patch.path[0] in self._roots

    def _wanted(self, data: bytes) -> bytes:
        if self._roots is None:
            return data
        try:
            return orjson.dumps(
                {root: kept for root, kept in orjson.loads(data).items() if root in self._roots}
            )
        except (orjson.JSONDecodeError, AttributeError) as error:
            raise PolicyError("DATA_INVALID", f"a policy's data are one JSON object: {error}") from None

    # -- two instances ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Does a spare stand by?"""
        self._take_what_is_ready()
        return self._spare is not None

    @property
    def memory_bytes(self) -> int:
        return sum(kept.memory_bytes for kept in (self._live, self._spare) if kept is not None)

    @property
    def data_end(self) -> int:
        """Where the answering instance's data end."""
        return self._live.data_end

    def _take_what_is_ready(self) -> None:
        if self._builder is not None:
            self._adopt()
        if self._tidier is not None and not self._tidier.is_alive():
            self._settle(self._tidier)

    def _build(self) -> None:
        """Begin a spare, in a thread. Not beside a tidier, whose data will be the better ones."""
        if self._tidier is not None or not self._has_spare:
            return
        self._builder = _Builder(self._live, self._patched)
        self._builder.start()

    def _adopt(self, wait: bool = False) -> None:
        """Take the spare that the thread has made, if it has."""
        builder = self._builder
        if builder is None or (builder.is_alive() and not wait):
            return
        builder.join()
        self._builder = None
        if builder.copy is not None and builder.patched == self._patched:
            self._spare, self._failures = builder.copy, 0
            return
        if builder.copy is not None:
            builder.copy.close()
        self._failures += 1
        if self._failures <= REBUILDS_MAX and not wait:
            self._build()
        elif builder.copy is not None:
            self._spare, self._failures = self._live.clone(), 0

    def _replace(self) -> None:
        """The spare answers from now on. Raises PolicyError when none can be had."""
        self._adopt(wait=True)
        old, spare = self._live, self._spare
        if spare is None:
            spare = old.clone()
            self._leave(spare)
        self._live, self._spare, self._guests = spare, None, []
        old.close()
        self._build()

    def _tidy(self) -> None:
        """Lay the data out anew, in a thread: what thousands of patches freed lies in pieces, and the allocator walks
        over all of them. The spare is what they are read from, so the two that answer are never in its way."""
        if self._builder is None and self._spare is not None:
            self._tidier, self._spare, self._worn = _Tidier(self._module, self._spare), None, 0
            self._tidier.start()

    def _settle(self, tidier: _Tidier) -> None:
        """Its data answer from now on, with the patches that it has missed."""
        self._tidier = None
        fresh = tidier.taken()
        if fresh is not None and len(tidier.missed) <= MISSED_MAX:
            try:
                fresh.apply(tidier.missed)
                fresh, self._live = self._live, fresh
            except PolicyError:
                self._failures += 1
        if fresh is not None:
            fresh.close()
        self._patched += 1
        self._build()

    def close(self) -> None:
        if self._tidier is not None:
            self._tidier.abandon()
            self._tidier = None
        if self._builder is not None:
            self._builder.join()
            if self._builder.copy is not None:
                self._builder.copy.close()
            self._builder = None
        for kept in (self._live, self._spare):
            if kept is not None:
                kept.close()
        self._spare = None
        self._entrypoints = {}


class _Builder(threading.Thread):
    """One copy of an instance, made while that one answers."""

    def __init__(self, source: Instance, patched: int) -> None:
        super().__init__(name="policy-spare", daemon=True)
        self.patched = patched
        self.copy: Instance | None = None
        self._source = source

    def run(self) -> None:
        try:
            self.copy = self._source.clone()
        except (PolicyError, MemoryError):
            self.copy = None


class _Tidier(threading.Thread):
    """The data of an instance that it owns, written out and read into a new one."""

    def __init__(self, module: Module, source: Instance) -> None:
        super().__init__(name="policy-tidy", daemon=True)
        self.missed: list[Patch] = []
        self._module = module
        self._source = source
        self._fresh: Instance | None = None
        self._abandoned = False
        self._lock = threading.Lock()

    def run(self) -> None:
        fresh = None
        try:
            fresh = Instance(self._module, self._source.dump_data())
        except (PolicyError, MemoryError):
            fresh = None
        self._source.close()
        with self._lock:
            self._fresh = fresh
        if self._abandoned:
            self.abandon()

    def taken(self) -> Instance | None:
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def abandon(self) -> None:
        """Nobody waits for it any more: whoever comes last closes what there is."""
        self._abandoned = True
        fresh = self.taken()
        if fresh is not None:
            fresh.close()
