"""Who is here: the connections of this router by uuid and by name, and the names of owners who have just died.

Owns two indexes over entries that belong to somebody else (the core's links): uuid -> entry, name -> entry or group.
Joining and leaving touch a fixed number of dictionary cells, whatever the number of entries; nothing is rebuilt.

Invariants:
  every entry is in both indexes or in neither;  a uuid has one entry, a name's members have one uid;
  a name of kind SY or RT has one member;  every name ends in `@<hive>` of this hive;
  an entry does not change its uuid, name or uid while it is here.

A name outlives its last member by a grace time, in which only the same uid may take it again: otherwise a crash would
be an invitation to whoever waits for it. Holds are bounded per uid, so that a uid which floods us with short-lived
names pushes out its own holds and nobody else's.

Why a group of one is the entry itself: nearly all names have one member, and a dictionary for each would cost 200
bytes of the 400 that an entry may. Rejected: a list per group (leaving a group of n costs n); a name trie (nothing
asks for it: patterns are tested on a miss, against names, and charged for it); keeping entries of other hives here (a
node that calls itself `x@elsewhere` is a forgery; what other hives announce has its own table).
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from typing import Generic, NamedTuple, Protocol, TypeVar

from skep.protocol.names import hive_of, is_system

# Names of dead owners that one uid may have in grace at once: every node of a large hive restarting together.
HOLDS_PER_UID_MAX = 16384
# Expired holds swept per join or leave. A call adds at most one, so two keep the table from ever growing by neglect.
HOLDS_PER_SWEEP = 2


class Entry(Protocol):
    """What the registry reads of a connection."""

    uuid: bytes
    name: str  # with its hive
    uid: int
    vpn_id: int
    tenant: bytes


E = TypeVar("E", bound=Entry)


class Outcome(IntEnum):
    """What became of an attempt to join. From UUID_TAKEN on nothing was changed."""

    JOINED = 0
    REPLACED = 1  # the same uid came back with the same uuid; its older connection is the one to close
    UUID_TAKEN = 2  # the uuid is live under another uid
    NAME_HELD = 3  # the name is live, or in its grace time, under another uid
    NAME_SINGLE = 4  # SY.* and RT.* have one member, and it is live under another uuid
    NAME_FOREIGN = 5  # the name belongs to another hive


class JoinResult(NamedTuple, Generic[E]):
    outcome: Outcome
    replaced: E | None = None

    @property
    def joined(self) -> bool:
        return self.outcome <= Outcome.REPLACED


class _Group(Generic[E]):
    """The members of a name with more than one, in join order; `view` is their tuple until one comes or goes."""

    __slots__ = ("members", "view")

    def __init__(self, *entries: E) -> None:
        self.members = {entry.uuid: entry for entry in entries}
        self.view: tuple[E, ...] | None = None

    def entries(self) -> tuple[E, ...]:
        if self.view is None:
            self.view = tuple(self.members.values())
        return self.view


class _Holds:
    """Names in their grace time. The grace is one constant, so insertion order is order of expiry.

    OrderedDict, because both tables are emptied from the front: a plain dict would step over all it lost there."""

    __slots__ = ("_by_name", "_by_uid")

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, tuple[int, int]] = OrderedDict()  # name -> uid, until_ns
        self._by_uid: dict[int, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, name: str, uid: int, until_ns: int) -> None:
        self.drop(name)
        self._by_name[name] = (uid, until_ns)
        own = self._by_uid.setdefault(uid, OrderedDict())
        own[name] = None
        if len(own) > HOLDS_PER_UID_MAX:
            self.drop(next(iter(own)))

    def drop(self, name: str) -> None:
        hold = self._by_name.pop(name, None)
        if hold is None:
            return
        own = self._by_uid[hold[0]]
        del own[name]
        if not own:
            del self._by_uid[hold[0]]

    def holder(self, name: str, now_ns: int) -> int | None:
        hold = self._by_name.get(name)
        return hold[0] if hold is not None and now_ns < hold[1] else None

    def sweep(self, now_ns: int) -> None:
        for _ in range(HOLDS_PER_SWEEP):
            name = next(iter(self._by_name), None)
            if name is None or now_ns < self._by_name[name][1]:
                return
            self.drop(name)


class Registry(Generic[E]):
    """Live entries of one router. Times are nanoseconds of a clock that never goes back."""

    __slots__ = ("_by_uuid", "_grace_ns", "_holds", "_names", "hive")

    def __init__(self, hive: str, grace_s: float) -> None:
        self.hive = hive
        self._grace_ns = int(grace_s * 1e9)
        self._by_uuid: dict[bytes, E] = {}
        self._names: dict[str, E | _Group[E]] = {}
        self._holds = _Holds()

    def __len__(self) -> int:
        return len(self._by_uuid)

    @property
    def holds(self) -> int:
        """Names in their grace time, expired ones that were not swept yet included."""
        return len(self._holds)

    def by_uuid(self, uuid: bytes) -> E | None:
        return self._by_uuid.get(uuid)

    def group(self, name: str) -> tuple[E, ...]:
        """The members of a full name in the order in which they joined; empty when nobody has it."""
        holder = self._names.get(name)
        if holder is None:
            return ()
        return holder.entries() if isinstance(holder, _Group) else (holder,)

    def first(self, name: str) -> E | None:
        """The member of a full name that has been here longest."""
        holder = self._names.get(name)
        return next(iter(holder.members.values())) if isinstance(holder, _Group) else holder

    def names(self) -> Iterator[str]:
        """Every live name once, in the order in which the names appeared. Not for the hot path."""
        return iter(self._names)

    def __iter__(self) -> Iterator[E]:
        return iter(self._by_uuid.values())

    def join(self, entry: E, now_ns: int) -> JoinResult[E]:
        """Admit `entry`, or say why not; a refusal changes nothing.

        Whether this uid may have this name at all was decided before (`grants.may_hold`)."""
        self._holds.sweep(now_ns)
        old = self._by_uuid.get(entry.uuid)
        refusal = self._refusal(entry, old, now_ns)
        if refusal is not None:
            return JoinResult(refusal)
        if old is not None:
            self._replace(old, entry, now_ns)
        else:
            self._add(entry)
        self._holds.drop(entry.name)
        return JoinResult(Outcome.JOINED if old is None else Outcome.REPLACED, old)

    def leave(self, entry: E, now_ns: int) -> bool:
        """Remove exactly this entry. False when it is not here: replaced before, or left before."""
        self._holds.sweep(now_ns)
        if self._by_uuid.get(entry.uuid) is not entry:
            return False
        self._remove(entry, now_ns)
        return True

    def _refusal(self, entry: E, old: E | None, now_ns: int) -> Outcome | None:
        if hive_of(entry.name) != self.hive:
            return Outcome.NAME_FOREIGN
        if old is not None and old.uid != entry.uid:
            return Outcome.UUID_TAKEN
        member = self.first(entry.name)
        if member is None:
            held_by = self._holds.holder(entry.name, now_ns)
            return None if held_by is None or held_by == entry.uid else Outcome.NAME_HELD
        if member.uid != entry.uid:
            return Outcome.NAME_HELD
        return Outcome.NAME_SINGLE if member is not old and is_system(entry.name) else None

    def _replace(self, old: E, entry: E, now_ns: int) -> None:
        """A lone holder keeps its place; a member of a group, or one with a new name, joins anew."""
        if self._names.get(entry.name) is old:
            self._names[entry.name] = entry
            self._by_uuid[entry.uuid] = entry
            return
        self._remove(old, now_ns)
        self._add(entry)

    def _add(self, entry: E) -> None:
        self._by_uuid[entry.uuid] = entry
        holder = self._names.get(entry.name)
        if holder is None:
            self._names[entry.name] = entry
        elif isinstance(holder, _Group):
            holder.members[entry.uuid] = entry
            holder.view = None
        else:
            self._names[entry.name] = _Group(holder, entry)

    def _remove(self, entry: E, now_ns: int) -> None:
        del self._by_uuid[entry.uuid]
        holder = self._names[entry.name]
        if not isinstance(holder, _Group):
            del self._names[entry.name]
            self._holds.add(entry.name, entry.uid, now_ns + self._grace_ns)
            return
        del holder.members[entry.uuid]
        holder.view = None
        if len(holder.members) == 1:
            self._names[entry.name] = next(iter(holder.members.values()))
