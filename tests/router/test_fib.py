"""Where names lead: each rule by an example, then any registry under any configuration against a naive model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.models import HIVE, FakeLink, NaiveFib, NaiveRegistry, glob, link, route
from skep_router import fib
from skep_router.fib import Drop, Fib, Local, NotFound, affected, broadcast_matches, vpn_allows
from skep_router.registry import Registry
from skep_shm import MatchKind, Route, RouteAction, VpnRule

EXACT, PREFIX, GLOB = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.GLOB
DROP = RouteAction.DROP


class Table:
    """A FIB over a registry with these names."""

    def __init__(self, *names: str, routes: tuple[Route, ...] = (), vpns: tuple[VpnRule, ...] = ()) -> None:
        self.registry: Registry[FakeLink] = Registry(HIVE, 0.0)
        for number, name in enumerate(names):
            assert self.registry.join(link(number, name), 0).joined
        self.fib: Fib[FakeLink] = Fib(HIVE, self.registry)
        self.fib.configure(routes, vpns)

    def leads(self, name: str, source_hive: str = "") -> str:
        """The answer in one word: a local name, `@hive`, `drop` or `nowhere`."""
        found = self.fib.resolve(name, source_hive)
        if isinstance(found, Local):
            first: FakeLink = found.entries[0]
            return first.name
        if isinstance(found, fib.Hive):
            return f"@{found.hive}"
        return "drop" if isinstance(found, Drop) else "nowhere"


# -- registered names ----------------------------------------------------------------------------------------------


def test_a_registered_name_leads_to_all_its_members() -> None:
    table = Table("AI.x", "AI.y", "AI.x")
    found = table.fib.resolve("AI.x@h")
    assert isinstance(found, Local)
    assert [one.uuid[-1] for one in found.entries] == [0, 2]
    assert found.watches == "AI.x@h"


def test_a_name_without_hive_is_this_hives() -> None:
    assert Table("AI.x").leads("AI.x") == "AI.x@h"


@pytest.mark.parametrize("name", ["AI.y@h", "AI.x@other", "AI.x@", "@h", "", "@*", "*@*"])
def test_nobody_is_there(name: str) -> None:
    assert Table().leads(name) == "nowhere"


# -- static routes -------------------------------------------------------------------------------------------------


def test_a_static_route_overrides_a_live_node() -> None:
    """Upstream's documents promise it; its code prefers any known node."""
    routes = (route("AI.*", PREFIX, hive="far"),)
    assert Table("AI.x", routes=routes).leads("AI.x@h") == "@far"


def test_drop_overrides_a_live_node() -> None:
    assert Table("AI.x", routes=(route("AI.x@h", EXACT, DROP),)).leads("AI.x@h") == "drop"


def test_a_route_can_lead_to_another_local_name() -> None:
    table = Table("AI.x", "AI.y", routes=(route("AI.x@h", EXACT, name="AI.y@h"),))
    assert table.leads("AI.x@h") == "AI.y@h"


@pytest.mark.parametrize("target", ["AI.y", "AI.y@*", "AI.y@h"])
def test_the_next_hop_name_may_be_written_in_any_form(target: str) -> None:
    table = Table("AI.x", "AI.y", routes=(route("AI.x@h", EXACT, name=target),))
    assert table.leads("AI.x@h") == "AI.y@h"


def test_routes_are_not_asked_again_so_they_cannot_loop() -> None:
    routes = (route("AI.x@h", EXACT, name="AI.y@h"), route("AI.y@h", EXACT, name="AI.x@h"))
    table = Table("AI.x", "AI.y", routes=routes)
    assert table.leads("AI.x@h") == "AI.y@h"
    assert table.leads("AI.y@h") == "AI.x@h"


def test_an_override_to_nobody_does_not_fall_back() -> None:
    table = Table("AI.x", routes=(route("AI.x@h", EXACT, name="AI.gone@h"),))
    assert table.leads("AI.x@h") == "nowhere"
    assert table.leads("AI.x@*") == "nowhere"


def test_a_next_hop_hive_that_is_ours_means_the_usual_look_up() -> None:
    routes = (route("AI.*", PREFIX, hive="far"), route("AI.x@h", EXACT, hive=HIVE))
    table = Table("AI.x", "AI.y", routes=routes)
    assert table.leads("AI.x@h") == "AI.x@h"
    assert table.leads("AI.y@h") == "@far"


