"""Addresses of interlocutors: how they are compared, whose they are, and how one is added.

A channel is known by (kind, address, tenant), compared as the channels region compares them. `look_up` is a digest of
the three and unique: the same number in two tenants is two channels. Nobody takes over a channel that somebody else
has; only a merge moves channels, and a split moves them back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from skep_nodes.identity import ids, limits
from skep_nodes.identity.fields import Fields
from skep_nodes.identity.records import Channel, Ilk
from skep_nodes.identity.refusal import Code, Refusal, invalid
from skep_nodes.identity.tables import CHANNELS
from skep_nodes.identity.view import Ask, View
from skep_shm.channel_key import normal_address, normal_kind

UNPROVEN: Final = "email-unproven"
"""The kind under which IO.email brings letters whose sender anybody may have written there."""


@lru_cache(maxsize=4096)  # a request asks several times, and a group of requests has no more addresses
def look_up(kind: str, address: str, tenant: bytes) -> bytes:
    """What stands for (kind, address, tenant); the database's own, without the hive's secret."""
    kind = normal_kind(kind)
    return ids.digest16(kind.encode(), normal_address(kind, address).encode(), tenant)


@dataclass(frozen=True, slots=True)
class Address:
    """A channel as a request states it, for an interlocutor still to be named."""

    ich: bytes
    kind: str
    address: str

    def asks(self, tenant: bytes) -> Iterable[Ask]:
        """What must be seen before it can be added in this tenant."""
        yield Ask(CHANNELS, "look_up", look_up(self.kind, self.address, tenant))
        yield Ask(CHANNELS, "ich_id", self.ich)

    def found(self, view: View, tenant: bytes) -> Channel | None:
        """Whose it is already."""
        known = view.find(CHANNELS, "look_up", look_up(self.kind, self.address, tenant))
        return known[0] if known else None


def read_address(
    fields: Fields, ich: str = "ich_id", kind: str = "type", address: str = "address"
) -> Address:
    """Read a channel. Raises Refusal."""
    known_kind = normal_kind(fields.text(kind, limits.KIND_CHARS_MAX))
    text = fields.text(address, limits.ADDRESS_CHARS_MAX)
    if not normal_address(known_kind, text):
        raise invalid(f"{address} holds nothing that tells it from others")
    return Address(fields.key(ich, ids.CHANNEL), known_kind, text)


def add(view: View, owner: Ilk, address: Address) -> Channel:
    """Give an interlocutor a channel; one that it has already is fine. Raises Refusal DUPLICATE_ICH."""
    known = address.found(view, owner.tenant)
    if known is not None:
        if known.ilk != owner.ilk:
            raise taken(known)
        return known
    other = view.one(CHANNELS, address.ich)
    if other is not None:
        raise Refusal(Code.DUPLICATE_ICH, f"{ids.channel_text(address.ich)} is another address already")
    return put(view, owner, address, is_primary=False)


def put(view: View, owner: Ilk, address: Address, is_primary: bool) -> Channel:
    """Add a channel that nobody has."""
    key = look_up(address.kind, address.address, owner.tenant)
    made = Channel(
        address.ich, owner.ilk, owner.tenant, address.kind, address.address, key, int(is_primary), view.now_ms
    )
    view.put(CHANNELS, made)
    return made


def check_count(count: int) -> None:
    """Raises Refusal when one interlocutor would have too many."""
    if count > limits.CHANNELS_PER_ILK_MAX:
        limit = f"an interlocutor has at most {limits.CHANNELS_PER_ILK_MAX} channels"
        raise Refusal(Code.IDENTITY_LIMIT_REACHED, limit)


def taken(known: Channel) -> Refusal:
    """Somebody else has it; who, so that a registrar may ask for a merge."""
    return Refusal(
        Code.DUPLICATE_ICH, "this address belongs to another interlocutor; merge the two if they are one",
        existing_ilk_id=ids.ilk_text(known.ilk), existing_ich_id=ids.channel_text(known.ich),
    )  # fmt: skip


def move_to_tenant(view: View, owned: Iterable[Channel], tenant: bytes) -> None:
    """Take channels along into another tenant. Needs their new look-ups. Raises Refusal DUPLICATE_ICH."""
    for channel in owned:
        key = look_up(channel.kind, channel.address, tenant)
        for other in view.find(CHANNELS, "look_up", key):
            if other.ich != channel.ich:
                raise taken(other)
        view.put(CHANNELS, channel._replace(tenant=tenant, look_up=key))


def plain(channel: Channel) -> dict[str, object]:
    """A channel as answers show it."""
    return {
        "ich_id": ids.channel_text(channel.ich), "channel_type": channel.kind, "address": channel.address,
        "is_primary": bool(channel.is_primary),
    }  # fmt: skip
