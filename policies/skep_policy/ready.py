"""Who is ready to answer, in the order in which they are tried.

Owns, for each tenant and capability, the nodes of its agents, of its senior agents, and of its own people, each list by
name. Ready is whoever is registered in full, has a node, and, if it is an agent, has a valid seal where seals are
required. A policy that had to find and sort them would pay for each of ten thousand at each decision; here one change
of one record is a search by halves in each list that it stands in.

    tenant[tnt].ready[tag] = {"agents": [name, ...], "seniors": [...], "people": [...]}

Published is the head of a list, HEAD_MAX names: the router takes the first that lives, and whoever wants the ten
thousandth wants a finer capability. Each level has its own head, so juniors never crowd out their seniors. A change
behind the head publishes nothing. `ready[""]` is for messages that ask for nothing: who has one of ANYTHING.

Pure, as `documents`, which says where in the data these changes go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson

from skep_shm import IlkKind, IlkRecord, Registration, SealStatus

HEAD_MAX: Final = 64
"""Names that are published of each list."""

LEVELS: Final = ("agents", "seniors", "people")
"""In the order in which they are tried."""

ANYTHING: Final = frozenset({"default", "general"})
"""Capabilities of those who answer messages that ask for none."""

Entry = tuple[str, bytes]  # a node's name, and the ILK that answers there
Change = tuple[tuple[str, ...], bytes | None]  # a path below the tenant's `ready`, and JSON; None removes


class Readiness(NamedTuple):
    """Where one record stands among those who are ready."""

    tenant: bytes
    level: int
    node: str
    tags: frozenset[str]


def readiness(record: IlkRecord, seals: bool) -> Readiness | None:
    """None for whoever may not answer now. `seals`: agents need a valid one."""
    if record.registration != Registration.COMPLETE or not record.handler or record.kind == IlkKind.SYSTEM:
        return None
    if record.kind == IlkKind.AGENT and seals and record.seal != SealStatus.VALID:
        return None
    tags = frozenset(record.capabilities) - {""}
    return Readiness(record.tenant, level(record), record.handler, tags | {""} if tags & ANYTHING else tags)


def level(record: IlkRecord) -> int:
    """Index into LEVELS."""
    if record.kind == IlkKind.HUMAN:
        return 2
    return int("senior" in record.roles or "senior" in record.degrees)


class Ready:
    """All who are ready. A change is made in two steps, because what a record leaves may end before what it enters
    begins: `take_out`, then `put_in`, with what it is from now on."""

    __slots__ = ("_lists", "_places")

    def __init__(self) -> None:
        self._places: dict[bytes, Readiness] = {}
        self._lists: dict[bytes, dict[str, tuple[list[Entry], ...]]] = {}  # tenant -> tag -> one list for each level

    def take_out(self, ilk: bytes, now: Readiness | None) -> list[Change]:
        """Out of all lists in which it stands no longer. The changes are below its old tenant."""
        old = self._places.get(ilk)
        if old is None or old == now:
            return []
        if now is None:
            del self._places[ilk]
        else:
            self._places[ilk] = now._replace(tags=_common(old, now))
        gone = old.tags - _common(old, now)
        return [change for tag in sorted(gone) for change in self._drop(old, tag, (old.node, ilk))]

    def put_in(self, ilk: bytes, now: Readiness | None) -> list[Change]:
        """Into all lists in which it does not stand yet. The changes are below its tenant."""
        old = self._places.get(ilk)
        if now is None or old == now:
            return []
        self._places[ilk] = now
        new = now.tags if old is None else now.tags - old.tags
        return [change for tag in sorted(new) for change in self._add(now, tag, (now.node, ilk))]

    def document(self, tenant: bytes) -> dict[str, dict[str, list[str]]]:
        """All that is published of one tenant."""
        return {tag: _heads(lists) for tag, lists in self._lists.get(tenant, {}).items()}

    def _add(self, place: Readiness, tag: str, entry: Entry) -> Iterator[Change]:
        tags = self._lists.setdefault(place.tenant, {})
        lists = tags.get(tag)
        if lists is None:
            lists = tags[tag] = ([], [], [])
            lists[place.level].append(entry)
            yield (tag,), orjson.dumps(_heads(lists))
            return
        members = lists[place.level]
        at = bisect_left(members, entry)
        members.insert(at, entry)
        if at < HEAD_MAX:
            yield (tag, LEVELS[place.level]), _head_json(members)

    def _drop(self, place: Readiness, tag: str, entry: Entry) -> Iterator[Change]:
        tags = self._lists[place.tenant]
        lists = tags[tag]
        members = lists[place.level]
        at = bisect_left(members, entry)
        del members[at]
        if not any(lists):
            del tags[tag]
            if not tags:
                del self._lists[place.tenant]
            yield (tag,), None
        elif at < HEAD_MAX:
            yield (tag, LEVELS[place.level]), _head_json(members)


def _common(old: Readiness, now: Readiness | None) -> frozenset[str]:
    """The tags in whose lists nothing changes."""
    return old.tags & now.tags if now is not None and old[:3] == now[:3] else frozenset()


def _head(members: Iterable[Entry]) -> list[str]:
    return [node for node, _ in members]


def _head_json(members: list[Entry]) -> bytes:
    return orjson.dumps(_head(members[:HEAD_MAX]))


def _heads(lists: tuple[list[Entry], ...]) -> dict[str, list[str]]:
    return {name: _head(members[:HEAD_MAX]) for name, members in zip(LEVELS, lists, strict=True)}
