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

Folding the part before the @ of an e-mail address merges addresses that RFC 5321 lets differ; no provider of any size
tells them apart, people type them either way, and two interlocutors for one mailbox would be the larger mistake.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from hashlib import blake2b
from struct import Struct

KEY_BYTES = 16
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 16, 64  # the longest is BLAKE2b's
TELEPHONE_KINDS = frozenset(("whatsapp", "sms", "phone", "voice", "signal"))
_DROPPED = str.maketrans("", "", " \t\u00a0-.()")
_length = Struct(">I").pack
_PERSON = b"skep.channel"


def channel_key(secret: bytes, kind: str, address: str, tenant: bytes) -> bytes:
    """16 bytes that name a channel. Raises ValueError for a secret or a tenant of a wrong length."""
    if len(tenant) != 16:
        raise ValueError(f"a tenant has 16 bytes, not {len(tenant)}")
    kind, head = _kind(kind)
    place = normal_address(kind, address).encode()
    digest = _keyed(secret).copy()
    digest.update(head + _length(len(place)) + place + tenant)
    return digest.digest()


def normal_kind(kind: str) -> str:
    return kind.strip().lower()


@lru_cache(maxsize=256)  # there are a dozen kinds
def _kind(kind: str) -> tuple[str, bytes]:
    """A kind as it is compared, and what the input of the hash begins with."""
    kind = normal_kind(kind)
    name = kind.encode()
    return kind, _length(len(name)) + name


def normal_address(kind: str, address: str) -> str:
    """The address as it is compared; `kind` is normal already."""
    address = address.strip()
    if not address.isascii():
        address = unicodedata.normalize("NFC", address)
    address = address.casefold()
    return _telephone(address) if kind in TELEPHONE_KINDS else address


def _telephone(number: str) -> str:
    if number[:1] == "+" and number[1:].isdigit():
        return number  # as providers send it, nearly always
    number = number.translate(_DROPPED)
    return f"+{number[2:]}" if number.startswith("00") else number


@lru_cache(maxsize=4)  # a hive has one secret, and two while it changes
def _keyed(secret: bytes) -> blake2b:
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"a secret of {len(secret)} bytes; from {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} are needed"
        )
    return blake2b(digest_size=KEY_BYTES, key=secret, person=_PERSON)
