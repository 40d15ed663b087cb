"""Texts in versions that never change: modules, degrees, public keys. Kept here so that both databases have them.

A document is named by (kind, name, version). Publishing the same bytes under the same version again is fine, other
bytes are refused for good: whoever pinned a version has pinned its content.
"""

from __future__ import annotations

from typing import Final

from skep_nodes.identity.ids import NONE, digest16
from skep_nodes.identity.records import Document
from skep_nodes.identity.refusal import Code, Refusal
from skep_nodes.identity.tables import DOCUMENTS
from skep_nodes.identity.view import Ask, View

BODY_BYTES_MAX: Final = 1 << 20
"""One text; a whole prompt library in a single module is a mistake."""
VERSIONS_MAX: Final = 1000
"""Of one name: all of them are loaded together."""


def document_key(kind: str, name: str, version: int) -> bytes:
    """The key of one version."""
    return digest16(kind.encode(), name.encode(), version.to_bytes(8, "little"))


def series_of(kind: str, name: str) -> str:
    """What all versions of one thing share."""
    return f"{kind}\x1f{name}"


def ask(kind: str, name: str, version: int) -> Ask:
    """One version."""
    return Ask(DOCUMENTS, "document_key", document_key(kind, name, version))


def ask_series(kind: str, name: str) -> Ask:
    """All versions of one thing."""
    return Ask(DOCUMENTS, "series", series_of(kind, name))


def ask_kind(kind: str) -> Ask:
    """All versions of all things of a kind."""
    return Ask(DOCUMENTS, "kind", kind)


def versions(view: View, kind: str, name: str) -> list[Document]:
    """All versions, oldest first."""
    found: list[Document] = view.find(DOCUMENTS, "series", series_of(kind, name))
    return sorted(found, key=_version)


def newest(view: View, kind: str, name: str) -> Document | None:
    """The newest version, deprecated or not."""
    found = versions(view, kind, name)
    return found[-1] if found else None


def publish(view: View, kind: str, name: str, version: int, body: bytes, actor: str) -> Document:
    """Keep a version. Needs `ask_series`. Raises Refusal IMMUTABLE, IDENTITY_LIMIT_REACHED."""
    key = document_key(kind, name, version)
    known = versions(view, kind, name)
    old = next((each for each in known if each.key == key), None)
    if old is not None:
        if old.body != body:
            raise Refusal(
                Code.IMMUTABLE, f"{kind} {name} version {version} has another text; give it a new version"
            )
        return old
    if len(known) >= VERSIONS_MAX or len(body) > BODY_BYTES_MAX:
        limit = f"at most {VERSIONS_MAX} versions of {BODY_BYTES_MAX} bytes"
        raise Refusal(Code.IDENTITY_LIMIT_REACHED, f"{kind} {name}: {limit}")
    made = Document(key, kind, name, version, series_of(kind, name), body, actor, view.now_ms)
    view.put(DOCUMENTS, made)
    view.note(actor, "DOCUMENT_PUBLISHED", NONE, NONE, "", kind=kind, name=name, version=version)
    return made


def deprecate(view: View, document: Document, actor: str, reason: str) -> None:
    """Say that a version should not be used any more; those who pinned it keep it."""
    if not document.deprecated_at_ms:
        view.put(DOCUMENTS, document._replace(deprecated_at_ms=view.now_ms))
        facts = {"kind": document.kind, "name": document.name, "version": document.version}
        view.note(actor, "DOCUMENT_DEPRECATED", NONE, NONE, reason, **facts)


def _version(document: Document) -> int:
    return document.version