def test_a_forward_without_next_hop_is_skipped() -> None:
    assert Table("AI.x", routes=(route("AI.x@h", EXACT),)).leads("AI.x@h") == "AI.x@h"


ORDER = {
    "the longer pattern": (route("AI.ab.*", PREFIX, hive="won"), route("AI.a.*", PREFIX, hive="lost")),
    "the longer pattern, though a glob": (route("AI*b@h", GLOB, hive="won"), route("AI.*", PREFIX, hive="lost")),
    "stars do not count": (route("AI.ab", PREFIX, hive="won"), route("A*I*.*a*@*", GLOB, hive="lost")),
    "EXACT before PREFIX": (route("AI.ab@h", EXACT, hive="won"), route("AI.ab@h", PREFIX, hive="lost")),
    "PREFIX before GLOB": (route("AI.a", PREFIX, hive="won"), route("AI.a*", GLOB, hive="lost")),
    "lower priority number": (
        route("AI.ab@h", EXACT, hive="won", priority=1, metric=9), route("AI.ab@h", EXACT, hive="lost", priority=2),
    ),
    "lower metric": (
        route("AI.a*", GLOB, hive="won", metric=1, installed_at_ms=9), route("AI.*b", GLOB, hive="lost", metric=2),
    ),
    "older": (
        route("AI.a*", GLOB, hive="won", installed_at_ms=1), route("AI.*b", GLOB, hive="lost", installed_at_ms=2),
    ),
}


@pytest.mark.parametrize("pair", ORDER.values(), ids=ORDER.keys())
def test_the_order_among_routes(pair: tuple[Route, Route]) -> None:
    won, lost = pair
    for routes in ((won, lost), (lost, won)):
        assert Table("AI.ab", routes=routes).leads("AI.ab@h") == "@won"


def test_the_order_of_the_file_decides_nothing() -> None:
    one, two = route("AI.x@h", EXACT, hive="a"), route("AI.x@h", EXACT, hive="b")
    assert Table(routes=(one, two)).leads("AI.x@h") == Table(routes=(two, one)).leads("AI.x@h")


# -- base@* --------------------------------------------------------------------------------------------------------


def test_any_hive_means_ours_first() -> None:
    table = Table("AI.x", routes=(route("AI.x@far", EXACT, hive="far"),))
    assert table.leads("AI.x@*") == "AI.x@h"


def test_any_hive_means_the_senders_before_ours() -> None:
    table = Table("AI.x", routes=(route("AI.x@far", EXACT, hive="far"),))
    assert table.leads("AI.x@*", "far") == "@far"
    assert table.leads("AI.x@*", "farther") == "AI.x@h"


def test_any_hive_reaches_another_when_nobody_is_here() -> None:
    table = Table("AI.y", routes=(route("AI.x@far", EXACT, hive="far"),))
    found = table.fib.resolve("AI.x@*")
    assert found == fib.Hive("far", watches="AI.x@h")  # a node that joins as AI.x changes the answer


def test_any_hive_obeys_routes_for_our_name() -> None:
    assert Table("AI.x", routes=(route("AI.x", PREFIX, DROP),)).leads("AI.x@*") == "drop"


def test_a_pattern_takes_the_longest_name_and_the_older_of_equals() -> None:
    table = Table("AI.b", "AI.a", "IO.long.name", "AI.ab", "AI.aa")
    assert table.leads("AI.*@*") == "AI.ab@h"
    found = table.fib.resolve("AI.*@*")
    assert isinstance(found, Local)
    assert found.watches == "AI.*@h"
    assert broadcast_matches(found.watches, "AI.new@h")


def test_a_pattern_is_charged_by_what_it_walks_over() -> None:
    table = Table(*(f"AI.n{number}" for number in range(640)))
    assert table.fib.resolve("*.nobody@*") == NotFound(work=41)
    assert table.fib.resolve("AI.n1@*").work == 1


# -- VPN, broadcast ------------------------------------------------------------------------------------------------


def test_vpn_rules_by_ascending_priority() -> None:
    rules = (VpnRule("AI.*", PREFIX, 7, 50), VpnRule("AI.x@h", EXACT, 8, 60), VpnRule("*", GLOB, 9, 100))
    table = Table(vpns=rules)
    assert table.fib.vpn_of("AI.x@h") == 7
    assert table.fib.vpn_of("IO.x@h") == 9
    assert Table().fib.vpn_of("IO.x@h") == 0


