"""The kinds of channels that an interlocutor owns, as its record in the region has them.

A grant may be narrowed to kinds of channels: a router compares it with the kinds in the record. They are the image of
the channel rows, so whoever's channels change is shown anew. Somebody new has the channels of the same group and no
others; of everybody else all are read first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from skep_nodes.identity.records import Channel
from skep_nodes.identity.tables import CHANNELS, ILKS
from skep_nodes.identity.view import Ask, Change, View

Kinds = tuple[str, ...]
Owned = Mapping[bytes, Kinds]


class Image(NamedTuple):
    """What has to be shown: rows that changed or whose owner's channels did, and what kinds their owners have."""

    changes: Sequence[Change]
    kinds: Owned


def asks(changes: Iterable[Change]) -> set[Ask]:
    """What `image` must see."""
    return {
        ask for ilk in _known(changes) for ask in (Ask(CHANNELS, "ilk_id", ilk), Ask(ILKS, "ilk_id", ilk))
    }


def image(view: View, changes: Sequence[Change]) -> Image:
    """Of some changes, all that readers must see of them."""
    kinds: dict[bytes, Kinds] = {}
    for change in changes:
        if change.table is CHANNELS and change.record is not None:
            owner, kind = change.record.ilk, change.record.kind
            before = kinds.get(owner, ())
            kinds[owner] = before if kind in before else (*before, kind)
    shown, changed = list(changes), {change.key for change in changes if change.table is ILKS}
    for ilk in _known(changes):
        kinds[ilk] = kinds_of(view.channels_of(ilk))
        record = view.ilk(ilk) if ilk not in changed else None
        if record is not None:
            shown.append(Change(ILKS, ilk, record, record))
    return Image(shown, kinds)


def kinds_of(owned: Iterable[Channel]) -> Kinds:
    """Each once, sorted."""
    return tuple(sorted({channel.kind for channel in owned}))


def _known(changes: Iterable[Change]) -> set[bytes]:
    """Interlocutors that were there before, who changed or whose channels did."""
    found: set[bytes] = set()
    new: set[bytes] = set()
    for table, key, record, before in changes:
        if table is ILKS:
            (new if before is None else found).add(key)
        elif table is CHANNELS:
            found.update(each.ilk for each in (record, before) if each is not None)
    return found - new


def owned(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[bytes, Kinds]]:
    """Owners and their kinds from rows of the channels' table, which come in the order of their owners."""
    ilk, found = b"", set[str]()
    for _, owner, _, kind, *_ in rows:
        if owner != ilk:
            if found:
                yield ilk, tuple(sorted(found))
            ilk, found = owner, set()
        found.add(kind)
    if found:
        yield ilk, tuple(sorted(found))
