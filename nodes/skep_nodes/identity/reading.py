"""Questions that change nothing: ILK_GET, ILK_LIST, ILK_HISTORY, IDENTITY_METRICS, VOCABULARY_LIST.

They run in the same groups as changes, so an answer never shows what is not yet on the disk. A list comes in pages that
fit a frame; `next` is what to ask with for the following one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from skep_nodes.identity import channels, ids, limits, merging, people, tenants
from skep_nodes.identity.records import Entry, Ilk, Merge
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import AUDIT, CHANNELS, ILKS, MERGES, TENANTS, WORDS
from skep_nodes.identity.view import AFTER, Ask, View
from skep_shm import IlkKind, SealStatus, Subtype


@dataclass(frozen=True, slots=True)
class GetIlk:
    """ILK_GET. `tenant` limits what the caller may see at all, `full` whether names and addresses are shown."""

    ilk: bytes
    tenant: bytes = ids.NONE
    full: bool = True

    def needs(self, view: View) -> Iterable[Ask]:
        found = [*people.ask_canonical(view, self.ilk)]
        target = people.canonical(view, self.ilk) if not view.unknown(found) else None
        if target is not None:
            found += [Ask(CHANNELS, "ilk_id", target.ilk), Ask(ILKS, "canonical_ilk_id", target.ilk)]
            found += [Ask(MERGES, "target_ilk_id", target.ilk)]
        return found

    def run(self, view: View) -> dict[str, Any]:
        asked, target = view.ilk(self.ilk), people.canonical(view, self.ilk)
        if asked is None or target is None or self.tenant not in (ids.NONE, target.tenant):
            raise Refusal(Code.NOT_FOUND, f"there is no interlocutor {ids.ilk_text(self.ilk)}")
        owner = view.tenant(target.tenant)
        resolved = asked.ilk != target.ilk
        return {
            "status": "ok", "ilk_id": ids.ilk_text(target.ilk), "queried_ilk_id": ids.ilk_text(asked.ilk),
            "canonical_ilk_id": ids.ilk_text(target.ilk), "alias_resolved": resolved,
            "queried_alias": _alias(asked) if resolved else None,
            "merged_aliases": [_alias(each) for each in self._aliases(view, target)],
            "merges": [_merge(each) for each in view.find(MERGES, "target_ilk_id", target.ilk)] if self.full else [],
            "ilk": self._shown(view, target), "tenant": tenants.plain(owner) if owner and self.full else _state(owner),
        }  # fmt: skip

    @staticmethod
    def _aliases(view: View, target: Ilk) -> list[Ilk]:
        found: list[Ilk] = view.find(ILKS, "canonical_ilk_id", target.ilk)
        return [each for each in found if not each.live and view.now_ms < each.alias_until_ms]

    def _shown(self, view: View, ilk: Ilk) -> dict[str, Any]:
        whole = plain(ilk, [channels.plain(each) for each in view.channels_of(ilk.ilk)])
        if not self.full:
            known = ilk.identification
            shown = {name: known[name] for name in ("display_name", "node_name") if name in known}
            tenant = {"tenant_id": ids.tenant_text(ilk.tenant)}
            whole |= {"identification": shown, "channels": [], "association": tenant}
        return whole


def plain(ilk: Ilk, owned: list[dict[str, object]]) -> dict[str, Any]:
    """An interlocutor in its three dimensions, and with the members that upstream's answers have beside them."""
    tenant = ids.tenant_text(ilk.tenant)
    current = {"roles": list(ilk.roles), "capabilities": list(ilk.capabilities), "degrees": list(ilk.degrees)}
    return {
        "ilk_id": ids.ilk_text(ilk.ilk), "ilk_type": IlkKind(ilk.kind).name.lower(),
        "human_subtype": Subtype(ilk.subtype).name.lower() if ilk.subtype else None,
        "registration_status": people.STATUS_TEXTS[ilk.registration], "tenant_id": tenant,
        "identification": dict(ilk.identification), "association": {"tenant_id": tenant, "channels": owned},
        "definition": {"current": current}, "roles": current["roles"], "capabilities": current["capabilities"],
        "channels": owned, "seal": SealStatus(ilk.seal).name.lower(), "seal_until_ms": ilk.seal_until_ms or None,
        "created_at_ms": ilk.created_at_ms, "updated_at_ms": ilk.updated_at_ms,
        "deleted_at_ms": ilk.deleted_at_ms or None,
    }  # fmt: skip


def _alias(ilk: Ilk) -> dict[str, Any]:
    return {
        "old_ilk_id": ids.ilk_text(ilk.ilk), "canonical_ilk_id": ids.ilk_text(ilk.canonical),
        "expires_at_ms": ilk.alias_until_ms,
    }  # fmt: skip


def _merge(merge: Merge) -> dict[str, Any]:
    return {**merging.plain(merge), "split_at_ms": merge.split_at_ms or None}


def _state(owner: Any) -> dict[str, Any] | None:
    return None if owner is None else {name: tenants.plain(owner)[name] for name in ("tenant_id", "status")}


