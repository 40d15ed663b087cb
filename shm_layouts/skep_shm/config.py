"""The config region: routes, VPN rules, grants and limits, published as one value.

Writer: SY.config.routes, alone. Readers: every router. A state is published whole into one of two banks, the
one that the lowest bit of the new revision names, and becomes current by the store of the revision; a writer
that dies in between leaves the bank that readers use untouched. A state larger than a bank goes to a new
generation with larger banks, in which both banks are valid before the anchor swings. A new writer takes over
what a dead one had published, so routers never see an empty configuration because its owner restarted.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from skep_shm.config_codec import ROWS, decode_state, encode_state
from skep_shm.errors import RegionCode, RegionError
from skep_shm.layouts import BANK, RegionKind
from skep_shm.region import Attachment, Identity, Owner, Shape
from skep_shm.rescue import Rescue, Settle
from skep_shm.segment import MODE_DEFAULT, Segment
from skep_shm.types import ConfigState

REGION = "config"
BANK_BYTES_FIRST = 64 << 10  # about 500 routes
BANK_BYTES_MAX = 64 << 20
_READ_TRIES = 64
_CHECKED = BANK.size - 4  # bytes of the bank's header that its check covers


def _shape(bank_bytes: int) -> Shape:
    return Shape(2, bank_bytes)


class ConfigWriter:
    """Owns the configuration."""

    def __init__(self, owner: Owner, state: ConfigState) -> None:
        self._owner = owner
        self._bank_bytes = 0
        self._body = encode_state(state, owner.base_revision)
        self._segment = self._new_segment(len(self._body))
        self._put(owner.base_revision, self._body)
        self._put(
            owner.base_revision - 1, encode_state(state, owner.base_revision - 1)
        )  # no bank is ever empty
        owner.swing(self._segment)
        owner.publish(owner.base_revision)
        self._rescue = Rescue(owner, self._restore)

    @classmethod
    def create(
        cls, root: Path, hive: str, *, mode: int = MODE_DEFAULT, group: int | None = None, adopt: bool = True
    ) -> ConfigWriter:
        """Takes the region over with what was published last (`adopt`), or makes it with an empty state."""
        owner = Owner(root, REGION, Identity(RegionKind.CONFIG, hive), mode, group)
        try:
            return cls(owner, _left_behind(root) if adopt else ConfigState())
        except BaseException:
            owner.give_up()
            raise

    @property
    def revision(self) -> int:
        return self._owner.revision

    def publish(self, state: ConfigState) -> int:
        """Replaces the whole state and returns its revision. Raises RegionError TOO_LONG, NO_SPACE, LIMIT, with the
        old state still in force."""
        revision = self._owner.revision + 1
        body = encode_state(state, revision)
        if len(body) > self._bank_bytes:
            segment = self._new_segment(len(body))
            self._segment = segment
            self._put(revision - 1, self._body)
            self._put(revision, body)
            self._owner.swing(segment)
        else:
            self._put(revision, body)
        self._body = body
        self._owner.publish(revision)
        return revision

    def _new_segment(self, size: int) -> Segment:
        bank_bytes = max(BANK_BYTES_FIRST, self._bank_bytes)
        while bank_bytes < size:
            bank_bytes *= 2
        if bank_bytes > BANK_BYTES_MAX:
            detail = f"a configuration of {size} bytes, at most {BANK_BYTES_MAX}"
            raise RegionError(RegionCode.LIMIT, self._owner.name, detail)
        segment = self._owner.new_segment(_shape(bank_bytes))
        self._bank_bytes = bank_bytes
        return segment

    def _put(self, revision: int, body: bytes) -> None:
        start = _shape(self._bank_bytes).records_offset + (revision & 1) * self._bank_bytes
        end = start + self._bank_bytes
        self._segment.mapping[start:end] = body.ljust(self._bank_bytes, b"\0")

    def heartbeat(self, now_ns: int) -> None:
        """Sign of life, and makes the region again if its files were removed; `now_ns` is CLOCK_BOOTTIME."""
        self._owner.heartbeat(now_ns)
        self._rescue.look(now_ns)

    def _restore(self, settle: Settle) -> None:
        """Both banks in a new segment; see `rescue`."""
        shape = _shape(self._bank_bytes)
        segment = self._owner.new_segment(shape)
        segment.mapping[shape.records_offset :] = self._segment.mapping[shape.records_offset :]
        try:
            settle(segment)
        except BaseException:
            self._owner.discard(segment)
            raise
        self._segment = segment

    def close(self) -> None:
        """Ends the region: nothing stays behind. May be called twice."""
        self._owner.close()


def _left_behind(root: Path) -> ConfigState:
    try:
        reader = ConfigReader.attach(root)
    except RegionError:
        return ConfigState()
    try:
        return reader.read()
    except RegionError:
        return ConfigState()
    finally:
        reader.close()


class ConfigReader(Attachment):
    """The configuration, as routers see it. Compare `revision`; when it moved, `read()`."""

    kind = RegionKind.CONFIG

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> ConfigReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _mapped(self, segment: Segment, fields: dict[str, int | bytes]) -> None:
        """Nothing to set up: this is not a hot path."""

    def read(self) -> ConfigState:
        """The current state, whole. Raises RegionError DAMAGED: keep the state you have."""
        for _ in range(_READ_TRIES):
            segment = self._current()
            revision = max(self.revision, self.number("base_revision"))
            body = self._bank(segment, revision)
            if body is not None:
                return decode_state(body)
            if self.revision in (revision, self.number("base_revision") - 1) and not self._moved():
                break
        raise RegionError(RegionCode.DAMAGED, self.name, "the current bank is damaged", "publish it again")

    def _bank(self, segment: Segment, revision: int) -> bytes | None:
        """A checked copy of the bank of `revision`; None when it holds another or is damaged."""
        size = self.number("record_bytes")
        start = self.number("records_offset") + (revision & 1) * size
        header = segment.mapping[start : start + BANK.size]
        fields = BANK.unpack(header)
        length = body_bytes(fields)
        if fields["revision"] != revision or length > size:
            return None
        body = segment.mapping[start : start + length]
        return body if crc32(body[BANK.size :], crc32(body[:_CHECKED])) == fields["check"] else None


def body_bytes(fields: dict[str, int | bytes]) -> int:
    """Length of a bank's header, rows and heap together."""
    rows = sum(int(fields[name]) * layout.size for name, layout in ROWS)
    return BANK.size + rows + int(fields["heap_bytes"])
