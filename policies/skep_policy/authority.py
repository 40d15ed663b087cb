"""The hive's key: one Ed25519 pair, made at the first start, with which the hive signs everything it vouches for.

Owns `state/authority/hive.key` (0600, the seed) and `config/authority.pub` (0644). Both are one line of text that ends
in a checksum, because every 32 bytes are a valid seed: without it a flipped bit would silently be another key.

Invariants. The private half leaves this module in no form: no attribute, no repr, no pickle, no argument, no variable
of the environment. A key file that others may read is refused, not repaired: it may have been copied. A key is never
replaced by itself: with a public half and no private one, start fails and says what was lost. A signature is bound to
a context, so one over a bundle is worth nothing as a seal. Verification is strict: a signature has one encoding, and
points of small order, for which one signature fits many messages, are refused before the library is asked.

Two processes may start at once: the folder's lock lets one make the key, the other reads it.

Rejected: PEM (carries no checksum of the seed, and a parser of formats we do not need), a signature as an identifier
(they are not unique), and making a new key when the old is damaged (every bundle and seal would lose its worth).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from skep.protocol.errors import PolicyError

KEY_PATH: Final = Path("state", "authority", "hive.key")
PUBLIC_PATH: Final = Path("config", "authority.pub")
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
CONTEXT_BYTES_MAX: Final = 64
FILE_BYTES_MAX: Final = 4096  # both files have one line of about 160 bytes
_PREFIX: Final = b"skep-signature/1\0"
_LINE: Final = re.compile(rb"(skep-ed25519-(?:private|public)) ([0-9a-f]{64}) sha256:([0-9a-f]{64})\n")
_PRIVATE, _PUBLIC = b"skep-ed25519-private", b"skep-ed25519-public"

FIELD_PRIME: Final = (1 << 255) - 19
GROUP_ORDER: Final = (1 << 252) + 27742317777372353535851937790883648493
# y of the eight points of small order (four pairs that differ in the sign of x only); test_authority computes them.
_Y8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
SMALL_ORDER_Y: Final = frozenset({0, 1, FIELD_PRIME - 1, _Y8, FIELD_PRIME - _Y8})


class Authority:
    """The private half, able to sign and to say its public half."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def load_or_create(cls, hive_root: Path) -> Authority:
        """The hive's key; made when the hive has none yet.

        Raises PolicyError (KEY_EXPOSED, KEY_DAMAGED, KEY_MISSING, KEY_MISMATCH), OSError.
        """
        path = hive_root / KEY_PATH
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.parent):
            if not os.path.lexists(path):
                _refuse_second_key(hive_root)
                _write(path, _line(_PRIVATE, os.urandom(KEY_BYTES)), 0o600)
            authority = cls(_read(path, _PRIVATE, private=True))
            authority._show_public(hive_root / PUBLIC_PATH)
        return authority

    def sign(self, context: str, data: bytes) -> bytes:
        """64 bytes that only `verify` with the same context accepts for `data`."""
        return self._key.sign(_message(context, data))

    def fingerprint(self) -> str:
        """What people compare: the first 16 hex digits of the public half's SHA-256."""
        return fingerprint(self.public)

    def _show_public(self, path: Path) -> None:
        """Write the public half unless it stands there; a damaged one is derived data and written again."""
        try:
            shown = _read(path, _PUBLIC)
        except PolicyError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, _line(_PUBLIC, self.public), 0o644)
            return
        if shown != self.public:
            raise PolicyError(
                "KEY_MISMATCH",
                f"{PUBLIC_PATH} ({fingerprint(shown)}) is not the public half of {KEY_PATH} ({self.fingerprint()}): "
                "one of them comes from another hive or backup; restore both from the same backup",
            )

    def __repr__(self) -> str:
        return f"Authority({self.fingerprint()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the hive's key is not copied")


def public_key(hive_root: Path) -> bytes:
    """The hive's public half, 32 bytes. Raises PolicyError (KEY_MISSING, KEY_DAMAGED), OSError."""
    return _read(hive_root / PUBLIC_PATH, _PUBLIC)


def verify(public: bytes, context: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of the holder of `public`, in this context, over these bytes."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    if not (_is_strong_point(public) and _is_strong_point(signature[:32])):
        return False
    if int.from_bytes(signature[32:], "little") >= GROUP_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _message(context, data))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """What people compare of a public half."""
    return hashlib.sha256(public).hexdigest()[:16]


def _is_strong_point(encoded: bytes) -> bool:
    """Whether this is the one encoding of a point that is not of small order."""
    y = int.from_bytes(encoded, "little") & ((1 << 255) - 1)
    return y < FIELD_PRIME and y not in SMALL_ORDER_Y


def _message(context: str, data: bytes) -> bytes:
    name = context.encode("ascii")
    if not 0 < len(name) <= CONTEXT_BYTES_MAX:
        raise ValueError(f"a context has 1..{CONTEXT_BYTES_MAX} characters")
    return b"%s%c%s%s" % (_PREFIX, len(name), name, data)


# -- files -------------------------------------------------------------------------------------------------------


def _line(kind: bytes, key: bytes) -> bytes:
    return b"%s %s sha256:%s\n" % (kind, key.hex().encode(), _checksum(kind, key))


def _checksum(kind: bytes, key: bytes) -> bytes:
    return hashlib.sha256(kind + b"\0" + key).hexdigest().encode()


def _read(path: Path, kind: bytes, *, private: bool = False) -> bytes:
    """The key in one of the two files, checked. Nothing of a damaged file is shown in an error."""
    name = f"{path.parent.name}/{path.name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PolicyError("KEY_MISSING", f"{name} is not there; SY.opa.rules makes it at its start") from None
    try:
        _check_file(os.fstat(fd), name, private)
        found = _LINE.fullmatch(os.read(fd, FILE_BYTES_MAX))
    finally:
        os.close(fd)
    if found is None or found[1] != kind or _checksum(kind, bytes.fromhex(found[2].decode())) != found[3]:
        raise PolicyError("KEY_DAMAGED", f"{name} does not hold what was written; restore it from a backup")
    return bytes.fromhex(found[2].decode())


def _check_file(facts: os.stat_result, name: str, private: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise PolicyError("KEY_DAMAGED", f"{name} is not a file")
    if private and (facts.st_mode & 0o077 or facts.st_uid != os.geteuid()):
        raise PolicyError(
            "KEY_EXPOSED",
            f"{name} has mode {stat.S_IMODE(facts.st_mode):04o} and owner {facts.st_uid}: others may have read it; if "
            "you are sure that nobody has, make it 0600 and yours, else treat it as stolen (docs/policy-life.md)",
        )


def _refuse_second_key(hive_root: Path) -> None:
    """A public half without its private one: the key is lost, and a new one must not come about by itself."""
    if (hive_root / PUBLIC_PATH).exists():
        raise PolicyError(
            "KEY_MISSING",
            f"{KEY_PATH} is gone but {PUBLIC_PATH} is there: restore the key from a backup, or remove {PUBLIC_PATH} to "
            "begin with a new key (everything signed with the old one is then refused)",
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # freed when the descriptor closes, also by a crash
        yield
    finally:
        os.close(fd)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put the file there whole and durable. What a crash leaves beside it is emptied by the next attempt."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(f"{path.name}: the disk took a part of it")
        os.fchmod(fd, mode)
        os.fsync(fd)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    os.rename(beside, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
