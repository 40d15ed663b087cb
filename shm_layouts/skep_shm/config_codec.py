"""A configuration state as bytes: bank header, rows of fixed size, then a heap with their strings.

Rows refer to strings by offset and length in the heap, so a reader in any language walks them without
parsing. Equal strings are stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layout import Layout
from skep_shm.layouts import BANK, GRANT, LIMIT, ROUTE, VPN_RULE
from skep_shm.types import ConfigState, Grant, MatchKind, Route, RouteAction, VpnRule

ROWS: tuple[tuple[str, Layout], ...] = (
    ("routes", ROUTE),
    ("vpns", VPN_RULE),
    ("grants", GRANT),
    ("limits", LIMIT),
)
STRING_BYTES_MAX = 0xFFFF
HEAP_BYTES_MAX = 0xFFFFFFFF


class _Heap:
    """Strings of one state, each stored once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._known: dict[bytes, int] = {}

    def put(self, text: str) -> tuple[int, int]:
        """Offset and length of `text`."""
        encoded = text.encode()
        if len(encoded) > STRING_BYTES_MAX:
            detail = f"a string of {len(encoded)} bytes, at most {STRING_BYTES_MAX}"
            raise RegionError(RegionCode.TOO_LONG, "config", detail)
        at = self._known.get(encoded)
        if at is None:
            at = self._known[encoded] = len(self.data)
            self.data += encoded
        return at, len(encoded)


def encode_state(state: ConfigState, revision: int) -> bytes:
    """The bytes of a bank that holds `state` at `revision`."""
    heap = _Heap()
    rows = b"".join(
        (
            *(_pack_route(route, heap) for route in state.routes),
            *(_pack_vpn(rule, heap) for rule in state.vpns),
            *(_pack_grant(grant, heap) for grant in state.grants),
            *(_pack_limit(name, value, heap) for name, value in state.limits.items()),
        )
    )
    counts = (len(state.routes), len(state.vpns), len(state.grants), len(state.limits))
    header = BANK.struct.pack(revision, state.version, *counts, len(heap.data), 0)[:-4]
    rest = rows + bytes(heap.data)
    return header + crc32(rest, crc32(header)).to_bytes(4, "little") + rest


def _pack_route(route: Route, heap: _Heap) -> bytes:
    prefix, hive, name = heap.put(route.prefix), heap.put(route.next_hop_hive), heap.put(route.next_hop_name)
    return ROUTE.struct.pack(
        prefix[0],
        hive[0],
        name[0],
        prefix[1],
        hive[1],
        name[1],
        route.match_kind,
        route.action,
        route.metric,
        route.installed_at_ms,
        route.priority,
    )


def _pack_vpn(rule: VpnRule, heap: _Heap) -> bytes:
    at, size = heap.put(rule.pattern)
    return VPN_RULE.struct.pack(at, size, rule.match_kind, rule.vpn_id, rule.priority)


def _pack_grant(grant: Grant, heap: _Heap) -> bytes:
    pattern, kinds = heap.put(grant.pattern), heap.put(grant.channel_kinds)
    numbers = (grant.uid, pattern[0], kinds[0], pattern[1], kinds[1])
    return GRANT.struct.pack(*numbers, grant.ilk, grant.tenant, grant.ilk_mode)


def _pack_limit(name: str, value: int, heap: _Heap) -> bytes:
    at, size = heap.put(name)
    return LIMIT.struct.pack(value, at, size)


def decode_state(body: bytes) -> ConfigState:
    """The state in a checked bank."""
    fields = BANK.unpack(body[: BANK.size])
    counts = [int(fields[name]) for name, _ in ROWS]
    starts = [BANK.size]
    for count, (_, layout) in zip(counts, ROWS, strict=True):
        starts.append(starts[-1] + count * layout.size)
    heap = body[starts[-1] :]

    def rows(table: int) -> Iterator[tuple[Any, ...]]:
        layout = ROWS[table][1]
        return layout.struct.iter_unpack(body[starts[table] : starts[table + 1]])

    def text(at: int, size: int) -> str:
        return heap[at : at + size].decode()

    return ConfigState(
        version=int(fields["config_version"]),
        routes=tuple(_route(row, text) for row in rows(0)),
        vpns=tuple(VpnRule(text(at, n), MatchKind(kind), vpn, p) for at, n, kind, vpn, p in rows(1)),
        grants=tuple(_grant(row, text) for row in rows(2)),
        limits={text(at, n): value for value, at, n in rows(3)},
    )


def _route(row: tuple[Any, ...], text: Callable[[int, int], str]) -> Route:
    prefix_at, hive_at, name_at, prefix_n, hive_n, name_n, kind, action, metric, installed, priority = row
    return Route(
        prefix=text(prefix_at, prefix_n),
        match_kind=MatchKind(kind),
        action=RouteAction(action),
        next_hop_hive=text(hive_at, hive_n),
        next_hop_name=text(name_at, name_n),
        metric=metric,
        priority=priority,
        installed_at_ms=installed,
    )


def _grant(row: tuple[Any, ...], text: Callable[[int, int], str]) -> Grant:
    uid, pattern_at, kinds_at, pattern_n, kinds_n, ilk, tenant, mode = row
    return Grant(uid, text(pattern_at, pattern_n), mode, ilk, tenant, text(kinds_at, kinds_n))
