"""Who may be whom: which uid may hold a name, speak for an interlocutor, belong to a tenant, say a system verb.

Everything is refused unless a rule allows it. The rules are the configuration's grants, and these that cannot be
given away:

  SY.* and RT.* belong to the hive's own account, or to the holder of a ticket; a grant never reaches them, however
  wide its pattern. The own account may hold every other name: whoever can write the hive's folder needs no grant.
  Without a grant of its own, a node of the own account speaks for any ILK if it is a channel (IO.*) or a system node,
  because those carry other people's words; an agent or a workflow speaks for nobody. `any` in a grant is for channels
  alone: on another kind of name it counts as `none`.

A grant's pattern is a glob over the full name, or, without `@`, over the name without its hive. Asked when a node
joins and when the configuration changes, never per frame: the answers hang on the link (`IlkRule`, tenant).

Rejected: an allow-list of harmless system verbs (upstream's clients speak verbs that we do not know; what must be
guarded is what changes things, and that is a short list); grants by process id (reused within seconds).
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from skep.protocol.names import base_of, glob_match, is_system, kind_of
from skep_shm import Grant

NO_ID: Final = bytes(16)
ILK_LISTED: Final = 1
ILK_ANY: Final = 2
CARRIERS: Final = frozenset({"IO", "SY"})

# System verb -> patterns of the base names that may send it. A verb that is not here is open to every node: it asks,
# it answers, or its receiver authorises it itself (THREAD_BIND, THREAD_UNBIND and their like: SY.threads does).
VERB_OWNERS: Final[dict[str, tuple[str, ...]]] = {
    # Changes the configuration of the hive, or of nodes.
    "CONFIG_CHANGED": ("SY.admin", "SY.orchestrator", "SY.cli", "SY.cli.*"),
    "CONFIG_SET": ("SY.*",),
    # Replaces the policy.
    "OPA_RELOAD": ("SY.opa.rules",),
    # Moves the clock that others go by.
    "TIME_SYNC": ("SY.*",),
    # Makes an agent verify its degree again, and stop where it finds it broken.
    "DEGREE_CHANGED": ("SY.registrar",),
    # What SY.identity says about people is acted on: a forged answer would register a stranger.
    **{f"{verb}_RESPONSE": ("SY.identity",) for verb in (
        "ILK_PROVISION", "ILK_REGISTER", "ILK_ADD_CHANNEL", "ILK_UPDATE", "ILK_MERGE", "ILK_SPLIT", "ILK_GET",
        "TNT_CREATE", "TNT_APPROVE",
    )},
    # What SY.threads says about bindings must come from it: a forged answer would confirm a hand-over that never was.
    "THREAD_BIND_RESPONSE": ("SY.threads",),
    "THREAD_UNBIND_RESPONSE": ("SY.threads",),
    "THREAD_GET_RESPONSE": ("SY.threads",),
    "THREAD_LIST_RESPONSE": ("SY.threads",),
    # Routers speak these; clients act on them without asking who sent them.
    "ANNOUNCE": ("RT.*",),
    "UNREACHABLE": ("RT.*",),
    "TTL_EXCEEDED": ("RT.*",),
    "CLOSING": ("RT.*",),
    "LSA": ("RT.*",),
    "WAN_ACCEPT": ("RT.*",),
    "WAN_REJECT": ("RT.*",),
}


class IlkRule(NamedTuple):
    """For whom a node may speak. `channel_kinds` narrows `any_ilk` to owners of such channels wherever identities can
    be read; empty means every kind."""

    any_ilk: bool = False
    listed: frozenset[bytes] = frozenset()
    channel_kinds: frozenset[str] = frozenset()


NOBODY: Final = IlkRule()
ANYBODY: Final = IlkRule(any_ilk=True)


def tenant_allows(a: bytes, b: bytes) -> bool:
    """May these tenants exchange unicast messages? Zero, or none, is tenant-neutral."""
    return a == b or a in (NO_ID, b"") or b in (NO_ID, b"")


def changed_uids(old: Iterable[Grant], new: Iterable[Grant]) -> set[int]:
    """The uids whose nodes must be judged again after a change of configuration."""
    return {grant.uid for grant in set(old) ^ set(new)}


def _covers(grant: Grant, name: str) -> bool:
    return glob_match(grant.pattern, name if "@" in grant.pattern else base_of(name))


class Grants:
    """The grants of one hive, by uid."""

    __slots__ = ("_by_uid", "own_uid")

    def __init__(self, own_uid: int) -> None:
        self.own_uid = own_uid
        self._by_uid: dict[int, list[Grant]] = {}

    def configure(self, grants: Iterable[Grant]) -> None:
        by_uid: dict[int, list[Grant]] = {}
        for grant in grants:
            by_uid.setdefault(grant.uid, []).append(grant)
        self._by_uid = by_uid

    def may_hold(self, uid: int, name: str, ticket_ok: bool = False) -> bool:
        """May a connection of this uid register this full name?"""
        if is_system(name):
            return uid == self.own_uid or ticket_ok
        return uid == self.own_uid or any(_covers(grant, name) for grant in self._by_uid.get(uid, ()))

    def ilk_rule(self, uid: int, name: str) -> IlkRule:
        """All grants that cover the name, added up."""
        covering = self._covering(uid, name)
        carrier = kind_of(name) in CARRIERS
        if not covering:
            return ANYBODY if carrier and uid == self.own_uid else NOBODY
        open_kinds = [grant.channel_kinds for grant in covering if carrier and grant.ilk_mode == ILK_ANY]
        listed = frozenset(g.ilk for g in covering if g.ilk_mode == ILK_LISTED and g.ilk != NO_ID)
        kinds = frozenset() if "" in open_kinds else frozenset(_kinds(",".join(open_kinds)))
        return IlkRule(bool(open_kinds), listed, kinds)

    def tenant_of(self, uid: int, name: str) -> bytes:
        """The tenant of the narrowest grant that names one; zero (neutral) when none does."""
        tenants = [(len(g.pattern) - g.pattern.count("*"), g.tenant) for g in self._covering(uid, name)]
        return max((pair for pair in tenants if pair[1] != NO_ID), default=(0, NO_ID))[1]

    @staticmethod
    def may_speak(rule: IlkRule | None, src_ilk: bytes | None) -> bool:
        """May a node with this rule send a frame with this source ILK? A frame that names nobody may always go."""
        if src_ilk is None:
            return True
        return rule is not None and (rule.any_ilk or src_ilk in rule.listed)

    @staticmethod
    def may_emit(name: str, verb: str) -> bool:
        """May the node of this full name send this system verb? The name itself was granted by `may_hold`."""
        owners = VERB_OWNERS.get(verb)
        if owners is None:
            return True
        base = base_of(name)
        return any(glob_match(pattern, base) for pattern in owners)

    def _covering(self, uid: int, name: str) -> list[Grant]:
        return [grant for grant in self._by_uid.get(uid, ()) if _covers(grant, name)]


def _kinds(text: str) -> Iterable[str]:
    return (kind.strip() for kind in text.split(",") if kind.strip())
