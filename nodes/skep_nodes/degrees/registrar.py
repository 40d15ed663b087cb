"""The registrar: publishes modules, composes degrees, graduates agents, revokes, rotates its key. No sockets.

A change goes: judge it, write what nobody sees yet, one event into the history (now it has happened), then the images
(`settle`: the agents' links, `config/registrar.pub`). What cannot be imaged at once is said, and settled by a later
call; a crash in between is settled at start. Who may ask is the shell's business, as is telling the identity service
and the agents; `carriers` is what there is to tell.

`audit` looks at some of the agents' folders each time it is called, with the very function the agents use, so the
registrar, the agent and through identity the router agree on what a valid seal is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skep.degree import SEAL_FILE, verify_folder
from skep.errors import DegreeError, ProtocolError
from skep.files import write_atomic
from skep.protocol.message import format_uuid, parse_ilk
from skep.protocol.names import parse_name
from skep.seal import RING_FILE, TEXT_MAX, Degree, Seal, canonical, ring_facts, seal_facts, statement
from skep_nodes.degrees.carried import Carried
from skep_nodes.degrees.degrees import UUID, DegreeStore
from skep_nodes.degrees.history import History
from skep_nodes.degrees.ledger import Carrier, Ledger
from skep_nodes.degrees.modules import ModuleStore
from skep_nodes.degrees.refusal import DegreeRefusal
from skep_nodes.degrees.registrar_key import KEY_PATH, RegistrarKey, load_key, make_key
from skep_nodes.degrees.shelf import discard
from skep_nodes.sy.durable import Disk, StoreBroken
from skep_shm import SealStatus

NAME = "SY.registrar"
DAY_MS = 86_400_000
DAYS_MAX = 3650
_LEFT_BEHIND = (
    "state/modules/*/.*.new", "state/degrees/*-*-*-*-*/.*.new", "state/degrees/agents/.*/.*.new",
    f"state/degrees/agents/.*/*/{SEAL_FILE}.new", f"state/degrees/agents/.*/*/{SEAL_FILE}.prev",
    "state/degrees/history*.new", "state/degrees/history*.prev", f"{KEY_PATH}.new", f"{KEY_PATH}.prev",
)  # fmt: skip
AUDIT_AGENTS = 16  # folders looked at in one audit: about five milliseconds
_STATUS = {
    "SEAL_EXPIRED": SealStatus.EXPIRED, "SEAL_REVOKED": SealStatus.REVOKED, "KEY_REVOKED": SealStatus.REVOKED,
    "SEAL_NOT_YET": SealStatus.NONE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Graduation:
    """What somebody wants: this agent, with this degree. `version` 0 is the newest; `until_ms` 0 is after `days`."""

    ilk: str
    handler: str
    degree: str
    version: int = 0
    days: int = 365
    until_ms: int = 0
    reason: str = ""


class Registrar:
    """Stores, history and key of one hive, joined."""

    def __init__(
        self,
        root: Path,
        hive_id: str,
        *,
        now_ms: Callable[[], int],
        new_id: Callable[[], bytes],
        disk: Disk | None = None,
    ) -> None:
        self._root, self._hive_id, self._now_ms, self._new_id = root, hive_id, now_ms, new_id
        self._disk = disk or Disk()
        degrees = root / "state" / "degrees"
        self.modules = ModuleStore(root / "state" / "modules", self._disk)
        self.degrees = DegreeStore(degrees, self.modules, new_id, self._disk)
        self.history = History(degrees / "history", self._disk)
        self.carried = Carried(root, self._disk)
        self.ledger = Ledger()
        self._key: RegistrarKey | None = None
        self._ring = b""
        self._next_audit = 0

    # -- start -------------------------------------------------------------------------------------------------

    def open(self) -> list[str]:
        """Bring everything in line with the history; returns what an operator must be told.

        Raises HistoryDamaged, KeyUnusable, OSError, StoreBroken.
        """
        self._sweep()
        for event in self.history.open():
            self.ledger.apply(event)
        self.degrees.load()
        warnings = [*self.history.warnings, *self.degrees.damaged, *self._take_key()]
        return warnings + self._mend() + self.settle()

    def _mend(self) -> list[str]:
        """Seals whose copy in an agent's folder is damaged are written again; what became of each."""
        said: list[str] = []
        for carrier in self.ledger.carriers.values():
            if carrier.status is SealStatus.REVOKED:
                continue
            try:
                if self.carried.mend(carrier.seal):
                    said.append(f"{carrier.seal.handler}: its seal.json was damaged and is as it was signed again")
            except (OSError, StoreBroken) as error:
                said.append(f"{carrier.seal.handler}: its seal.json is damaged and cannot be written again: {error}")
        return said

    def _sweep(self) -> None:
        """What a crash left half written goes: folders by their leading dot, files by their end; also half a key."""
        for pattern in _LEFT_BEHIND:
            for path in self._root.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    discard(path)
                else:
                    path.unlink()

    def _take_key(self) -> list[str]:
        path = self._root / KEY_PATH
        key, known = load_key(path), self.ledger.active_key
        warnings = []
        if key is None:
            key = make_key(path, self._disk)
            if known is not None:
                warnings.append(f"{path.name} was gone: a new key signs from now on; old seals stay valid")
        elif key.id in self.ledger.keys and (known is None or known.id != key.id):
            warnings.append(f"{path.name} is the older key {key.id}, from a backup; a new one was made")
            key = make_key(path, self._disk)
        self._know(key, NAME)
        return warnings

    def _know(self, key: RegistrarKey, by: str) -> None:
        """The key signs from now on; the history learns of it unless it has."""
        if key.id not in self.ledger.keys:
            self._happened({"op": "key", "id": key.id, "public": key.public.hex(), "by": by})
        self._key = key

    def close(self) -> None:
        self.history.close()

    # -- changes -----------------------------------------------------------------------------------------------

    def graduate(self, wanted: Graduation, by: str) -> Carrier:
        """Seal a degree for an agent. Raises DegreeRefusal, OSError, StoreBroken."""
        degree = self.degrees.get(wanted.degree, wanted.version)
        ilk, handler = _checked_ilk(wanted.ilk), self._full_name(wanted.handler)
        _check_reason(wanted.reason)
        self.ledger.check_room(ilk, handler, self._now_ms())
        texts = self.degrees.texts(degree)
        seal = self._sealed(degree, ilk, handler, self._until_ms(wanted))
        self.carried.put(degree, seal, texts)
        return self._graduated(seal, by, wanted.reason)

    def revoke(self, agent: str, by: str, reason: str) -> Carrier:
        """Take a seal back, by ILK, node name or serial; again is harmless."""
        _check_reason(reason)
        carrier = self.find(agent)
        if carrier.status is SealStatus.REVOKED:
            return carrier
        self.ledger.check_revocations(self._now_ms())
        self._happened({"op": "revoke", "serial": carrier.seal.serial, "by": by, "reason": reason})
        return self.ledger.carriers[carrier.seal.ilk]

    def rotate_key(self, by: str, *, reseal: bool, revoke_old: bool) -> RegistrarKey:
        """A new key signs from now on. What old keys sealed stays valid unless it is resealed or they are revoked."""
        self.ledger.check_keys()
        self._know(make_key(self._root / KEY_PATH, self._disk), by)
        if reseal:
            self._reseal(by)
        if revoke_old:
            for key in [key for key in self.ledger.keys.values() if key.state == "retired"]:
                self.revoke_key(key.id, by, "rotated")
        assert self._key is not None
        return self._key

    def revoke_key(self, key_id: str, by: str, reason: str) -> None:
        """Nothing that this key sealed counts any more. Raises DegreeRefusal NOT_FOUND, KEY_ACTIVE."""
        _check_reason(reason)
        key = self.ledger.keys.get(key_id)
        if key is None:
            raise DegreeRefusal("NOT_FOUND", f"no key {key_id[:40]}; skep degree ls --keys")
        if key.state == "active":
            raise DegreeRefusal("KEY_ACTIVE", f"{key_id} signs; rotate first: skep degree rotate-key")
        if key.state == "retired":
            self._happened({"op": "key_revoke", "id": key_id, "by": by, "reason": reason})

    def _reseal(self, by: str) -> None:
        """Every valid seal anew, with the same degree, agent and end, by the key that signs now."""
        for carrier in list(self.ledger.carriers.values()):
            if carrier.status is not SealStatus.VALID or carrier.seal.until_ms <= self._now_ms():
                continue
            old = carrier.seal
            degree = self.degrees.get(old.degree, old.degree_version)
            seal = self._sealed(degree, old.ilk, old.handler, old.until_ms)
            self.carried.put(degree, seal, self.degrees.texts(degree))
            self._graduated(seal, by, "resealed with a new key")

    def _graduated(self, seal: Seal, by: str, reason: str) -> Carrier:
        self._happened({"op": "graduate", "seal": seal_facts(seal), "by": by, "reason": reason})
        return self.ledger.carriers[seal.ilk]

    def _happened(self, event: dict[str, Any]) -> None:
        event |= {"at_ms": self._now_ms()}
        self.history.append(event)
        self.ledger.apply(event)

    def _sealed(self, degree: Degree, ilk: str, handler: str, until_ms: int) -> Seal:
        assert self._key is not None, "open() comes first"
        seal = Seal(
            f"seal:{format_uuid(self._new_id())}", degree.id, degree.version, ilk, handler, self._now_ms(), until_ms,
            f"{NAME}@{self._hive_id}", self._key.id,
        )  # fmt: skip
        return replace(seal, signature=self._key.sign(statement(degree, seal)).hex())

    def _until_ms(self, wanted: Graduation) -> int:
        now_ms = self._now_ms()
        until_ms = wanted.until_ms or now_ms + wanted.days * DAY_MS
        if not now_ms < until_ms <= now_ms + DAYS_MAX * DAY_MS:
            raise DegreeRefusal("INVALID_PAYLOAD", f"a seal ends in the future, within {DAYS_MAX} days")
        return until_ms

    def _full_name(self, handler: str) -> str:
        try:
            return parse_name(handler, self._hive_id)
        except ProtocolError as error:
            raise DegreeRefusal("INVALID_NAME", f"{handler[:80]!r} is no node: {error.detail}") from error

    # -- images ------------------------------------------------------------------------------------------------

    def settle(self) -> list[str]:
        """Bring links and the public file in line; returns what could not be done, to be tried again.

        Links first: between the two an agent finds its new seal, and not yet that the old one is gone.
        """
        warnings = []
        for carrier in self.ledger.carriers.values():
            if carrier.status is not SealStatus.REVOKED and not self.carried.holds(carrier.seal):
                warnings += self._tried(self._restore, carrier.seal)
        data = canonical(ring_facts(self.ledger.ring(self._now_ms())))
        if data != self._ring:
            warnings += self._tried(self._show_ring, data)
        return warnings

    def _restore(self, seal: Seal) -> None:
        if not self.carried.has(seal):
            degree = self.degrees.get(seal.degree, seal.degree_version)
            self.carried.put(degree, seal, self.degrees.texts(degree))
        self.carried.point(seal)

    def _show_ring(self, data: bytes) -> None:
        write_atomic(self._root / "config" / RING_FILE, data, mode=0o644)
        self._ring = data

    @staticmethod
    def _tried(image: Callable[[Any], None], what: Any) -> list[str]:
        try:
            image(what)
        except (OSError, StoreBroken, DegreeRefusal) as error:
            return [f"recorded, and not yet in place: {error}"]
        return []

    # -- looking -----------------------------------------------------------------------------------------------

    def find(self, agent: str) -> Carrier:
        """Who graduated, by ILK, node name or serial. Raises DegreeRefusal NOT_FOUND, INVALID_NAME."""
        return self.ledger.find(agent if ":" in agent else self._full_name(agent))

    def audit(self, most: int = AUDIT_AGENTS) -> list[Carrier]:
        """Look at the next few agents' folders; returns the carriers whose status changed."""
        carriers = list(self.ledger.carriers.values())
        changed = []
        for _ in range(min(most, len(carriers))):
            carrier = carriers[self._next_audit % len(carriers)]
            self._next_audit = (self._next_audit + 1) % len(carriers)
            status, detail = self.verdict(carrier)
            if status is not carrier.status:
                changed.append(replace(carrier, status=status, detail=detail))
                self.ledger.carriers[carrier.seal.ilk] = changed[-1]
        return changed

    def verdict(self, carrier: Carrier) -> tuple[SealStatus, str]:
        """What is true of an agent's seal now. A revocation is not looked up: it was an event."""
        if carrier.status is SealStatus.REVOKED:
            return carrier.status, carrier.detail
        seal = carrier.seal
        try:
            found = verify_folder(
                self.carried.path(seal.handler), self.ledger.ring(self._now_ms()), now_ms=self._now_ms(),
                handler=seal.handler, ilk=seal.ilk,
            )  # fmt: skip
        except DegreeError as error:
            return _STATUS.get(error.code, SealStatus.BROKEN), str(error)
        if found.seal != seal:
            return SealStatus.BROKEN, f"SEAL_FOREIGN: {found.seal.serial} is there instead"
        return SealStatus.VALID, ""


def _checked_ilk(text: str) -> str:
    try:
        known = parse_ilk(text) is not None and UUID.fullmatch(text.removeprefix("ilk:"))
    except ProtocolError:
        known = None
    if not known:
        raise DegreeRefusal("INVALID_PAYLOAD", f"{text[:80]!r} is no ilk:<uuid>; skep identity ls --kind agent")
    return text


def _check_reason(reason: str) -> None:
    if len(reason) > TEXT_MAX:
        raise DegreeRefusal("INVALID_PAYLOAD", f"a reason has at most {TEXT_MAX} characters")
