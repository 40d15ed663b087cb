"""What a policy is asked: the selector, and the records of the two interlocutors, as `input`.

Made twice. For the decision log whole, because another policy may be asked the same question later, and only when the
log is written. For the engine *lean*: with those members that the entry point reads (the compiler says which), because
parsing two whole records is a third of what a cheap decision costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import orjson

from skep.protocol.header import Selector
from skep.protocol.kinds import ActionClass, DstKind, MessageClass, Scope
from skep_policy.documents import RECORD, Documents, ilk_name, record_document, uuid_text
from skep_policy.manifest import Reads
from skep_shm import IlkRecord

_CLASSES: Final = {member: member.name.lower() for member in MessageClass}
_ACTION_CLASSES: Final = tuple(member.name.lower() for member in ActionClass)
_SCOPES: Final = tuple(member.name.lower() for member in Scope)


class Asked(NamedTuple):
    """One question. `key` is the flow key; `src` and `dst` are the canonical records of the two interlocutors."""

    key: bytes
    selector: Selector
    source: bytes
    name: str
    src: IlkRecord | None = None
    dst: IlkRecord | None = None
    trace: bytes = bytes(16)
    until_ns: int = 0  # when an alias or a seal of these two ends; 0: never
    wall_ns: int = 0  # for the record only


class Statuses(NamedTuple):
    """Of the two interlocutors' tenants, when the question was asked."""

    src: str
    dst: str


def statuses_of(asked: Asked, documents: Documents) -> Statuses:
    return Statuses(*(
        "" if record is None else documents.tenant_status(record.tenant) for record in (asked.src, asked.dst)
    ))  # fmt: skip


def input_document(asked: Asked, documents: Documents, source: bool) -> dict[str, Any]:
    """The whole input, as of now."""
    return whole_input(asked, statuses_of(asked, documents), source)


def whole_input(asked: Asked, statuses: Statuses, source: bool) -> dict[str, Any]:
    """What rules may read. Absent facts are absent; the sender is there only for a policy that reads it."""
    return {
        "meta": _meta(asked), "routing": _routing(asked, source),
        "src": None if asked.src is None else record_document(asked.src, statuses.src),
        "dst": None if asked.dst is None else record_document(asked.dst, statuses.dst),
    }  # fmt: skip


class Wanted:
    """What one entry point reads of its input. None stands for all of a part."""

    __slots__ = ("dst", "meta", "source", "src")

    def __init__(self, reads: Reads) -> None:
        self.source = reads.source
        self.meta = _members("meta", reads.input)
        self.src = _members("src", reads.input)
        self.dst = _members("dst", reads.input)

    def input(self, asked: Asked, statuses: Statuses) -> dict[str, Any]:
        """The lean input: equal to the whole one in everything that is read."""
        meta = _meta(asked)
        if self.meta is not None:
            meta = {name: value for name, value in meta.items() if name in self.meta}
        return {
            "meta": meta, "routing": _routing(asked, self.source),
            "src": _lean(asked.src, statuses.src, self.src), "dst": _lean(asked.dst, statuses.dst, self.dst),
        }  # fmt: skip


def _members(part: str, read: Iterable[str]) -> frozenset[str] | None:
    """Of "src.tenant", "src.roles" the members tenant and roles; None where the part is read as a whole."""
    paths = [path.split(".") for path in read]
    if any(path[0] in ("", part) and len(path) == 1 for path in paths):
        return None
    return frozenset(path[1] for path in paths if path[0] == part)


def _lean(record: IlkRecord | None, status: str, wanted: frozenset[str] | None) -> dict[str, Any] | None:
    if record is None:
        return None
    if wanted is None:
        return record_document(record, status)
    return {name: RECORD[name](record, status) for name in wanted if name in RECORD}


def _routing(asked: Asked, source: bool) -> dict[str, Any]:
    routing: dict[str, Any] = {"dst": _destination(asked.selector)}
    if source:
        routing |= {"src": uuid_text(asked.source), "src_l2_name": asked.name}
    return routing


def _meta(asked: Asked) -> dict[str, Any]:
    s = asked.selector
    meta: dict[str, Any] = {"type": s.type or _CLASSES[s.message_class]}
    if s.action_class:
        meta["action_class"] = _ACTION_CLASSES[s.action_class]
    if s.scope:
        meta["scope"] = _SCOPES[s.scope]
    texts = (("msg", s.verb), ("action", s.action), ("target", s.target))
    meta |= {member: text for member, text in texts if text}
    if s.context:
        meta["context"] = orjson.loads(s.context)
    for member, ilk, record in (("src_ilk", s.src_ilk, asked.src), ("dst_ilk", s.dst_ilk, asked.dst)):
        if ilk is not None:
            meta[member] = ilk_name(ilk if record is None else record.ilk)
    return meta


def _destination(selector: Selector) -> str | None:
    kind = selector.dst_kind
    if kind == DstKind.POLICY:
        return None
    if kind == DstKind.BROADCAST:
        return "broadcast"
    return selector.destination.decode() if kind == DstKind.NAME else uuid_text(selector.destination)