@pytest.mark.parametrize("name", ["SY.admin@h", "RT.main@h"])
def test_system_names_are_in_no_vpn(name: str) -> None:
    assert Table(vpns=(VpnRule("*", GLOB, 9, 100),)).fib.vpn_of(name) == 0


@pytest.mark.parametrize(
    ("a", "a_vpn", "b", "b_vpn", "allowed"),
    [
        ("AI.x@h", 1, "AI.y@h", 1, True),
        ("AI.x@h", 1, "AI.y@far", 1, True),
        ("AI.x@h", 1, "AI.y@h", 2, False),
        ("AI.x@h", 0, "AI.y@h", 2, False),
        ("SY.x@h", 0, "AI.y@h", 2, True),
        ("AI.x@h", 1, "RT.y@h", 0, True),
        ("SYX.x@h", 0, "AI.y@h", 2, False),
        ("AI.SY.x@h", 0, "AI.y@h", 2, False),
    ],
)
def test_who_may_meet(a: str, a_vpn: int, b: str, b_vpn: int, allowed: bool) -> None:
    assert vpn_allows(a, a_vpn, b, b_vpn) is allowed


@pytest.mark.parametrize(
    ("target", "name", "reached"),
    [
        ("", "AI.x@h", True),
        ("AI.x@h", "AI.x@h", True),
        ("AI.x", "AI.x@h", False),
        ("AI.*", "AI.x@h", True),
        ("*@h", "AI.x@h", True),
        ("*.x@*", "AI.x@h", True),
        ("IO.*", "AI.x@h", False),
        ("a*a", "a", False),
    ],
)
def test_broadcast_targets(target: str, name: str, reached: bool) -> None:
    assert broadcast_matches(target, name) is reached


# -- what a change of configuration touches ------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    routes: tuple[Route, ...] = ()
    vpns: tuple[VpnRule, ...] = ()


def test_a_change_touches_the_names_that_its_patterns_match() -> None:
    old = Rules((route("AI.a", PREFIX, hive="far"), route("AI.z@h", EXACT, DROP)))
    new = Rules((route("AI.a", PREFIX, hive="far"),), (VpnRule("IO.*", PREFIX, 3, 100),))
    touched = affected(old, new)
    assert touched("AI.z@h")
    assert touched("IO.any@h")
    assert not touched("AI.a@h")
    assert touched("AI.any@*")


def test_no_change_touches_nothing() -> None:
    rules = Rules((route("AI.a", PREFIX, hive="far"),))
    touched = affected(rules, Rules(tuple(rules.routes)))
    assert not touched("AI.a@h")
    assert not touched("AI.a@*")


# -- against the naive model ---------------------------------------------------------------------------------------

NAMES = ("AI.a", "AI.ab", "AI.b", "AI.a.b", "IO.a", "SY.a")
PATTERNS = ("AI.a@h", "AI.ab@h", "AI.a", "AI.*", "AI.a.*", "A*", "*b@h", "*", "AI.*b*", "AI.a@far", "IO.a@far")
QUESTIONS = (
    "AI.a@h", "AI.ab@h", "SY.a@h", "AI.a@far", "AI.zz@h", "AI.a@*", "IO.a@*", "AI.*@*", "*@*",
)

a_route = st.builds(
    route,
    st.sampled_from(PATTERNS),
    st.sampled_from(MatchKind),
    st.sampled_from(RouteAction),
    hive=st.sampled_from(["", HIVE, "far", "farther"]),
    name=st.sampled_from(["", "", "AI.b@h", "IO.a@h"]),
    metric=st.integers(0, 1),
    priority=st.integers(0, 1),
    installed_at_ms=st.integers(0, 1),
)
a_vpn = st.builds(
    VpnRule, st.sampled_from(PATTERNS), st.sampled_from(MatchKind), st.integers(0, 3), st.integers(0, 2)
)
some_rules = st.builds(
    Rules, st.lists(a_route, max_size=6).map(tuple), st.lists(a_vpn, max_size=4).map(tuple)
)


def in_words(found: fib.Resolution[FakeLink]) -> tuple[str, object]:
    if isinstance(found, Local):
        return "local", found.entries
    if isinstance(found, fib.Hive):
        return "hive", found.hive
    return ("drop", None) if isinstance(found, Drop) else ("not found", None)


Answers = dict[tuple[str, str], fib.Resolution[FakeLink]]


