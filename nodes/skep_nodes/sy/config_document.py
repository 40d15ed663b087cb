"""The configuration document: routes, VPN rules, grants and limits, as plain data and as typed state.

Owns the only translation between the plain form (YAML file, CONFIG_CHANGED, `-o json`) and `ConfigState`. Every
entry is checked on the way in, unknown members included, and an error names the entry and what to write instead,
so a document is either wholly valid or not a document.

Rejected: accepting a FORWARD route without a next hop (it would do nothing, silently), and `*` in EXACT or PREFIX
patterns (compared literally there, so it would match nothing).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from skep.protocol import limits as wire_limits
from skep.protocol.errors import ProtocolError
from skep.protocol.limits import HIVE_BYTES_MAX
from skep.protocol.limits import NAME_BYTES_MAX as PATTERN_BYTES_MAX
from skep.protocol.names import parse_hive
from skep_shm import ConfigState, Grant, MatchKind, Route, RouteAction, VpnRule

# Ten times what upstream's fixed tables held; the region grows, the bound keeps one message from filling it.
ROUTES_MAX = VPNS_MAX = 2560
GRANTS_MAX = 4096
U16_MAX, U32_MAX, I64_MAX = (1 << 16) - 1, (1 << 32) - 1, (1 << 63) - 1
ZERO16 = bytes(16)

_PATTERN = re.compile(r"[A-Za-z0-9_.@*-]+")
_HIVE = re.compile(r"[A-Za-z0-9_.-]+")
# What an operator may make smaller: every whole number among the wire's limits.
CHANGEABLE = {
    name: bound for name, bound in vars(wire_limits).items() if name.isupper() and type(bound) is int
}
_ILK_MODES = {"none": 0, "any": 2}

Entry = TypeVar("Entry", Route, VpnRule, Grant)


class ConfigInvalid(Exception):
    """An entry that cannot be accepted: where it is, what is wrong with it, what to write instead."""

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{where}: {problem}" + (f"; {hint}" if hint else ""))
        self.where, self.problem, self.hint = where, problem, hint


# -- from plain data -------------------------------------------------------------------------------------------


def state_from(document: object) -> ConfigState:
    """Check a whole document and return its state. Raises ConfigInvalid."""
    fields = _members(document, "document", {"version", "updated_at", "routes", "vpns", "grants", "limits"})
    return ConfigState(
        version=_whole(fields, "version", "document", 1, I64_MAX, 1),
        routes=routes_from(fields.get("routes", [])),
        vpns=vpns_from(fields.get("vpns", [])),
        grants=grants_from(fields.get("grants", [])),
        limits=limits_from(fields.get("limits", {})),
    )


def routes_from(entries: object) -> tuple[Route, ...]:
    """Check a list of routes; (prefix, match_kind) names one."""
    routes = _entries(entries, "routes", ROUTES_MAX, route_from)
    _refuse_twice("routes", ((route.prefix, route.match_kind.name) for route in routes))
    return routes


def vpns_from(entries: object) -> tuple[VpnRule, ...]:
    """Check a list of VPN rules; (pattern, match_kind) names one."""
    rules = _entries(entries, "vpns", VPNS_MAX, vpn_from)
    _refuse_twice("vpns", ((rule.pattern, rule.match_kind.name) for rule in rules))
    return rules


def grants_from(entries: object) -> tuple[Grant, ...]:
    """Check a list of grants; (uid, pattern, ilk) names one."""
    grants = _entries(entries, "grants", GRANTS_MAX, grant_from)
    _refuse_twice("grants", ((grant.uid, grant.pattern, grant.ilk.hex()) for grant in grants))
    return grants


def limits_from(value: object) -> dict[str, int]:
    """Check a mapping of limit name to whole number; a limit may be made smaller, never larger."""
    if not isinstance(value, Mapping):
        raise ConfigInvalid(
            "limits", "must be a mapping of name to number", "write limits: {QUEUE_BYTES_MAX: 4194304}"
        )
    _members(value, "limits", set(CHANGEABLE))
    for name, number in value.items():
        _check_whole(number, f"limits.{name}", 1, CHANGEABLE[name])
    return {str(name): int(number) for name, number in value.items()}


def route_from(entry: object, where: str = "route") -> Route:
    """Check one route."""
    known = {
        "prefix",
        "match_kind",
        "action",
        "next_hop_hive",
        "next_hop_name",
        "metric",
        "priority",
        "installed_at",
    }
    fields = _members(entry, where, known)
    kind = _match_kind(fields, where)
    action = _choice(fields, "action", where, RouteAction, None)
    route = Route(
        prefix=_pattern(fields, "prefix", where, kind),
        match_kind=kind,
        action=action,
        next_hop_hive=_text(fields, "next_hop_hive", where, _HIVE, HIVE_BYTES_MAX),
        next_hop_name=_text(fields, "next_hop_name", where, _PATTERN, PATTERN_BYTES_MAX),
        metric=_whole(fields, "metric", where, 0, U32_MAX, 0),
        priority=_whole(fields, "priority", where, 0, U16_MAX, 100),
        installed_at_ms=_whole(fields, "installed_at", where, 0, I64_MAX, 0),
    )
    _check_next_hop(route, where)
    return route


def vpn_from(entry: object, where: str = "vpn") -> VpnRule:
    """Check one VPN rule."""
    fields = _members(entry, where, {"pattern", "match_kind", "vpn_id", "priority"})
    kind = _match_kind(fields, where)
    return VpnRule(
        pattern=_pattern(fields, "pattern", where, kind),
        match_kind=kind,
        vpn_id=_whole(fields, "vpn_id", where, 0, U32_MAX, None),
        priority=_whole(fields, "priority", where, 0, U16_MAX, 100),
    )


def grant_from(entry: object, where: str = "grant") -> Grant:
    """Check one grant: which names, and which interlocutors, a uid may use."""
    fields = _members(entry, where, {"uid", "pattern", "ilk", "tenant", "channel_kinds"})
    mode, ilk = _ilk(fields.get("ilk", "none"), where)
    return Grant(
        uid=_whole(fields, "uid", where, 0, U32_MAX - 1, None),
        pattern=_pattern(fields, "pattern", where, MatchKind.GLOB),
        ilk_mode=mode,
        ilk=ilk,
        tenant=_id16(fields.get("tenant", ""), "tnt:", f"{where}.tenant"),
        channel_kinds=_text(fields, "channel_kinds", where, re.compile(r"[a-z0-9_,-]*"), 64),
    )


# -- to plain data ---------------------------------------------------------------------------------------------


def plain(state: ConfigState) -> dict[str, Any]:
    """The document as plain data; `state_from(plain(s)) == s`."""
    return {
        "version": state.version,
        "routes": [plain_route(route) for route in state.routes],
        "vpns": [plain_vpn(rule) for rule in state.vpns],
        "grants": [plain_grant(grant) for grant in state.grants],
        "limits": dict(state.limits),
    }


def plain_route(route: Route) -> dict[str, Any]:
    """One route, without the next hop it does not have."""
    hops = {"next_hop_hive": route.next_hop_hive, "next_hop_name": route.next_hop_name}
    return {
        "prefix": route.prefix,
        "match_kind": MatchKind(route.match_kind).name,
        "action": RouteAction(route.action).name,
        **{name: hop for name, hop in hops.items() if hop},
        "metric": route.metric,
        "priority": route.priority,
        "installed_at": route.installed_at_ms,
    }


def plain_vpn(rule: VpnRule) -> dict[str, Any]:
    """One VPN rule."""
    kind = MatchKind(rule.match_kind).name
    return {"pattern": rule.pattern, "match_kind": kind, "vpn_id": rule.vpn_id, "priority": rule.priority}


def plain_grant(grant: Grant) -> dict[str, Any]:
    """One grant; an absent tenant means tenant-neutral."""
    ilk = {0: "none", 2: "any"}.get(grant.ilk_mode) or f"ilk:{uuid.UUID(bytes=grant.ilk)}"
    tenant = {} if grant.tenant == ZERO16 else {"tenant": f"tnt:{uuid.UUID(bytes=grant.tenant)}"}
    kinds = {"channel_kinds": grant.channel_kinds} if grant.channel_kinds else {}
    return {"uid": grant.uid, "pattern": grant.pattern, "ilk": ilk, **tenant, **kinds}


# -- checks ----------------------------------------------------------------------------------------------------


def _entries(
    entries: object, where: str, most: int, check: Callable[[object, str], Entry]
) -> tuple[Entry, ...]:
    if not isinstance(entries, list):
        raise ConfigInvalid(where, "must be a list")
    if len(entries) > most:
        raise ConfigInvalid(where, f"{len(entries)} entries, {most} at most")
    return tuple(check(entry, f"{where}[{index}]") for index, entry in enumerate(entries))


def _refuse_twice(where: str, keys: Iterable[tuple[object, ...]]) -> None:
    seen: dict[tuple[object, ...], int] = {}
    for index, key in enumerate(keys):
        if key in seen:
            raise ConfigInvalid(f"{where}[{index}]", f"the same as {where}[{seen[key]}]", "keep one of them")
        seen[key] = index


def _members(entry: object, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigInvalid(where, "must be a mapping")
    for name in entry:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            raise ConfigInvalid(
                where, f"unknown member {name!r}", f"did you mean {near[0]!r}?" if near else ""
            )
    return entry


def _whole(fields: Mapping[str, Any], name: str, where: str, low: int, high: int, default: int | None) -> int:
    value = fields.get(name, default)
    if value is None:
        raise ConfigInvalid(where, f"{name} is missing", f"give a whole number of {low}..{high}")
    return _check_whole(value, f"{where}.{name}", low, high)


def _check_whole(value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigInvalid(where, f"{value!r} is not a whole number of {low}..{high}")
    return int(value)


Kind = TypeVar("Kind", MatchKind, RouteAction)


def _choice(
    fields: Mapping[str, Any], name: str, where: str, kinds: type[Kind], default: Kind | None
) -> Kind:
    value = fields.get(name, None if default is None else default.name)
    if not isinstance(value, str) or value not in kinds.__members__:
        raise ConfigInvalid(
            f"{where}.{name}", f"{value!r} is unknown", "use " + " | ".join(kinds.__members__)
        )
    return kinds[value]


def _match_kind(fields: Mapping[str, Any], where: str) -> MatchKind:
    return _choice(fields, "match_kind", where, MatchKind, MatchKind.PREFIX)


def _pattern(fields: Mapping[str, Any], name: str, where: str, kind: MatchKind) -> str:
    value = _text(fields, name, where, _PATTERN, PATTERN_BYTES_MAX)
    if not value:
        raise ConfigInvalid(where, f"{name} is missing", "give a name or pattern such as AI.sales.*")
    literal = value.removesuffix(".*") if kind is MatchKind.PREFIX else value
    if kind is not MatchKind.GLOB and "*" in literal:
        raise ConfigInvalid(
            f"{where}.{name}", f"{value!r} has a * that {kind.name} takes literally", "use GLOB"
        )
    return value


def _text(fields: Mapping[str, Any], name: str, where: str, form: re.Pattern[str], most: int) -> str:
    value = fields.get(name) or ""
    if not isinstance(value, str) or (value and not form.fullmatch(value)):
        raise ConfigInvalid(f"{where}.{name}", f"{value!r} has characters outside {form.pattern}")
    if len(value) > most:
        raise ConfigInvalid(f"{where}.{name}", f"{len(value)} bytes, {most} at most")
    return value


def _check_next_hop(route: Route, where: str) -> None:
    if route.next_hop_hive:
        try:
            parse_hive(route.next_hop_hive)
        except ProtocolError as error:
            raise ConfigInvalid(f"{where}.next_hop_hive", error.detail) from error
    hops = bool(route.next_hop_hive) + bool(route.next_hop_name)
    if route.action is RouteAction.FORWARD and hops != 1:
        raise ConfigInvalid(where, "FORWARD needs exactly one of next_hop_hive and next_hop_name")
    if route.action is RouteAction.DROP and hops:
        raise ConfigInvalid(where, "DROP has no next hop", "remove next_hop_hive and next_hop_name")


def _ilk(value: object, where: str) -> tuple[int, bytes]:
    if isinstance(value, str) and value in _ILK_MODES:
        return _ILK_MODES[value], ZERO16
    ilk = _id16(value, "ilk:", f"{where}.ilk")
    if ilk == ZERO16:
        raise ConfigInvalid(f"{where}.ilk", f"{value!r} is unknown", "use none, any or ilk:<uuid>")
    return 1, ilk


def _id16(value: object, prefix: str, where: str) -> bytes:
    if value in ("", None):
        return ZERO16
    try:
        return uuid.UUID(str(value).removeprefix(prefix)).bytes
    except ValueError:
        raise ConfigInvalid(where, f"{value!r} is not {prefix}<uuid>") from None
