"""Seals of degrees: what a registrar signs when an agent graduates, and what anybody can check with the public file.

A degree is an ordered composition of module versions and the capabilities they grant. Its seal is an Ed25519
signature over `statement`: every member of the degree document, every member of the seal but the signature itself,
each with its length before it, so that no two different graduations have the same bytes. A module's text is bound
by its hash, which stands in the degree. So nothing can change unseen: not a text, not an order, not a capability, not
the agent it was given to, not a date.

The files are JSON in one spelling only (`canonical`): a document that is spelt otherwise is refused even when it would
mean the same. That is what makes every single byte count, and it needs no hash of the file in the file.

`judge` is pure: bytes and a time in, a `Verified` or a `DegreeError` out. It checks the cheap things that can name the
culprit first (a module whose text was changed), the signature last. `cryptography` is imported by `_public_key` alone,
so only a node that declares a degree pays for it. A signature is never an identifier: a seal has a serial of its own,
and that is what is revoked.

Rejected: a keyed hash (whoever can check could forge); signing the compiled prompt alone (order, versions,
capabilities and agent would be outside); one key for ever (a rotation keeps the old one for checking until it is
revoked).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from struct import Struct, pack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from skep.errors import DegreeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CONTEXT: Final = b"skep.degree-seal/1"
RING_FILE: Final = "registrar.pub"
DOCUMENT_BYTES_MAX: Final = 65536
"""degree.json and seal.json each; a degree of 64 modules has 20 KiB."""
RING_BYTES_MAX: Final = 1 << 20
MODULE_BYTES_MAX: Final = 65536
"""One module's text: thirty pages, and small enough to travel in one frame."""
MODULES_MAX: Final = 64
CAPABILITIES_MAX: Final = 48
PROMPT_BYTES_MAX: Final = 1 << 20
"""All texts of one degree."""
KEYS_MAX: Final = 64
REVOKED_MAX: Final = 4096
TEXT_MAX: Final = 512
VERSION_MAX: Final = (1 << 31) - 1
TIME_MAX_MS: Final = 253_402_300_800_000
"""The end of the year 9999."""
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}"
_VERSION: Final = (
    r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
    r"(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
MODULE_NAME: Final = re.compile(_NAME)
"""A file's name in every folder it comes to: no slash, no leading dot, no two dots in a row."""
SEMVER: Final = re.compile(rf"(?=.{{5,64}}\Z){_VERSION}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]*")
_UNSORTED: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_SPELLING: Final = orjson.OPT_SORT_KEYS | _UNSORTED
_U64: Final = Struct(">Q").pack
KEY_STATES: Final = ("active", "retired", "revoked")
# Members in the order in which `canonical` writes them: comparing it is cheaper than sorting anew at each check.
_DEGREE: Final = (
    "capabilities", "created_at", "created_by", "description", "format", "id", "modules", "name", "version",
)  # fmt: skip
_MODULE: Final = ("hash", "name", "text_hash", "version")
_SEAL: Final = (
    "degree", "degree_version", "format", "from_ms", "handler", "ilk", "issuer", "key_id", "serial", "signature",
    "until_ms",
)  # fmt: skip
_RING: Final = ("format", "keys", "revoked")
_KEY: Final = ("id", "public", "since_ms", "state")


class ModuleRef(NamedTuple):
    """One module version in a degree: a tuple, because each check makes many.

    `hash` is that of the published bytes, `text_hash` that of the prompt text in them.
    """

    name: str
    version: str
    hash: str
    text_hash: str

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def file_name(self) -> str:
        """Its text's file in a degree folder's `modules`. Raises DegreeError for what is no name of a file.

        The one place where names become paths, so the one where their form is asked: `judge` needs none, because the
        signature covers them as they are.
        """
        if not (MODULE_NAME.fullmatch(self.name) and SEMVER.fullmatch(self.version)):
            raise _damaged("degree.json", "DEGREE_DAMAGED", "a module's name or version")
        return f"{self.title}.txt"


@dataclass(frozen=True, slots=True)
class Degree:
    """One version of a degree; it never changes."""

    id: str
    version: int
    name: str
    description: str
    modules: tuple[ModuleRef, ...]
    capabilities: tuple[str, ...]
    created_by: str
    created_at: str

    @property
    def title(self) -> str:
        """What stands in an agent's record: `degree:<uuid>/<version>`."""
        return f"{self.id}/{self.version}"


@dataclass(frozen=True, slots=True)
class Seal:
    """One graduation: this agent has this degree, for this time, and the holder of this key says so."""

    serial: str
    degree: str
    degree_version: int
    ilk: str
    handler: str
    from_ms: int
    until_ms: int
    issuer: str
    key_id: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of the registrar: `active` signs, `retired` still checks, `revoked` proves nothing."""

    id: str
    public: str
    state: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class KeyRing:
    """config/registrar.pub: the keys, and the serials that were revoked and have not expired by themselves."""

    keys: tuple[Key, ...] = ()
    revoked: tuple[str, ...] = ()

    def find(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, slots=True)
class Verified:
    """A degree whose seal was found good, and the prompt it compiles to."""

    degree: Degree
    seal: Seal
    prompt: str


# ---- what is signed --------------------------------------------------------------------------------------------------


def statement(degree: Degree, seal: Seal) -> bytes:
    """The bytes under a seal's signature: how many parts, the length of each, and the parts."""
    parts = [CONTEXT, *_seal_parts(seal), *_degree_parts(degree)]
    count = len(parts)
    return b"".join((pack(f">{count + 1}I", count, *map(len, parts)), *parts))


def _seal_parts(seal: Seal) -> list[bytes]:
    return [
        seal.serial.encode(), seal.degree.encode(), _U64(seal.degree_version), seal.ilk.encode(), seal.handler.encode(),
        _U64(seal.from_ms), _U64(seal.until_ms), seal.issuer.encode(), seal.key_id.encode(),
    ]  # fmt: skip


def _degree_parts(degree: Degree) -> list[bytes]:
    parts = [
        degree.id.encode(), _U64(degree.version), degree.name.encode(), degree.description.encode(),
        degree.created_by.encode(), degree.created_at.encode(), _U64(len(degree.modules)),
    ]  # fmt: skip
    for name, version, hashed, text_hashed in degree.modules:
        parts += (name.encode(), version.encode(), hashed.encode(), text_hashed.encode())
    parts.append(_U64(len(degree.capabilities)))
    return parts + [capability.encode() for capability in degree.capabilities]


def key_id_of(public: bytes) -> str:
    """A key's name: the beginning of its hash."""
    return sha256(public).hexdigest()[:16]


def compiled(texts: Iterable[str]) -> str:
    """The prompt: the texts in order, one blank line between them, whatever lines they begin or end with."""
    return "\n\n".join(text.strip("\n") for text in texts)


# ---- judging ---------------------------------------------------------------------------------------------------------


def judge(
    degree_bytes: bytes,
    texts: Mapping[str, bytes],
    seal_bytes: bytes,
    ring: KeyRing,
    *,
    now_ms: int,
    handler: str = "",
    ilk: str = "",
) -> Verified:
    """The degree, when all of it is as it was sealed, for this agent, now. `texts` has the modules by `title`.

    Raises DegreeError: its code is stable, its text names what is wrong and what to do.
    """
    degree, seal = read_degree(degree_bytes), read_seal(seal_bytes)
    found = [_text(module, texts) for module in degree.modules]
    _check_bearer(degree, seal, handler, ilk)
    _check_standing(seal, ring)
    _check_signature(degree, seal, ring)
    check_time(seal, now_ms)
    return Verified(degree, seal, compiled(found))


def _text(module: ModuleRef, texts: Mapping[str, bytes]) -> str:
    data = texts.get(module.title)
    if data is None:
        raise DegreeError("MODULE_MISSING", f"the text of module {module.title} is not there", module.title)
    if sha256(data).hexdigest() != module.text_hash:
        raise DegreeError("MODULE_CHANGED", f"the text of module {module.title} is not the one that was sealed",
                          module.title)  # fmt: skip
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DegreeError("MODULE_CHANGED", f"module {module.title} is not text", module.title) from None


def _check_bearer(degree: Degree, seal: Seal, handler: str, ilk: str) -> None:
    if (seal.degree, seal.degree_version) != (degree.id, degree.version):
        raise DegreeError(
            "SEAL_FOREIGN", f"the seal is for {seal.degree}/{seal.degree_version}, not {degree.title}"
        )
    if handler and seal.handler != handler:
        raise DegreeError("SEAL_FOREIGN", f"the seal was given to {seal.handler}, not to {handler}")
    if ilk and seal.ilk != ilk:
        raise DegreeError("SEAL_FOREIGN", f"the seal was given to {seal.ilk}, not to {ilk}")


def _check_standing(seal: Seal, ring: KeyRing) -> None:
    key = ring.find(seal.key_id)
    if key is None:
        raise DegreeError("KEY_UNKNOWN", f"the registrar has no key {seal.key_id}")
    if key.state == "revoked":
        raise DegreeError("KEY_REVOKED", f"the key {seal.key_id} that sealed it was revoked")
    if seal.serial in ring.revoked:
        raise DegreeError("SEAL_REVOKED", f"{seal.serial} was revoked")


def _check_signature(degree: Degree, seal: Seal, ring: KeyRing) -> None:
    key = ring.find(seal.key_id)
    assert key is not None
    if not _fits(bytes.fromhex(key.public), statement(degree, seal), bytes.fromhex(seal.signature)):
        raise DegreeError(
            "SEAL_INVALID",
            "the signature does not fit: degree.json or seal.json was changed after the graduation",
        )


def check_time(seal: Seal, now_ms: int) -> None:
    """Raises DegreeError when the seal is not valid at this time."""
    if now_ms < seal.from_ms:
        raise DegreeError("SEAL_NOT_YET", f"the seal is valid from {seal.from_ms} (Unix ms), it is {now_ms}")
    if now_ms >= seal.until_ms:
        raise DegreeError(
            "SEAL_EXPIRED", f"the seal was valid until {seal.until_ms} (Unix ms), it is {now_ms}"
        )


def _fits(public: bytes, data: bytes, signature: bytes) -> bool:
    key = _public_key(public)
    try:
        key.verify(signature, data)
    except _invalid_signature():
        return False
    return True


@lru_cache(maxsize=KEYS_MAX)
def _public_key(public: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(public)


def _invalid_signature() -> type[Exception]:
    from cryptography.exceptions import InvalidSignature

    return InvalidSignature


# ---- documents -------------------------------------------------------------------------------------------------------


def canonical(facts: Mapping[str, Any]) -> bytes:
    """The one spelling of a document: members sorted, two spaces, a line end."""
    return orjson.dumps(facts, option=_SPELLING)


def degree_facts(degree: Degree) -> dict[str, Any]:
    modules = [
        {"name": each.name, "version": each.version, "hash": each.hash, "text_hash": each.text_hash}
        for each in degree.modules
    ]
    return {
        "format": 1, "id": degree.id, "version": degree.version, "name": degree.name,
        "description": degree.description, "modules": modules, "capabilities": list(degree.capabilities),
        "created_by": degree.created_by, "created_at": degree.created_at,
    }  # fmt: skip


def seal_facts(seal: Seal) -> dict[str, Any]:
    return {
        "format": 1, "serial": seal.serial, "degree": seal.degree, "degree_version": seal.degree_version,
        "ilk": seal.ilk, "handler": seal.handler, "from_ms": seal.from_ms, "until_ms": seal.until_ms,
        "issuer": seal.issuer, "key_id": seal.key_id, "signature": seal.signature,
    }  # fmt: skip


def ring_facts(ring: KeyRing) -> dict[str, Any]:
    keys = [
        {"id": key.id, "public": key.public, "state": key.state, "since_ms": key.since_ms}
        for key in ring.keys
    ]
    return {"format": 1, "keys": keys, "revoked": list(ring.revoked)}


def read_degree(data: bytes) -> Degree:
    """degree.json. Raises DegreeError DEGREE_DAMAGED."""
    take = _Members.of("degree.json", "DEGREE_DAMAGED", data, DOCUMENT_BYTES_MAX)
    modules = tuple(_module_ref(take, each) for each in take.items("modules", MODULES_MAX))
    degree = Degree(
        id=take.text("id"), version=take.number("version", VERSION_MAX), name=take.text("name"),
        description=take.text("description"), modules=modules,
        capabilities=take.texts("capabilities", CAPABILITIES_MAX), created_by=take.text("created_by"),
        created_at=take.text("created_at"),
    )  # fmt: skip
    take.end(_DEGREE)
    return degree


def _module_ref(take: _Members, facts: object) -> ModuleRef:
    """Four texts and nothing else; this is most of the work of reading a degree, so it asks no more than it must."""
    try:
        found = ModuleRef(facts["name"], facts["version"], facts["hash"], facts["text_hash"])  # type: ignore[index]
        "".join(found)  # a TypeError unless all are text
        fits = tuple(facts) == _MODULE  # type: ignore[arg-type]
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise take.wrong("a module's name, version or hash")
    return found


def read_seal(data: bytes) -> Seal:
    """seal.json. Raises DegreeError SEAL_DAMAGED."""
    take = _Members.of("seal.json", "SEAL_DAMAGED", data, DOCUMENT_BYTES_MAX)
    seal = Seal(
        serial=take.text("serial"), degree=take.text("degree"),
        degree_version=take.number("degree_version", VERSION_MAX), ilk=take.text("ilk"),
        handler=take.text("handler"), from_ms=take.number("from_ms", TIME_MAX_MS),
        until_ms=take.number("until_ms", TIME_MAX_MS), issuer=take.text("issuer"),
        key_id=take.hexed("key_id", 8), signature=take.hexed("signature", 64),
    )  # fmt: skip
    take.end(_SEAL)
    return seal


def read_ring(data: bytes) -> KeyRing:
    """registrar.pub. Raises DegreeError REGISTRAR_DAMAGED."""
    take = _Members.of(RING_FILE, "REGISTRAR_DAMAGED", data, RING_BYTES_MAX)
    keys = tuple(_key(take, each) for each in take.items("keys", KEYS_MAX))
    ring = KeyRing(keys, take.texts("revoked", REVOKED_MAX))
    take.end(_RING)
    return ring


def _key(take: _Members, facts: object) -> Key:
    one = take.inner(facts)
    key = Key(
        one.hexed("id", 8), one.hexed("public", 32), one.text("state"), one.number("since_ms", TIME_MAX_MS)
    )
    if one.members != _KEY or key.state not in KEY_STATES or key.id != key_id_of(bytes.fromhex(key.public)):
        raise one.wrong("a key's id or state")
    return key


class _Members:
    """Takes members out of one document and judges each; `end` refuses every other spelling of what was taken."""

    __slots__ = ("_file", "_code", "_data", "_facts")

    def __init__(self, file: str, code: str, facts: object, data: bytes = b"") -> None:
        self._file, self._code, self._data = file, code, data
        if not isinstance(facts, dict):
            raise self.wrong("an object")
        self._facts: dict[str, Any] = facts

    @classmethod
    def of(cls, file: str, code: str, data: bytes, bytes_max: int) -> _Members:
        if len(data) > bytes_max:
            raise _damaged(file, code, f"its size ({len(data)} bytes, {bytes_max} at most)")
        try:
            return cls(file, code, orjson.loads(data), data)
        except orjson.JSONDecodeError:
            raise _damaged(file, code, "its JSON") from None

    def inner(self, facts: object) -> _Members:
        """The same for an object inside; its spelling is judged with the whole."""
        return _Members(self._file, self._code, facts)

    def wrong(self, what: str) -> DegreeError:
        return _damaged(self._file, self._code, what)

    def text(self, name: str) -> str:
        value = self._facts.get(name)
        if not isinstance(value, str) or len(value) > TEXT_MAX:
            raise self.wrong(name)
        return value

    def formed(self, name: str, form: re.Pattern[str]) -> str:
        value = self.text(name)
        if not form.fullmatch(value):
            raise self.wrong(name)
        return value

    def hexed(self, name: str, size: int) -> str:
        value = self.text(name)
        if len(value) != 2 * size or not _HEX.fullmatch(value):
            raise self.wrong(name)
        return value

    def number(self, name: str, largest: int) -> int:
        value = self._facts.get(name)
        if type(value) is not int or not 0 <= value <= largest:
            raise self.wrong(name)
        return value

    def items(self, name: str, most: int) -> list[Any]:
        value = self._facts.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name)
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        values = self.items(name, most)
        if not all(isinstance(value, str) and len(value) <= TEXT_MAX for value in values):
            raise self.wrong(name)
        return tuple(values)

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self._facts)

    def end(self, members: tuple[str, ...]) -> None:
        """No other member, in no other spelling: a name given twice, or a space more, is another document."""
        if self.members != members or self._facts["format"] != 1:
            raise self.wrong("which members it has, or its format,")
        if orjson.dumps(self._facts, option=_UNSORTED) != self._data:
            raise self.wrong("its spelling")


def _damaged(file: str, code: str, what: str) -> DegreeError:
    return DegreeError(code, f"{file} cannot be used: {what} is wrong; it was changed or cut short")
