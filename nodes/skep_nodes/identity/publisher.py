"""The regions ilks, tenants and channels: the image of the database that routers and channels read.

Nothing that says who somebody is stands in them: no name, and of an address only a keyed hash, whose key is the file
`state/identity/channel.key` (0640: the group that may read it may look channels up). A merged interlocutor is an alias
until it expires, then it is gone.

A record that the region refuses (no memory) is remembered and tried again with each heartbeat; what was acknowledged is
in the database, and a start fills the regions anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from skep_nodes.identity import limits
from skep_nodes.identity.kinds import Image, Kinds, Owned, owned
from skep_nodes.identity.records import Channel, Ilk, Tenant
from skep_nodes.identity.store import Store
from skep_nodes.identity.tables import CHANNELS, ILKS, TENANTS, Damaged, Table, words
from skep_nodes.identity.view import Change
from skep_shm import (
    ChannelRecord,
    ChannelsWriter,
    IlkKind,
    IlkRecord,
    IlksWriter,
    RegionError,
    Registration,
    SealStatus,
    Subtype,
    TenantRecord,
    TenantStatus,
    TenantsWriter,
    channel_key,
)

KEY_FILE: Final = "channel.key"
KEY_BYTES: Final = 32
FAILED_MAX: Final = limits.WAITING_MAX
MODE: Final = 0o640

POINTS: Final = {
    table: (f"put.{name}.before", f"put.{name}.after")
    for table, name in ((TENANTS, "tenants"), (ILKS, "ilks"), (CHANNELS, "channels"))
}
CRASH_POINTS: Final = (
    "fill.tenants", "fill.ilks", "fill.channels", "fill.done", *(name for pair in POINTS.values() for name in pair),
)  # fmt: skip
"""Places where a crash must be harmless; a test is told of each (`at`)."""

_NOBODY: Final[tuple[bytes, Kinds]] = (b"", ())
_KINDS, _SUBTYPES, _SEALS = tuple(IlkKind), tuple(Subtype), tuple(SealStatus)
_REGISTRATIONS, _STATUSES = tuple(Registration), tuple(TenantStatus)


def read_key(path: Path, group: int | None = None) -> bytes:
    """The key of channel hashes; made once, readable by the group that may look channels up. Raises OSError."""
    if path.exists():
        key = bytes.fromhex(path.read_text().strip())
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"{path} holds {len(key)} bytes, {KEY_BYTES} are needed; remove it to get a new one"
            )
        return key
    key = secrets.token_bytes(KEY_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        os.fchmod(fd, MODE)
        if group is not None:
            os.fchown(fd, -1, group)
        os.write(fd, key.hex().encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    return key


def ilk_record(ilk: Ilk, kinds: Kinds = ()) -> IlkRecord | None:
    """What readers see of an interlocutor; None for nothing."""
    if ilk.deleted_at_ms:
        return None
    return IlkRecord(
        ilk.ilk, _KINDS[ilk.kind], _SUBTYPES[ilk.subtype], _REGISTRATIONS[ilk.registration], _SEALS[ilk.seal],
        ilk.tenant, ilk.canonical, ilk.alias_until_ms, ilk.seal_until_ms, ilk.node_name, ilk.roles, ilk.capabilities,
        ilk.degrees, kinds,
    )  # fmt: skip


def ilk_of_row(row: Sequence[Any], kinds: Kinds = ()) -> IlkRecord | None:
    """The same from a row of its table, whose columns stand in `tables.ILKS`."""
    (ilk, kind, subtype, registration, tenant, _, node_name, _, roles, capabilities, _, canonical, alias_until, seal,
     seal_until, degrees, _, _, _, deleted_at, _) = row  # fmt: skip
    if deleted_at:
        return None
    return IlkRecord(
        ilk, _KINDS[kind], _SUBTYPES[subtype], _REGISTRATIONS[registration], _SEALS[seal], tenant, canonical,
        alias_until, seal_until, node_name, words(roles), words(capabilities), words(degrees), kinds,
    )  # fmt: skip


def _with_kinds(rows: Iterable[Sequence[Any]], owners: Iterator[tuple[bytes, Kinds]]) -> Iterator[IlkRecord]:
    """Interlocutors of rows with the kinds of their channels; both come in the order of their ILKs."""
    owner, kinds = next(owners, _NOBODY)
    for row in rows:
        while owner < row[0] and owner:
            owner, kinds = next(owners, _NOBODY)
        record = ilk_of_row(row, kinds if owner == row[0] else ())
        if record is not None:
            yield record


def tenant_record(tenant: Tenant) -> TenantRecord:
    return TenantRecord(tenant.tenant, _STATUSES[tenant.status])


def _silent(text: str) -> None:
    """For those who want no warnings."""


class Regions:
    """The three writers."""

    def __init__(
        self, root: Path, hive: str, key: bytes, *, group: int | None = None, warn: Callable[[str], None] = _silent,
        at: Callable[[str], None] = _silent,
    ) -> None:  # fmt: skip
        self._key, self._warn, self._at = key, warn, at
        with ExitStack() as made:
            self.tenants = TenantsWriter.create(root, hive, mode=MODE, group=group)
            made.callback(self.tenants.close)
            self.ilks = IlksWriter.create(root, hive, mode=MODE, group=group)
            made.callback(self.ilks.close)
            self.channels = ChannelsWriter.create(root, hive, mode=MODE, group=group)
            made.pop_all()  # all three are there: they are closed together
        self._writer_of: tuple[tuple[Table, Any], ...] = (
            (TENANTS, self.tenants), (ILKS, self.ilks), (CHANNELS, self.channels),
        )  # fmt: skip
        self._failed: dict[tuple[str, Any], tuple[Change, Kinds]] = {}
        self.published: Callable[[], None] = lambda: None  # told after each change, to ring the doorbells

    async def fill(self, store: Store, tenants: Iterable[Tenant]) -> None:
        """Show the whole database, piece by piece. Channels last: who finds one then finds its owner."""
        self._at("fill.tenants")
        self.tenants.fill(map(tenant_record, tenants))
        self._at("fill.ilks")
        owners = owned(self._sound(store, CHANNELS, by="ilk_id"))
        await asyncio.to_thread(self.ilks.fill, _with_kinds(self._sound(store, ILKS), owners))
        self._at("fill.channels")
        rows = self._sound(store, CHANNELS)
        await asyncio.to_thread(self.channels.fill, map(self._channel_of_row, rows))
        self._at("fill.done")

    def _sound(self, store: Store, table: Table, by: str = "") -> Iterator[Sequence[Any]]:
        """The rows of a table that may be shown, for another thread. A region takes an iterator and the store gives
        pieces when it is awaited, so that thread asks this one's loop for the next piece: no table is in memory whole.
        Rows become what is shown without becoming records first: a million of them are a minute's work as it is."""
        loop, pieces = asyncio.get_running_loop(), store.scan_rows(table, by=by)

        async def following() -> Sequence[Any] | None:
            return await anext(pieces, None)

        def rows() -> Iterator[Sequence[Any]]:
            while (piece := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
                for row in piece:
                    if table.sound(row):
                        yield row
                    elif not by:  # told of once, in the order of the keys
                        self._warn(f"WARNING {Damaged(table.name, row[0])}; it is not shown")

        return rows()

    def _channel_of_row(self, row: Sequence[Any]) -> ChannelRecord:
        _, ilk, tenant, kind, address, *_ = row
        return ChannelRecord(channel_key(self._key, kind, address, tenant), ilk, tenant, kind)

    def _channel(self, channel: Channel) -> ChannelRecord:
        key = channel_key(self._key, channel.kind, channel.address, channel.tenant)
        return ChannelRecord(key, channel.ilk, channel.tenant, channel.kind)

    def publish(self, image: Image) -> None:
        """See `service.Publisher`."""
        shown = [change for change in image.changes if change.table in POINTS]
        if not shown:
            return
        try:
            self._show(shown, image.kinds)
        except (RegionError, ValueError):  # one of them: each by itself, so that the others are shown
            for change in shown:
                self._try(change, image.kinds.get(change.key, ()))
        self.published()

    def _try(self, change: Change, kinds: Kinds) -> None:
        try:
            self._show((change,), {change.key: kinds})
        except (RegionError, ValueError) as error:
            if len(self._failed) < FAILED_MAX:
                self._failed[change.table.name, change.key] = change, kinds
            self._warn(f"WARNING a change is not visible yet: {error}")

    def _show(self, changes: Sequence[Change], kinds: Owned) -> None:
        """Region by region, the channels last: who finds one then finds its owner. Raises RegionError, ValueError."""
        for table, writer in self._writer_of:
            these = [change for change in changes if change.table is table]
            if these:
                records = [self._record(change, kinds) for change in these]
                self._put(writer, POINTS[table], records)
                self._take_away(writer, these, records)
        for change in changes if self._failed else ():
            self._failed.pop((change.table.name, change.key), None)

    def _record(self, change: Change, kinds: Owned) -> Any:
        """What readers see of a row; None for nothing."""
        table, key, record, _ = change
        if record is None:
            return None
        if table is CHANNELS:
            return self._channel(record)
        return ilk_record(record, kinds.get(key, ())) if table is ILKS else tenant_record(record)

    def _put(self, writer: Any, points: tuple[str, str], records: Sequence[Any]) -> None:
        before, after = points
        for record in records:
            self._at(before)
            if record is not None:
                writer.put(record)
            self._at(after)

    def _take_away(self, writer: Any, changes: Sequence[Change], records: Sequence[Any]) -> None:
        """What is no more; after what takes its place was put, so that nobody is missed in between."""
        stale = [
            self._channel(before).key if table is CHANNELS else key
            for (table, key, _, before), record in zip(changes, records, strict=True)
            if before is not None and (record is None or table is CHANNELS)
        ]
        if stale:
            put = {record[0] for record in records if record is not None}
            for key in stale:
                if key not in put:
                    writer.remove(key)

    def heartbeat(self, now_ns: int) -> None:
        """Signs of life, and another try for what could not be shown."""
        for writer in self._writers():
            writer.heartbeat(now_ns)
        for change, kinds in list(self._failed.values()):
            self._try(change, kinds)

    @property
    def unpublished(self) -> int:
        return len(self._failed)

    def statistics(self) -> dict[str, Any]:
        names = ("tenants", "ilks", "channels")
        return {name: writer.statistics() for name, writer in zip(names, self._writers(), strict=True)}

    def _writers(self) -> Iterator[Any]:
        yield from (self.tenants, self.ilks, self.channels)

    def close(self) -> None:
        """End the regions."""
        for writer in self._writers():
            writer.close()
