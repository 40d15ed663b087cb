"""What is read and written: frozen values, no memory behind them.

`NodeRecord`, `Change` and the records of identity are named tuples because they are made on hot paths: a frozen
dataclass of ten fields costs 1.4 us to make, the tuple 0.15 us. (`record._replace(...)` makes a changed one.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

ZERO16 = bytes(16)


class ChangeKind(IntEnum):
    """What happened to a record."""

    ADDED = 1
    REMOVED = 2
    UPDATED = 3


class Change(NamedTuple):
    """One entry of a change ring: what became of `slot` at `revision`."""

    revision: int
    slot: int
    kind: ChangeKind


class NodeRecord(NamedTuple):
    """A connected node. `framing`: 0 JSON, 1 native; `tenant` and `ilk`: 16 bytes, zero = none."""

    uuid: bytes
    name: str
    uid: int
    pid: int
    vpn_id: int
    framing: int
    connected_at_ms: int
    tenant: bytes = ZERO16
    ilk: bytes = ZERO16
    flags: int = 0


class MatchKind(IntEnum):
    EXACT = 0
    PREFIX = 1
    GLOB = 2


class RouteAction(IntEnum):
    FORWARD = 0
    DROP = 1


class IlkMode(IntEnum):
    """Which ILKs a grant lets its uid speak for."""

    NONE = 0
    LISTED = 1
    ANY = 2


class PolicyStatus(IntEnum):
    """How the policy's owner fares with it."""

    OK = 0
    ERROR = 1
    LOADING = 2


class IlkKind(IntEnum):
    HUMAN = 0
    AGENT = 1
    SYSTEM = 2


class Subtype(IntEnum):
    """Of a human: one of the tenant's own people, or somebody who writes to them."""

    NONE = 0
    INTERNAL = 1
    EXTERNAL = 2


class Registration(IntEnum):
    TEMPORARY = 0
    PARTIAL = 1
    COMPLETE = 2


class TenantStatus(IntEnum):
    PENDING = 0
    ACTIVE = 1
    SUSPENDED = 2


class SealStatus(IntEnum):
    """What became of an agent's seal."""

    NONE = 0
    VALID = 1
    BROKEN = 2
    EXPIRED = 3
    REVOKED = 4


class RecordKind(IntEnum):
    HOP_IN = 1
    HOP_OUT = 2
    HOP_QUEUED = 3
    REFUSED = 4
    NODE_JOINED = 5
    NODE_LEFT = 6
    LINK_CLOSED = 7
    CONFIG = 8
    BINDING = 9
    ROUTER = 10


@dataclass(frozen=True, slots=True)
class Route:
    """A static route. FORWARD with `next_hop_name` overrides to that local name, with `next_hop_hive` to that hive."""

    prefix: str
    match_kind: MatchKind = MatchKind.EXACT
    action: RouteAction = RouteAction.FORWARD
    next_hop_hive: str = ""
    next_hop_name: str = ""
    metric: int = 0
    priority: int = 100
    installed_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class VpnRule:
    """Names that match `pattern` are put into `vpn_id`."""

    pattern: str
    match_kind: MatchKind
    vpn_id: int
    priority: int = 100


@dataclass(frozen=True, slots=True)
class Grant:
    """What a uid may be. `ilk` counts when `ilk_mode` is LISTED; a zero tenant is tenant-neutral."""

    uid: int
    pattern: str
    ilk_mode: int = IlkMode.NONE
    ilk: bytes = ZERO16
    tenant: bytes = ZERO16
    channel_kinds: str = ""


@dataclass(frozen=True, slots=True)
class ConfigState:
    """Everything routers obey, as one value. `version` is its owner's count, not the region's revision."""

    version: int = 0
    routes: tuple[Route, ...] = ()
    vpns: tuple[VpnRule, ...] = ()
    grants: tuple[Grant, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """A thread's handler: asked before anything else decides. `lease_until_ns` is CLOCK_BOOTTIME, 0 = no lease."""

    thread: bytes
    handler: str = ""
    handler_uuid: bytes = ZERO16
    lease_until_ns: int = 0
    reason: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What is published of the policy. `version` is its owner's count; a bundle is signed bytes, empty = none.

    `shadow` is evaluated beside `bundle` and decides nothing."""

    version: int = 0
    status: PolicyStatus = PolicyStatus.LOADING
    bundle: bytes = b""
    shadow: bytes = b""


class IlkRecord(NamedTuple):
    """An interlocutor, without name or address. Times are Unix ms, 0 = none.

    A `canonical` that is not zero makes this record an alias of that ILK, live until `alias_until_ms` (0: for good).
    `handler` is the full L2 name of an agent's node, a degree is `degree:<uuid>/<version>`; `channel_kinds` are
    the kinds of channels that it owns, each once."""

    ilk: bytes
    kind: IlkKind = IlkKind.HUMAN
    subtype: Subtype = Subtype.NONE
    registration: Registration = Registration.TEMPORARY
    seal: SealStatus = SealStatus.NONE
    tenant: bytes = ZERO16
    canonical: bytes = ZERO16
    alias_until_ms: int = 0
    seal_until_ms: int = 0
    handler: str = ""
    roles: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    degrees: tuple[str, ...] = ()
    channel_kinds: tuple[str, ...] = ()


class TenantRecord(NamedTuple):
    """A tenant is its id and what it may do; its name stays in the database."""

    tenant: bytes
    status: TenantStatus = TenantStatus.PENDING
    flags: int = 0


class ChannelRecord(NamedTuple):
    """Whose a channel is. `key` is `channel_key(...)` of it: the address itself is not shared."""

    key: bytes
    ilk: bytes
    tenant: bytes = ZERO16
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A hop record or an event. `at_ms` is wall time, for display; order and intervals come from `mono_ns`."""

    kind: int
    at_ms: int
    mono_ns: int
    trace_id: bytes = ZERO16
    message_id: int = 0
    source: bytes = ZERO16
    source_name: str = ""
    dest: bytes = ZERO16
    dest_name: str = ""
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """Who writes a region, and how much of it is used. Times: `heartbeat_ns` CLOCK_BOOTTIME, `created_at_ms` wall."""

    region: str
    kind: int
    generation: int
    revision: int
    hive: str
    router_uuid: bytes
    router_name: str
    owner_uid: int
    owner_pid: int
    owner_start: int
    created_at_ms: int
    heartbeat_ns: int
    capacity: int
    high_water: int
    live: int
    size_bytes: int
