"""The ilks region: every interlocutor, by ILK.

Writer: SY.identity, alone. Readers: routers and system nodes, by group. No name stands here and no address: what a
router decides by, and nothing that says who somebody is.

A look-up answers with a view (`FoundIlk`), because a router asks most interlocutors for a member or two, and all would
take as long as the look-up itself. Enum members come from tuples (`IlkKind(0)` would cost 0.2 us each), and the text of
the usual human is short enough to stand in the record.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from skep_shm.errors import RegionCode, RegionError
from skep_shm.found import Found
from skep_shm.keyed import KEY_BYTES, Encoded, KeyedWriter, wrong_width
from skep_shm.layouts import ILK, SLOT_NONE, RegionKind, State
from skep_shm.table_reader import TableReader
from skep_shm.types import IlkKind, IlkRecord, Registration, SealStatus, Subtype

REGION = "ilks"
TEXT_BYTES_MAX = 8192  # of handler and lists together
LIST_MAX = 255  # roles, capabilities, degrees, channel kinds: each counted by one byte

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
_KIND_AT, _REGISTRATION_AT = ILK.offset("kind"), ILK.offset("registration")
_ILK, _TENANT, _CANONICAL = ILK.part("ilk"), ILK.part("tenant"), ILK.part("canonical")
_ALIAS_UNTIL, _SEAL_UNTIL = ILK.part("alias_until_ms"), ILK.part("seal_until_ms")
_Words = tuple[str, ...]
_NO_WORDS: tuple[str, _Words, _Words, _Words, _Words] = ("", (), (), (), ())
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
        if not len(ilk) == len(tenant) == len(canonical) == KEY_BYTES:
            raise wrong_width(ilk=ilk, tenant=tenant, canonical=canonical)
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
            len(record.channel_kinds),
            text[:_INLINE],
            0,
        )[:-4]
        return ilk, text, body


def _text_of(record: IlkRecord, region: str) -> bytes:
    """Handler and lists, a zero byte between two. Raises RegionError TOO_LONG, ValueError for a zero byte inside."""
    _, _, _, _, _, _, _, _, _, handler, roles, capabilities, degrees, kinds = record
    longest = max(len(roles), len(capabilities), len(degrees), len(kinds))
    if longest > LIST_MAX:
        raise RegionError(RegionCode.TOO_LONG, region, f"a list of {longest} entries, at most {LIST_MAX}")
    words = (handler, *roles, *capabilities, *degrees, *kinds)
    text = "\0".join(words).encode()
    if len(text) > TEXT_BYTES_MAX:
        detail = f"handler, roles, capabilities, degrees and kinds of {len(text)} bytes, at most {TEXT_BYTES_MAX}"
        raise RegionError(RegionCode.TOO_LONG, region, detail)
    if text.count(0) != len(words) - 1:
        raise ValueError("a handler, role, capability, degree or channel kind holds a zero byte")
    return text


class FoundIlk(Found[IlkRecord]):
    """An interlocutor that was looked up: what routers ask for first is read straight from the copy."""

    __slots__ = ()

    def _decoded(self) -> IlkRecord:
        return _whole(_unpack(self.raw))

    @property
    def ilk(self) -> bytes:
        return self.raw[_ILK]

    @property
    def kind(self) -> IlkKind:
        return _KINDS[self.raw[_KIND_AT]]

    @property
    def registration(self) -> Registration:
        return _REGISTRATIONS[self.raw[_REGISTRATION_AT]]

    @property
    def tenant(self) -> bytes:
        return self.raw[_TENANT]

    @property
    def canonical(self) -> bytes:
        return self.raw[_CANONICAL]

    @property
    def alias_until_ms(self) -> int:
        return int.from_bytes(self.raw[_ALIAS_UNTIL], "little")

    @property
    def seal_until_ms(self) -> int:
        return int.from_bytes(self.raw[_SEAL_UNTIL], "little")


class IlksReader(TableReader[IlkRecord]):
    """The interlocutors, as routers see them."""

    kind = RegionKind.ILKS
    layout = ILK
    record_bytes = ILK.size
    key = "ilk"
    view = FoundIlk

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> IlksReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _decode(self, slot: int, raw: bytes) -> IlkRecord | None:
        fields = _unpack(raw)
        if fields[0] != _LIVE:
            return None
        return _whole(fields) if fields[2] <= _INLINE else self._decode_long(slot, raw)

    def _decode_long(self, slot: int, raw: bytes) -> IlkRecord | None:
        """One whose text goes on in other records."""
        whole = self.text(slot, raw)
        if whole is None:
            return None
        text, raw = whole
        fields = _unpack(raw)
        head = self._decode(slot, raw[:14] + bytes(2) + raw[16:])  # as one without text
        return None if head is None else _make(IlkRecord, (*head[:9], *_split(text, fields[6], fields[12], fields[13])))


def _whole(fields: tuple[Any, ...]) -> IlkRecord:
    """A record whose text is all in it."""
    _, kind, size, subtype, reg, seal, roles, ilk, tenant, canonical, alias, until, caps, degs, text = fields
    handler, has, can, degrees, kinds = _words(text[:size], roles, caps, degs) if size else _NO_WORDS
    return _make(
        IlkRecord,
        (
            ilk,
            _KINDS[kind],
            _SUBTYPES[subtype],
            _REGISTRATIONS[reg],
            _SEALS[seal],
            tenant,
            canonical,
            alias,
            until,
            handler,
            has,
            can,
            degrees,
            kinds,
        ),
    )


def _split(text: bytes, roles: int, capabilities: int, degrees: int) -> tuple[str, _Words, _Words, _Words, _Words]:
    """Handler, roles, capabilities, degrees, channel kinds."""
    parts = text.decode().split("\0")
    second = 1 + roles
    third = second + capabilities
    fourth = third + degrees
    has, can, learned = parts[1:second], parts[second:third], parts[third:fourth]
    return parts[0], tuple(has), tuple(can), tuple(learned), tuple(parts[fourth:])


_words = lru_cache(maxsize=4096)(
    _split
)  # of what fits in a record: most interlocutors have the same few roles
