"""What SY.registrar is asked, member by member, and what it answers: between payloads and the registrar. No sockets.

Whoever asks is proved by the routers' node tables (`standing`), never by the message. Publishing, composing,
graduating, revoking and rotating are for administrators (SY.admin, SY.orchestrator, SY.cli): authority over training
lies outside of the system, and no agent changes its own. Reading is for the hive's own nodes.

Each verb has a closed list of members; an unknown one is refused, since a misspelt `until_ms` would be a seal for a
year. A list that is longer than one answer ends with `next`, which continues it as `from`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import orjson

from skep.protocol.names import base_of, glob_match, hive_of
from skep.seal import MODULES_MAX, VERSION_MAX, degree_facts
from skep_nodes.degrees.degrees import Composition
from skep_nodes.degrees.ledger import Carrier
from skep_nodes.degrees.modules import Draft
from skep_nodes.degrees.refusal import DegreeRefusal
from skep_nodes.degrees.registrar import DAYS_MAX, Graduation, Registrar
from skep_nodes.sy.standing import Sender, Standing

ADMINISTRATORS: Final = ("SY.admin", "SY.orchestrator", "SY.cli", "SY.cli.*")
LIST_BYTES_MAX: Final = 48 << 10
"""Of one answer's list; a frame holds more than twice as much."""