@dataclass(frozen=True, slots=True)
class ListIlks:
    """ILK_LIST, in the order of the ids."""

    after: bytes = ids.NONE
    limit: int = limits.LIST_MAX

    def _page(self) -> Ask:
        return Ask(ILKS, AFTER, (self.after, self.limit + 1))

    def needs(self, view: View) -> Iterable[Ask]:
        found = [self._page()]
        if not view.unknown(found):
            found += [Ask(CHANNELS, "ilk_id", ilk.ilk) for ilk in view.page(self._page())]
        return found

    def run(self, view: View) -> dict[str, Any]:
        page: list[Ilk] = view.page(self._page())
        shown, size = list[dict[str, Any]](), 0
        for ilk in page[: self.limit]:
            line = self._line(view, ilk)
            size += len(orjson.dumps(line))
            if shown and size > limits.LIST_BYTES_MAX:
                break
            shown.append(line)
        more = {"next": shown[-1]["ilk_id"]} if len(page) > len(shown) else {}
        return {
            "status": "ok",
            "count": len(shown),
            "total": view.counts.total("live"),
            "ilks": shown,
            **more,
        }

    @staticmethod
    def _line(view: View, ilk: Ilk) -> dict[str, Any]:
        owner = view.tenant(ilk.tenant)
        owned = [channels.plain(each) for each in view.channels_of(ilk.ilk)]
        return {
            "ilk_id": ids.ilk_text(ilk.ilk), "ilk_type": IlkKind(ilk.kind).name.lower(),
            "registration_status": people.STATUS_TEXTS[ilk.registration], "tenant_id": ids.tenant_text(ilk.tenant),
            "tenant_name": owner.name if owner else None, "display_name": ilk.identification.get("display_name"),
            "node_name": ilk.node_name or None, "channel_count": len(owned), "channels": owned,
            "deleted_at_ms": ilk.deleted_at_ms or None, "merged_into": ids.ilk_text(ilk.canonical) or None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class History:
    """ILK_HISTORY: the links of the audit chain about one interlocutor, newest first."""

    ilk: bytes
    before: int = 0

    def needs(self, view: View) -> Iterable[Ask]:
        return (Ask(ILKS, "ilk_id", self.ilk), Ask(AUDIT, "ilk_id", self.ilk))

    def run(self, view: View) -> dict[str, Any]:
        ilk = view.ilk(self.ilk)
        if ilk is None:
            raise Refusal(Code.NOT_FOUND, f"there is no interlocutor {ids.ilk_text(self.ilk)}")
        entries: list[Entry] = sorted(view.find(AUDIT, "ilk_id", self.ilk), key=_seq, reverse=True)
        rest = [entry for entry in entries if not self.before or entry.seq < self.before]
        shown, size = list[dict[str, Any]](), 0
        for entry in rest[: limits.LIST_MAX]:
            line = entry_line(entry)
            size += len(orjson.dumps(line))
            if shown and size > limits.LIST_BYTES_MAX:
                break
            shown.append(line)
        more = {"next": shown[-1]["seq"]} if len(rest) > len(shown) else {}
        begin = [] if more else [_created(ilk, entries)]
        return {"status": "ok", "ilk_id": ids.ilk_text(self.ilk), "history": shown + begin, **more}


def _created(ilk: Ilk, entries: list[Entry]) -> dict[str, Any]:
    """How it began; the chain's link for that is shared with others who came at the same moment."""
    first: dict[str, Any] = next(
        (orjson.loads(entry.detail) for entry in reversed(entries) if '"was":' in entry.detail), {}
    )
    actor = first.get("was", {}).get("registered_by") or ilk.registered_by
    begun = {"seq": 0, "at_ms": ilk.created_at_ms, "actor": actor, "action": "ILK_CREATED"}
    return {**begun, "tenant_id": ids.tenant_text(ilk.tenant), "reason": None, "detail": {}, "chain": ""}


def entry_line(entry: Entry) -> dict[str, Any]:
    """A link of the audit chain as answers show it."""
    return {
        "seq": entry.seq, "at_ms": entry.at_ms, "actor": entry.actor, "action": entry.action,
        "tenant_id": ids.tenant_text(entry.tenant) or None, "reason": entry.reason or None,
        "detail": orjson.loads(entry.detail), "chain": entry.chain.hex(),
    }  # fmt: skip


def _seq(entry: Entry) -> int:
    return entry.seq


@dataclass(frozen=True, slots=True)
class Metrics:
    """IDENTITY_METRICS; `more` are figures of the process itself."""

    more: Mapping[str, Any]

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        counts = view.counts
        figures: dict[str, Any] = {
            "tenant_count": sum(1 for _ in view.all(TENANTS)), "ilk_count": counts.total("live"),
            "ich_count": counts.total("channels"), "alias_count": counts.total("aliases"),
            "deleted_ilk_count": counts.total("gone"), **self.more,
        }  # fmt: skip
        return {"status": "ok", "metrics": figures}


@dataclass(frozen=True, slots=True)
class ListWords:
    """VOCABULARY_LIST."""

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def run(self, view: View) -> dict[str, Any]:
        words = sorted(view.all(WORDS), key=lambda word: word.tag)
        shown = [
            {"tag": word.tag, "category": word.category, "description": word.description,
             "deprecated_at_ms": word.deprecated_at_ms or None} for word in words
        ]  # fmt: skip
        return {"status": "ok", "vocabulary": shown}
