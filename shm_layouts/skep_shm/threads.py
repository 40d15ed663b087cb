"""The threads region: which handler a thread is bound to.

Writer: SY.threads, alone. Readers: the routers, which ask it before anything else decides, and `skep`. A new
writer takes over the bindings that a dead one left, so no thread is lost to a crash.
"""

from __future__ import annotations

from pathlib import Path

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layouts import BINDING, SLOT_NONE, RegionKind, State
from skep_shm.region import Identity, Owner
from skep_shm.rescue import Rescue
from skep_shm.segment import MODE_DEFAULT
from skep_shm.table import CAPACITY_FIRST, CAPACITY_MAX, Pack, TableWriter
from skep_shm.table_reader import TableReader
from skep_shm.types import Binding

REGION = "threads"
HANDLER_BYTES_MAX = 256  # of an L2 name
REASON_BYTES_MAX = 96  # for people; longer ones are cut

_FIELDS = ("handler_bytes", "thread", "handler_uuid", "lease_until_ns", "revision")
_unpack = BINDING.only(*_FIELDS).unpack
_INLINE = BINDING.width("text")


class ThreadsWriter:
    """Owns the bindings. Each call is O(1)."""

    def __init__(self, owner: Owner, adopted: list[Binding]) -> None:
        self._owner = owner
        capacity = CAPACITY_FIRST
        while capacity < 2 * len(adopted) and capacity < CAPACITY_MAX:
            capacity *= 2
        self._table = TableWriter(owner, BINDING, "thread", capacity)
        for binding in adopted:
            thread, text, pack = self._encoded(binding)
            self._table.load(thread, text, pack(0, SLOT_NONE, text[:_INLINE]))
        self._table.start()
        self._rescue = Rescue(owner, self._table.restore)

    @classmethod
    def create(
        cls,
        root: Path,
        hive: str = "",
        *,
        mode: int = MODE_DEFAULT,
        group: int | None = None,
        adopt: bool = True,
    ) -> ThreadsWriter:
        """Takes the region over with its bindings (`adopt`), or makes it. Raises RegionError BUSY, NO_SPACE."""
        owner = Owner(root, REGION, Identity(RegionKind.THREADS, hive), mode, group)
        try:
            return cls(owner, _left_behind(root) if adopt else [])
        except BaseException:
            owner.give_up()
            raise

    @property
    def revision(self) -> int:
        return self._table.revision

    def bind(self, binding: Binding) -> int:
        """Binds a thread, replacing its binding if it has one; returns the slot."""
        old = self._table.slot_of(binding.thread)
        slot = self._table.insert(
            *self._encoded(binding)
        )  # first the new one: a reader between the two finds one or the other
        if old is not None:
            self._table.delete(old)
        return slot

    def _encoded(self, binding: Binding) -> tuple[bytes, bytes, Pack]:
        handler, text = _text_of(binding, self._owner.name)
        return binding.thread, text, _packer(binding, len(handler), len(text))

    def unbind(self, thread: bytes) -> bool:
        """False when the thread was not bound."""
        slot = self._table.slot_of(thread)
        if slot is not None:
            self._table.delete(slot)
        return slot is not None

    def heartbeat(self, now_ns: int) -> None:
        """Sign of life, and makes the region again if its files were removed; `now_ns` is CLOCK_BOOTTIME."""
        self._owner.heartbeat(now_ns)
        self._rescue.look(now_ns)

    def statistics(self) -> dict[str, int]:
        return self._table.statistics()

    def close(self) -> None:
        """Ends the region: nothing stays behind. May be called twice."""
        self._owner.close()


def _left_behind(root: Path) -> list[Binding]:
    """What a dead writer had bound; nothing when there was none or it is unusable."""
    try:
        reader = ThreadsReader.attach(root)
    except RegionError:
        return []
    try:
        return reader.all()
    finally:
        reader.close()


def _text_of(binding: Binding, region: str) -> tuple[bytes, bytes]:
    handler = binding.handler.encode()
    if len(handler) > HANDLER_BYTES_MAX:
        detail = f"a handler name of {len(handler)} bytes, at most {HANDLER_BYTES_MAX}"
        raise RegionError(RegionCode.TOO_LONG, region, detail)
    if len(binding.thread) != 32 or len(binding.handler_uuid) != 16:
        raise ValueError("a thread id has 32 bytes and a handler's uuid 16")
    return handler, handler + binding.reason.encode()[:REASON_BYTES_MAX]


def _packer(binding: Binding, handler_bytes: int, text_bytes: int) -> Pack:
    def pack(slot: int, following: int, text: bytes) -> bytes:
        return BINDING.struct.pack(
            0,
            slot,
            State.LIVE,
            text_bytes,
            following,
            handler_bytes,
            binding.thread,
            binding.handler_uuid,
            binding.lease_until_ns,
            binding.revision,
            text,
            0,
        )[:-4]

    return pack


class ThreadsReader(TableReader[Binding]):
    """The bindings, as routers see them. While a thread is bound anew, `all()` may show both; `revision` tells."""

    kind = RegionKind.THREADS
    layout = BINDING
    record_bytes = BINDING.size
    key = "thread"

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> ThreadsReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _decode(self, slot: int, raw: bytes) -> Binding | None:
        whole = self.text(slot, raw) if raw[12] == State.LIVE else None
        if whole is None:
            return None
        text, raw = whole
        handler_bytes, thread, handler_uuid, lease, revision = _unpack(raw)
        handler = text[:handler_bytes].decode(errors="replace")
        reason = text[handler_bytes:].decode(errors="ignore")  # the cut may have split a character
        return Binding(thread, handler, handler_uuid, lease, reason, revision)
