"""Where names lead: static routes over the registry's names, and the VPN rules that part them.

Owns nothing that lives: routes and rules are compiled from configuration in `configure`, members are the registry's.
`resolve` answers with a value and is asked only when a flow is missing.

Order. A static route is an explicit override and is asked first, whatever is registered. Among routes: longest
pattern, then EXACT > PREFIX > GLOB, then lower priority, lower metric, older; after that the texts themselves, so
that the order in which a file lists its routes decides nothing. A FORWARD with `next_hop_name` leads to that name *in
the registry*; routes are not asked again, so a chain, and with it a loop, cannot be written down. Only then come
registered names, and for `base@*` other hives.

Finding the best pattern must not cost its number: misses can be provoked. EXACT is a dictionary; PREFIX and GLOB lie
in a dictionary under the literal text that they begin with, asked once for each *length* that occurs. Only globs that
begin alike are tried one by one. Where an answer needs a walk over names (`base` with `*`), `work` says how many
misses it is worth, and the core charges them to the asker.

Rejected: compiling routes and nodes into one sorted table (each join would rebuild it); regular expressions (several
`.*` backtrack; a glob here never does, see `names`); caching answers here (the flow table is that cache, and knows
what invalidates it).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from skep.protocol.names import glob_match, is_system, matches_target, pattern_rank, prefix_of
from skep_router.registry import E, Registry
from skep_shm import MatchKind, Route, RouteAction, VpnRule

# Names walked over for the price of one miss: testing one takes about a microsecond, a whole miss some twenty.
NAMES_PER_MISS = 16

V = TypeVar("V")
Test = Callable[[str], bool]


def broadcast_matches(target: str, name: str) -> bool:
    """Does a broadcast with this `meta.target` reach `name`? Empty reaches all; otherwise a glob, or equality."""
    return not target or matches_target(target, name)


def vpn_allows(a_name: str, a_vpn: int, b_name: str, b_vpn: int) -> bool:
    """May these two ends speak? System and router names stand outside every VPN.

    Upstream lets any message of type `system` with scope `global` pass, whoever sends it. Here that right comes with
    the name alone: who may send a system verb at all is `grants.may_emit`."""
    return a_vpn == b_vpn or is_system(a_name) or is_system(b_name)


class _Row(NamedTuple, Generic[V]):
    order: tuple[Any, ...]
    glob: str | None  # None: the literal start is all there is to it
    value: V


class PatternTable(Generic[V]):
    """Values under patterns. `best` finds the lowest `order` among the patterns that match a name."""

    __slots__ = ("_exact", "_lengths", "_literal")

    def __init__(self, rules: Iterable[tuple[tuple[Any, ...], str, MatchKind, V]] = ()) -> None:
        self._exact: dict[str, _Row[V]] = {}
        self._literal: dict[str, list[_Row[V]]] = {}
        for order, pattern, kind, value in sorted(rules, key=lambda rule: rule[0]):
            self._add(order, pattern, kind, value)
        self._lengths = sorted({len(start) for start in self._literal}, reverse=True)

    def _add(self, order: tuple[Any, ...], pattern: str, kind: MatchKind, value: V) -> None:
        if kind == MatchKind.EXACT:
            self._exact.setdefault(pattern, _Row(order, None, value))
            return
        if kind == MatchKind.PREFIX:
            start, row = prefix_of(pattern), _Row(order, None, value)
        else:
            start, row = pattern.partition("*")[0], _Row(order, pattern, value)
        self._literal.setdefault(start, []).append(row)

    def best(self, name: str) -> V | None:
        found = self._exact.get(name)
        for length in self._lengths:
            for row in self._literal.get(name[:length], ()):
                if found is not None and found.order <= row.order:
                    break
                if row.glob is None or glob_match(row.glob, name):
                    found = row
                    break
        return None if found is None else found.value


def _route_order(route: Route) -> tuple[Any, ...]:
    return (
        -pattern_rank(route.prefix, route.match_kind), int(route.match_kind), route.priority, route.metric,
        route.installed_at_ms, route.prefix, int(route.action), route.next_hop_hive, route.next_hop_name,
    )


def _vpn_order(rule: VpnRule) -> tuple[Any, ...]:
    length = pattern_rank(rule.pattern, rule.match_kind)
    return (rule.priority, -length, int(rule.match_kind), rule.pattern, rule.vpn_id)


class Local(NamedTuple, Generic[E]):
    """To one of these members of one name, in the order in which they joined."""

    entries: tuple[E, ...]
    watches: str
    work: int = 1


class Hive(NamedTuple):
    """To the gateway, for another hive."""

    hive: str
    watches: str = ""
    work: int = 1


class Drop(NamedTuple):
    """Nowhere: a static route says so, and the sender hears nothing."""

    watches: str = ""
    work: int = 1


class NotFound(NamedTuple):
    """Nobody is there. A refusal is not remembered, so it watches nothing."""

    work: int = 1


# Where a name leads. The answer stands until the configuration changes (`affected`), one of `entries` leaves or their
# name gains a member, or a name equal to `watches` (matched by it, where it holds a `*`) gains or loses a member.
# `work` is the number of misses that the answer was worth.
Resolution = Local[E] | Hive | Drop | NotFound


class Fib(Generic[E]):
    """Answers for one router of one hive."""

    __slots__ = ("_by_base", "_registry", "_routes", "_vpns", "hive")

    def __init__(self, hive: str, registry: Registry[E]) -> None:
        self.hive = hive
        self._registry = registry
        self.configure((), ())

    def configure(self, routes: Iterable[Route], vpns: Iterable[VpnRule]) -> None:
        """Compile a new configuration; flows that it could touch are named by `affected`."""
        ordered = sorted((route for route in routes if _leads_somewhere(route)), key=_route_order)
        self._routes = PatternTable((_route_order(r), r.prefix, r.match_kind, r) for r in ordered)
        self._vpns = PatternTable((_vpn_order(v), v.pattern, v.match_kind, v.vpn_id) for v in vpns)
        self._by_base: dict[str, Route] = {}
        for route in ordered:
            if route.match_kind == MatchKind.EXACT:
                self._by_base.setdefault(route.prefix.partition("@")[0], route)

    def resolve(self, name: str, source_hive: str = "") -> Resolution[E]:
        """Where `name` leads for a sender in `source_hive` (empty: this hive). A name without `@` is this hive's."""
        base, at, hive = name.partition("@")
        if hive == "*":
            return self._resolve_any(base, source_hive or self.hive)
        return self._resolve_full(name if at else f"{name}@{self.hive}")

    def vpn_of(self, name: str) -> int:
        """The VPN of a full name: 0 for SY and RT and where no rule matches."""
        if is_system(name):
            return 0
        return self._vpns.best(name) or 0

    def _resolve_full(self, name: str) -> Resolution[E]:
        route = self._routes.best(name)
        return self._local(name) if route is None else self._follow(route, name)

    def _follow(self, route: Route, name: str) -> Resolution[E]:
        if route.action == RouteAction.DROP:
            return Drop()
        if route.next_hop_name:
            base, _, hive = route.next_hop_name.partition("@")
            return self._local(f"{base}@{self.hive}" if hive in ("", "*") else route.next_hop_name)
        if route.next_hop_hive == self.hive:
            return self._local(name)
        return Hive(route.next_hop_hive)

    def _local(self, name: str) -> Resolution[E]:
        entries = self._registry.group(name)
        return Local(entries, name) if entries else NotFound()

    def _resolve_any(self, base: str, source_hive: str) -> Resolution[E]:
        """`base@*`: the sender's hive, then ours, then any that an EXACT route names."""
        if "*" in base:
            return self._resolve_glob(base)
        for hive in dict.fromkeys((source_hive, self.hive)):
            name = f"{base}@{hive}"
            route = self._routes.best(name)
            if route is not None:
                return self._follow(route, name)
            found = self._local(name)
            if isinstance(found, Local):
                return found
        elsewhere = self._by_base.get(base)
        if elsewhere is None:
            return NotFound()
        return _watching(self._follow(elsewhere, elsewhere.prefix), f"{base}@{self.hive}", 1)

    def _resolve_glob(self, base: str) -> Resolution[E]:
        """The longest matching name, the older of equals. A walk over all names, worth as many misses as it costs."""
        pattern = f"{base}@{self.hive}"
        piece = max(base.split("*"), key=len)  # `in` is ten times faster than the whole test, and mostly enough
        likely = [name for name in self._registry.names() if piece in name]
        name = max((name for name in likely if glob_match(pattern, name)), key=len, default="")
        found: Resolution[E] = self._resolve_full(name) if name else NotFound()
        return _watching(found, pattern, 1 + len(self._registry) // NAMES_PER_MISS)


def _watching(found: Resolution[E], watches: str, work: int) -> Resolution[E]:
    """The same answer, which also rests on who is called `watches`."""
    if isinstance(found, NotFound):
        return NotFound(work)
    return found._replace(watches=watches, work=work)


def _leads_somewhere(route: Route) -> bool:
    """A FORWARD without a next hop is skipped, as upstream does."""
    return route.action == RouteAction.DROP or bool(route.next_hop_hive or route.next_hop_name)


class Rules(Protocol):
    """The part of a configuration that this module reads."""

    @property
    def routes(self) -> tuple[Route, ...]: ...
    @property
    def vpns(self) -> tuple[VpnRule, ...]: ...


def affected(old: Rules, new: Rules) -> Test:
    """A test telling which destination names a change from `old` to `new` could lead elsewhere.

    Ask it both for the name as the sender wrote it and for the names of the members that it led to: a VPN rule speaks
    of those. A name with `*` is always touched by a change, because it may have matched anything."""
    routes = {r for r in set(old.routes) ^ set(new.routes) if _leads_somewhere(r)}
    patterns = {(r.prefix, r.match_kind) for r in routes}
    patterns |= {(v.pattern, v.match_kind) for v in set(old.vpns) ^ set(new.vpns)}
    if not patterns:
        return lambda _name: False
    table = PatternTable(((), pattern, kind, True) for pattern, kind in patterns)
    return lambda name: "*" in name or "@" not in name or table.best(name) is not None
