"""The key of a channel: what stands in shared memory instead of an address.

    blake2b-128(key = the hive's secret, person = "skep.channel",
                len(kind) u32 | kind | len(address) u32 | address | tenant 16)

Kind and address are normalised first, as UTF-8. The lengths make two different triples two different inputs, the
secret makes the key useless to whoever does not have it: telephone numbers are few enough to try them all. Whoever
normalises otherwise does not find the channel, so the rule is here and nowhere else:

    kind      surrounding white space cut, lower case
    address   surrounding white space cut; in Unicode's composed form (NFC) and folded case, whatever the kind;
              of a telephone (`TELEPHONE_KINDS`) also without spaces, hyphens, dots and parentheses, and with "+" for
              a leading "00"

What a key costs, in ns: two blocks of BLAKE2b and the copy of its state 510 (the first block is the secret, and hashlib
holds it back until it has more than two, so keeping the state does not save it), the address 155, concatenation 150,
the state of its kind 80, the call and the rest 150. The address took 350 and the state 200 before.

Folding the part before the @ of an e-mail address merges addresses that RFC 5321 lets differ; no provider of any size
tells them apart, people type them either way, and two interlocutors for one mailbox would be the larger mistake.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

KEY_BYTES = 16
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 16, 64  # the longest is BLAKE2b's
TELEPHONE_KINDS = frozenset(("whatsapp", "sms", "phone", "voice", "signal"))
_DROPPED = str.maketrans("", "", " \t\u00a0-.()")
_length = Struct(">I").pack
_PLUS = ord("+")
_LENGTHS = tuple(map(_length, range(256)))
_PERSON = b"skep.channel"
_BEGUN_MAX = 64  # a hive has a dozen kinds and one secret, two while it changes


def channel_key(secret: bytes, kind: str, address: str, tenant: bytes) -> bytes:
    """16 bytes that name a channel. Raises ValueError for a secret or a tenant of a wrong length."""
    if len(tenant) != 16:
        raise ValueError(f"a tenant has 16 bytes, not {len(tenant)}")
    begun = _begun.get((secret, kind)) or _begin(secret, kind)
    place = begun.place(address)
    digest = begun.copy()
    size = len(place)
    digest.update((_LENGTHS[size] if size < 256 else _length(size)) + place + tenant)
    return digest.digest()


class _Begun(NamedTuple):
    """What the channels of one kind have in common: the hash of all that stands before the address."""

    copy: Callable[[], blake2b]
    place: Callable[[str], bytes]


_begun: dict[tuple[bytes, str], _Begun] = {}


def _begin(secret: bytes, kind: str) -> _Begun:
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"a secret of {len(secret)} bytes; from {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} are needed"
        )
    name = normal_kind(kind)
    digest = blake2b(digest_size=KEY_BYTES, key=secret, person=_PERSON)
    digest.update(_length(len(name.encode())) + name.encode())
    if len(_begun) >= _BEGUN_MAX:
        _begun.clear()
    begun = _begun[secret, kind] = _Begun(digest.copy, _telephone if name in TELEPHONE_KINDS else _any)
    return begun


def normal_kind(kind: str) -> str:
    return kind.strip().lower()


def normal_address(kind: str, address: str) -> str:
    """The address as it is compared; `kind` is normal already."""
    return (_telephone if kind in TELEPHONE_KINDS else _any)(address).decode()


def _telephone(address: str) -> bytes:
    place = address.encode()
    if place[1:].isdigit() and place[0] == _PLUS:
        return place  # as providers send it, nearly always
    number = _any(address).decode()
    if number[:1] == "+" and number[1:].isdigit():
        return number.encode()
    number = number.translate(_DROPPED)
    return (f"+{number[2:]}" if number.startswith("00") else number).encode()


def _any(address: str) -> bytes:
    address = address.strip()
    if not address.isascii():
        address = unicodedata.normalize("NFC", address)
    return address.casefold().encode()
