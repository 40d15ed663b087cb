"""The ilks region: every interlocutor, by ILK.

Writer: SY.identity, alone. Readers: routers and system nodes, by group. No name stands here and no address: what a
router decides by, and nothing that says who somebody is.

A look-up of a record that the reader never saw costs about 1.5 us, most of it the checksum and the decoding, so both
read each field once: enum members come from tuples (`IlkKind(0)` would cost 0.2 us each), and the text of the usual
human is short enough to stand in the record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skep_shm.errors import RegionCode, RegionError
from skep_shm.keyed import Encoded, KeyedWriter, need_width
from skep_shm.layouts import ILK, SLOT_NONE, RegionKind, State
from skep_shm.table_reader import TableReader
from skep_shm.types import IlkKind, IlkRecord, Registration, SealStatus, Subtype

REGION = "ilks"
TEXT_BYTES_MAX = 8192  # of handler, roles, capabilities and degrees together
LIST_MAX = 255  # roles, capabilities, degrees: each counted by one byte

_INLINE = ILK.width("text")
_LIVE = int(State.LIVE)
_HEAD = (
    "state",
    "kind",
    "text_bytes",
    "subtype",
    "registration",
    "seal",
    "roles",
    "ilk",
    "tenant",
    "canonical",
)
_unpack = ILK.only(*_HEAD, "alias_until_ms", "seal_until_ms", "capabilities", "degrees", "text").unpack
_make = tuple.__new__
_KINDS, _SUBTYPES, _SEALS = tuple(IlkKind), tuple(Subtype), tuple(SealStatus)
_REGISTRATIONS = tuple(Registration)


class IlksWriter(KeyedWriter[IlkRecord]):
    """Owns the interlocutors."""

    region = REGION
    kind = RegionKind.ILKS
    layout = ILK
    key = "ilk"

    def _encode(self, record: IlkRecord) -> Encoded:
        ilk, kind, subtype, registration, seal, tenant, canonical, alias_until, seal_until, *_ = record
        for name, value in (("ilk", ilk), ("tenant", tenant), ("canonical", canonical)):
            need_width(name, value)
        text = _text_of(record, self._owner.name) if any(record[9:]) else b""
        body = ILK.struct.pack(
            0,
            0,
            _LIVE,
            kind,
            len(text),
            SLOT_NONE,
            subtype,
            registration,
            seal,
            len(record.roles),
            ilk,
            tenant,
            canonical,
            alias_until,
            seal_until,
            len(record.capabilities),
            len(record.degrees),
            text[:_INLINE],
            0,
        )[:-4]
        return Encoded(ilk, text, body)


def _text_of(record: IlkRecord, region: str) -> bytes:
    """Handler and lists, a zero byte between two. Raises RegionError TOO_LONG, ValueError for a zero byte inside."""
    _, _, _, _, _, _, _, _, _, handler, roles, capabilities, degrees = record
    longest = max(len(roles), len(capabilities), len(degrees))
    if longest > LIST_MAX:
        raise RegionError(RegionCode.TOO_LONG, region, f"a list of {longest} entries, at most {LIST_MAX}")
    words = (handler, *roles, *capabilities, *degrees)
    text = "\0".join(words).encode()
    if len(text) > TEXT_BYTES_MAX:
        detail = f"handler, roles, capabilities and degrees of {len(text)} bytes, at most {TEXT_BYTES_MAX}"
        raise RegionError(RegionCode.TOO_LONG, region, detail)
    if text.count(0) != len(words) - 1:
        raise ValueError("a handler, role, capability or degree holds a zero byte")
    return text


class IlksReader(TableReader[IlkRecord]):
    """The interlocutors, as routers see them."""

    kind = RegionKind.ILKS
    layout = ILK
    record_bytes = ILK.size
    key = "ilk"

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> IlksReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _decode(self, slot: int, raw: bytes) -> IlkRecord | None:
        fields = _unpack(raw)
        if fields[0] != _LIVE:
            return None
        size = fields[2]
        if size <= _INLINE:
            return _record(fields, fields[14][:size])
        whole = self.text(slot, raw)
        return None if whole is None else _record(_unpack(whole[1]), whole[0])


def _record(fields: tuple[Any, ...], text: bytes) -> IlkRecord:
    _, kind, _, subtype, reg, seal, roles, ilk, tenant, canonical, alias, until, capabilities, _, _ = fields
    words: tuple[Any, ...] = ("", (), (), ())
    if text:
        parts = text.decode().split("\0")
        second, third = 1 + roles, 1 + roles + capabilities
        words = parts[0], tuple(parts[1:second]), tuple(parts[second:third]), tuple(parts[third:])
    head = (ilk, _KINDS[kind], _SUBTYPES[subtype], _REGISTRATIONS[reg], _SEALS[seal])
    return _make(IlkRecord, (*head, tenant, canonical, alias, until, *words))
