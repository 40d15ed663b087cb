"""Everything about everybody as lines of text, out of one hive and into another: IDENTITY_EXPORT, IDENTITY_IMPORT.

A line is one JSON object with one member, `tenant`, `word` or `ilk`; an interlocutor's line has its channels, and the
merges by which it became part of another. Ids are kept, so what refers to them (threads, turns, rules) stays true.
Seals and the audit chain are not moved: a seal belongs to the hive's registrar, a chain to the hive whose it tells.

An import may be repeated: a line that says what is there already is `unchanged`. A line that cannot be kept is refused
by itself and told with its code; the others of the same message are kept, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from skep_nodes.identity import channels, ids, limits, merging, people, tenants
from skep_nodes.identity.channels import Address
from skep_nodes.identity.fields import Fields, tag_of
from skep_nodes.identity.records import Channel, Ilk, Merge, Tenant, Word
from skep_nodes.identity.refusal import Code, Refusal, invalid
from skep_nodes.identity.tables import CHANNELS, ILKS, MERGES, TENANTS, WORDS
from skep_nodes.identity.view import AFTER, Ask, View
from skep_shm import IlkKind, Registration, Subtype, TenantStatus

LINES_MAX: Final = 200
"""Lines in one message: what fits its bytes, and a transaction of a few milliseconds."""
KINDS: Final = {kind.name.lower(): kind.value for kind in IlkKind}
SUBTYPES: Final = {kind.name.lower(): kind.value for kind in Subtype}
REGISTRATIONS: Final = {status.name.lower(): status.value for status in Registration}
STATUSES: Final = {status.name.lower(): status.value for status in TenantStatus}
_TIME_MAX: Final = 1 << 62
_ILK: Final = (
    "ilk_id", "ilk_type", "human_subtype", "registration_status", "tenant_id", "email", "node_name", "identification",
    "roles", "capabilities", "channels", "merged_into", "alias_expires_at_ms", "merges", "created_at_ms",
    "updated_at_ms", "deleted_at_ms",
)  # fmt: skip


# -- out -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExportPage:
    """IDENTITY_EXPORT: a page of interlocutors, in the order of their ids; tenants and words have their own lists."""

    after: bytes = ids.NONE

    def _page(self) -> Ask:
        return Ask(ILKS, AFTER, (self.after, limits.LIST_MAX + 1))

    def needs(self, view: View) -> Iterable[Ask]:
        found = [self._page()]
        if not view.unknown(found):
            for ilk in view.page(self._page()):
                found += [Ask(CHANNELS, "ilk_id", ilk.ilk), Ask(MERGES, "source_ilk_id", ilk.ilk)]
        return found

    def run(self, view: View) -> dict[str, Any]:
        page: list[Ilk] = view.page(self._page())
        lines, size, last = list[dict[str, Any]](), 0, b""
        for ilk in page[: limits.LIST_MAX]:
            line = {"ilk": ilk_line(view, ilk)}
            size += len(orjson.dumps(line))
            if lines and size > limits.LIST_BYTES_MAX:
                break
            lines.append(line)
            last = ilk.ilk
        more = {"next": ids.ilk_text(last)} if last and (len(page) > len(lines)) else {}
        return {
            "status": "ok",
            "lines": lines,
            "total": sum(map(view.counts.total, ("live", "aliases", "gone"))),
            **more,
        }


def ilk_line(view: View, ilk: Ilk) -> dict[str, Any]:
    """All that is kept of an interlocutor, except its seals."""
    owned = [
        {"ich_id": ids.channel_text(each.ich), "type": each.kind, "address": each.address,
         "is_primary": bool(each.is_primary), "added_at_ms": each.added_at_ms} for each in view.channels_of(ilk.ilk)
    ]  # fmt: skip
    line = {
        "ilk_id": ids.ilk_text(ilk.ilk), "ilk_type": IlkKind(ilk.kind).name.lower(),
        "human_subtype": Subtype(ilk.subtype).name.lower(),
        "registration_status": Registration(ilk.registration).name.lower(), "tenant_id": ids.tenant_text(ilk.tenant),
        "email": ilk.email or None, "node_name": ilk.node_name or None, "identification": dict(ilk.identification),
        "roles": list(ilk.roles), "capabilities": list(ilk.capabilities), "channels": owned,
        "merged_into": ids.ilk_text(ilk.canonical) or None, "alias_expires_at_ms": ilk.alias_until_ms or None,
        "merges": [_merge_line(each) for each in view.find(MERGES, "source_ilk_id", ilk.ilk)],
        "created_at_ms": ilk.created_at_ms, "updated_at_ms": ilk.updated_at_ms,
        "deleted_at_ms": ilk.deleted_at_ms or None,
    }  # fmt: skip
    return {name: value for name, value in line.items() if value not in (None, [], {})}


def _merge_line(merge: Merge) -> dict[str, Any]:
    return {
        **merging.plain(merge), "merged_into_ilk_id": ids.ilk_text(merge.target), "repointed": list(merge.repointed),
        "split_at_ms": merge.split_at_ms or None, "split_by": merge.split_actor, "split_reason": merge.split_reason,
    }  # fmt: skip


# -- in ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportLines:
    """IDENTITY_IMPORT: some lines, numbered from `first` in what is said about them."""

    actor: str
    lines: tuple[Line, ...]
    first: int = 1

    def needs(self, view: View) -> Iterable[Ask]:
        return [ask for line in self.lines for ask in line.needs(view)]

    def run(self, view: View) -> dict[str, Any]:
        counts = {"created": 0, "changed": 0, "unchanged": 0}
        refused = []
        for number, line in enumerate(self.lines, self.first):
            mark = view.mark()
            try:
                done = line.put(view)
                counts[done] += 1
                if done != "unchanged":
                    line.note(view, self.actor)
            except Refusal as refusal:
                view.rewind(mark)
                refused.append({"line": number, "error_code": str(refusal.code), "message": refusal.message})
        kept = counts["created"] + counts["changed"]
        if kept:
            view.note(self.actor, "IDENTITY_IMPORT", ids.NONE, ids.NONE, "", lines=kept, first=self.first)
        return {"status": "ok", **counts, "refused": refused}


class Line:
    """One line, read; what is wrong with it is told when it is its turn."""

    def needs(self, view: View) -> Iterable[Ask]:
        return ()

    def put(self, view: View) -> str:
        raise NotImplementedError

    def note(self, view: View, actor: str) -> None:
        """One link for the history of whom the line is about; by default it is about nobody."""


@dataclass(frozen=True, slots=True)
class Unreadable(Line):
    """A line that is not as it must be."""

    problem: Refusal

    def put(self, view: View) -> str:
        raise self.problem


@dataclass(frozen=True, slots=True)
class TenantLine(Line):
    tenant: Tenant

    def put(self, view: View) -> str:
        known = view.tenant(self.tenant.tenant)
        for column, value in (("domain", self.tenant.domain), ("name_key", self.tenant.name_key)):
            for other in view.find(TENANTS, column, value) if value else ():
                if other.tenant != self.tenant.tenant:
                    raise Refusal(
                        Code.DUPLICATE_CONSTRAINT, f"another tenant has this {column.removesuffix('_key')}"
                    )
        if known is None and sum(1 for _ in view.all(TENANTS)) >= limits.TENANTS_MAX:
            raise Refusal(Code.IDENTITY_LIMIT_REACHED, f"at most {limits.TENANTS_MAX} tenants")
        made_ms = self.tenant.created_at_ms or (known.created_at_ms if known else view.now_ms)
        updated_ms = known.updated_at_ms if known else made_ms
        tenant = self.tenant._replace(created_at_ms=made_ms, updated_at_ms=updated_ms)
        return _put(view, lambda: view.put(TENANTS, tenant), known, tenant)


@dataclass(frozen=True, slots=True)
class WordLine(Line):
    word: Word

    def put(self, view: View) -> str:
        known: Word | None = view.one(WORDS, self.word.tag)
        word = self.word._replace(created_at_ms=known.created_at_ms if known else view.now_ms)
        return _put(view, lambda: view.put(WORDS, word), known, word)


@dataclass(frozen=True, slots=True)
class IlkLine(Line):
    ilk: Ilk
    owned: tuple[tuple[Address, bool, int], ...]
    merges: tuple[Merge, ...]

    def needs(self, view: View) -> Iterable[Ask]:
        ilk = self.ilk
        yield Ask(ILKS, "ilk_id", ilk.ilk)
        yield Ask(CHANNELS, "ilk_id", ilk.ilk)
        yield from (Ask(MERGES, "merge_id", merge.merge) for merge in self.merges)
        if ilk.email and ilk.live:
            yield Ask(ILKS, "email", ilk.email)
        if ilk.node_name and ilk.live:
            yield Ask(ILKS, "node_name", ilk.node_name)
        for address, _, _ in self.owned:
            yield from address.asks(ilk.tenant)

    def put(self, view: View) -> str:
        if view.tenant(self.ilk.tenant) is None:
            raise Refusal(Code.INVALID_TENANT, f"there is no tenant {ids.tenant_text(self.ilk.tenant)}")
        known = view.ilk(self.ilk.ilk)
        ilk = self._dated(view, known)
        ilk = ilk if known is None else ilk._replace(
            seal=known.seal, seal_until_ms=known.seal_until_ms, degrees=known.degrees,
            registered_by=known.registered_by,
        )  # fmt: skip
        self._check_unique(view, ilk)
        moved = self._channels(view, ilk)
        for merge in self.merges:
            if view.one(MERGES, merge.merge) != merge:
                view.put(MERGES, merge)
                moved = True
        done = _put(view, lambda: view.put(ILKS, ilk), known, ilk)
        return "changed" if moved and done == "unchanged" else done

    def note(self, view: View, actor: str) -> None:
        ilk = view.ilk(self.ilk.ilk)
        assert ilk is not None, "it was put"
        view.note(actor, "IDENTITY_IMPORT", ilk.ilk, ilk.tenant, "", now=people.definition(ilk))

    def _dated(self, view: View, known: Ilk | None) -> Ilk:
        """The times of the line; without one what is known already, else now: nobody is of the year 1970."""
        ilk = self.ilk
        made_ms = ilk.created_at_ms or (known.created_at_ms if known else 0) or view.now_ms
        updated_ms = ilk.updated_at_ms or (known.updated_at_ms if known else 0) or max(made_ms, ilk.deleted_at_ms)
        return ilk._replace(created_at_ms=made_ms, updated_at_ms=updated_ms)

    @staticmethod
    def _check_unique(view: View, ilk: Ilk) -> None:
        if not ilk.live:
            return
        for other in view.find(ILKS, "email", ilk.email) if ilk.email else ():
            if other.live and other.tenant == ilk.tenant and other.ilk != ilk.ilk:
                raise Refusal(Code.DUPLICATE_EMAIL, f"{ids.ilk_text(other.ilk)} has this e-mail address")
        for other in view.find(ILKS, "node_name", ilk.node_name) if ilk.node_name else ():
            if other.live and other.ilk != ilk.ilk:
                raise Refusal(Code.DUPLICATE_NODE_NAME, f"{ids.ilk_text(other.ilk)} has this node name")

    def _channels(self, view: View, ilk: Ilk) -> bool:
        added_ms = {channel.ich: channel.added_at_ms for channel in view.channels_of(ilk.ilk)}
        wanted = {
            self._channel(ilk, address, primary, at_ms or added_ms.get(address.ich, 0) or view.now_ms)
            for address, primary, at_ms in self.owned
        }
        for channel in wanted:
            for other in (view.one(CHANNELS, channel.ich), *view.find(CHANNELS, "look_up", channel.look_up)):
                if other is not None and other.ilk != ilk.ilk:
                    raise channels.taken(other)
        known = set(view.channels_of(ilk.ilk))
        for channel in known - wanted:
            view.drop(CHANNELS, channel.ich)
        for channel in wanted - known:
            view.put(CHANNELS, channel)
        return known != wanted

    @staticmethod
    def _channel(ilk: Ilk, address: Address, is_primary: bool, added_at_ms: int) -> Channel:
        key = channels.look_up(address.kind, address.address, ilk.tenant)
        return Channel(
            address.ich, ilk.ilk, ilk.tenant, address.kind, address.address, key, int(is_primary), added_at_ms
        )


def _put(view: View, put: Callable[[], None], before: object, after: object) -> str:
    if before == after:
        return "unchanged"
    put()
    return "created" if before is None else "changed"


# -- reading lines -------------------------------------------------------------------------------------------------


def read_lines(entries: Iterable[object], actor: str) -> tuple[Line, ...]:
    """Every line; one that cannot be read refuses itself later."""
    found: list[Line] = []
    for entry in entries:
        try:
            found.append(read_line(entry, actor))
        except Refusal as refusal:
            found.append(Unreadable(refusal))
    return tuple(found)


def read_line(entry: object, actor: str) -> Line:
    """One line. Raises Refusal."""
    if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in _READERS:
        raise invalid("a line is an object with one member: tenant, word or ilk")
    ((name, value),) = entry.items()
    return _READERS[name](value, actor)


def _tenant(value: object, actor: str) -> Line:
    known = ("tenant_id", "name", "domain", "status", "settings", "approved_by", "requested_by_ilk", "created_at_ms",
             "ilk_count")  # fmt: skip
    fields = Fields(value, known, "tenant.")
    name, at_ms = fields.text("name", limits.NAME_CHARS_MAX), fields.whole("created_at_ms", 0, _TIME_MAX, 0)
    return TenantLine(Tenant(
        fields.key("tenant_id", ids.TENANT), name, tenants.name_key(name),
        fields.text("domain", limits.DOMAIN_CHARS_MAX, "").lower(), fields.choice("status", STATUSES, "active"),
        fields.object("settings"), fields.key("requested_by_ilk", ids.ILK, required=False),
        fields.text("approved_by", limits.NODE_NAME_CHARS_MAX, ""), at_ms, at_ms,
    ))  # fmt: skip


def _word(value: object, actor: str) -> Line:
    fields = Fields(value, ("tag", "category", "description", "deprecated_at_ms"), "word.")
    category = fields.text("category", limits.TAG_CHARS_MAX)
    if category not in ("role", "capability"):
        raise invalid("word.category must be role or capability")
    return WordLine(Word(
        tag_of(fields.text("tag", limits.TAG_CHARS_MAX), "word.tag"), category,
        fields.text("description", limits.DESCRIPTION_CHARS_MAX, ""), 0, _time(fields, "deprecated_at_ms"),
    ))  # fmt: skip


def _ilk(value: object, actor: str) -> Line:
    fields = Fields(value, _ILK, "ilk.")
    canonical = fields.key("merged_into", ids.ILK, required=False)
    deleted_ms, created_ms = _time(fields, "deleted_at_ms"), _time(fields, "created_at_ms")
    ilk = Ilk(
        fields.key("ilk_id", ids.ILK), fields.choice("ilk_type", KINDS),
        fields.choice("human_subtype", SUBTYPES, "none"),
        fields.choice("registration_status", REGISTRATIONS), fields.key("tenant_id", ids.TENANT),
        fields.text("email", limits.EMAIL_CHARS_MAX, "").casefold(),
        fields.text("node_name", limits.NODE_NAME_CHARS_MAX, ""), fields.object("identification"),
        fields.tags("roles"), fields.tags("capabilities"), int(canonical == ids.NONE and not deleted_ms), canonical,
        _time(fields, "alias_expires_at_ms"), registered_by=actor, created_at_ms=created_ms,
        updated_at_ms=_time(fields, "updated_at_ms"), deleted_at_ms=deleted_ms,
    )  # fmt: skip
    owned = tuple(_owned(each) for each in fields.entries("channels", limits.CHANNELS_PER_ILK_MAX))
    merges = tuple(_merge(each) for each in fields.entries("merges", limits.ALIASES_PER_ILK_MAX))
    return IlkLine(ilk, owned, merges)


def _owned(value: object) -> tuple[Address, bool, int]:
    fields = Fields(value, ("ich_id", "type", "address", "is_primary", "added_at_ms"), "ilk.channels.")
    primary = isinstance(value, Mapping) and value.get("is_primary") is True
    return channels.read_address(fields), primary, _time(fields, "added_at_ms")


def _merge(value: object) -> Merge:
    fields = Fields(value, (
        "merge_id", "merged_from_ilk_id", "merged_into_ilk_id", "merged_at_ms", "merged_by", "change_reason",
        "moved_channels", "repointed", "split_at_ms", "split_by", "split_reason",
    ), "ilk.merges.")  # fmt: skip
    name = fields.text("merge_id", 32)
    if len(name) != 32 or not set(name) <= set("0123456789abcdef"):
        raise invalid("ilk.merges.merge_id must be 32 hexadecimal digits")
    moved = fields.entries("moved_channels", limits.CHANNELS_PER_ILK_MAX)
    repointed = fields.entries("repointed", limits.ALIASES_PER_ILK_MAX)
    if not all(isinstance(each, str) and ids.parse(each[:4], each) for each in (*moved, *repointed)):
        raise invalid("ilk.merges: moved_channels and repointed must be ids")
    return Merge(
        bytes.fromhex(name), fields.key("merged_from_ilk_id", ids.ILK), fields.key("merged_into_ilk_id", ids.ILK),
        _time(fields, "merged_at_ms"), fields.text("merged_by", limits.NODE_NAME_CHARS_MAX, ""),
        fields.text("change_reason", limits.REASON_CHARS_MAX, ""), tuple(moved), tuple(repointed),
        _time(fields, "split_at_ms"), fields.text("split_by", limits.NODE_NAME_CHARS_MAX, ""),
        fields.text("split_reason", limits.REASON_CHARS_MAX, ""),
    )  # fmt: skip


def _time(fields: Fields, name: str) -> int:
    return fields.whole(name, 0, _TIME_MAX, 0) if fields.has(name) else 0


_READERS: Final[dict[str, Callable[[object, str], Line]]] = {"tenant": _tenant, "word": _word, "ilk": _ilk}
