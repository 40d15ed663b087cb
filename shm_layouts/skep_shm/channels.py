"""The channels region: whose a channel is, by the keyed hash of its kind, address and tenant.

Writer: SY.identity, alone. Readers: routers, system nodes and the nodes of channels, by group. The address is not
here: whoever has it, and the hive's secret, computes the key (`channel_key`) and looks it up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skep_shm.errors import RegionCode, RegionError
from skep_shm.found import Found
from skep_shm.keyed import KEY_BYTES, Encoded, KeyedWriter, wrong_width
from skep_shm.layouts import CHANNEL, SLOT_NONE, RegionKind, State
from skep_shm.table_reader import TableReader
from skep_shm.types import ChannelRecord

REGION = "channels"
KIND_BYTES_MAX = CHANNEL.width("text")

_LIVE = int(State.LIVE)
_unpack = CHANNEL.only("state", "text_bytes", "key", "ilk", "tenant", "text").unpack
_make = tuple.__new__
_ILK, _TENANT = CHANNEL.part("ilk"), CHANNEL.part("tenant")


class ChannelsWriter(KeyedWriter[ChannelRecord]):
    """Owns the channels."""

    region = REGION
    kind = RegionKind.CHANNELS
    layout = CHANNEL
    key = "key"

    def _encode(self, record: ChannelRecord) -> Encoded:
        if not len(record.key) == len(record.ilk) == len(record.tenant) == KEY_BYTES:
            raise wrong_width(key=record.key, ilk=record.ilk, tenant=record.tenant)
        kind = record.kind.encode()
        if len(kind) > KIND_BYTES_MAX:
            detail = f"a channel kind of {len(kind)} bytes, at most {KIND_BYTES_MAX}"
            raise RegionError(RegionCode.TOO_LONG, self._owner.name, detail)
        fields = (0, 0, _LIVE, len(kind), SLOT_NONE, record.key, record.ilk, record.tenant, kind, 0)
        return record.key, kind, CHANNEL.struct.pack(*fields)[:-4]


class FoundChannel(Found[ChannelRecord]):
    """A channel that was looked up: whose it is, is read straight from the copy."""

    __slots__ = ()

    def _decoded(self) -> ChannelRecord:
        return _whole(_unpack(self.raw))

    @property
    def ilk(self) -> bytes:
        return self.raw[_ILK]

    @property
    def tenant(self) -> bytes:
        return self.raw[_TENANT]


class ChannelsReader(TableReader[ChannelRecord]):
    """The channels, as the nodes of channels see them."""

    kind = RegionKind.CHANNELS
    layout = CHANNEL
    record_bytes = CHANNEL.size
    key = "key"
    view = FoundChannel

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> ChannelsReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _decode(self, slot: int, raw: bytes) -> ChannelRecord | None:
        fields = _unpack(raw)
        return _whole(fields) if fields[0] == _LIVE else None


def _whole(fields: tuple[Any, ...]) -> ChannelRecord:
    _, size, key, ilk, tenant, text = fields
    return _make(ChannelRecord, (key, ilk, tenant, text[:size].decode()))
