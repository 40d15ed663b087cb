"""Two interlocutors found to be one become one, and are two again if that was wrong.

A merge moves the source's channels to the target and leaves the source as an alias of it for a while: messages in
flight, and threads that still name it, arrive. Nothing of the source is thrown away or mixed into the target: its row
keeps what it was, and the merge's own row says which channels moved and which older aliases were pointed at the new
target. A split reads that row backwards. Turns of conversations keep the ILK that spoke, so what was said between the
two can be told apart by it and by the times in the answer.

Only people are merged, and only within one tenant: a channel is looked up by its tenant, so one that moved to another
would never be found again, and the next message from it would make a third interlocutor.

Invariant: an alias points at a living interlocutor, never at another alias.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from skep_nodes.identity import channels, ids, limits
from skep_nodes.identity.records import Ilk, Merge
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import CHANNELS, ILKS, MERGES
from skep_nodes.identity.view import Ask, View
from skep_shm import IlkKind

PROOFS: Final = ("code", "sender")
"""What a front desk may say has proven an address: a code that was sent there and written back, or IO.email, which
has checked who sent the letter (its channel is of the kind `email`)."""


def asks(view: View, source: bytes) -> list[Ask]:
    """What `merge` must see of its source."""
    return [
        Ask(ILKS, "ilk_id", source), Ask(CHANNELS, "ilk_id", source), Ask(ILKS, "canonical_ilk_id", source),
    ]  # fmt: skip


def asks_of_target(target: bytes) -> list[Ask]:
    """What `merge` must see of its target."""
    return [
        Ask(ILKS, "ilk_id", target),
        Ask(CHANNELS, "ilk_id", target),
        Ask(MERGES, "target_ilk_id", target),
    ]


def merge(view: View, source: Ilk, target: Ilk, actor: str, reason: str, alias_ttl_s: int) -> Merge:
    """Make `source` part of `target`. Raises Refusal INVALID_MERGE_SOURCE."""
    _check(view, source, target)
    until_ms = view.now_ms + alias_ttl_s * 1000
    moved = view.channels_of(source.ilk)
    channels.check_count(len(moved) + len(view.channels_of(target.ilk)))
    for channel in moved:
        view.put(CHANNELS, channel._replace(ilk=target.ilk, is_primary=0))
    aliases = [each for each in view.find(ILKS, "canonical_ilk_id", source.ilk) if not each.live]
    for alias in aliases:
        view.put(ILKS, alias._replace(canonical=target.ilk))
    gone = source._replace(live=0, canonical=target.ilk, alias_until_ms=until_ms, updated_at_ms=view.now_ms)
    view.put(ILKS, gone)
    made = Merge(
        view.new_id(), source.ilk, target.ilk, view.now_ms, actor, reason,
        tuple(ids.channel_text(each.ich) for each in moved), tuple(ids.ilk_text(each.ilk) for each in aliases),
    )  # fmt: skip
    view.put(MERGES, made)
    into, from_ = ids.ilk_text(target.ilk), ids.ilk_text(source.ilk)
    for each in (source, target):
        view.note(
            actor, "ILK_MERGE", each.ilk, each.tenant, reason, into=into, merged=from_, moved=list(made.moved)
        )
    return made


def check_evidence(view: View, source: Ilk, target: Ilk, kind: str, proof: str) -> None:
    """Raises Refusal EVIDENCE_UNPROVEN when the e-mail address by which two are joined may be anybody's: the letters
    came from a sender that nobody checked and no code was written back, or the other only ever claimed it."""
    owned = {channel.kind for channel in view.channels_of(source.ilk)}
    problem = ""
    proven = proof == "code" or (proof == "sender" and "email" in owned)
    if channels.UNPROVEN in {kind, *owned} and not proven:
        problem = f"{ids.ilk_text(source.ilk)} wrote from an address that is not proven to be theirs"
    elif target.identification.get("email_verified") is False:
        problem = f"{ids.ilk_text(target.ilk)} never proved its e-mail address"
    if problem:
        what_next = "have it proven by a code (proof), or let an administrator decide (skep identity merge)"
        raise Refusal(Code.EVIDENCE_UNPROVEN, f"{problem}: {what_next}")


def _check(view: View, source: Ilk, target: Ilk) -> None:
    problem = ""
    if source.ilk == target.ilk:
        problem = "an interlocutor cannot be merged into itself"
    elif not source.live or not target.live:
        problem = "one of the two is merged or deleted already"
    elif source.kind != IlkKind.HUMAN or target.kind != IlkKind.HUMAN:
        problem = "only people are merged"
    elif source.tenant != target.tenant:
        problem = "the two belong to different tenants"
    elif len(view.find(MERGES, "target_ilk_id", target.ilk)) >= limits.ALIASES_PER_ILK_MAX:
        raise Refusal(
            Code.IDENTITY_LIMIT_REACHED, f"at most {limits.ALIASES_PER_ILK_MAX} merges into one interlocutor"
        )
    if problem:
        raise Refusal(Code.INVALID_MERGE_SOURCE, problem)


@dataclass(frozen=True, slots=True)
class MergeIlks:
    """ILK_MERGE: by decision of somebody who administers the hive, whatever the registration of the two."""

    actor: str
    ilk: bytes
    merge_from: bytes
    reason: str
    alias_ttl_s: int = limits.ALIAS_TTL_S

    def needs(self, view: View) -> Iterable[Ask]:
        return [*asks(view, self.merge_from), *asks_of_target(self.ilk)]

    def run(self, view: View) -> dict[str, Any]:
        source, target = view.ilk(self.merge_from), view.ilk(self.ilk)
        if target is None:
            raise Refusal(Code.ILK_NOT_FOUND, f"there is no interlocutor {ids.ilk_text(self.ilk)}")
        if source is None:
            raise Refusal(
                Code.INVALID_MERGE_SOURCE, f"there is no interlocutor {ids.ilk_text(self.merge_from)}"
            )
        made = merge(view, source, target, self.actor, self.reason, self.alias_ttl_s)
        alias = view.ilk(self.merge_from)
        assert alias is not None
        told = {**plain(made), "alias_expires_at_ms": alias.alias_until_ms}
        return {"status": "ok", "ilk_id": ids.ilk_text(self.ilk), **told}


@dataclass(frozen=True, slots=True)
class SplitIlk:
    """ILK_SPLIT: take back the merge of `ilk` into another, however long ago it was."""

    actor: str
    ilk: bytes
    reason: str

    def needs(self, view: View) -> Iterable[Ask]:
        found = [Ask(ILKS, "ilk_id", self.ilk), Ask(MERGES, "source_ilk_id", self.ilk)]
        if view.unknown(found):
            return found
        source, last = view.ilk(self.ilk), self._last(view)
        if source is not None and last is not None:
            found += [Ask(ILKS, "ilk_id", source.canonical), Ask(CHANNELS, "ilk_id", source.canonical)]
            found += [Ask(ILKS, "ilk_id", alias) for alias in _keys(ids.ILK, last.repointed)]
            found += [Ask(ILKS, "email", source.email)] if source.email else []
        return found

    def _last(self, view: View) -> Merge | None:
        """The merge that is in force."""
        merges: list[Merge] = view.find(MERGES, "source_ilk_id", self.ilk)
        return next((each for each in merges if not each.split_at_ms), None)

    def run(self, view: View) -> dict[str, Any]:
        source, last = view.ilk(self.ilk), self._last(view)
        if source is None:
            raise Refusal(Code.ILK_NOT_FOUND, f"there is no interlocutor {ids.ilk_text(self.ilk)}")
        if last is None or source.live:
            raise Refusal(Code.INVALID_SPLIT, f"{ids.ilk_text(self.ilk)} is not merged into another")
        self._check_email(view, source)
        now_ms = view.now_ms
        alone = source._replace(
            live=1, canonical=ids.NONE, alias_until_ms=0, deleted_at_ms=0, updated_at_ms=now_ms
        )
        view.put(ILKS, alone)
        back = self._give_back(view, source, last)
        view.put(MERGES, last._replace(split_at_ms=now_ms, split_actor=self.actor, split_reason=self.reason))
        out_of, alone_again = ids.ilk_text(source.canonical), ids.ilk_text(source.ilk)
        for each in (source.ilk, source.canonical):
            facts = {"out_of": out_of, "alone": alone_again, "moved": back}
            view.note(self.actor, "ILK_SPLIT", each, source.tenant, self.reason, **facts)
        told = {
            "split_from_ilk_id": ids.ilk_text(source.canonical),
            "split_at_ms": now_ms,
            "returned_channels": back,
        }
        return {"status": "ok", "ilk_id": ids.ilk_text(source.ilk), **plain(last), **told}

    def _give_back(self, view: View, source: Ilk, last: Merge) -> list[str]:
        """Channels that the other still has, and older aliases that still point there."""
        holder, back = source.canonical, list[str]()
        for channel in view.channels_of(holder):
            if ids.channel_text(channel.ich) in last.moved:
                view.put(CHANNELS, channel._replace(ilk=source.ilk, is_primary=int(not back)))
                back.append(ids.channel_text(channel.ich))
        for key in _keys(ids.ILK, last.repointed):
            alias = view.ilk(key)
            if alias is not None and not alias.live and alias.canonical == holder:
                view.put(ILKS, alias._replace(canonical=source.ilk))
        return back

    def _check_email(self, view: View, source: Ilk) -> None:
        for other in view.find(ILKS, "email", source.email) if source.email else ():
            if other.live and other.tenant == source.tenant:
                raise Refusal(
                    Code.DUPLICATE_EMAIL, "somebody else has the e-mail address by now; change that first",
                    existing_ilk_id=ids.ilk_text(other.ilk),
                )  # fmt: skip


def _keys(prefix: str, texts: Iterable[str]) -> list[bytes]:
    return [key for text in texts if (key := ids.parse(prefix, text)) is not None]


def plain(merge_: Merge) -> dict[str, Any]:
    """A merge as answers show it."""
    return {
        "merge_id": merge_.merge.hex(), "merged_from_ilk_id": ids.ilk_text(merge_.source),
        "merged_at_ms": merge_.at_ms, "merged_by": merge_.actor, "change_reason": merge_.reason,
        "moved_channels": list(merge_.moved),
    }  # fmt: skip
