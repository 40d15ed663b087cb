"""One change of the configuration, as a pure function: state and request in, new state out.

A change replaces a section whole, or adds or removes single entries. It is worked out and checked completely
before anything is touched; the caller then persists and publishes it as one step. Removing takes the same key
that adding refuses twice, so add and remove are inverses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skep_nodes.sy import config_document as document
from skep_nodes.sy.config_document import ConfigInvalid
from skep_shm import ConfigState, Route

SUBSYSTEMS = {"routes": "routes", "vpn": "vpns", "vpns": "vpns", "grants": "grants", "limits": "limits"}


class Refusal(Exception):
    """A change that is not made: a stable code, and why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class Section:
    """How one list of entries is checked, keyed and named."""

    one: str
    check_all: Callable[[object], tuple[Any, ...]]
    check_one: Callable[[object, str], Any]
    plain: Callable[[Any], dict[str, Any]]
    key: Callable[[Any], tuple[object, ...]]
    key_fields: tuple[str, ...]
    duplicate: str


SECTIONS = {
    "routes": Section(
        "route",
        document.routes_from,
        document.route_from,
        document.plain_route,
        lambda route: (route.prefix, route.match_kind.name),
        ("prefix", "match_kind"),
        "DUPLICATE_PREFIX",
    ),
    "vpns": Section(
        "vpn",
        document.vpns_from,
        document.vpn_from,
        document.plain_vpn,
        lambda rule: (rule.pattern, rule.match_kind.name),
        ("pattern", "match_kind"),
        "DUPLICATE_PATTERN",
    ),
    "grants": Section(
        "grant",
        document.grants_from,
        document.grant_from,
        document.plain_grant,
        lambda grant: (grant.uid, grant.pattern, document.plain_grant(grant)["ilk"]),
        ("uid", "pattern", "ilk"),
        "DUPLICATE_GRANT",
    ),
}


def changed(state: ConfigState, subsystem: str, config: object, action: str, now_ms: int) -> ConfigState:
    """The state after one change, with the version not yet raised. Raises Refusal."""
    section = SUBSYSTEMS.get(subsystem)
    if section is None:
        raise Refusal("INVALID_PAYLOAD", f"subsystem {subsystem!r} is not one of {', '.join(SUBSYSTEMS)}")
    if not isinstance(config, Mapping):
        raise Refusal("INVALID_PAYLOAD", "config must be an object")
    try:
        if section == "limits":
            return replace(state, limits=_limits(state, config, action))
        entries = _entries(state, section, config, action)
        return _stamped(state, section, entries, now_ms)
    except ConfigInvalid as error:
        raise Refusal("INVALID_CONFIG", str(error)) from error


def _limits(state: ConfigState, config: Mapping[str, Any], action: str) -> dict[str, int]:
    value = config.get("limits", {})
    if action == "remove":
        names = value if isinstance(value, list) else list(value)
        return {name: number for name, number in state.limits.items() if name not in names}
    checked = document.limits_from(value)
    return {**state.limits, **checked} if action == "add" else checked


def _entries(state: ConfigState, name: str, config: Mapping[str, Any], action: str) -> tuple[Any, ...]:
    section, current = SECTIONS[name], getattr(state, name)
    if action in ("", "replace"):
        if name not in config:
            raise Refusal("INVALID_PAYLOAD", f"config.{name} is missing: the full list replaces the section")
        return section.check_all(config[name])
    given = _given(section, name, config)
    if action == "add":
        return _added(section, name, current, given)
    if action == "remove":
        return _without(section, name, current, given)
    raise Refusal("INVALID_PAYLOAD", f"action {action!r} is not add, remove or replace")


def _given(section: Section, name: str, config: Mapping[str, Any]) -> list[Any]:
    """The entries an add or remove names: one under its singular name, or a list under the section's."""
    if section.one in config:
        return [config[section.one]]
    entries = config.get(name)
    if not isinstance(entries, list) or not entries:
        raise Refusal("INVALID_PAYLOAD", f"config.{section.one} is missing")
    return entries


def _added(section: Section, name: str, current: tuple[Any, ...], given: list[Any]) -> tuple[Any, ...]:
    new = [section.check_one(entry, section.one) for entry in given]
    known = {section.key(entry) for entry in current}
    for entry in new:
        if section.key(entry) in known:
            key = " ".join(map(str, section.key(entry)))
            raise Refusal(
                section.duplicate, f"{section.one} {key} exists; remove it first, or replace the list"
            )
        known.add(section.key(entry))
    return section.check_all([section.plain(entry) for entry in (*current, *new)])


def _without(section: Section, name: str, current: tuple[Any, ...], given: list[Any]) -> tuple[Any, ...]:
    left = list(current)
    for wanted in given:
        found = [entry for entry in left if _is_named(section, entry, wanted)]
        if not found:
            raise Refusal("NOT_FOUND", f"no {section.one} {wanted!r}; list them with `skep {section.one} ls`")
        if len(found) > 1:
            raise Refusal(
                "INVALID_CONFIG", f"{len(found)} {name} match {wanted!r}; name {section.key_fields[-1]} too"
            )
        left.remove(found[0])
    return tuple(left)


def _is_named(section: Section, entry: Any, wanted: object) -> bool:
    """Whether `wanted`'s key members, those it gives, are this entry's."""
    if not isinstance(wanted, Mapping) or wanted.get(section.key_fields[0]) is None:
        return False
    own = section.plain(entry)
    if section.one == "grant" and "uid" in wanted and "pattern" not in wanted:
        return bool(own["uid"] == wanted["uid"])
    return all(wanted.get(field, own[field]) == own[field] for field in section.key_fields)


def _stamped(state: ConfigState, name: str, entries: tuple[Any, ...], now_ms: int) -> ConfigState:
    """Give new routes their time; a route that is only listed again keeps the time it had."""
    if name == "vpns":
        return replace(state, vpns=entries)
    if name == "grants":
        return replace(state, grants=entries)
    known = {replace(route, installed_at_ms=0): route.installed_at_ms for route in state.routes}
    return replace(state, routes=tuple(_timed(route, known, now_ms) for route in entries))


def _timed(route: Route, known: Mapping[Route, int], now_ms: int) -> Route:
    before = known.get(replace(route, installed_at_ms=0), 0)
    return replace(route, installed_at_ms=before or route.installed_at_ms or now_ms)
