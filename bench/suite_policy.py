"""Decisions: what one costs that nobody asked before, at a hundred and at ten thousand agents; a hit; a change; OPA's
own server beside it; memory over millions; how soon an endless rule ends.

`engine` is one evaluation with its input as bytes, what an engine is compared by. `router` is all that the router does
for a question that it has not kept: input, evaluation, what the answer means, keeping and recording it. Nothing here
has a network but the row with OPA's server.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from bench.machine import NotRunError
from bench.rows import LIMIT, Bench, Case, Figures, Goal

SMALL, LARGE = 100, 10_000


def _large(bench: Bench) -> int:
    """Agents of the large hive; fewer where a run only shows that the rows work."""
    return LARGE if bench.effort.reads >= 1000 else LARGE // 10


def uncached(bench: Bench, peer: str) -> Figures:
    """Each size in turn, three times, the best of each: growth is a ratio, and a machine has moods."""
    from bench.policy_load import ALLOW, TARGET, hive_of

    figures: Figures = {}
    with _on(bench.where.broker), hive_of(SMALL) as small, hive_of(_large(bench)) as large:
        for _ in range(3):
            for size, hive in (("small", small), ("large", large)):
                for name, entrypoint in (("target", TARGET), ("allow", ALLOW), ("crowd", TARGET)):
                    asked = [hive.question(entrypoint, name == "crowd") for _ in range(bench.effort.reads)]
                    inputs = [hive.lean(entrypoint, each) for each in asked]
                    engine = _percentiles(lambda one, e=entrypoint, h=hive: h.engine.decide(e, one), inputs)
                    router = _percentiles(
                        lambda one, e=entrypoint, h=hive: h.decider.decide(e, one, 1), asked
                    )
                    hive.decider.take_records()
                    _best(figures, f"{name}_{size}", engine)
                    _best(figures, f"router_{name}_{size}", router)
    figures["growth"] = figures["target_large_p50_us"] / figures["target_small_p50_us"]
    return figures


def _best(figures: Figures, name: str, found: tuple[float, float]) -> None:
    for part, value in zip(("p50_us", "p99_us"), found, strict=True):
        figures[f"{name}_{part}"] = min(value, figures.get(f"{name}_{part}", value))


def hits(bench: Bench, peer: str) -> Figures:
    """The same thousand questions again and again; a call of nothing is taken off."""
    from bench.policy_load import TARGET, hive_of

    with _on(bench.where.broker), hive_of(SMALL) as hive:
        asked = [hive.question(TARGET) for _ in range(1000)]
        keys = [each.key for each in asked]
        for each in asked:
            hive.decider.decide(TARGET, each, 1)
        known = hive.decider.known
        rounds = max(1, bench.effort.reads // 1000) * 3

        def ask() -> None:
            for key in keys:
                known(TARGET, key, "IO.web@bench", 1)

        def nothing() -> None:
            for _key in keys:
                pass

        cost = min(_timed(ask) for _ in range(rounds)) - min(_timed(nothing) for _ in range(rounds))
        assert hive.decider.known(TARGET, keys[0], "IO.web@bench", 1)
        return {"hit_us": cost / len(keys) / 1e3}


def changes(bench: Bench, peer: str) -> Figures:
    """From an agent's new record to a decision that knows it."""
    from bench.policy_load import hive_of

    figures: Figures = {}
    for size, agents in (("small", SMALL), ("large", _large(bench))):
        with _on(bench.where.broker), hive_of(agents) as hive:
            cost = _percentiles(
                lambda _, h=hive: h.decider.apply(h.change()), range(max(50, bench.effort.reads // 20))
            )
            figures[f"change_{size}_p50_us"], figures[f"change_{size}_p99_us"] = cost
    figures["change_p99_ms"] = figures["change_large_p99_us"] / 1e3
    figures["change_growth"] = figures["change_large_p50_us"] / figures["change_small_p50_us"]
    return figures


def server(bench: Bench, peer: str) -> Figures:
    """The same questions, the same data: here, and by OPA's server over a Unix socket."""
    from bench.policy_load import TARGET, ask_server, hive_of, opa_server

    with _on(bench.where.clients), hive_of(_large(bench)) as hive:
        asked = [hive.question(TARGET) for _ in range(max(200, bench.effort.reads // 10))]
        inputs = [hive.lean(TARGET, each) for each in asked]
        with opa_server(hive.documents.whole(), bench.where.broker) as connection:
            for one in inputs[:50]:
                there, here = ask_server(connection, TARGET, one), hive.engine.decide(TARGET, one).result
                if there != here:
                    raise NotRunError(f"OPA's server and this host differ: {there} and {here}")
            figures: Figures = {}
            for _ in range(3):  # in turn, the best of each: a ratio, and a machine has moods
                _best(figures, "opa", _percentiles(lambda one: ask_server(connection, TARGET, one), inputs))
                _best(figures, "here", _percentiles(lambda one: hive.engine.decide(TARGET, one), inputs))
    return figures | {"times": figures["opa_p50_us"] / figures["here_p50_us"]}


def flatness(bench: Bench, peer: str) -> Figures:
    """Decisions with a change of the data after every tenth; the full run is ten million and one million."""
    from bench.policy_load import TARGET, hive_of

    evaluations = int(os.environ.get("SKEP_BENCH_EVALUATIONS", bench.effort.reads * 5))
    with _on(bench.where.broker), hive_of(1000) as hive:
        inputs = [hive.lean(TARGET, hive.question(TARGET)) for _ in range(512)]
        hive.change_all()
        _churn(hive, inputs, 2000)
        begin = (hive.engine.data_end, hive.engine.memory_bytes, _resident_kib())
        errors = _churn(hive, inputs, evaluations)
        end = (hive.engine.data_end, hive.engine.memory_bytes, _resident_kib())
    return {
        "evaluations": float(evaluations), "errors": float(errors), "data_grown_kib": _grown(begin[0], end[0]) / 1024,
        "memory_grown_kib": _grown(begin[1], end[1]) / 1024, "resident_grown_kib": float(_grown(begin[2], end[2])),
    }  # fmt: skip


def _grown(before: int, after: int) -> int:
    """Data that were laid out anew in between are smaller: that is no growth, and no row can hold less than nothing."""
    return max(0, after - before)


def _churn(hive: object, inputs: list[bytes], evaluations: int) -> int:
    from bench.policy_load import TARGET, Hive

    assert isinstance(hive, Hive)
    errors = 0
    for number in range(evaluations):
        errors += bool(hive.engine.decide(TARGET, inputs[number & 511]).error)
        if number % 10 == 0:
            hive.engine.apply(hive.change())
    return errors


def endless(bench: Bench, peer: str) -> Figures:
    """A loop that has no end, in WASM, until the fuel is gone."""
    import wasmtime

    from skep_policy.limits import FUEL_MAX
    from skep_policy.module import engine

    module = wasmtime.Module(engine(), '(module (func (export "loop") (loop $again (br $again))))')
    store = wasmtime.Store(engine())
    store.set_fuel(0)
    loop = wasmtime.Instance(store, module, []).exports(store)["loop"]
    assert isinstance(loop, wasmtime.Func)
    times = []
    with _on(bench.where.broker):
        for _ in range(50):
            store.set_fuel(FUEL_MAX)
            begun = time.perf_counter()
            try:
                loop(store)
            except (wasmtime.WasmtimeError, wasmtime.Trap):
                times.append(time.perf_counter() - begun)
    times.sort()
    return {"loop_p50_ms": times[25] * 1e3, "loop_max_ms": times[-1] * 1e3}


def replay(bench: Bench, peer: str) -> Figures:
    """Recorded decisions made again, on one core."""
    from bench.policy_replay import replay_rate

    with _on(bench.where.broker):
        return replay_rate(
            max(2_000, bench.effort.reads * 5), 1_000 if bench.effort.reads < 20_000 else 10_000
        )


class _on:
    """This process on one core for a while."""

    def __init__(self, core: int) -> None:
        self._core = core

    def __enter__(self) -> None:
        self._before = os.sched_getaffinity(0)
        if self._core >= 0:
            os.sched_setaffinity(0, {self._core})

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._before)


def _percentiles(call: Callable[..., object], arguments: object) -> tuple[float, float]:
    """p50 and p99 of one call each, in microseconds, the clock's own cost included."""
    times = []
    clock = time.perf_counter_ns
    for argument in arguments:  # type: ignore[attr-defined]
        begun = clock()
        call(argument)
        times.append(clock() - begun)
    times.sort()
    return times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3


def _timed(call: Callable[[], None]) -> int:
    begun = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begun


def _resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def _at_most(name: str, figure: str, unit: str, limit: float | None) -> Goal:
    required = "" if limit is None else f"<= {limit:g} {unit}".strip()
    target = None if limit is None else 1
    return Goal(name, LIMIT, figure, unit, True, target, limit if limit is not None else 1, required=required)


def cases() -> list[Case]:
    asked = "uncached decision, default policy"
    return [
        Case("policy decisions", ("skep",), uncached, (
            _at_most(f"{asked}, 10,000 agents, target, p50", "target_large_p50_us", "us", 15),
            _at_most(f"{asked}, 10,000 agents, target, p99", "target_large_p99_us", "us", 60),
            _at_most(f"{asked}, 10,000 agents, allow, p50", "allow_large_p50_us", "us", 15),
            _at_most(f"{asked}, 10,000 agents, allow, p99", "allow_large_p99_us", "us", 60),
            _at_most(f"{asked}, growth from 100 to 10,000 agents", "growth", "x", 1.5),
            _at_most(f"{asked}, 10,000 agents, target of ten candidates, p50", "crowd_large_p50_us", "us", None),
            _at_most(f"{asked}, 10,000 agents, target, all that the router does, p50", "router_target_large_p50_us",
                     "us", None),
        )),
        Case("policy decision kept", ("skep",), hits, (_at_most("kept decision found", "hit_us", "us", 0.3),)),
        Case("policy data changed", ("skep",), changes, (
            _at_most("one identity change in the policy's data, 10,000 agents, p99", "change_p99_ms", "ms", 10),
            _at_most("one identity change, growth from 100 to 10,000 agents", "change_growth", "x", 2),
        )),
        Case("policy beside OPA's server", ("skep",), server, (
            Goal("decisions against opa run --server over a Unix socket, p50", LIMIT, "times", "x", target=1, limit=20,
                 required=">= 20 x"),
        ), rounds=1),
        Case("policy memory", ("skep",), flatness, (
            _at_most("data grown by decisions and changes", "data_grown_kib", "KiB", 64),
            _at_most("errors among decisions and changes", "errors", "", 0.5),
        ), rounds=1),
        Case("policy loop", ("skep",), endless, (
            _at_most("endless loop in a policy ends, p50", "loop_p50_ms", "ms", 2),
        ), rounds=1),
        Case("policy replay", ("skep",), replay, (
            Goal("recorded decisions replayed on one core", LIMIT, "replay_per_s", "1/s", target=1, limit=20_000,
                 required=">= 20,000/s"),
        ), rounds=1),
    ]  # fmt: skip
