"""Naive models of the router's tables: lists and walks, so plain that they can be read instead of trusted.

Each answers the same questions as its production counterpart and shares no code with it except the names of things.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from skep_router.registry import Outcome
from skep_shm import MatchKind, Route, RouteAction, VpnRule

HIVE = "h"


@dataclass(eq=False)
class FakeLink:
    """What the registry reads of a connection."""

    uuid: bytes
    name: str
    uid: int = 1000
    vpn_id: int = 0
    tenant: bytes = bytes(16)


def link(number: int, name: str, uid: int = 1000) -> FakeLink:
    return FakeLink(number.to_bytes(16, "big"), name if "@" in name else f"{name}@{HIVE}", uid)


def route(
    prefix: str,
    kind: MatchKind = MatchKind.PREFIX,
    action: RouteAction = RouteAction.FORWARD,
    *,
    hive: str = "",
    name: str = "",
    metric: int = 0,
    priority: int = 100,
    installed_at_ms: int = 0,
) -> Route:
    return Route(prefix, kind, action, hive, name, metric, priority, installed_at_ms)


def system(name: str) -> bool:
    return name[:3] in ("SY.", "RT.")


def glob(pattern: str, text: str) -> bool:
    """By recursion over both strings."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return glob(pattern[1:], text) or (bool(text) and glob(pattern, text[1:]))
    return bool(text) and pattern[0] == text[0] and glob(pattern[1:], text[1:])


def pattern_covers(pattern: str, kind: MatchKind, name: str) -> bool:
    if kind == MatchKind.EXACT:
        return pattern == name
    if kind == MatchKind.PREFIX:
        return name.startswith(pattern[:-2] if pattern.endswith(".*") else pattern)
    return glob(pattern, name)


def literal_length(pattern: str, kind: MatchKind) -> int:
    if kind == MatchKind.PREFIX and pattern.endswith(".*"):
        pattern = pattern[:-2]
    return len(pattern.replace("*", "")) if kind == MatchKind.GLOB else len(pattern)


def route_order(one: Route) -> tuple[object, ...]:
    """Longest, then EXACT > PREFIX > GLOB, priority, metric, older; then the text, to make it a total order."""
    text = (one.prefix, one.action, one.next_hop_hive, one.next_hop_name)
    length = literal_length(one.prefix, one.match_kind)
    return (-length, one.match_kind, one.priority, one.metric, one.installed_at_ms, text)


def vpn_order(rule: VpnRule) -> tuple[object, ...]:
    length = literal_length(rule.pattern, rule.match_kind)
    return (rule.priority, -length, rule.match_kind, rule.pattern, rule.vpn_id)


@dataclass
class NaiveRegistry:
    """Entries in join order in one list, names in order of appearance in another, holds in a third."""

    hive: str
    grace_ns: int
    entries: list[FakeLink] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    holds: list[tuple[str, int, int]] = field(default_factory=list)  # name, uid, until

    def group(self, name: str) -> tuple[FakeLink, ...]:
        return tuple(entry for entry in self.entries if entry.name == name)

    def find(self, uuid: bytes) -> FakeLink | None:
        return next((entry for entry in self.entries if entry.uuid == uuid), None)

    def join(self, entry: FakeLink, now: int) -> tuple[Outcome, FakeLink | None]:
        old = self.find(entry.uuid)
        if entry.name.split("@", 1)[1] != self.hive:
            return Outcome.NAME_FOREIGN, None
        if old and old.uid != entry.uid:
            return Outcome.UUID_TAKEN, None
        others = [one for one in self.group(entry.name) if one is not old]
        if any(one.uid != entry.uid for one in others):
            return Outcome.NAME_HELD, None
        held = [uid for name, uid, until in self.holds if name == entry.name and now < until]
        if any(uid != entry.uid for uid in held):
            return Outcome.NAME_HELD, None
        if others and system(entry.name):
            return Outcome.NAME_SINGLE, None
        if old is not None:
            self._replace(old, entry, now)
        else:
            self.entries.append(entry)
        self._rename()
        self.holds = [hold for hold in self.holds if hold[0] != entry.name]
        return (Outcome.REPLACED if old else Outcome.JOINED), old

    def _replace(self, old: FakeLink, entry: FakeLink, now: int) -> None:
        if self.group(entry.name) == (old,):
            self.entries[self.entries.index(old)] = entry
            return
        self.entries.remove(old)
        self.entries.append(entry)
        if not self.group(old.name):
            self.holds.append((old.name, old.uid, now + self.grace_ns))

    def leave(self, entry: FakeLink, now: int) -> bool:
        if not any(one is entry for one in self.entries):
            return False
        self.entries.remove(entry)
        if not self.group(entry.name):
            self.holds.append((entry.name, entry.uid, now + self.grace_ns))
        self._rename()
        return True

    def _rename(self) -> None:
        live = [entry.name for entry in self.entries]
        kept = [name for name in self.names if name in live]
        self.names = kept + [name for name in dict.fromkeys(live) if name not in kept]


Answer = tuple[str, object]


@dataclass
class NaiveFib:
    """Sorts everything anew for each question."""

    registry: NaiveRegistry
    routes: tuple[Route, ...] = ()
    vpns: tuple[VpnRule, ...] = ()

    def usable(self) -> list[Route]:
        drop = RouteAction.DROP
        return [one for one in self.routes if one.action == drop or one.next_hop_hive or one.next_hop_name]

    def best(self, name: str) -> Route | None:
        fitting = (one for one in self.usable() if pattern_covers(one.prefix, one.match_kind, name))
        return min(fitting, key=route_order, default=None)

    def follow(self, one: Route, name: str) -> Answer:
        if one.action == RouteAction.DROP:
            return "drop", None
        if one.next_hop_name:
            return self.live(one.next_hop_name)
        return self.live(name) if one.next_hop_hive == HIVE else ("hive", one.next_hop_hive)

    def live(self, name: str) -> Answer:
        group = self.registry.group(name)
        return ("local", group) if group else ("not found", None)

    def resolve(self, name: str, source_hive: str) -> Answer:
        base, hive = name.split("@", 1)
        if hive != "*":
            found = self.best(name)
            return self.follow(found, name) if found else self.live(name)
        if "*" in base:
            return self._resolve_glob(base)
        for candidate in (f"{base}@{source_hive}", f"{base}@{HIVE}"):
            found = self.best(candidate)
            if found:
                return self.follow(found, candidate)
            if self.registry.group(candidate):
                return self.live(candidate)
        elsewhere = [
            one for one in self.usable()
            if one.match_kind == MatchKind.EXACT and one.prefix.split("@")[0] == base
        ]
        first = min(elsewhere, key=route_order, default=None)
        return self.follow(first, first.prefix) if first else ("not found", None)

    def _resolve_glob(self, base: str) -> Answer:
        names = [name for name in self.registry.names if glob(f"{base}@{HIVE}", name)]
        if not names:
            return "not found", None
        longest = max(map(len, names))
        oldest = next(name for name in names if len(name) == longest)
        return self.resolve(oldest, HIVE)

    def vpn_of(self, name: str) -> int:
        if system(name):
            return 0
        fitting = [rule for rule in self.vpns if pattern_covers(rule.pattern, rule.match_kind, name)]
        return min(fitting, key=vpn_order).vpn_id if fitting else 0