class Payload:
    """The members of one request, each checked as it is taken."""

    def __init__(self, payload: object, known: tuple[str, ...]) -> None:
        if not isinstance(payload, Mapping):
            raise _invalid("the payload must be an object")
        unknown = sorted(str(name) for name in payload if name not in known)
        if unknown:
            raise _invalid(f"unknown member {unknown[0][:64]!r}; known are {', '.join(known)}")
        self._members = payload

    def has(self, name: str) -> bool:
        return self._members.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._members.get(name, default)
        if not isinstance(value, str):
            raise _invalid(f"{name} must be text")
        return value

    def whole(self, name: str, largest: int, default: int = 0) -> int:
        value = self._members.get(name, default)
        if type(value) is not int or not 0 <= value <= largest:
            raise _invalid(f"{name} must be a whole number of 0..{largest}")
        return value

    def flag(self, name: str) -> bool:
        value = self._members.get(name, False)
        if not isinstance(value, bool):
            raise _invalid(f"{name} must be true or false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._members.get(name, [])
        if not isinstance(value, list) or len(value) > MODULES_MAX or not all(isinstance(each, str) for each in value):
            raise _invalid(f"{name} must be a list of at most {MODULES_MAX} texts")
        return tuple(value)


class Outcome(NamedTuple):
    """An answer, and the carriers about whom others must be told."""

    answer: dict[str, Any]
    changed: tuple[Carrier, ...] = ()


class Deed(NamedTuple):
    """One verb: its members, whether it changes something, what carries it out."""

    members: tuple[str, ...]
    changes: bool
    carry_out: Callable[[Payload, str], Outcome]


class RegistrarDesk:
    """Judges requests and words answers."""

    def __init__(self, registrar: Registrar, hive_id: str, at: Callable[[], str]) -> None:
        self.registrar, self._hive_id, self._at = registrar, hive_id, at
        self.verbs: dict[str, Deed] = {
            "MODULE_LIST": Deed(("from",), False, self._module_list),
            "MODULE_GET": Deed(("name", "version"), False, self._module_get),
            "MODULE_PUBLISH": Deed(
                ("name", "version", "content", "form", "category", "description"), True, self._module_publish
            ),
            "DEGREE_CREATE": Deed(("name", "modules", "capabilities", "description"), True, self._degree_create),
            "DEGREE_LIST": Deed(("from",), False, self._degree_list),
            "DEGREE_GET": Deed(("degree", "version"), False, self._degree_get),
            "DEGREE_GRADUATE": Deed(
                ("ilk", "handler", "degree", "version", "days", "until_ms", "reason"), True, self._graduate
            ),
            "DEGREE_CARRIERS": Deed(("from",), False, self._carriers),
            "DEGREE_VERIFY": Deed(("agent",), False, self._verify),
            "DEGREE_REVOKE": Deed(("agent", "key", "reason"), True, self._revoke),
            "DEGREE_ROTATE_KEY": Deed(("reseal", "revoke_old"), True, self._rotate),
            "DEGREE_KEYS": Deed((), False, self._keys),
        }

    def carry_out(self, verb: str, payload: object, sender: Sender) -> Outcome:
        """One request. Raises DegreeRefusal, OSError, StoreBroken."""
        deed = self.verbs[verb]
        self._authorise(sender, deed.changes)
        before = {each.seal.serial: each.status for each in self.registrar.ledger.carriers.values()}
        outcome = deed.carry_out(Payload(payload, deed.members), sender.name)
        if not deed.changes:
            return outcome
        now = self.registrar.ledger.carriers.values()
        return outcome._replace(changed=tuple(each for each in now if before.get(each.seal.serial) != each.status))

    def _authorise(self, sender: Sender, changes: bool) -> None:
        base, at = base_of(sender.name), hive_of(sender.name)
        if not changes and sender.trusted:
            return
        named = any(glob_match(pattern, base) for pattern in ADMINISTRATORS)
        if not (sender.standing is Standing.SYSTEM and at == self._hive_id and named):
            who, what = sender.name or "an unknown node", "change" if changes else "read"
            may = "administrators (SY.admin, SY.orchestrator, SY.cli)" if changes else "the hive's own nodes"
            raise DegreeRefusal("FORBIDDEN", f"{who} may not {what} what agents are taught; {may} may")

    # -- modules -----------------------------------------------------------------------------------------------

    def _module_list(self, asked: Payload, by: str) -> Outcome:
        store = self.registrar.modules
        rows = ({"name": name, "versions": store.versions(name)} for name in store.names())
        return Outcome(_page("modules", rows, asked))

    def _module_get(self, asked: Payload, by: str) -> Outcome:
        name = _bare(asked.text("name"))
        if not asked.has("version"):  # an unknown name has no versions: upstream's answer
            return Outcome({"status": "ok", "name": name, "versions": self.registrar.modules.versions(name)})
        module, content = self.registrar.modules.get(name, asked.text("version"))
        return Outcome({"status": "ok", **module.facts(), "content": base64.b64encode(content).decode()})

    def _module_publish(self, asked: Payload, by: str) -> Outcome:
        draft = Draft(
            _bare(asked.text("name")), asked.text("version"), _decoded(asked.text("content")),
            asked.text("category", "technical"), asked.text("description", ""), asked.text("form", "text"),
        )  # fmt: skip
        return Outcome({"status": "ok", **self.registrar.modules.publish(draft, by, self._at()).facts()})

    # -- degrees -----------------------------------------------------------------------------------------------

    def _degree_create(self, asked: Payload, by: str) -> Outcome:
        modules = tuple(_pair(each) for each in asked.texts("modules"))
        about = asked.text("description", "")
        wanted = Composition(asked.text("name"), modules, asked.texts("capabilities"), about)
        degree, created = self.registrar.degrees.create(wanted, by, self._at())
        return Outcome({"status": "ok", "created": created, "degree": degree_facts(degree)})

    def _degree_list(self, asked: Payload, by: str) -> Outcome:
        rows = (
            {"id": degree.id, "version": degree.version, "name": degree.name,
             "modules": [module.title for module in degree.modules], "capabilities": list(degree.capabilities)}
            for degree in self.registrar.degrees.all()
        )  # fmt: skip
        return Outcome(_page("degrees", rows, asked))

    def _degree_get(self, asked: Payload, by: str) -> Outcome:
        degree = self.registrar.degrees.get(asked.text("degree"), asked.whole("version", VERSION_MAX))
        return Outcome({"status": "ok", "degree": degree_facts(degree)})

    # -- graduations -------------------------------------------------------------------------------------------

    def _graduate(self, asked: Payload, by: str) -> Outcome:
        wanted = Graduation(
            asked.text("ilk"), asked.text("handler"), asked.text("degree"), asked.whole("version", VERSION_MAX),
            asked.whole("days", DAYS_MAX, 365), asked.whole("until_ms", 1 << 52), asked.text("reason", ""),
        )  # fmt: skip
        return Outcome({"status": "ok", **self.shown(self.registrar.graduate(wanted, by))})

    def _carriers(self, asked: Payload, by: str) -> Outcome:
        return Outcome(_page("carriers", map(self.shown, self.registrar.ledger.carriers.values()), asked))

    def _verify(self, asked: Payload, by: str) -> Outcome:
        carrier = self.registrar.find(asked.text("agent"))
        status, detail = self.registrar.verdict(carrier)
        return Outcome({"status": "ok", **self.shown(carrier), "seal_status": status.name, "detail": detail})

    def _revoke(self, asked: Payload, by: str) -> Outcome:
        reason = asked.text("reason", "")
        if asked.has("key") == asked.has("agent"):
            raise _invalid("name either an agent or a key")
        if asked.has("key"):
            self.registrar.revoke_key(asked.text("key"), by, reason)
            return Outcome({"status": "ok", "key": asked.text("key")})
        return Outcome({"status": "ok", **self.shown(self.registrar.revoke(asked.text("agent"), by, reason))})

    def _rotate(self, asked: Payload, by: str) -> Outcome:
        key = self.registrar.rotate_key(by, reseal=asked.flag("reseal"), revoke_old=asked.flag("revoke_old"))
        return Outcome({"status": "ok", "key": key.id, "public": key.public.hex()})

    def _keys(self, asked: Payload, by: str) -> Outcome:
        return Outcome({"status": "ok", "keys": [asdict(key) for key in self.registrar.ledger.keys.values()]})

    def shown(self, carrier: Carrier) -> dict[str, Any]:
        """A carrier for people. The signature is no part of it: nobody should take it for a name."""
        seal = carrier.seal
        return {
            "ilk": seal.ilk, "handler": seal.handler, "degree": carrier.degree, "serial": seal.serial,
            "seal_status": carrier.status.name, "detail": carrier.detail, "from_ms": seal.from_ms,
            "until_ms": seal.until_ms, "key_id": seal.key_id, "graduated_by": carrier.by,
            "folder": str(self.registrar.carried.path(seal.handler)),
        }  # fmt: skip


def _page(noun: str, rows: Iterable[dict[str, Any]], asked: Payload) -> dict[str, Any]:
    """As many rows as fit one answer, from `from` on; `next` where there are more."""
    start, size = asked.whole("from", 1 << 31), 0
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        if number < start:
            continue
        size += len(orjson.dumps(row))
        if found and size > LIST_BYTES_MAX:
            return {"status": "ok", noun: found, "next": number}
        found.append(row)
    return {"status": "ok", noun: found}


def _bare(name: str) -> str:
    """Upstream writes ids as `module:<name>`."""
    return name.removeprefix("module:")


def _pair(text: str) -> tuple[str, str]:
    name, at, version = _bare(text).partition("@")
    if not at:
        raise _invalid(f"{text[:80]!r} names no version: write {text[:40]}@1.0.0")
    return name, version


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid("content must be base64") from None


def _invalid(why: str) -> DegreeRefusal:
    return DegreeRefusal("INVALID_PAYLOAD", why)
