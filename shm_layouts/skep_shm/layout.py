"""A layout declared once, as data; everything else about it is computed.

A `Layout` is an ordered list of typed fields. Offsets follow from the order and are never typed by hand; each
number lies on a multiple of its own size, so the C struct of the same order has the same offsets without
packing (the constructor refuses a layout where that does not hold). All numbers are little-endian. Readers
and writers take `.struct` and `.offset()`, the C header and the tables in docs/shm.md are printed from
`.fields`.

Checked layouts end in a `check` field: the CRC-32 of every byte before it. Because the CRC stands last and
little-endian, the CRC of the *whole* is the constant `seqlock.RESIDUE`: a reader checks with one call and no
slice.

Rejected: ctypes structures (a field access costs 5 times a `Struct.unpack`, and nothing computes a C header
from them); struct format strings alone (no names, and offsets typed at each use).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_CODES = {"u8": ("B", 1), "u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8)}


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `kind` is u8, u16, u32, u64, `bytes` or `pad` (zero), `size` counts bytes of the last two."""

    name: str
    kind: str
    size: int = 0
    note: str = ""

    @property
    def bytes(self) -> int:
        return _CODES[self.kind][1] if self.kind in _CODES else self.size

    @property
    def code(self) -> str:
        """The field's letter for `struct`."""
        if self.kind in _CODES:
            return _CODES[self.kind][0]
        return f"{self.size}{'x' if self.kind == 'pad' else 's'}"


class Layout:
    """Fields in order, with the offsets that follow. `size` is what the fields add up to."""

    __slots__ = ("name", "title", "fields", "size", "struct", "_offsets")

    def __init__(self, name: str, title: str, fields: tuple[Field, ...], size: int) -> None:
        self.name = name
        self.title = title
        self.fields = fields
        self._offsets: dict[str, int] = {}
        position = 0
        for field in fields:
            if field.kind in _CODES and position % field.bytes:
                raise ValueError(f"{name}.{field.name} at {position} is not aligned to {field.bytes}")
            self._offsets[field.name] = position
            position += field.bytes
        if position != size or size % 8:
            raise ValueError(
                f"{name}: fields add up to {position} bytes, declared {size}; must agree, times 8"
            )
        self.size = size
        self.struct = struct.Struct("<" + "".join(field.code for field in fields))

    def __contains__(self, field: str) -> bool:
        return field in self._offsets

    def offset(self, field: str) -> int:
        return self._offsets[field]

    def word(self, field: str) -> int:
        """Index of a u64 field in a memoryview cast to "Q"."""
        return self._offsets[field] // 8

    def width(self, field: str) -> int:
        return next(f.bytes for f in self.fields if f.name == field)

    def part(self, field: str) -> slice:
        """Where a field is in a copy."""
        return slice(self._offsets[field], self._offsets[field] + self.width(field))

    def only(self, *names: str) -> struct.Struct:
        """A struct of the same size that yields only the named fields; the others are skipped, which is cheaper."""
        codes = [field.code if field.name in names else f"{field.bytes}x" for field in self.fields]
        return struct.Struct("<" + "".join(codes))

    def unpack(self, data: bytes) -> dict[str, int | bytes]:
        """Every field by name: for dumps, not for hot paths."""
        named = [field.name for field in self.fields if field.kind != "pad"]
        return dict(zip(named, self.struct.unpack(data), strict=True))


def u8(name: str, note: str = "") -> Field:
    return Field(name, "u8", note=note)


def u16(name: str, note: str = "") -> Field:
    return Field(name, "u16", note=note)


def u32(name: str, note: str = "") -> Field:
    return Field(name, "u32", note=note)


def u64(name: str, note: str = "") -> Field:
    return Field(name, "u64", note=note)


def raw(name: str, size: int, note: str = "") -> Field:
    return Field(name, "bytes", size, note)


def pad(name: str, size: int) -> Field:
    return Field(name, "pad", size, "zero")
