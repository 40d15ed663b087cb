"""What identity keeps: one named tuple for each kind of row, its key first.

A frozen dataclass of twenty fields takes four times as long to make, and a new interlocutor is two records.

Ids are sixteen bytes (`ids.NONE`: nobody), times are Unix milliseconds (0: never). An interlocutor that was merged into
another keeps its row: `canonical` names the other, `alias_until_ms` says how long messages that name the old one still
arrive, and its channels have moved. So an alias is no record of its own, an id is never used twice, and a merge can be
taken back.

The metadata of an interlocutor has three dimensions: `identification` (who it is), association (`tenant` and its
channels), definition (`roles`, `capabilities`, `degrees` now; what they were, in the audit chain).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from skep_nodes.identity.ids import NONE
from skep_shm import IlkKind, Registration, SealStatus, Subtype, TenantStatus

NOTHING: Final[Mapping[str, Any]] = {}


class Tenant(NamedTuple):
    """An organisation. `name_key` and `domain` are folded, for comparing."""

    tenant: bytes
    name: str
    name_key: str
    domain: str = ""
    status: int = TenantStatus.PENDING
    settings: Mapping[str, Any] = NOTHING
    requested_by: bytes = NONE
    approved_by: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0


class Ilk(NamedTuple):
    """An interlocutor. `live` is 0 once it was merged or deleted; e-mail and node name are unique among the living."""

    ilk: bytes
    kind: int = IlkKind.HUMAN
    subtype: int = Subtype.NONE
    registration: int = Registration.TEMPORARY
    tenant: bytes = NONE
    email: str = ""
    node_name: str = ""
    identification: Mapping[str, Any] = NOTHING
    roles: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    live: int = 1
    canonical: bytes = NONE
    alias_until_ms: int = 0
    seal: int = SealStatus.NONE
    seal_until_ms: int = 0
    degrees: tuple[str, ...] = ()
    registered_by: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    deleted_at_ms: int = 0


class Channel(NamedTuple):
    """One address of an interlocutor. `look_up` is the digest of (kind, address, tenant) and unique."""

    ich: bytes
    ilk: bytes
    tenant: bytes
    kind: str
    address: str
    look_up: bytes
    is_primary: int = 0
    added_at_ms: int = 0


class Merge(NamedTuple):
    """One merge, and its end when it was taken back. `moved` are channels, `repointed` older aliases of the source."""

    merge: bytes
    source: bytes
    target: bytes
    at_ms: int
    actor: str
    reason: str = ""
    moved: tuple[str, ...] = ()
    repointed: tuple[str, ...] = ()
    split_at_ms: int = 0
    split_actor: str = ""
    split_reason: str = ""


class Graduation(NamedTuple):
    """An agent's seal: which version of which degree, the signed bytes, and how long they count."""

    graduation: bytes
    ilk: bytes
    degree: bytes
    version: int
    seal: bytes
    status: int = SealStatus.VALID
    issuer: str = ""
    issued_at_ms: int = 0
    valid_until_ms: int = 0
    revoked_at_ms: int = 0
    reason: str = ""


class Document(NamedTuple):
    """A version of a text that never changes again: a module, a degree, a key. Only `deprecated_at_ms` may be set
    later. `series` is `kind\\x1fname`, what all versions of one thing share; `key` is the digest of all three."""

    key: bytes
    kind: str
    name: str
    version: int
    series: str
    body: bytes
    created_by: str = ""
    created_at_ms: int = 0
    deprecated_at_ms: int = 0


class Word(NamedTuple):
    """A tag of the vocabulary; while there is one of its category, only such tags are accepted."""

    tag: str
    category: str
    description: str = ""
    created_at_ms: int = 0
    deprecated_at_ms: int = 0


class Entry(NamedTuple):
    """One link of the audit chain: who did what to whom, when and why. Never changed, never removed."""

    seq: int
    at_ms: int
    actor: str
    action: str
    ilk: bytes
    tenant: bytes
    reason: str
    detail: str
    chain: bytes


class Fact(NamedTuple):
    """A single fact about the whole store, such as which tenant is the default."""

    name: str
    value: str
