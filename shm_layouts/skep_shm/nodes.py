"""The nodes region: who is connected to one router.

Writer: that router, alone. Readers: the hive's other routers, system nodes, `skep node ls`. It dies with the
router: a new router starts with an empty table, because the connections died with the old one.

`NodesReader.get()` is what others call most. Measured on CPython 3.11: copying 128 bytes out of the mapping costs
0.06 us, the two looks at the sequence 0.05, CRC-32 0.15, unpacking with one precompiled `Struct` that skips what is
not wanted 0.15, decoding the name 0.1, making the tuple 0.15, each Python call in between 0.05. So each version of a
record is checked and decoded once (`seqlock.Reader`), and the record is small enough that most names fit in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layouts import NODE, RegionKind, State
from skep_shm.region import Identity, Owner
from skep_shm.rescue import Rescue
from skep_shm.segment import MODE_DEFAULT, hive_prefix, segment_names
from skep_shm.table import CAPACITY_FIRST, TableWriter
from skep_shm.table_reader import TableReader
from skep_shm.types import NodeRecord

REGION_PREFIX = "nodes-"
NAME_BYTES_MAX = 256  # of an L2 name

_FIELDS = ("state", "framing", "text_bytes", "uid", "uuid", "tenant", "ilk")
_TAIL = ("connected_at_ms", "pid", "vpn_id", "flags", "text")
_unpack = NODE.only(*_FIELDS, *_TAIL).unpack
_make = tuple.__new__
_LIVE = int(State.LIVE)  # an enum member compares three times slower
_INLINE = NODE.width("text")
_UPDATABLE = frozenset(("uid", "pid", "vpn_id", "framing", "connected_at_ms", "tenant", "ilk", "flags"))


def region_name(router_uuid: bytes) -> str:
    return REGION_PREFIX + router_uuid.hex()


class NodesWriter:
    """A router's table of its own nodes. Each call is O(1); growth to a new generation is amortised."""

    def __init__(self, owner: Owner, capacity: int) -> None:
        self._owner = owner
        self._table = TableWriter(owner, NODE, "uuid", capacity)
        self._table.start()
        self._rescue = Rescue(owner, self._table.restore)

    @classmethod
    def create(
        cls,
        root: Path,
        router_uuid: bytes,
        router_name: str,
        hive: str,
        *,
        mode: int = MODE_DEFAULT,
        group: int | None = None,
        capacity: int = CAPACITY_FIRST,
    ) -> NodesWriter:
        """Takes the region over from a dead writer or makes it. Raises RegionError BUSY, NO_SPACE."""
        identity = Identity(RegionKind.NODES, hive, router_uuid, router_name)
        owner = Owner(root, region_name(router_uuid), identity, mode, group)
        try:
            return cls(owner, capacity)
        except BaseException:
            owner.give_up()
            raise

    @property
    def revision(self) -> int:
        return self._table.revision

    def add(self, record: NodeRecord) -> int:
        """Adds a node and returns its slot. The caller keeps uuids unique: one live connection each."""
        name = record.name.encode()
        if len(name) > NAME_BYTES_MAX:
            detail = f"a name of {len(name)} bytes, at most {NAME_BYTES_MAX}"
            raise RegionError(RegionCode.TOO_LONG, self._owner.name, detail)
        return self._table.insert(record.uuid, name, _packer(record, len(name)))

    def update(self, slot: int, **changes: int | bytes) -> None:
        """Changes fields of a node; not its uuid or name, which are what others found it by."""
        if not _UPDATABLE.issuperset(changes):
            wrong = ", ".join(sorted(set(changes) - _UPDATABLE))
            raise TypeError(f"cannot change {wrong}: remove the node and add it again")
        raw = self._table.raw(slot)
        record = _record(raw)._replace(**changes)  # type: ignore[arg-type]  # names were checked
        self._table.replace(slot, _packer(record, _unpack(raw)[2]))

    def remove(self, slot: int) -> None:
        self._table.delete(slot)

    def heartbeat(self, now_ns: int) -> None:
        """Sign of life, and makes the region again if its files were removed; `now_ns` is CLOCK_BOOTTIME."""
        self._owner.heartbeat(now_ns)
        self._rescue.look(now_ns)

    def statistics(self) -> dict[str, int]:
        return self._table.statistics()

    def close(self) -> None:
        """Ends the region: nothing stays behind. May be called twice."""
        self._owner.close()


def _packer(record: NodeRecord, text_bytes: int) -> Callable[[int, int, bytes], bytes]:
    for field, value in (("uuid", record.uuid), ("tenant", record.tenant), ("ilk", record.ilk)):
        if len(value) != 16:
            raise ValueError(f"{field} has {len(value)} bytes instead of 16")

    def pack(slot: int, following: int, text: bytes) -> bytes:
        return NODE.struct.pack(
            0,
            slot,
            State.LIVE,
            record.framing,
            text_bytes,
            following,
            record.uid,
            record.uuid,
            record.tenant,
            record.ilk,
            record.connected_at_ms,
            record.pid,
            record.vpn_id,
            record.flags,
            text,
            0,
        )[:-4]

    return pack


def _record(raw: bytes) -> NodeRecord:
    """The fixed fields of a record; the name is for the caller to fill in."""
    _, framing, _, uid, uuid, tenant, ilk, at_ms, pid, vpn_id, flags, _ = _unpack(raw)
    return NodeRecord(uuid, "", uid, pid, vpn_id, framing, at_ms, tenant, ilk, flags)


class NodesReader(TableReader[NodeRecord]):
    """One router's nodes, as any other process sees them."""

    kind = RegionKind.NODES
    layout = NODE
    record_bytes = NODE.size
    key = "uuid"

    @classmethod
    def attach(cls, root: Path, router_uuid: bytes, owner_uid: int | None = None) -> NodesReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, region_name(router_uuid), owner_uid)

    def _decode(self, slot: int, raw: bytes) -> NodeRecord | None:
        state, framing, size, uid, uuid, tenant, ilk, at_ms, pid, vpn_id, flags, text = _unpack(raw)
        if state != _LIVE:
            return None
        if size > _INLINE:
            return self._decode_long(slot, raw)
        name = text[:size].decode()
        return _make(NodeRecord, (uuid, name, uid, pid, vpn_id, framing, at_ms, tenant, ilk, flags))

    def _decode_long(self, slot: int, raw: bytes) -> NodeRecord | None:
        """A node whose name goes on in other records."""
        whole = self.text(slot, raw)
        return None if whole is None else _record(whole[1])._replace(name=whole[0].decode())


def nodes_readers(root: Path, owner_uid: int | None = None) -> list[NodesReader]:
    """A reader for each router of the hive whose region is usable; what is not, `inspect.check` names."""
    readers = []
    prefix = hive_prefix(root)
    for name in segment_names(prefix + REGION_PREFIX):
        if "." in name:
            continue
        try:
            readers.append(NodesReader(root, name.removeprefix(prefix), owner_uid))
        except RegionError:
            continue  # another's trouble: one router's broken region must not hide the others
    return readers
