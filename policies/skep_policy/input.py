"""What a policy is asked: the selector, and the records of the two interlocutors, as `input`.

Made twice. For the decision log whole, because another policy may be asked the same question later, and only when the
log is written. For the engine *lean*, as text: with those members that the entry point reads (the compiler says which),
because parsing two whole records is a third of what a cheap decision costs. That text is joined from pieces: a record's
is kept until the record is another one, and a sender's context is JSON already.

Lean and whole say the same about everything that is read: a part of which nothing is read is left out, and so is a
record that is null where only members of it are read, for a member of null is as undefined as one of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
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

SOMEBODY: Final = b"ilk:"
"""Stands for an ILK where only matters that there is one."""

PIECES_MAX: Final = 4_096
"""Records whose text is kept, of one part of one entry point; past it all are forgotten, for each is made again."""


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
    read: tuple[bytes, ...] = ()  # every ILK that was looked up for it, aliases on the way and those that nobody has


class Statuses(NamedTuple):
    """Of the two interlocutors' tenants, when the question was asked."""

    src: str
    dst: str


def statuses_of(asked: Asked, documents: Documents) -> Statuses:
    src, dst, status = asked.src, asked.dst, documents.tenant_status
    return Statuses("" if src is None else status(src.tenant), "" if dst is None else status(dst.tenant))


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
    """What one entry point reads of its input, and the text that says it."""

    __slots__ = ("_dst", "_meta", "_routing", "_src", "source")

    def __init__(self, reads: Reads) -> None:
        self.source = reads.source
        self._meta = tuple(
            _PRESENT.get(piece, piece) if f"meta.{name}" in reads.present else piece
            for name, piece in _pieces(_META, _members("meta", reads.input))
        )
        routing = _pieces(_ROUTING, _members("routing", reads.input))
        self._routing = tuple(piece for _, piece in routing if self.source or piece is _dst_piece)
        self._src = _People(_members("src", reads.input))
        self._dst = _People(_members("dst", reads.input))

    def text(self, asked: Asked, statuses: Statuses) -> bytes:
        """The lean input as JSON: equal to the whole one in everything that is read."""
        parts = []
        if self._meta:
            parts.append(b'"meta":{' + b",".join([said for piece in self._meta if (said := piece(asked))]) + b"}")
        if self._routing:
            parts.append(b'"routing":{' + b",".join([piece(asked) for piece in self._routing]) + b"}")
        src, dst = self._src.text(asked.src, statuses.src), self._dst.text(asked.dst, statuses.dst)
        if src:
            parts.append(b'"src":' + src)
        if dst:
            parts.append(b'"dst":' + dst)
        return b"{" + b",".join(parts) + b"}"


class _People:
    """What is read of the interlocutors on one side, and how it is written for each."""

    __slots__ = ("_kept", "_nobody", "_wanted")

    def __init__(self, members: frozenset[str] | None) -> None:
        self._wanted = tuple(name for name in RECORD if members is None or name in members)
        self._nobody = b"null" if members is None else b""
        self._kept: dict[bytes, tuple[IlkRecord, str, bytes]] = {}

    def text(self, record: IlkRecord | None, status: str) -> bytes:
        if record is None or not self._wanted:
            return self._nobody
        kept = self._kept.get(record.ilk)
        if kept is not None and kept[1] == status and (kept[0] is record or kept[0] == record):
            return kept[2]
        text = orjson.dumps({name: RECORD[name](record, status) for name in self._wanted})
        if len(self._kept) >= PIECES_MAX:
            self._kept.clear()
        self._kept[record.ilk] = (record, status, text)
        return text


def _members(part: str, read: Iterable[str]) -> frozenset[str] | None:
    """Of "src.tenant", "src.roles" the members tenant and roles; None where the part is read as a whole."""
    paths = [path.split(".") for path in read]
    if any(path[0] in ("", part) and len(path) == 1 for path in paths):
        return None
    return frozenset(path[1] for path in paths if path[0] == part)


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


# -- pieces of text ------------------------------------------------------------------------------------------------

Piece = Callable[[Asked], bytes]
"""One member as `"name":value`, or nothing where the fact is absent. Each says what `_meta` or `_routing` says."""

_CLASS_PIECES: Final = {member: b'"type":' + orjson.dumps(name) for member, name in _CLASSES.items()}
_ACTION_PIECES: Final = (b"", *(b'"action_class":' + orjson.dumps(name) for name in _ACTION_CLASSES[1:]))
_SCOPE_PIECES: Final = (b"", *(b'"scope":' + orjson.dumps(name) for name in _SCOPES[1:]))


def _type_piece(asked: Asked) -> bytes:
    s = asked.selector
    return b'"type":' + orjson.dumps(s.type) if s.type else _CLASS_PIECES[s.message_class]


def _action_piece(asked: Asked) -> bytes:
    action = asked.selector.action
    return b'"action":' + orjson.dumps(action) if action else b""


def _verb_piece(asked: Asked) -> bytes:
    verb = asked.selector.verb
    return b'"msg":' + orjson.dumps(verb) if verb else b""


def _target_piece(asked: Asked) -> bytes:
    target = asked.selector.target
    return b'"target":' + orjson.dumps(target) if target else b""


def _context_piece(asked: Asked) -> bytes:
    context = asked.selector.context  # a canonical JSON object: nothing else passes for a frame
    return b'"context":' + context if context else b""


def _src_ilk_piece(asked: Asked) -> bytes:
    ilk, record = asked.selector.src_ilk, asked.src
    return b"" if ilk is None else _ilk_piece(b'"src_ilk":"ilk:', ilk if record is None else record.ilk)


def _dst_ilk_piece(asked: Asked) -> bytes:
    ilk, record = asked.selector.dst_ilk, asked.dst
    return b"" if ilk is None else _ilk_piece(b'"dst_ilk":"ilk:', ilk if record is None else record.ilk)


@lru_cache(PIECES_MAX)
def _ilk_piece(head: bytes, ilk: bytes) -> bytes:
    return b'%b%b"' % (head, uuid_text(ilk).encode())


def _dst_piece(asked: Asked) -> bytes:
    return b'"dst":' + orjson.dumps(_destination(asked.selector))


_META: Final[dict[str, Piece]] = {
    "type": _type_piece, "action": _action_piece, "msg": _verb_piece, "target": _target_piece,
    "context": _context_piece, "src_ilk": _src_ilk_piece, "dst_ilk": _dst_ilk_piece,
    "action_class": lambda asked: _ACTION_PIECES[asked.selector.action_class],
    "scope": lambda asked: _SCOPE_PIECES[asked.selector.scope],
}  # fmt: skip
_ROUTING: Final[dict[str, Piece]] = {
    "dst": _dst_piece,
    "src": lambda asked: b'"src":"%b"' % uuid_text(asked.source).encode(),
    "src_l2_name": lambda asked: b'"src_l2_name":' + orjson.dumps(asked.name),
}


_PRESENT: Final[dict[Piece, Piece]] = {
    _src_ilk_piece: lambda asked: b"" if asked.selector.src_ilk is None else b'"src_ilk":"%b"' % SOMEBODY,
    _dst_ilk_piece: lambda asked: b"" if asked.selector.dst_ilk is None else b'"dst_ilk":"%b"' % SOMEBODY,
}
"""What is long and never empty, where only that is asked: forty letters to parse are a fifteenth of a decision."""


def _pieces(of: dict[str, Piece], members: frozenset[str] | None) -> list[tuple[str, Piece]]:
    return [(name, piece) for name, piece in of.items() if members is None or name in members]
