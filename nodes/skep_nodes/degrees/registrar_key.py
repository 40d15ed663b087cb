"""The registrar's private key: one Ed25519 seed on disk, 0600, never shown, never passed on.

Owns `state/authority/registrar.key`, one line `skep-registrar-key/1 <seed> sha256:<checksum>`: any 32 bytes are a
seed, so without the checksum a flipped bit would silently be another key. Which public keys there are, and which of
them still count, the history knows; this file only holds what signs now.

A rotation replaces this file first and tells the history second. A crash between the two leaves a key that the history
does not know yet: the registrar then makes it known at its next start, nothing was signed with it. The seed that was
replaced is gone from the file at once; to check old seals nobody needs it.
"""

from __future__ import annotations

import os
import re
import stat
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skep.seal import key_id_of
from skep_nodes.degrees.shelf import make_folder
from skep_nodes.sy.durable import Disk, replace_file

KEY_PATH = Path("state", "authority", "registrar.key")
SEED_BYTES = 32
_LINE = re.compile(rb"skep-registrar-key/1 ([0-9a-f]{64}) sha256:([0-9a-f]{64})\n")


class KeyUnusable(Exception):
    """The key file must not be used; says why and what to do. Shows nothing of what is in it."""


class RegistrarKey:
    """Able to sign, and to say its public half."""

    __slots__ = ("_key", "public", "id")

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()
        self.id = key_id_of(self.public)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"RegistrarKey({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the registrar's key is not copied")


def load_key(path: Path) -> RegistrarKey | None:
    """The key, or None without a file. Raises KeyUnusable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyUnusable(f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        _check_file(os.fstat(fd), path.name)
        found = _LINE.fullmatch(file.read(512))
    if found is None or sha256(found[1]).hexdigest().encode() != found[2]:
        raise KeyUnusable(f"{path.name} does not hold what was written; restore it from a backup, or remove it and "
                          "let the registrar make a new key: old seals stay valid")  # fmt: skip
    return RegistrarKey(bytes.fromhex(found[1].decode()))


def make_key(path: Path, disk: Disk) -> RegistrarKey:
    """A new key in the place of whatever was there, durable. Raises OSError, StoreBroken."""
    make_folder(disk, path.parent)
    seed = os.urandom(SEED_BYTES).hex().encode()
    replace_file(disk, path, b"skep-registrar-key/1 %s sha256:%s\n" % (seed, sha256(seed).hexdigest().encode()))
    return RegistrarKey(bytes.fromhex(seed.decode()))


def _check_file(facts: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise KeyUnusable(f"{name} is not a file")
    if facts.st_mode & 0o077 or facts.st_uid != os.geteuid():
        raise KeyUnusable(
            f"{name} has mode {stat.S_IMODE(facts.st_mode):04o} and owner {facts.st_uid}: others may have read it; "
            "make it 0600 and yours, start, and rotate the key (skep degree rotate-key --reseal --revoke-old)"
        )
