"""The policy region: the signed bundle that routers evaluate, and one that they only try.

Writer: SY.opa.rules, alone. Readers: every router, `skep policy status`. The region takes bundles as bytes: whoever
reads one verifies its signature (`skep_policy.bundle`) before it believes a word of it.

A publish is a new generation: a segment just large enough, filled before the anchor swings to it, so a reader finds a
publish whole or not at all, and one that still has the old segment mapped keeps the old policy whole. Then the
revision word tells those who wait. A policy changes a few times a day: two system calls more are nothing, and an idle
hive holds one bundle in memory, not two banks of eight megabytes. A new writer takes over what a dead one had
published, so no router loses its policy because the policy's owner restarted.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from skep_shm.errors import RegionCode, RegionError
from skep_shm.layouts import POLICY, RegionKind
from skep_shm.region import Attachment, Identity, Owner, Shape
from skep_shm.rescue import Rescue, Settle
from skep_shm.segment import MODE_DEFAULT, Segment
from skep_shm.types import PolicyState, PolicyStatus

REGION = "policy"
BUNDLE_BYTES_MAX = 8 << 20  # of one bundle: module, source and manifest
VERSION_MAX = 0xFFFF_FFFF_FFFF_FFFF  # a u64
_READ_TRIES = 64
_CHECKED = POLICY.size - 4  # bytes of the head that its check covers


class PolicyWriter:
    """Owns the policy that is in force."""

    def __init__(self, owner: Owner, state: PolicyState) -> None:
        self._owner = owner
        self._body = _encode(state, owner.base_revision, owner.name)
        owner.swing(self._filled())
        owner.publish(owner.base_revision)
        self._rescue = Rescue(owner, self._restore)

    @classmethod
    def create(
        cls, root: Path, hive: str, *, mode: int = MODE_DEFAULT, group: int | None = None, adopt: bool = True
    ) -> PolicyWriter:
        """Takes the region over with what was published last (`adopt`), or makes it without a policy. Raises
        RegionError BUSY, NO_SPACE."""
        owner = Owner(root, REGION, Identity(RegionKind.POLICY, hive), mode, group)
        try:
            return cls(owner, _left_behind(root) if adopt else PolicyState())
        except BaseException:
            owner.give_up()
            raise

    @property
    def revision(self) -> int:
        return self._owner.revision

    def publish(self, state: PolicyState) -> int:
        """Replaces the whole state and returns its revision. Raises RegionError TOO_LONG, NO_SPACE, with the old state
        still in force."""
        revision, before = self._owner.revision + 1, self._body
        self._body = _encode(state, revision, self._owner.name)
        try:
            segment = self._filled()
        except BaseException:
            self._body = before
            raise
        self._owner.swing(segment)
        self._owner.publish(revision)
        return revision

    def _filled(self) -> Segment:
        """A segment of the next generation that holds the body."""
        shape = Shape(1, -(-len(self._body) // 8) * 8)
        segment = self._owner.new_segment(shape)
        start = shape.records_offset
        segment.mapping[start : start + len(self._body)] = self._body
        return segment

    def heartbeat(self, now_ns: int) -> None:
        """Sign of life, and makes the region again if its files were removed; `now_ns` is CLOCK_BOOTTIME."""
        self._owner.heartbeat(now_ns)
        self._rescue.look(now_ns)

    def _restore(self, settle: Settle) -> None:
        """The same state in a new segment; see `rescue`."""
        segment = self._filled()
        try:
            settle(segment)
        except BaseException:
            self._owner.discard(segment)
            raise

    def close(self) -> None:
        """Ends the region: nothing stays behind. May be called twice."""
        self._owner.close()


def _encode(state: PolicyState, revision: int, region: str) -> bytes:
    """Head, bundle, shadow. Raises RegionError TOO_LONG."""
    for name, data in (("bundle", state.bundle), ("shadow", state.shadow)):
        if len(data) > BUNDLE_BYTES_MAX:
            detail = f"a {name} of {len(data)} bytes, at most {BUNDLE_BYTES_MAX}"
            raise RegionError(RegionCode.TOO_LONG, region, detail, "make the policy smaller")
    if not 0 <= state.version <= VERSION_MAX:
        raise ValueError(f"version {state.version} is not a number of 64 bits")
    sizes = len(state.bundle), len(state.shadow)
    head = POLICY.struct.pack(revision, state.version, int(state.status), *sizes, 0)[:_CHECKED]
    check = crc32(state.shadow, crc32(state.bundle, crc32(head)))
    return b"".join((head, check.to_bytes(4, "little"), state.bundle, state.shadow))


def _left_behind(root: Path) -> PolicyState:
    try:
        reader = PolicyReader.attach(root)
    except RegionError:
        return PolicyState()
    try:
        return reader.read()
    except RegionError:
        return PolicyState()
    finally:
        reader.close()


class PolicyReader(Attachment):
    """The policy, as routers see it. Compare `revision`; when it moved, `read()`."""

    kind = RegionKind.POLICY

    @classmethod
    def attach(cls, root: Path, owner_uid: int | None = None) -> PolicyReader:
        """Raises RegionError when the region is missing or must not be trusted."""
        return cls(root, REGION, owner_uid)

    def _mapped(self, segment: Segment, fields: dict[str, int | bytes]) -> None:
        """Nothing to set up: this is not a hot path."""

    def read(self) -> PolicyState:
        """The current state, whole. Raises RegionError DAMAGED: keep the policy you have."""
        for _ in range(_READ_TRIES):
            body = self._body(self._current())
            if body is not None:
                return _decode(body)
            if not self._moved():
                break
        raise RegionError(RegionCode.DAMAGED, self.name, "the published policy is damaged", "apply it again")

    def _body(self, segment: Segment) -> bytes | None:
        """A checked copy of head, bundle and shadow; None when it is damaged."""
        start, room = self.number("records_offset"), self.number("record_bytes")
        if room < POLICY.size:
            return None
        length = body_bytes(POLICY.unpack(segment.mapping[start : start + POLICY.size]))
        if length > room:
            return None
        body = segment.mapping[start : start + length]
        check = int.from_bytes(body[_CHECKED : POLICY.size], "little")
        return body if crc32(body[POLICY.size :], crc32(body[:_CHECKED])) == check else None


def _decode(body: bytes) -> PolicyState:
    """The state in a checked body."""
    fields = POLICY.unpack(body[: POLICY.size])
    middle = POLICY.size + int(fields["bundle_bytes"])
    status = PolicyStatus(int(fields["status"]))
    return PolicyState(int(fields["policy_version"]), status, body[POLICY.size : middle], body[middle:])


def body_bytes(fields: dict[str, int | bytes]) -> int:
    """Length of head, bundle and shadow together."""
    return POLICY.size + int(fields["bundle_bytes"]) + int(fields["shadow_bytes"])