class FibMachine(RuleBasedStateMachine):
    """Joins, leaves and configurations. `affected` and `watches` are checked on the way: an answer may only change when
    one of them said so, because that is what the core drops flows by."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[FakeLink] = Registry(HIVE, 0.0)
        self.fib: Fib[FakeLink] = Fib(HIVE, self.registry)
        self.model = NaiveFib(NaiveRegistry(HIVE, 0))
        self.config = Rules()

        self.last = self.answers()

    def answers(self) -> Answers:
        return {(ask, hive): self.fib.resolve(ask, hive) for ask in QUESTIONS for hive in ("h", "far")}

    @rule(number=st.integers(0, 6), name=st.sampled_from(NAMES))
    def join(self, number: int, name: str) -> None:
        before, entry = self.last, link(number, name)
        result = self.registry.join(entry, 0)
        assert tuple(result) == self.model.registry.join(entry, 0)
        if result.joined:
            moved = {entry.name} | ({result.replaced.name} if result.replaced else set())
            self.changed_only_where_watched(before, moved)

    @rule(number=st.integers(0, 6))
    def leave(self, number: int) -> None:
        before, entry = self.last, self.registry.by_uuid(number.to_bytes(16, "big"))
        if entry is not None:
            assert self.registry.leave(entry, 0)
            assert self.model.registry.leave(entry, 0)
            self.changed_only_where_watched(before, {entry.name})

    @rule(rules=some_rules)
    def configure(self, rules: Rules) -> None:
        before, touched = self.last, affected(self.config, rules)
        vpns = {name: self.fib.vpn_of(f"{name}@h") for name in NAMES}
        self.fib.configure(rules.routes, rules.vpns)
        self.config, self.model.routes, self.model.vpns = rules, rules.routes, rules.vpns
        for (ask, hive), found in self.answers().items():
            assert touched(ask) or in_words(found) == in_words(before[ask, hive])
        for name, vpn in vpns.items():
            assert touched(f"{name}@h") or self.fib.vpn_of(f"{name}@h") == vpn

    def changed_only_where_watched(self, before: Answers, moved: set[str]) -> None:
        for asked, found in self.answers().items():
            was = before[asked]
            if isinstance(was, NotFound):
                continue
            members = {entry.name for entry in was.entries} if isinstance(was, Local) else set()
            watched = any(broadcast_matches(was.watches, name) for name in moved if was.watches)
            assert watched or members & moved or in_words(found) == in_words(was)

    @invariant()
    def agree(self) -> None:
        self.last = self.answers()
        for (ask, hive), found in self.last.items():
            assert in_words(found) == self.model.resolve(ask, hive), (ask, hive)
        for name in NAMES:
            assert self.fib.vpn_of(f"{name}@h") == self.model.vpn_of(f"{name}@h")


TestFibMachine = FibMachine.TestCase
TestFibMachine.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


@settings(max_examples=200, deadline=None)
@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_globs_agree_with_the_naive_matcher(pattern: str, text: str) -> None:
    table = Table(routes=(route(pattern, GLOB, hive="far"),))
    assert (table.leads(f"{text}@h") == "@far") == glob(pattern, f"{text}@h")


# -- what it costs -------------------------------------------------------------------------------------------------


def _ask_ns(table: Table, name: str) -> float:
    costs = []
    for _ in range(300):
        started = time.perf_counter_ns()
        table.fib.resolve(name)
        costs.append(time.perf_counter_ns() - started)
    return median(costs)


@pytest.mark.parametrize("kind", [EXACT, PREFIX, GLOB])
def test_two_thousand_routes_cost_as_twenty(kind: MatchKind) -> None:
    def table(count: int) -> Table:
        ends = "*" if kind == GLOB else ""
        return Table(routes=tuple(route(f"AI.n{i:04}{ends}", kind, hive="far") for i in range(count)))

    few, many = table(20), table(2000)
    assert median(_ask_ns(many, "AI.n0007.x@h") for _ in range(5)) <= 2 * median(
        _ask_ns(few, "AI.n0007.x@h") for _ in range(5)
    )


@pytest.mark.goal("G9")
def test_no_pattern_is_slow_on_a_hostile_name() -> None:
    table = Table(routes=(route("*a" * 100 + "*b", GLOB, hive="far"),))
    started = time.perf_counter()
    assert table.leads("a" * 254 + "@h") == "nowhere"
    assert time.perf_counter() - started < 0.05
